"""PURE: the cookies that one server has set, by which a balancer keeps a session on one machine behind it.

Kept by `agent.client.http.pool`, one jar for each link and one for each session. Follows RFC 6265 as far as one origin
needs it. The one rule: a jar knows the cookies of one origin only, so none can ever go to another, and a client's own
cookies never get into one.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final

# Balancers set one or two. The oldest make room.
COOKIES_MAX: Final = 20
COOKIE_BYTES_MAX: Final = 4096  # RFC 6265, section 6.1.
COOKIES_BYTES_MAX: Final = 8192

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[ -:<-~]*")
_DIGITS_MAX: Final = 10


@dataclass(frozen=True, slots=True)
class _Cookie:
    value: str
    path: str
    expires_s: float | None


class CookieJar:
    """Those of one origin, `host` by name and `secure` where it is reached by TLS. Sole writers: its exchanges.

    `kept`: by name and path, None before the first.
    """

    __slots__ = ("kept",)

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], _Cookie] | None = None  # Most servers set none.

    def __repr__(self) -> str:
        """How many, never what they are."""
        return f"<CookieJar {len(self)}>"

    def __len__(self) -> int:
        """How many there are, expired ones too."""
        return len(self.kept or ())

    def take(self, headers: Iterable[str], host: str, target: str, now_s: float, *, secure: bool) -> None:
        """Keep what `Set-Cookie` headers of an answer to `target` say; one that is not for this origin is dropped.

        `now_s`: Unix time.
        """
        for header in headers:
            pair, *attributes = (part.strip() for part in header.split(";"))
            name, equals, value = pair.partition("=")
            name, value = name.strip(), value.strip()
            said = {key.strip().lower(): word.strip() for key, _, word in (one.partition("=") for one in attributes)}
            if not equals or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
                continue
            if len(name) + len(value) > COOKIE_BYTES_MAX or not _is_of(host, said.get("domain", "")):
                continue
            if "secure" in said and not secure:
                continue
            path = said.get("path", "")
            path = path if path.startswith("/") else target.partition("?")[0].rpartition("/")[0] or "/"
            self._keep(name, _Cookie(value, path, _expires_s(said, now_s)), now_s)

    def header(self, target: str, now_s: float, configured: str = "") -> str:
        """The `Cookie` header of a request to `target`, behind what is configured; empty for none."""
        path = target.partition("?")[0]
        parts = [configured] if configured else []
        for (name, _), cookie in (self.kept or {}).items():
            if (cookie.expires_s is None or cookie.expires_s > now_s) and _covers(cookie.path, path):
                parts.append(f"{name}={cookie.value}")
        return "; ".join(parts)

    def _keep(self, name: str, cookie: _Cookie, now_s: float) -> None:
        kept = self.kept = self.kept or {}
        kept.pop((name, cookie.path), None)
        if cookie.expires_s is None or cookie.expires_s > now_s:
            kept[name, cookie.path] = cookie
        while (
            len(kept) > COOKIES_MAX
            or sum(len(key[0]) + len(one.value) for key, one in kept.items()) > COOKIES_BYTES_MAX
        ):
            del kept[next(iter(kept))]


def _is_of(host: str, domain: str) -> bool:
    """Whether a cookie with this `Domain` is for `host` (RFC 6265, section 5.1.3)."""
    domain = domain.removeprefix(".").lower()
    return not domain or host == domain or host.endswith(f".{domain}")


def _covers(cookie_path: str, path: str) -> bool:
    """Whether a cookie is for `path` (RFC 6265, section 5.1.4)."""
    return path == cookie_path or path.startswith(cookie_path if cookie_path.endswith("/") else f"{cookie_path}/")


def _expires_s(said: dict[str, str], now_s: float) -> float | None:
    """When it ends, in Unix time; None at the end of the session. `Max-Age` beats `Expires`."""
    age = said.get("max-age", "")
    if age.removeprefix("-").isdecimal():
        return now_s + int(age[:_DIGITS_MAX])
    try:
        return parsedate_to_datetime(said["expires"]).timestamp()
    except (KeyError, ValueError, OverflowError):
        return None
