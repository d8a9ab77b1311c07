"""Which proxy a URL is reached through, by the variables that every program reads.

Read once at start by `agent.app.node`, asked by `agent.client.http.pool` for each link. HTTP_PROXY for `http:` URLs,
HTTPS_PROXY for `https:` ones, NO_PROXY for exceptions; lower case beats upper case, as in curl. The one rule: what is
on this machine is never reached through a proxy, and a proxy that cannot be used is an error, never a direct dial.
"""

import base64
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

from agent.client.dial_guard import check_url
from agent.errors import DialRefused

_PORT: Final = 80
_PARTS: Final = re.compile(r"[\s,]+")


class ProxyFault(ValueError):
    """A variable names a proxy that cannot be used. The text names the variable, and never a password."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where it is. `authorization`: the value of `Proxy-Authorization`, a secret."""

    host: str
    port: int
    variable: str
    authorization: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """For messages: the address and the variable that names it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port} ({self.variable})"


@dataclass(frozen=True, slots=True)
class Proxies:
    """The variables as they were: by scheme the name of one and its value, which may hold a password; exceptions."""

    by_scheme: tuple[tuple[str, tuple[str, str]], ...] = field(default=(), repr=False)
    exceptions: tuple[str, ...] = ()

    def of(self, url: str) -> Proxy | None:
        """The proxy for a URL in normal form; None for none. Raises `ProxyFault`."""
        parts = urlsplit(url)
        given = dict(self.by_scheme).get(parts.scheme)
        host, port = (parts.hostname or "").rstrip("."), parts.port or (443 if parts.scheme == "https" else 80)
        if given is None or _is_here(host) or any(_excepts(one, host, port) for one in self.exceptions):
            return None
        return _proxy(*given)


NO_PROXIES: Final = Proxies()


def proxies_of(environ: Mapping[str, str]) -> Proxies:
    """What an environment says; a variable that is empty says nothing."""

    def first(*names: str) -> tuple[str, str] | None:
        return next(((name, environ[name].strip()) for name in names if environ.get(name, "").strip()), None)

    found = {scheme: first(f"{scheme}_proxy", f"{scheme.upper()}_PROXY") for scheme in ("http", "https")}
    exceptions = first("no_proxy", "NO_PROXY")
    return Proxies(
        tuple((scheme, given) for scheme, given in found.items() if given is not None),
        tuple(part.lower() for part in _PARTS.split(exceptions[1]) if part) if exceptions is not None else (),
    )


def _proxy(variable: str, value: str) -> Proxy:
    text = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(text)
        authority = parts.netloc.rpartition("@")[2]
        # Bytes that are no UTF-8, of a variable or behind a `%`, stay what they are.
        user, password = (unquote(part or "", errors="surrogateescape") for part in (parts.username, parts.password))
        port = parts.port or _PORT
    except ValueError:
        raise ProxyFault(f"{variable} is not a URL like http://proxy.example:3128") from None
    if parts.scheme != "http":
        raise ProxyFault(f"{variable} names a proxy of scheme {parts.scheme[:20]!r}; only http:// proxies can be used")
    try:
        host = urlsplit(check_url(f"http://{authority}")).hostname or ""
    except (ValueError, DialRefused) as exc:
        raise ProxyFault(f"{variable} is not a URL like http://proxy.example:3128: {exc}") from None
    authorization = None
    if parts.username is not None:
        authorization = "Basic " + base64.b64encode(f"{user}:{password}".encode("utf-8", "surrogateescape")).decode()
    return Proxy(host, port, variable, authorization)


def _is_here(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def _excepts(exception: str, host: str, port: int) -> bool:
    """Whether an entry of NO_PROXY is about a host: `*`, a domain and all below it, an address or a range, a port."""
    if exception == "*":
        return True
    address = _address(host)
    bare = exception.removeprefix("[").replace("]", "")
    if address is not None and "/" in bare:
        try:
            return address in ipaddress.ip_network(bare, strict=False)
        except ValueError:
            return False
    name, colon, said = exception.rpartition(":")
    if colon and said.isdecimal() and (name.endswith("]") or ":" not in name):
        if int(said) != port:
            return False
        bare = name.removeprefix("[").removesuffix("]")
    if address is not None:
        return _address(bare) == address
    domain = bare.removeprefix("*").strip(".")
    return bool(domain) and (host == domain or host.endswith(f".{domain}"))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
