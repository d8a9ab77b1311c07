"""The peers that are gone since a while: what an operator looks for the morning after.

Asked by the mesh once a step, read by the status. The one rule: one that was removed by an operator is not gone, it is
removed; one that comes back is gone no more, and neither is one that another peer or this node turned out to be.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from agent.control.absence import is_suppressed
from agent.errors import DialledOurselves
from agent.harmless_text import one_line
from agent.model import LinkView, PeerSource, PeerSpec, Suppression

SHOWN_FOR_S: Final = 3600.0
# A mesh of that size shows its departures elsewhere; the latest ones stay.
SHOWN_MAX: Final = 1000
# Of what a link ended with; a thousand are kept for an hour.
ERROR_CHARS_MAX: Final = 300
# How a link ends whose node says that it stops (`agent.client.http.stateless`).
_GOODBYE: Final = "is stopping"


@dataclass(frozen=True, slots=True)
class Departed:
    """A peer that discovery no longer names. `since_s`: loop time of its last sign of life.

    `failed`: its link was down before it went, and it had not said goodbye. `last_error`: what its link ended with.
    `expected_node_id`: what discovery said; `node_id`: what is known. Nothing of its link: a thousand are kept.
    """

    name: str
    url: str
    expected_node_id: str | None
    node_id: str | None
    failed: bool
    since_s: float
    last_error: str


class Departures:
    """See the module. Sole writer: the mesh.

    `node_at(url)`: the node that answered there last, or None; `key_of(node_id)`: the backend key of the peer that is
    this node now, empty where there is none.
    """

    def __init__(
        self,
        node_at: Callable[[str], str | None] = lambda _url: None,
        key_of: Callable[[str], str] = lambda _node_id: "",
    ) -> None:
        self._node_at, self._key_of = node_at, key_of
        self._gone: dict[str, Departed] = {}
        self._down_since_s: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<Departures {sorted(self._gone)}>"

    def shown(self, now_s: float) -> Sequence[Departed]:
        """Those of the last hour, the latest first."""
        return [one for one in reversed(self._gone.values()) if now_s - one.since_s < SHOWN_FOR_S]

    def note(
        self,
        views: Iterable[LinkView],
        desired: Mapping[str, object],
        removed: Collection[str],
        suppressions: Sequence[Suppression],
        now_s: float,
        *,
        some: bool = False,
    ) -> None:
        """Take every link as it was before this step, what is wanted now, and the keys of those just closed.

        `some`: of both what has changed, and every link that was closed.
        """
        views = tuple(views)
        by_key: dict[str, LinkView] = {view.key: view for view in views}
        for view in views:
            if view.connected:
                self._down_since_s.pop(view.key, None)
            else:
                self._down_since_s.setdefault(view.key, now_s)
        if not some:
            for key in self._down_since_s.keys() - by_key.keys():
                del self._down_since_s[key]
        for key in removed:
            gone = by_key.get(key)
            spec = None if gone is None else gone.spec
            if gone is None or not isinstance(spec, PeerSpec) or spec.source is not PeerSource.DISCOVERY:
                continue
            if gone.failure == DialledOurselves.__name__:
                continue  # A file or a name of DNS lists all nodes, this one too.
            failed = key in self._down_since_s and _GOODBYE not in gone.last_error
            said = gone.identity.node_id if gone.identity else spec.expected_node_id
            node_id = said or self._node_at(spec.target.url)
            since_s = self._down_since_s.get(key, now_s)
            error = one_line(gone.last_error, ERROR_CHARS_MAX) if failed else ""
            self._gone[key] = Departed(
                spec.name, spec.target.url, spec.expected_node_id, node_id, failed, since_s, error
            )
        if some and not (desired or removed):
            return
        for key in removed:
            self._down_since_s.pop(key, None)
        peers = [spec for spec in desired.values() if isinstance(spec, PeerSpec)] if self._gone else []
        names = {name for spec in peers for name in (spec.name, *spec.aliases)}
        nodes, urls = {spec.expected_node_id for spec in peers} - {None}, {spec.target.url for spec in peers}
        kept = [
            (key, one)
            for key, one in self._gone.items()
            # A node that turned out to be another peer goes by that peer's link; one that is not known by its URL.
            if one.name not in names
            and (one.url not in urls if one.node_id is None else one.node_id not in nodes)
            and not (one.node_id is not None and self._key_of(one.node_id))
            and not is_suppressed(one.name, one.expected_node_id, suppressions)
            and now_s - one.since_s < SHOWN_FOR_S
        ]
        self._gone = dict(kept[-SHOWN_MAX:])
