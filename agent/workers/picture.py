"""What a worker has to know of its node: the settings at its start, then pictures of the state, and what changes fast.

Made by `agent.workers.crew`, read by `agent.workers.process`; the frames of the feed from the node. The one rule:
only what a worker may act on is in them: tools whose every replica it can call, sessions that need nothing of the node.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from agent.authority.grant import NamedToken
from agent.client.outbound import Outbound
from agent.model import Era, HttpTarget, LinkView, NodeIdentity, Offer, PeerScope, PeerSpec, Sessions
from agent.routing.table import Route

# A worker that has heard nothing for so long gives every request to the node.
SILENT_S: Final = 1.0
TICK_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Setup:
    """What does not change while a node runs.

    `state_key`: of `agent.dispatch.request_state`; `key_seed`: of the node's own key.
    """

    own: NodeIdentity
    key_seed: bytes = field(repr=False)
    state_key: bytes = field(repr=False)
    call_timeout_s: float
    weight: int
    service_name: str
    list_page_size: int
    notices: str
    errors: str
    log_level: str
    log_format: str
    log_secrets: tuple[str, ...] = field(repr=False)
    host_names: frozenset[str]
    is_closed: bool
    traces_url: str | None
    dial_allow: tuple[IPv4Network | IPv6Network, ...] | None
    dial_deny: tuple[IPv4Network | IPv6Network, ...]
    outbound: Outbound


@dataclass(frozen=True, slots=True)
class Picture:
    """The state at one moment. `secrets`: the mesh's valid ones, the current one first; `links`: by backend key.

    `changing`: the servers whose lists have changed since they were linked. A client that lists right after a call has
    to see what that call changed, which the node alone waits for. `silent`: the backends that answer nothing any more,
    as far as the node knows.
    """

    tokens: tuple[str, ...] = field(default=(), repr=False)
    named: tuple[NamedToken, ...] = field(default=(), repr=False)
    secrets: tuple[bytes, ...] = field(default=(), repr=False)
    links: Mapping[str, LinkView] = field(default_factory=dict)
    drained: frozenset[str] = frozenset()
    far: frozenset[str] = frozenset()
    changing: frozenset[str] = frozenset()
    silent: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Tools:
    """The tools that have changed, and the names that are gone."""

    changed: Mapping[str, Route]
    gone: frozenset[str]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Calls of these backends are about to come."""

    backends: frozenset[str]


@dataclass(frozen=True, slots=True)
class SessionBegun:
    """A session that workers may serve."""

    session_id: str


@dataclass(frozen=True, slots=True)
class SessionOver:
    """A session that workers may serve no more; with `ended`, its calls end, too."""

    session_id: str
    ended: bool


@dataclass(frozen=True, slots=True)
class CallCancelled:
    """The client of a session has cancelled a call, wherever it is under way."""

    session_id: str
    request_id: str | int


@dataclass(frozen=True, slots=True)
class Tick:
    """The node lives, and everything that it knew was sent before."""


@dataclass(frozen=True, slots=True)
class CloseIdle:
    """The node has too many connections: close up to `count` that were idle for `idle_s`, the longest first."""

    count: int
    idle_s: float


@dataclass(frozen=True, slots=True)
class Leave:
    """The node stops: give every connection back as soon as nothing is under way on it, then end."""


@dataclass(frozen=True, slots=True)
class CutOff:
    """The node waits no longer: end what is under way with an answer, then end."""


def link_shown(view: LinkView) -> LinkView:
    """A link as workers need it: without what changes all the time, and without what is listed."""
    return replace(
        view,
        offer=Offer(),
        server_info={},
        about={},
        latency_s=None,
        attempts=0,
        next_attempt_at_s=None,
        last_error="",
        said_error="",
        reconnects=0,
    )


def may_dial(view: LinkView) -> bool:
    """Whether a worker can open a way to this backend that is as good as the node's own.

    Children, logins, sessions and tasks have one holder, the node; a gateway may be of another mesh.
    """
    spec, target = view.spec, view.spec.target
    if not view.connected or view.has_tasks or view.era is not Era.MODERN or not isinstance(target, HttpTarget):
        return False
    if isinstance(spec, PeerSpec):
        return view.identity is not None and spec.scope is not PeerScope.MESH
    return target.oauth is None and not spec.sticky and spec.sessions is not Sessions.OWN


def tools_for_workers(routes: Mapping[str, Route], links: Mapping[str, LinkView]) -> dict[str, Route]:
    """The tools that a worker may call, by public name."""
    usable = {key for key, view in links.items() if may_dial(view)}
    return {name: route for name, route in routes.items() if _is_plain(route, usable)}


def tools_for_sessions(tools: Mapping[str, Route], links: Mapping[str, LinkView]) -> frozenset[str]:
    """Of these, those that a worker may call for a client with a session: of a node, the session may gain something."""
    servers = {key for key, view in links.items() if view.identity is None}
    return frozenset(name for name, route in tools.items() if servers.issuperset(backends_of(route)))


def backends_of(route: Route) -> frozenset[str]:
    """The backends of its replicas."""
    return frozenset(replica.backend_key for replica in route.replicas)


def _is_plain(route: Route, usable: set[str]) -> bool:
    if route.away_since_s is not None or route.fleet is not None or route.sticky or not route.replicas:
        return False
    return usable.issuperset(backends_of(route))


def changes(before: Mapping[str, Route], now: Mapping[str, Route]) -> Tools | None:
    """What has to be sent; None for nothing."""
    changed = {name: route for name, route in now.items() if (was := before.get(name)) is not route and was != route}
    gone = frozenset(before.keys() - now.keys())
    return Tools(changed, gone) if changed or gone else None
