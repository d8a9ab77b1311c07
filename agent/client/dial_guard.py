"""Which addresses may be dialled: a check of addresses and URLs, and a resolver that applies it to every dial.

The REST edge and the configuration call `check_url`; the HTTP client calls it too and resolves names through
`GuardedResolver` alone. Loopback and private ranges are fine unless `limit_dials` says otherwise: that is set once, at
the start of a node, for all that it dials. The one rule: what was checked is what is dialled, so a name is resolved
once per dial and the answer is filtered before it is used.
"""

import ipaddress
import re
import socket
from typing import Final, TypeAlias
from urllib.parse import SplitResult, urlsplit, urlunsplit

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from agent.errors import DialRefused

IpAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

URL_LENGTH_MAX: Final = 2048  # Longer ones are refused by common proxies too.

# Cloud metadata services: a caller that can make us dial one reads the machine's credentials.
_METADATA: Final[tuple[IpNetwork, ...]] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "169.254.169.254",  # AWS, Azure, Google, and most others
        "169.254.170.2",  # AWS ECS tasks
        "169.254.170.23",  # AWS EKS pods
        "169.254.42.42",  # Scaleway
        "169.254.0.23",  # Tencent
        "168.63.129.16",  # Azure's wire server
        "100.100.100.200",  # Alibaba
        "192.0.0.192",  # Oracle's classic cloud
        "fd00:ec2::/32",  # AWS over IPv6: instances, pods, names, time
        "fd20:ce::254",  # Google over IPv6
        "fd00:c1::a9fe:a9fe",  # Oracle over IPv6
        "fd00:42::42",  # Scaleway over IPv6
        "fd00:a9fe:a9fe::1",  # Akamai (Linode) over IPv6
        "fd00:100::100:200",  # Alibaba over IPv6
        "fe80::a9fe:a9fe",  # OpenStack over IPv6
    )
)
_NAT64: Final = tuple(ipaddress.IPv6Network(text) for text in ("64:ff9b::/96", "64:ff9b:1::/48"))
_V4_TRANSLATED: Final = ipaddress.IPv6Network("::ffff:0:0:0/96")
_V4_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")
_THIS_NETWORK: Final = ipaddress.IPv4Network("0.0.0.0/8")
_SITE_LOCAL: Final = ipaddress.IPv6Network("fec0::/10")

# Hosts that some resolver would read as a number: 2852039166, 0x7f.1, 0177.0.0.1, 127.1. A name whose last label starts
# with a digit cannot be a registered domain (WHATWG URL, "ends in a number").
_NUMERIC_HOST: Final = re.compile(r"(?:^|\.)(?:0[xX][0-9a-fA-F]*|[0-9]+)\.?$")
_DOTTED_QUAD: Final = re.compile(r"^(?:(?:0|[1-9][0-9]{0,2})\.){3}(?:0|[1-9][0-9]{0,2})$")
# Each label but the last has its dot: without that, a search takes longer with each character than before it.
_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME: Final = re.compile(rf"(?=.{{1,253}}\.?\Z)(?:{_LABEL}\.)*{_LABEL}\.?\Z")
_FORBIDDEN_CHARACTERS: Final = re.compile(r"[\x00-\x20\x7f\\<>\"^`{|}]")

# The ranges of `limit_dials`: those that alone may be dialled, where there are some, and those that may not.
_limits: Final[dict[str, tuple[IpNetwork, ...] | None]] = {"allow": None, "deny": None}


def limit_dials(allow: tuple[IpNetwork, ...] | None, deny: tuple[IpNetwork, ...]) -> None:
    """Let this process dial addresses in `allow` alone (None: all), and none in `deny`."""
    _limits.update(allow=allow, deny=deny)


def refuse_address(ip: str) -> str | None:
    """Why `ip` (IPv4 or IPv6 text, a zone suffix allowed) may not be dialled, or None when it may."""
    try:
        address = ipaddress.ip_address(ip.partition("%")[0])
    except ValueError:
        return "is not an IP address"
    for inner in (address, *_embedded(address)):
        reason = _refuse_plain(inner)
        if reason is not None:
            return reason
        if any(inner in network for network in _limits["deny"] or ()):
            return "is in a range of MESH_DIAL_DENY"
    # Others that an address may lead to count for what is denied alone: the way to them is not what it says.
    plain = getattr(address, "ipv4_mapped", None) or address
    allow = _limits["allow"]
    if allow is not None and not any(plain in network for network in allow):
        return "is in no range of MESH_DIAL_ALLOW"
    return None


def check_url(url: str) -> str:
    """The URL in normal form: lower-case scheme and host, no default port, a path.

    Raises:
        ValueError: Another scheme than http and https, credentials, a fragment, no or an illegal host or port, control
            characters; the message says which.
        DialRefused: The host is a literal address, in whatever notation, that may not be dialled.
    """
    if len(url) > URL_LENGTH_MAX:
        raise ValueError(f"the URL is longer than {URL_LENGTH_MAX} characters")
    if _FORBIDDEN_CHARACTERS.search(url) or not url.isascii():
        raise ValueError("the URL has a character that must be percent-encoded")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise ValueError(f"the URL cannot be read: {exc}") from None
    if parts.scheme not in ("http", "https"):
        raise ValueError("the URL must start with http:// or https://")
    if "@" in parts.netloc:
        raise ValueError("the URL must not contain a user name or password")
    if "#" in url:
        raise ValueError("the URL must not have a fragment")
    if port == 0:
        raise ValueError("port 0 cannot be dialled")
    normal = _normal_form(parts, _checked_host(parts), port)
    return url if normal == url else normal  # The same object: each link holds it.


def refusal_of_url(url: str) -> str:
    """Why `url` is not dialled, as far as its text says; empty where it may be."""
    try:
        check_url(url)
    except (ValueError, DialRefused) as exc:
        return str(exc)
    return ""


class GuardedResolver(AbstractResolver):
    """Resolves names for one connector and lets only permitted addresses through."""

    def __init__(self, inner: AbstractResolver | None = None) -> None:
        self._inner = inner if inner is not None else ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Permitted addresses of `host`. Raises `OSError` (unknown name) and `DialRefused` (none is permitted)."""
        found = await self._inner.resolve(host, port, family)
        refusals = [refuse_address(entry["host"]) for entry in found]
        allowed = [entry for entry, refusal in zip(found, refusals, strict=True) if refusal is None]
        if found and not allowed:
            raise DialRefused(f"{host} resolves to an address that {refusals[0]}")
        return allowed

    async def close(self) -> None:
        """Close the inner resolver."""
        await self._inner.close()


def _checked_host(parts: SplitResult) -> str:
    host = parts.hostname
    if not host:
        raise ValueError("the URL has no host")
    if parts.netloc.startswith("["):
        if "%" in host:
            raise DialRefused(f"{host} is link-local (it has a zone)")
        try:
            host = ipaddress.IPv6Address(host).compressed
        except ValueError:
            raise ValueError("the URL's IPv6 address cannot be read") from None
        return f"[{_permitted(host)}]"
    if _DOTTED_QUAD.match(host):
        return _permitted(host)
    if _NUMERIC_HOST.search(host):
        raise DialRefused(f"{host} is an address in a notation other than a plain dotted quad")
    if not _NAME.match(host):
        raise ValueError("the URL's host is not a legal name")
    return host


def _permitted(ip: str) -> str:
    reason = refuse_address(ip)
    if reason is not None:
        raise DialRefused(f"{ip} {reason}")
    return ip


def _normal_form(parts: SplitResult, host: str, port: int | None) -> str:
    default = 443 if parts.scheme == "https" else 80
    netloc = host if port in (None, default) else f"{host}:{port}"
    return urlunsplit((parts.scheme, netloc, parts.path or "/", parts.query, ""))


def _embedded(address: IpAddress) -> tuple[IpAddress, ...]:
    """IPv4 addresses that an IPv6 one may lead to: mapped, translated, compatible, 6to4, Teredo, NAT64."""
    if isinstance(address, ipaddress.IPv4Address):
        return ()
    found: list[IpAddress] = [inner for inner in (address.ipv4_mapped, address.sixtofour) if inner is not None]
    if address.teredo is not None:
        found.extend(address.teredo)
    if any(address in network for network in (*_NAT64, _V4_TRANSLATED)):
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    if address in _V4_COMPATIBLE and int(address) > 1:
        found.append(ipaddress.IPv4Address(int(address)))
    return tuple(found)


def _refuse_plain(address: IpAddress) -> str | None:
    if any(address in network for network in _METADATA):
        return "is a cloud metadata service"
    if address.is_link_local or (address.version == 6 and address in _SITE_LOCAL):  # noqa: PLR2004 - the IP version
        return "is link-local"
    if address.is_multicast:
        return "is multicast"
    if address.is_unspecified or (address.version == 4 and address in _THIS_NETWORK):  # noqa: PLR2004 - the IP version
        return "is unspecified"
    if int(address) == 0xFFFFFFFF and address.version == 4:  # noqa: PLR2004 - the one broadcast address, the IP version
        return "is broadcast"
    return None
