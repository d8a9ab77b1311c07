"""What servers tell in the sessions that they have with single clients, besides their calls: for the nodes of those.

One for the node: endpoints subscribe for a session of their own that got one at a server, links follow. The name is the
backend, what the next node needs of the same, and the client's affinity. The one rule: who knows the affinity of a
session may follow it; affinities of sessions are digests that no other client can guess.
"""

from dataclasses import dataclass
from typing import Final

import orjson

from agent.client.streams import SESSIONS
from agent.errors import RpcError
from agent.model import Json
from agent.routing.table import Replica, Route, RouteKind
from agent.rpc_codes import INVALID_PARAMS
from agent.subscriptions.registry import Subscription, SubscriptionRegistry, Tables, Upstream

NAME_LEN_MAX: Final = 512


@dataclass(frozen=True, slots=True)
class SessionNews:
    """A notification in the session `name`: as JSON the params of ours between nodes."""

    name: str
    method: str
    params: Json

    def as_json(self) -> bytes:
        """The params of the notification between nodes."""
        return orjson.dumps({SESSIONS.parameter: self.name, "method": self.method, "params": self.params})


def session_name(backend_key: str, server: str, affinity: str, *, is_node: bool) -> str:
    """The name of a client's session at a server. `is_node`: the backend is the node that has the server."""
    return f"{backend_key} server:{server} {affinity}" if is_node else f"{backend_key} {affinity}"


class SessionUpdates(SubscriptionRegistry[SessionNews]):
    """Subscriptions to notices in sessions."""

    subject = SESSIONS
    name_len_max = NAME_LEN_MAX

    def route(self, tables: Tables, name: str) -> Route | None:
        """As `SubscriptionRegistry.route`: the backend that the name begins with, if it is in the table."""
        backend, _, inner = name.partition(" ")
        if not inner or backend not in tables().parts:
            return None
        return Route(
            RouteKind.SERVER, name, {}, "", (Replica(backend, inner, None, ours=False),), listed=False, owner=""
        )

    def refusal_without_backend(self, name: str) -> RpcError:
        """As `SubscriptionRegistry.refusal_without_backend`."""
        return RpcError(INVALID_PARAMS, f"There is no backend of the session {name[:64]!r}")

    def may_have_missed(self, subscription: Subscription[SessionNews], upstream: Upstream[SessionNews]) -> None:
        """As `SubscriptionRegistry.may_have_missed`: a session that was lost has lost what it gained, too."""

    def updated(self, backend_key: str, name: str, params: Json) -> None:
        """A server told something in a session."""
        method, inner = params.get("method"), params.get("params")
        upstream = self._upstream(backend_key, name)
        if upstream is None or not isinstance(method, str):
            return
        for subscription in tuple(upstream.subscriptions):
            self._tell(subscription, SessionNews(subscription.name, method, inner if isinstance(inner, dict) else {}))
