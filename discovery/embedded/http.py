"""Consul's HTTP API over the embedded catalog: the handful of endpoints that our own client uses.

Started by `discovery.embedded.server` in the one process that holds the port. The one rule: every difference that our
client sees in a real Consul, it sees here: indexes, waits, status codes, the text of a lost check.
"""

import asyncio
import hmac
import random
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from urllib.parse import urlsplit

import orjson
from aiohttp import web

from discovery import clock
from discovery.consul.environment import is_loopback_host
from discovery.embedded.catalog import LocalCatalog
from discovery.embedded.definition import Refused, parse_definition, parse_duration_s
from discovery.embedded.proof import CHALLENGE_HEADER, PROOF_HEADER, new_number, proof, token
from discovery.embedded.strangers import SERVER_NAME
from discovery.model import EMBEDDED_REFUSES

MARK_HEADER = "X-Mesh-Catalog"  # Distinguishes an embedded catalog from any other program on the port.
MARK = "embedded"
BODY_BYTES_MAX = 64 * 1024
WAITERS_MAX = 2_000
# Consul's own: five minutes when none is asked for, ten at most, stretched by up to a sixteenth.
WAIT_DEFAULT_S = 300.0
WAIT_MAX_S = 600.0
_IDLE_MAX_S = 3600.0
_INDEX_DIGITS_MAX = 19
_READ_PARAMETERS = frozenset({"index", "wait", "passing", "consistent", "stale", "filter"})
_BY_SERVICE_ID = re.compile(r'Service\.ID == "([^"\\]*)"')  # The one filter expression that our client sends.
_VERBS = {"pass": "passing", "warn": "warning", "fail": "critical"}

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class CatalogServer:
    """Answers for one `LocalCatalog` and wakes the queries that wait for a change; the one writer of that catalog.

    `keys`: of the mesh; callers have to show a token that follows from one of them (`discovery.embedded.proof`), as
    Consul's. None: all of the machine may use it. `authority`: the host and port where it is served.
    """

    def __init__(self, catalog: LocalCatalog, keys: Callable[[], Sequence[bytes]] = tuple, authority: str = "") -> None:
        self._catalog = catalog
        self._keys = keys
        self._authority = authority
        self.run = new_number()
        self._bells: dict[str, asyncio.Event] = {}
        self._bodies: dict[str, bytes] = {}
        self._waiters = 0
        self.on_admitted: Callable[[web.Request], None] = lambda _request: None
        self.changed = asyncio.Event()  # For the two loops that follow deadlines and HTTP checks.
        self.checks_changed = asyncio.Event()

    def application(self) -> web.Application:
        """Build the aiohttp application."""
        app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[self._guard])
        app.router.add_get("/v1/health/service/{name}", self._health)
        app.router.add_get("/v1/agent/services", self._services)
        app.router.add_get("/v1/status/leader", _leader)
        app.router.add_put("/v1/agent/service/register", self._register)
        app.router.add_put("/v1/agent/service/deregister/{service_id}", self._deregister)
        app.router.add_put("/v1/agent/check/{verb:pass|warn|fail}/{check_id}", self._beat)
        return app

    async def expire_forever(self) -> None:
        """Let TTLs lapse and remove dead services, each at its time."""
        while True:
            self._wake(self._catalog.expire(clock.now_s()))
            self.changed.clear()
            next_s = self._catalog.next_expiry_s()
            delay_s = _IDLE_MAX_S if next_s is None else max(0.0, next_s - clock.now_s())
            try:
                async with asyncio.timeout(delay_s):
                    await self.changed.wait()
            except TimeoutError:
                pass

    def probed(self, check_id: str, status: str, output: str) -> None:
        """Take the result of one HTTP check."""
        self._wake(self._catalog.probed(check_id, status, output, clock.now_s()))

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Refuse foreign Host names and tokens, turn refusals into Consul's answers, and mark every answer as ours."""
        response: web.StreamResponse
        # A web page whose name was rebound to 127.0.0.1 could register services here; its Host names the page.
        host = ""
        with suppress(ValueError):  # A bracket that is not closed.
            host = urlsplit(f"//{request.headers.get('Host', '')}").hostname or ""
        if not is_loopback_host(host):
            response = web.Response(status=403, text=f"{EMBEDDED_REFUSES}it is for one machine only")
        elif not self._is_admitted(request):
            why = "it is another mesh's; give this mesh its own by another MESH_EMBEDDED_PORT, or that mesh's secret"
            response = web.Response(status=403, text=EMBEDDED_REFUSES + why)
        else:
            self.on_admitted(request)
            try:
                response = await handler(request)
            except Refused as exc:
                response = web.Response(status=exc.status, text=str(exc))
            except web.HTTPException as exc:
                allow = {"Allow": exc.headers.get("Allow", "")}
                response = web.Response(status=exc.status, text=exc.reason, headers=allow)
        response.headers[MARK_HEADER] = MARK
        response.headers["Server"] = SERVER_NAME
        if proven := proof(self._keys(), request.headers.get(CHALLENGE_HEADER, ""), self._authority, self.run):
            response.headers[PROOF_HEADER] = proven
        return response

    def _is_admitted(self, request: web.Request) -> bool:
        keys = self._keys()
        shown = request.headers.get("X-Consul-Token", "").encode("utf-8", "surrogateescape")
        tokens = (token(key, self._authority, self.run).encode() for key in keys)
        return not keys or any(hmac.compare_digest(one, shown) for one in tokens)

    async def _health(self, request: web.Request) -> web.Response:
        query = request.query
        unknown = sorted(set(query) - _READ_PARAMETERS)
        if unknown:
            raise Refused(400, f"Unknown parameter {unknown[0][:40]!r}")
        name = request.match_info["name"]
        index_text = query.get("index", "0")
        if not re.fullmatch(rf"[0-9]{{1,{_INDEX_DIGITS_MAX}}}", index_text):
            raise Refused(400, "Invalid index")
        index = int(index_text)
        if index:
            wait_s = min(WAIT_MAX_S, parse_duration_s(query["wait"])) if "wait" in query else WAIT_DEFAULT_S
            await self._wait_beyond(name, index, wait_s * (1.0 + random.random() / 16.0))  # noqa: S311 - jitter
        if "filter" in query:
            wanted = _BY_SERVICE_ID.fullmatch(query["filter"])
            if wanted is None:
                raise Refused(400, "Failed to create boolean expression evaluator: only Service.ID is known")
            rows = [row for row in self._catalog.health_rows(name) if row["Service"]["ID"] == wanted[1]]
            body = orjson.dumps(rows)
        elif "passing" in query:
            body = orjson.dumps(self._catalog.health_rows(name, passing_only=True))
        else:
            body = self._body(name)
        return _json(body, index=self._catalog.index_of(name))

    async def _wait_beyond(self, name: str, index: int, wait_s: float) -> None:
        """Wait until the name's index is beyond `index` or the time is over."""
        # An index of an earlier server is answered at once, so that the client sees the lower one and starts again.
        if self._catalog.index_of(name) > index or self._catalog.never_gave(index):
            return
        if self._waiters >= WAITERS_MAX:
            raise Refused(429, "too many waiting queries")
        self._waiters += 1
        try:
            async with asyncio.timeout(wait_s):
                while self._catalog.index_of(name) <= index:
                    await self._bells.setdefault(name, asyncio.Event()).wait()
        except TimeoutError:
            pass
        finally:
            self._waiters -= 1

    def _body(self, name: str) -> bytes:
        """The answer for a name, kept until it changes: many watchers wake at once and get the same bytes."""
        body = self._bodies.get(name)
        if body is None:
            body = orjson.dumps(self._catalog.health_rows(name))
            if self._catalog.knows(name):  # Names that were never registered are not kept.
                self._bodies[name] = body
        return body

    async def _services(self, _request: web.Request) -> web.Response:
        return _json(orjson.dumps(self._catalog.agent_services()))

    async def _register(self, request: web.Request) -> web.Response:
        try:
            body = orjson.loads(await request.read())
        except orjson.JSONDecodeError as exc:
            raise Refused(400, f"Request decode failed: {exc}") from exc
        self._wake(self._catalog.register(parse_definition(body), clock.now_s()))
        self.changed.set()
        self.checks_changed.set()
        return web.Response()

    async def _deregister(self, request: web.Request) -> web.Response:
        self._wake(self._catalog.deregister(request.match_info["service_id"]))
        self.checks_changed.set()
        return web.Response()

    async def _beat(self, request: web.Request) -> web.Response:
        status = _VERBS[request.match_info["verb"]]
        note = request.query.get("note", "")[:512]
        self._wake(self._catalog.beat(request.match_info["check_id"], status, note, clock.now_s()))
        return web.Response()

    def _wake(self, names: frozenset[str]) -> None:
        """Wake every reader of the names; the next one to wait gets a new bell."""
        for name in names:
            self._bodies.pop(name, None)
            bell = self._bells.pop(name, None)
            if bell is not None:
                bell.set()
        if names:
            self.changed.set()


async def _leader(_request: web.Request) -> web.Response:
    return _json(b'"127.0.0.1:8300"')


def _json(body: bytes, *, index: int | None = None) -> web.Response:
    headers = {} if index is None else {"X-Consul-Index": str(index)}
    return web.Response(body=body, content_type="application/json", headers=headers)
