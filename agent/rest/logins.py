"""Logins of the node's own page: a browser keeps a cookie, the node keeps the token that was shown for it.

The page shows its token once, at `POST /ui/login`, which the edge checks like any other request. Later requests with
the cookie are judged as if they had shown that token, so that scopes, limits, expiry and revocation hold. The one rule:
a cookie counts beside the header that only a script of our own page sends; no other page can send that without asking
first (CORS), which the edge refuses.
"""

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from aiohttp import web

LOGIN_PATH: Final = "/ui/login"
LOGOUT_PATH: Final = "/ui/logout"
# Cookies are of a host, whatever its ports; several nodes of one machine need names of their own.
COOKIE_PREFIX: Final = "mesh-login-"
PAGE_HEADER: Final = "Mesh-Page"
LOGIN_LASTS_S: Final = 12 * 3600.0
LOGINS_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class _Login:
    token: str
    until_s: float


class Logins:
    """See the module. `now_s`: any clock that goes on; after a restart people log in again."""

    def __init__(self, node_id: str, now_s: Callable[[], float]) -> None:
        self.cookie: Final = COOKIE_PREFIX + hashlib.sha256(node_id.encode()).hexdigest()[:12]
        self._now_s = now_s
        self._logins: OrderedDict[str, _Login] = OrderedDict()  # By the digest of the cookie's value; oldest first.

    def __repr__(self) -> str:
        return f"<Logins {len(self._logins)}>"

    def begin(self, token: str) -> str:
        """Keep a token that was checked; returns the cookie's value. The oldest login gives way to one too many."""
        value = secrets.token_urlsafe(32)
        while len(self._logins) >= LOGINS_MAX:
            self._logins.popitem(last=False)
        self._logins[_digest(value)] = _Login(token, self._now_s() + LOGIN_LASTS_S)
        return value

    def end(self, request: web.Request) -> None:
        """Forget the login of a request, if it has one."""
        self._logins.pop(_digest(request.cookies.get(self.cookie, "")), None)

    def authorization(self, request: web.Request) -> Sequence[str]:
        """The values of Authorization that a request is judged by: its own, or that of its login."""
        own: Sequence[str] = request.headers.getall("Authorization", ())
        if own or PAGE_HEADER not in request.headers or (value := request.cookies.get(self.cookie)) is None:
            return own
        login = self._logins.get(_digest(value))
        if login is None or login.until_s < self._now_s():
            return own
        return (f"Bearer {login.token}",)


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode("utf-8", "surrogateescape")).hexdigest()
