"""`POST /mcp/local/handshake`: where another node proves who it is, and this one does (`agent.identity.handshake`).

Added by the wiring; open to all by `agent.rest.security`, because only members of the mesh, and holders of a client's
token, get an answer. The one rule: a handshake that was made with another address than ours is refused, for then
a third party passes it on.
"""

import asyncio
import base64
from collections.abc import Callable
from typing import Final

import orjson
from aiohttp import web

from agent.errors import IdentityRefused
from agent.identity.addresses import OwnAddresses, is_ours
from agent.identity.certificate_names import names_of
from agent.identity.keeper import AssociationKeeper
from agent.identity.node_key import node_id_of
from agent.model import HANDSHAKE_PATH, Json
from agent.rest.envelope import REST_BODY_TIMEOUT_S
from agent.routing.names import is_valid_name

MESSAGE_BYTES_MAX: Final = 4 * 1024


class HandshakeRoute:
    """See the module."""

    def __init__(
        self,
        keeper: AssociationKeeper,
        own: OwnAddresses,
        judge: Callable[[frozenset[str], str, str], str] | None = None,
    ) -> None:
        """`judge`: why a certificate of these names lets no node of this name and ID in; empty where it does."""
        self._keeper = keeper
        self._own, self._judge = own, judge

    def __repr__(self) -> str:
        return f"<HandshakeRoute {self._keeper!r}>"

    def routes(self) -> list[web.RouteDef]:
        """For the application."""
        return [web.post(HANDSHAKE_PATH, self._answer)]

    async def _answer(self, request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(REST_BODY_TIMEOUT_S):  # Of a stranger, until it is read.
                message = await _message(request)
            self._refuse_relayed(request, message)
            self._refuse_misnamed(request, message)
            return _json(200, await self._keeper.reply(message, strangers=request.get(FOR_CLIENTS, False)))
        except TimeoutError:
            return _json(408, {"refused": f"its message did not arrive within {REST_BODY_TIMEOUT_S:g} s"})
        except IdentityRefused as exc:
            return _json(403, {"refused": str(exc)})

    def _refuse_relayed(self, request: web.Request, message: Json) -> None:
        if "share" not in message:
            return
        authority = message.get("authority")
        socket_name = request.transport.get_extra_info("sockname") if request.transport is not None else None
        if not isinstance(authority, str) or not is_ours(authority, socket_name and tuple(socket_name[:2]), self._own):
            shown = authority[:100] if isinstance(authority, str) else None
            raise IdentityRefused(
                f"it was dialled as {shown!r}, which is no address of this node as far as it knows; behind NAT or a "
                "proxy, set MESH_ADVERTISE_ADDRESS and MESH_ADVERTISE_PORT there, or add it to MESH_ALLOWED_HOSTS"
            )

    def _refuse_misnamed(self, request: web.Request, message: Json) -> None:
        """Of the last message, whose key is verified with it."""
        if self._judge is None or "share" in message:
            return
        try:
            node_id = node_id_of(base64.b64decode(str(message.get("key")), altchars=b"-_", validate=True))
        except ValueError as exc:
            raise IdentityRefused("its message has no usable 'key'") from exc
        name = message.get("name")
        if not isinstance(name, str) or not is_valid_name(name):
            raise IdentityRefused("it does not say its name, which is an older version's way")
        shown = request.transport.get_extra_info("peercert") if request.transport is not None else None
        if fault := self._judge(names_of(shown), name, node_id):
            raise IdentityRefused(fault)


# Set by `agent.rest.security`: the request has a client's token, or none is wanted here.
FOR_CLIENTS: Final = web.RequestKey("for_clients", bool)


async def _message(request: web.Request) -> Json:
    if (request.content_length or 0) > MESSAGE_BYTES_MAX:
        raise IdentityRefused("its message is too long")
    body = await request.content.read(MESSAGE_BYTES_MAX + 1)
    while len(body) <= MESSAGE_BYTES_MAX and (more := await request.content.read(MESSAGE_BYTES_MAX)):
        body += more
    try:
        message = orjson.loads(body) if len(body) <= MESSAGE_BYTES_MAX else None
    except ValueError:
        message = None
    if not isinstance(message, dict):
        raise IdentityRefused("its message is no JSON object of a handshake")
    return message


def _json(status: int, said: Json) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(said), content_type="application/json")
