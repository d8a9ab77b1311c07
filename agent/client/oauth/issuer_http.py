"""Requests to a server's issuer: metadata, registration, tokens. Its URLs are a server's word, so they are judged.

Made by `agent.client.oauth.authorizer` for each server. The one rule: what is not on the server's own origin is dialled
by https alone and not on this machine, unless the server is here, too; always through the dial guard, and no redirect
is followed.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import aiohttp

from agent.client.dial_guard import GuardedResolver, check_url
from agent.client.http.dial import tls_context
from agent.client.http.origin import port_of
from agent.client.outbound import Outbound
from agent.config.tls_files import TlsFault
from agent.config.values import is_loopback
from agent.errors import CallNotSent, DialRefused, ProtocolBroken
from agent.harmless_text import one_line
from agent.model import HttpTarget

REQUEST_TIMEOUT_S: Final = 10.0
ANSWER_BYTES_MAX: Final = 1 << 20
_TOO_MANY: Final = 429
_SERVER_ERROR: Final = 500


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer below 500."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class IssuerHttp:
    """See the module."""

    __slots__ = ("_origin", "_outbound", "_target")

    def __init__(self, target: HttpTarget, outbound: Outbound) -> None:
        self._target, self._outbound = target, outbound
        self._origin = _origin_of(urlsplit(target.url))

    def __repr__(self) -> str:
        return f"<IssuerHttp {self._target.shown}>"

    async def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """One request on a connection of its own.

        Raises:
            CallNotSent: there is no answer, or one of 429 or 5xx, which says nothing about us.
            DialRefused, ProtocolBroken: the URL may not be asked, or the answer is too large.
        """
        where = url.partition("?")[0][:200]
        context = self._context(url, where)
        connector = aiohttp.TCPConnector(resolver=GuardedResolver(), ssl=context)
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
        try:
            async with (
                aiohttp.ClientSession(
                    connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()
                ) as http,
                http.request(
                    method, url, headers=headers, data=body or None, allow_redirects=False, **self._proxy(url)
                ) as response,
            ):
                content = await response.content.read(ANSWER_BYTES_MAX + 1)
                while len(content) <= ANSWER_BYTES_MAX and (more := await response.content.read(ANSWER_BYTES_MAX)):
                    content += more
                answer = Answer(response.status, dict(response.headers), content)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as exc:
            reason = one_line(str(exc), 200) or type(exc).__name__
            raise CallNotSent.about(where, "cannot be reached for a token", f": {reason}") from exc
        if len(answer.body) > ANSWER_BYTES_MAX:
            raise ProtocolBroken.about(where, f"gave an answer larger than {ANSWER_BYTES_MAX} bytes")
        if answer.status == _TOO_MANY or answer.status >= _SERVER_ERROR:
            raise CallNotSent.about(where, f"answered HTTP {answer.status} when it was asked for a token")
        return answer

    def _proxy(self, url: str) -> dict[str, Any]:
        """As for servers (docs/settings.md). Raises `ValueError`."""
        proxy = self._outbound.proxies.of(url)
        if proxy is None:
            return {}
        headers = {} if proxy.authorization is None else {"Proxy-Authorization": proxy.authorization}
        host = f"[{proxy.host}]" if ":" in proxy.host else proxy.host
        return {"proxy": f"http://{host}:{proxy.port}", "proxy_headers": headers}

    def _context(self, url: str, where: str) -> ssl.SSLContext | bool:
        """What TLS trusts there. Raises `DialRefused`, `ProtocolBroken`."""
        try:
            parts = urlsplit(check_url(url))
        except DialRefused as exc:
            raise DialRefused(
                f"{self._target.shown} wants tokens from an address that is never dialled: {exc}"
            ) from exc
        except ValueError as exc:
            raise ProtocolBroken(f"{self._target.shown} wants tokens from a URL that is none: {exc}") from exc
        is_own, is_here = _origin_of(parts) == self._origin, is_loopback(parts.hostname or "")
        if is_here and not is_loopback(self._origin[1]):
            raise ProtocolBroken(f"{where} is where tokens are to be had, and is this machine, where the server is not")
        if parts.scheme == "http" and not is_own and not is_here:
            raise ProtocolBroken(f"{where} is where tokens are to be had, and is not https")
        if parts.scheme == "http":
            return True
        try:
            return tls_context(self._target.tls if is_own else None, self._outbound.tls) or True
        except TlsFault as exc:
            raise ProtocolBroken(f"{where} is asked with a TLS file that cannot be used: {exc}") from exc


def _origin_of(parts: SplitResult) -> tuple[str, str, int]:
    return parts.scheme, (parts.hostname or "").lower(), port_of(parts)
