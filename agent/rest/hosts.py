"""PURE: which Host headers name this node, and which pages of browsers may use it.

Asked by `agent.rest.security` for each request. The one rule: an ambiguous header is refused, and what is compared is
in one form on both sides.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address

_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?")
_ORIGIN = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>[^/?#@\s]+)", re.IGNORECASE)
NULL_ORIGIN = "null"
_DEFAULT_PORTS = {"http": 80, "https": 443}
_PORT_MAX = 65535
# Clients send the same few values with every request; the bound keeps hostile ones from filling memory.
REMEMBERED_MAX = 256
_NAME_CHARS_MAX = 253  # RFC 1035, without the trailing dot.


def host_allowed(values: Sequence[str], allowed_names: Collection[str]) -> bool:
    """Whether requests with these Host header values (all that were sent) may be answered.

    IP literals are fine, on any port: a rebinding attack needs a name. So are `localhost` and `allowed_names`, which
    must have gone through `normal_host_names`.
    """
    parts = _split_host(values[0]) if len(values) == 1 else None
    if parts is None:
        return False
    name, _port = parts
    return _is_ip(name) or name == "localhost" or name in allowed_names


def normal_host_names(names: Iterable[str]) -> frozenset[str]:
    """Return the names as `host_allowed` compares them: lower case, without port and trailing dot.

    Addresses and invalid host names are left out: the former need no permission, the latter can get none.
    """
    split = (_split_host(name if name.count(":") < 2 else f"[{name.strip('[]')}]") for name in names)  # noqa: PLR2004 - two colons are an IPv6 address
    return frozenset(parts[0] for parts in split if parts is not None and not _is_ip(parts[0]))


def origin_allowed(values: Sequence[str], allowed_origins: Collection[str]) -> bool:
    """Whether requests with these Origin header values (all that were sent) may be answered.

    None is fine (no browser, or no cross-origin page), so are loopback pages and `allowed_origins`, which must have
    gone through `normal_origins`. `null` (a sandboxed page, a file, some desktop shells) is refused unless it is
    listed; so is every scheme of a desktop program or an extension, whose hosts `scheme://*` lists all at once.
    """
    if not values:
        return True
    origin = _normal_origin(values[0]) if len(values) == 1 else None
    if origin is None:
        return False
    scheme = origin.partition("://")[0]
    return (
        origin in allowed_origins
        or _is_loopback_origin(origin)
        or (scheme not in _DEFAULT_PORTS and f"{scheme}://*" in allowed_origins)
    )


def normal_origins(origins: Iterable[str]) -> frozenset[str]:
    """Return the origins as `origin_allowed` compares them: lower case, without the scheme's default port."""
    return frozenset(origin for origin in map(_normal_origin, origins) if origin is not None)


@lru_cache(maxsize=REMEMBERED_MAX)
def _split_host(text: str) -> tuple[str, int | None] | None:
    match = _HOST.fullmatch(text)
    if match is None or len(text) > _NAME_CHARS_MAX + 8:
        return None
    port = int(match["port"]) if match["port"] else None
    if port is not None and port > _PORT_MAX:
        return None
    if match["v6"] is not None:
        return (match["v6"].lower(), port) if ":" in match["v6"] and _is_ip(match["v6"]) else None
    name = match["name"].lower().removesuffix(".")
    if not name or ".." in name or name.startswith("."):
        return None
    return name, port


@lru_cache(maxsize=REMEMBERED_MAX)
def _is_ip(host: str) -> bool:
    return _address(host) is not None


def _address(host: str) -> IPv4Address | IPv6Address | None:
    # The strict parsers: octal, hexadecimal and short spellings ("0177.1") are no addresses here.
    try:
        return IPv6Address(host) if ":" in host else IPv4Address(host)
    except AddressValueError:
        return None


def _normal_origin(text: str) -> str | None:
    if text == NULL_ORIGIN:
        return text
    match = _ORIGIN.fullmatch(text)
    if match is None:
        return None
    scheme = match["scheme"].lower()
    if scheme not in _DEFAULT_PORTS:
        return text.lower()  # An extension's or an editor's own scheme; good only when it is listed.
    parts = _split_host(match["host"])
    if parts is None:
        return None
    host, port = parts
    shown = f"[{IPv6Address(host)}]" if ":" in host else host
    return f"{scheme}://{shown}" if port in (None, _DEFAULT_PORTS[scheme]) else f"{scheme}://{shown}:{port}"


def _is_loopback_origin(origin: str) -> bool:
    scheme, _, rest = origin.partition("://")
    parts = _split_host(rest)
    if scheme not in _DEFAULT_PORTS or parts is None:
        return False
    address = _address(parts[0])
    return parts[0] == "localhost" or (address is not None and address.is_loopback)
