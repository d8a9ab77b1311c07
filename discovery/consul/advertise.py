"""Which address we register, so that other nodes can reach us.

Called by the wiring once the listening socket is known. `advertised_address` is pure; `route_ip_to` uses the resolver
and the kernel. The one rule: an address that others cannot use is refused, with the fix, instead of being registered; a
name that does not resolve is no such address, it is an outage.
"""

import asyncio
import socket
from ipaddress import ip_address

from discovery.consul.environment import is_loopback_host, is_loopback_url
from discovery.model import CatalogUnavailable, SettingsRefused

RESOLVE_TIMEOUT_S = 3.0  # A resolver without an answer takes far longer, and a start waits for this.


def advertised_address(*, explicit: str | None, bind_host: str, consul_url: str, route_ip: str | None) -> str:
    """The address for the registration; empty means the address of the Consul node itself.

    Args:
        explicit: the operator's setting, None when there is none.
        bind_host: the host that our server listens on; empty, `0.0.0.0` and `::` mean every interface.
        consul_url: `ConsulSettings.url`.
        route_ip: our IP on the way to the Consul agent (`route_ip_to`), None when unknown.

    Raises:
        SettingsRefused: others could not reach us there.
    """
    if explicit is not None and explicit.strip():
        return _explicit(explicit.strip())
    bind_host = bind_host.strip().removeprefix("[").removesuffix("]")
    # Any name that resolves to loopback is this machine.
    local_agent = is_loopback_url(consul_url) or (route_ip is not None and is_loopback_host(route_ip))
    if is_loopback_host(bind_host):
        if local_agent:
            # Only consumers of the same Consul node can use it, which is what loopback means.
            return "127.0.0.1" if bind_host.lower() == "localhost" else bind_host
        raise SettingsRefused(
            f"listening on {bind_host} only, but Consul is at {consul_url}: other nodes could not reach us; "
            "set HOST=0.0.0.0 (and a token), or MESH_ADVERTISE_ADDRESS if something forwards to us"
        )
    if bind_host and not _is_unspecified(bind_host):
        return bind_host
    if local_agent:
        return ""
    if route_ip is None or _is_unspecified(route_ip):
        raise SettingsRefused(
            f"there is no route to Consul at {consul_url} that would tell our address: set MESH_ADVERTISE_ADDRESS"
        )
    return route_ip


async def route_ip_to(host: str, port: int = 8500) -> str | None:
    """Our own IP on the route to `host`; None when there is no route. Sends nothing but the resolver's queries.

    Raises:
        CatalogUnavailable: the name does not resolve now, or not within `RESOLVE_TIMEOUT_S`.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT_S):
            # The loop's own way is a thread: a slow resolver must not hold up the node.
            family, _, _, _, address = (await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM))[0]
    except (OSError, UnicodeError) as exc:  # A time-out is an OSError too.
        raise CatalogUnavailable(f"the name of Consul's host does not resolve: {host}") from exc
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError:
        return None


def _explicit(address: str) -> str:
    bare = address.removeprefix("[").removesuffix("]")
    if _is_unspecified(bare):
        raise SettingsRefused(
            f"MESH_ADVERTISE_ADDRESS={address}: no other node can call it; set an address that others reach"
        )
    if "/" in bare or any(char.isspace() for char in bare):
        raise SettingsRefused(f"MESH_ADVERTISE_ADDRESS={address}: write a bare host name or IP address")
    return bare


def _is_unspecified(host: str) -> bool:
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return False
