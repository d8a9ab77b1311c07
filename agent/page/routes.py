"""The routes of the node's page: its files, its stream of changes, and the login of a browser.

Registered by the wiring. The files are the same for all and need no token; what they show they fetch, and the
edge judges that. The one rule: nothing is served from a folder by a path that a client sent; the files are known by
name.
"""

import hashlib
from pathlib import Path
from typing import Final

from aiohttp import web

from agent.page.feed import MeshFeed
from agent.rest.envelope import RequestRefused, success
from agent.rest.logins import LOGIN_LASTS_S, LOGIN_PATH, LOGOUT_PATH, Logins
from agent.server.response import EventStream

EVENTS_PATH: Final = "/api/v1/mcp/events"
_FOLDER: Final = Path(__file__).with_name("files")
_TYPES: Final = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class PageRoutes:
    """Handlers. `is_secure`: whether clients come by https, so that the cookie must."""

    def __init__(self, feed: MeshFeed, logins: Logins, *, is_secure: bool) -> None:
        self._feed, self._logins, self._is_secure = feed, logins, is_secure
        self._files = {path.name: path.read_bytes() for path in sorted(_FOLDER.iterdir()) if path.suffix in _TYPES}
        self._tags = {name: f'"{hashlib.sha256(body).hexdigest()[:16]}"' for name, body in self._files.items()}

    def routes(self) -> list[web.RouteDef]:
        """What to add to the application."""
        return [
            web.get("/", self._index),
            web.get("/ui", self._index),
            web.get("/ui/", self._index),
            web.get("/ui/{name}", self._file),
            web.post(LOGIN_PATH, self._login),
            web.post(LOGOUT_PATH, self._logout),
            # An answer to HEAD has no body, and this one is nothing else.
            web.get(EVENTS_PATH, self._events, allow_head=False),
        ]

    async def _index(self, request: web.Request) -> web.Response:
        return self._sent(request, "index.html")

    async def _file(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self._files:
            raise web.HTTPNotFound
        return self._sent(request, name)

    def _sent(self, request: web.Request, name: str) -> web.Response:
        headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache", "ETag": self._tags[name]}
        if request.headers.get("If-None-Match") == self._tags[name]:
            return web.Response(status=304, headers=headers)
        kind = _TYPES[Path(name).suffix]
        return web.Response(body=self._files[name], headers=headers | {"Content-Type": f"{kind}; charset=utf-8"})

    async def _login(self, request: web.Request) -> web.Response:
        """POST /ui/login with the token as any request shows it; the edge has checked it."""
        authorization = request.headers.get("Authorization", "")
        answer = success({}, "Logged in")
        if token := authorization.partition(" ")[2].strip():
            self._logins.end(request)
            answer.set_cookie(
                self._logins.cookie,
                self._logins.begin(token),
                max_age=int(LOGIN_LASTS_S),
                httponly=True,
                samesite="Strict",
                secure=self._is_secure,
                path="/",
            )
        return answer

    async def _logout(self, request: web.Request) -> web.Response:
        """POST /ui/logout."""
        self._logins.end(request)
        answer = success({}, "Logged out")
        answer.del_cookie(self._logins.cookie, path="/", httponly=True, samesite="Strict", secure=self._is_secure)
        return answer

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """GET /api/v1/mcp/events: server-sent events, each the changes since the one before, as one JSON object."""
        watcher = self._feed.watch()
        if watcher is None:
            message = "All streams of events that this node has are in use, or it is stopping"
            raise RequestRefused(503, "too_many_watchers", message)
        stream = watcher.stream = EventStream(request, lambda: self._feed.news(watcher), _dropped)
        stream.nudge()
        try:
            return await stream.serve()
        finally:
            self._feed.leave(watcher)


def _dropped() -> None:
    """A page that reads nothing loses its stream; it comes back by itself, and begins anew."""
