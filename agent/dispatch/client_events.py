"""Events of a client's session for the servers that keep a session for it: it ended, or its roots changed.

The endpoints report them here, for each backend that was called for the client; another mesh node gets them by a
request of ours and passes them to its own server. The one rule: a client is known by its affinity, and events pass only
for an affinity that stands for a session, which no other client can know.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from agent.client.affinity import is_of_session
from agent.client.protocol import Request
from agent.dispatch.callable_link import CallableLink
from agent.errors import RpcError
from agent.links.session_offers import SessionOffers
from agent.mcp_terms import MODERN_PROTOCOL_VERSIONS
from agent.model import AFFINITY_META_KEY, CLIENT_METHOD, ClientEvent, Era, HttpTarget, Json, ServerSpec, Sessions
from agent.rpc_codes import INVALID_PARAMS

# A server gets the event within a second, and sends its own requests at once, if any.
TIMEOUT_S: Final = 10.0
_NOTHING: Final[Json] = {"resultType": "complete"}


@dataclass(frozen=True, slots=True)
class CalledBackend:
    """A backend that got calls of a client, and the owner of their route (`Route.owner`)."""

    backend: str
    owner: str

    @property
    def server(self) -> str:
        """The name of the server, on the node that runs it."""
        return re.split("[:/]", self.owner)[-1]


class UpstreamEvents:
    """See the module. `link` finds the link of a backend; `offers`: what servers offer single callers."""

    def __init__(self, link: Callable[[str], CallableLink | None], offers: SessionOffers) -> None:
        self._link = link
        self._offers = offers

    async def tell(self, target: CalledBackend, affinity: str, event: ClientEvent, params: Json) -> Json:
        """Report an event to the backend of `target`; the result may be `input_required`.

        `params` may hold the client's capabilities, `canBeAsked`, and a retry's input. Raises `MeshError`.
        """
        if event is ClientEvent.ENDED:
            self._offers.forget_caller(affinity)
        link = self._link(target.backend)
        if link is None or not (link.view.identity is not None or _keeps_sessions(link)):
            return _NOTHING
        meta = {**(params.get("_meta") or {}), AFFINITY_META_KEY: affinity}
        told = {**params, "event": event.value, "server": target.server, "_meta": meta}
        return await link.request(Request.within(CLIENT_METHOD, told, timeout_s=TIMEOUT_S, affinity=affinity))

    async def hear(self, params: Json) -> Json:
        """Pass another node's event to the server of ours that it names. Raises `MeshError`."""
        affinity, server = (params.get("_meta") or {}).get(AFFINITY_META_KEY), params.get("server")
        if not (isinstance(affinity, str) and is_of_session(affinity) and isinstance(server, str)):
            raise RpcError(INVALID_PARAMS, "A server and the affinity of a session are needed")
        if params.get("event") == ClientEvent.ENDED:
            self._offers.forget_caller(affinity)
        link = self._link(f"server:{server}")
        if link is None or not _keeps_sessions(link):
            return _NOTHING
        return await link.request(Request.within(CLIENT_METHOD, params, timeout_s=TIMEOUT_S, affinity=affinity))


def _keeps_sessions(link: CallableLink) -> bool:
    """Whether its client may hold dedicated sessions (`agent.client.connect.open_client`)."""
    spec = link.spec
    if link.view.era is None or link.view.identity is not None:
        return False
    if isinstance(spec, ServerSpec) and spec.protocol in MODERN_PROTOCOL_VERSIONS:
        return False
    if isinstance(spec.target, HttpTarget):
        return True
    return spec.sessions is Sessions.OWN or (spec.sessions is Sessions.AUTO and link.view.era is Era.MODERN)
