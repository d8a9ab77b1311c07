"""PURE: the addresses of this node, as others spell them: of a handshake that was sent here, and of a URL to dial.

Asked by `agent.rest.handshake` whether a handshake was meant for us, and by `agent.links.dial` whether a URL leads back
to us. The one rule: hosts and ports are compared in one form alone, and every machine has a 127.0.0.1, so that address
is ours only where we listen, or where the connection came.
"""

import ipaddress
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_EVERYWHERE: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared, not bound


@dataclass(frozen=True, slots=True)
class OwnAddresses:
    """Where others reach this node, beside the address that a connection itself comes to; all as `normal_host` has it.

    `names`: our host's, the node's, and the advertised address. `ports`: those that we listen on and that the catalog
    tells others. `proxied`: what operators have allowed as names (`MESH_ALLOWED_HOSTS`), at any port: of a proxy's.
    `listens_on`: address and port of our socket. `sure`: those of `names` that no other machine has.
    """

    names: frozenset[str]
    ports: frozenset[int]
    proxied: frozenset[str] = frozenset()
    listens_on: tuple[str, int] | None = None
    sure: frozenset[str] = frozenset()


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


def names_us(url: str, own: OwnAddresses) -> bool:
    """Whether the text of a URL says that it leads to this node, at whatever path.

    Another server may answer there all the same (`[::1]` where we listen on 127.0.0.1): only when none does, it is so.
    """
    host, port = _authority(url)
    if own.listens_on is not None and port == own.listens_on[1]:
        listened = normal_host(own.listens_on[0])
        if host == listened or (_is_loopback(host) and _takes_loopback(host, listened)):
            return True
    return host in own.sure and port in own.ports


def may_lead_to_us(url: str, own: OwnAddresses) -> bool:
    """Whether a server at this URL might be this node, which only a handshake tells: the port is ours, or the name."""
    host, port = _authority(url)
    return port in own.ports or host in own.proxied


def normal_host(text: str) -> str:
    """A host as it is compared: a name in lower case, an address in its one form, IPv4 also where IPv6 maps it."""
    host = text.strip("[]").partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower().rstrip(".")
    return str(getattr(address, "ipv4_mapped", None) or address)


def _authority(url: str) -> tuple[str, int]:
    """Host and port of a URL that the dial guard has let through, in their one form."""
    parts = urlsplit(url)
    return normal_host(parts.hostname or ""), parts.port or _DEFAULT_PORTS.get(parts.scheme.lower(), 0)


def _is_loopback(host: str) -> bool:
    return host.startswith("127.") or host in ("::1", "localhost") or host.endswith(".localhost")


def _takes_loopback(host: str, listened: str) -> bool:
    """Whether a socket on `listened` is what `host`, a name or address of loopback, usually means."""
    return listened in _EVERYWHERE or (listened in ("127.0.0.1", "::1") and host in ("127.0.0.1", "::1", "localhost"))
