"""`POST /mcp/local/handshake`: where another node proves who it is, and this one does (`agent.identity.handshake`).

Added by the wiring; open to all by `agent.rest.security`, because only members of the mesh, and holders of a client's
token, get an answer. The one rule: a handshake that was made with another address than ours is refused, for then
a third party passes it on.
"""

import ipaddress
from dataclasses import dataclass
from typing import Final

import orjson
from aiohttp import web

from agent.errors import IdentityRefused
from agent.identity.keeper import AssociationKeeper
from agent.model import HANDSHAKE_PATH, Json

MESSAGE_BYTES_MAX: Final = 4 * 1024


@dataclass(frozen=True, slots=True)
class OwnAddresses:
    """Where others reach this node, beside the address that a connection itself comes to; all as `normal_host` has it.

    `names`: our host's, the node's, and the advertised address. `ports`: those that we listen on and that the catalog
    tells others. `proxied`: what operators have allowed as names (`MESH_ALLOWED_HOSTS`), at any port: of a proxy's.
    """

    names: frozenset[str]
    ports: frozenset[int]
    proxied: frozenset[str] = frozenset()


def is_ours(authority: str, socket_name: tuple[str, int] | None, own: OwnAddresses) -> bool:
    """Whether a node that dialled `authority` (host and port) has dialled us, by way of a connection to `socket_name`.

    Addresses are only ours where the connection came there, or an operator named them: every machine has a 127.0.0.1.
    """
    name, _, port_text = authority.rpartition(":")
    if not port_text.isascii() or not port_text.isdecimal() or len(port_text) > 5:  # noqa: PLR2004 - digits of a port
        return False
    host, port = normal_host(name), int(port_text)
    if socket_name is not None and port == socket_name[1]:
        came_to = normal_host(socket_name[0])
        if host == came_to or (host == "localhost" and _is_loopback(came_to)):
            return True
    return (host in own.names and port in own.ports) or host in own.proxied


def normal_host(text: str) -> str:
    """A host as it is compared: a name in lower case, an address in its one form, IPv4 also where IPv6 maps it."""
    host = text.strip("[]").partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower().rstrip(".")
    return str(getattr(address, "ipv4_mapped", None) or address)


class HandshakeRoute:
    """See the module."""

    def __init__(self, keeper: AssociationKeeper, own: OwnAddresses) -> None:
        self._keeper = keeper
        self._own = own

    def __repr__(self) -> str:
        return f"<HandshakeRoute {self._keeper!r}>"

    def routes(self) -> list[web.RouteDef]:
        """For the application."""
        return [web.post(HANDSHAKE_PATH, self._answer)]

    async def _answer(self, request: web.Request) -> web.Response:
        try:
            message = await _message(request)
            self._refuse_relayed(request, message)
            return _json(200, await self._keeper.reply(message, strangers=request.get(FOR_CLIENTS, False)))
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


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"
