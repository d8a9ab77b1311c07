"""What a client with a session does that concerns servers which keep a session for it: it ended, its roots changed.

The endpoints tell it here, for each backend that was called for the client; a mesh node gets it by a request of ours,
and hands it to its own server. The one rule: a client is known by its affinity, and only one that stands for a session
is told of, because nobody else can know it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from agent.client.affinity import is_of_session
from agent.client.protocol import Request
from agent.dispatch.dispatcher import CallableLink
from agent.errors import RpcError
from agent.model import AFFINITY_META_KEY, CLIENT_METHOD, ClientEvent, Era, HttpTarget, Json, ServerSpec
from agent.rpc_codes import INVALID_PARAMS

# A server is told within a second, and says at once what it wants to know then.
TIMEOUT_S: Final = 10.0
_NOTHING: Final[Json] = {"resultType": "complete"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where calls of a client went: the backend, and whose route that was (`Route.owner`)."""

    backend: str
    owner: str

    @property
    def server(self) -> str:
        """The name of the server, on the node that runs it."""
        return re.split("[:/]", self.owner)[-1]


class UpstreamEvents:
    """See the module. `link` finds the link of a backend."""

    def __init__(self, link: Callable[[str], CallableLink | None]) -> None:
        self._link = link

    async def tell(self, place: Place, affinity: str, event: ClientEvent, params: Json) -> Json:
        """Tell whoever answers at that place; the result may be `input_required`.

        `params` may hold what the client declared, `canBeAsked`, and what a retry brings. Raises `MeshError`.
        """
        link = self._link(place.backend)
        if link is None or not (link.view.identity is not None or _keeps_sessions(link)):
            return _NOTHING
        meta = {**(params.get("_meta") or {}), AFFINITY_META_KEY: affinity}
        told = {**params, "event": event.value, "server": place.server, "_meta": meta}
        return await link.request(Request.within(CLIENT_METHOD, told, timeout_s=TIMEOUT_S, affinity=affinity))

    async def hear(self, params: Json) -> Json:
        """Hand what another node tells of its client to the server of ours that it names. Raises `MeshError`."""
        affinity, server = (params.get("_meta") or {}).get(AFFINITY_META_KEY), params.get("server")
        if not (isinstance(affinity, str) and is_of_session(affinity) and isinstance(server, str)):
            raise RpcError(INVALID_PARAMS, "A server and the affinity of a session are needed")
        link = self._link(f"server:{server}")
        if link is None or not _keeps_sessions(link):
            return _NOTHING
        return await link.request(Request.within(CLIENT_METHOD, params, timeout_s=TIMEOUT_S, affinity=affinity))


def _keeps_sessions(link: CallableLink) -> bool:
    """Whether its client may hold sessions of clients' own (`agent.client.connect.open_client`)."""
    spec = link.spec
    own = isinstance(spec, ServerSpec) and spec.session_pool
    return link.view.era is Era.LEGACY and (own or isinstance(spec.target, HttpTarget))
