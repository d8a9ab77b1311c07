"""One backend's pool of HTTP connections, and the exact answer to "was any byte of this request written?".

Used by the HTTP clients alone. No redirect is followed but one that adds or drops a slash at the end. The one rule: a
request counts as sent from the moment its first byte is handed to the socket, so whatever fails before that is
`CallNotSent`, and whatever fails after it is never sent again.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, Self, TypeAlias, TypeVar
from urllib.parse import urlsplit

from agent import clock
from agent.client.deadlines import shared_deadlines
from agent.client.http.answer import LINK_ENDED, NEEDED_NO_LONGER, ConnectionBroken, NotHttp
from agent.client.http.authorized import REFUSED, authorized, refused
from agent.client.http.connection import Connection
from agent.client.http.dial import DialFailed, Dialler
from agent.client.http.fields import checked_line, field_line, lines_of
from agent.client.http.origin import SAME_REQUEST, slash_only, target_of
from agent.client.http.proofs import forgets_us, proven, proving, remembered
from agent.client.http.received import Response
from agent.client.http.request import KNOCK, KNOCK_HEADERS, RequestBody, Route
from agent.client.http.silence import noted
from agent.client.http.started import StartedExchange
from agent.client.negotiation import RoutingHeaders
from agent.client.outbound import DIRECT, Outbound
from agent.client.server_info import ServerInfo
from agent.errors import (
    CallNotSent,
    CallOutcomeUnknown,
    DialRefused,
    LinkFailed,
    MeshError,
    ProtocolBroken,
    Unreachable,
)
from agent.identity.association import Association

__all__ = ["HttpPool", "RequestBody", "Response", "Route"]

_F = TypeVar("_F", bound=MeshError)

# Shorter than uvicorn's 5 s, the shortest common one, so that we give up an idle connection before the server does.
KEEPALIVE_S: Final = 4.0
# Of the last idle one, for what may be sent twice: a link probes every 6 s at most, so an idle one hardly ever dials.
LAST_KEEPALIVE_S: Final = 10.0
# A name may lead elsewhere by now, though the old address still answers: no connection to one is used for longer.
NAMED_AGE_MAX_S: Final = 30.0
# Beginnings of requests that are kept ready: of one for each tool that is called.
_HEADS_REMEMBERED_MAX: Final = 64
# What a reader in a connection's place needs for a request: those two, the head, and what is proven by.
Lent: TypeAlias = tuple[Connection, asyncio.Transport, bytes, Association | None]


class HttpPool:
    """Sends to one URL. Made by `agent.client.http.open_pool`, closed on leaving; safe for concurrent use.

    Any number of connections: how many calls may be in flight is decided above, not by a queue in here.

    Long because a request, the connection that carries it and that connection's way back share one account.
    """

    __slots__ = (
        "_authorizer",
        "_before_target",
        "_believes_cards",
        "_connections",
        "_cookie",
        "_dialler",
        "_expiry",
        "_heads",
        "_host",
        "_idle",
        "_lines",
        "_now_s",
        "_over",
        "_prover",
        "_route",
        "_target",
        "_url",
        "deadlines",
        "where",
    )

    def __init__(self, url: str, headers: Mapping[str, str], dialler: Dialler, outbound: Outbound = DIRECT) -> None:
        parts = urlsplit(url)
        self.where = url.partition("?")[0]
        self._url = url
        self._target = target_of(url, url)
        self._route = Route()
        self._cookie = next((value for name, value in headers.items() if name.lower() == "cookie"), "")
        # A configured Host, for a server that checks it, stands in the place of the URL's: two are refused (RFC 9112).
        self._host, self._lines = checked_line("Host", parts.netloc), lines_of(tuple(headers.items()))
        self._heads: dict[tuple[object, ...], bytes] | None = None  # Of calls; an idle link has none.
        # A proxy in between needs the whole URL (RFC 9112, section 3.2.2); by TLS it is a tunnel, and knows no more.
        proxy = dialler.proxy if parts.scheme == "http" else None
        self._before_target = "" if proxy is None else f"http://{parts.netloc}"
        if proxy is not None and proxy.authorization is not None:
            said = checked_line("Proxy-Authorization", proxy.authorization)
            self._lines = {**self._lines, "proxy-authorization": said}
        self._prover, self._authorizer = outbound.prover, outbound.authorizer
        self._believes_cards = outbound.believes_cards
        self._dialler = dialler
        self._connections: dict[Connection, float] = {}  # Since when.
        self._idle: dict[Connection, float] = {}  # Since when; the longest idle comes first.
        self._expiry: asyncio.TimerHandle | None = None
        self._over = False
        self._now_s = asyncio.get_running_loop().time
        self.deadlines = shared_deadlines()

    def __repr__(self) -> str:
        """Where it leads and how many connections it has; never the headers."""
        return f"<HttpPool {self.where} {len(self._connections)} connections, {len(self._idle)} idle>"

    def as_believed(self, server_info: ServerInfo) -> ServerInfo:
        """What the other side says of itself, as far as it counts (`Outbound.believes_cards`)."""
        return server_info if self._believes_cards else replace(server_info, mesh=None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def target_of(self, reference: str) -> str:
        """The path and query that a URL reference means here. Raises `ValueError` for one that leads elsewhere."""
        return target_of(self._url, reference)

    async def post(self, body: RequestBody, headers: Mapping[str, str], route: Route | None = None) -> Response:
        """Send `body` and wait for the answer's head; the caller reads and closes the response.

        `route`: of a session, which does not share its cookies. `body.sent` is true as soon as the request may have
        been executed, also when this call is cancelled.

        Raises:
            CallNotSent: No connection could be made, or the headers cannot be sent.
            DialRefused: The name leads to an address that may not be dialled; not sent.
            CallOutcomeUnknown: The connection broke after the request was written.
            ProtocolBroken: The answer is not HTTP, or compressed as it was not offered.
        """
        data, route = body.data, route or self._route
        try:
            response = await self._exchange(headers, data, body, route)
            if response.whole is not None:
                return response
            if self._is_moved(response, route):
                response.release()
                body.sent = False
                response = await self._exchange(headers, data, body, route)
        except NotHttp as exc:
            raise self.failure(ProtocolBroken, exc) from exc
        except (OSError, ValueError) as exc:
            kind = CallOutcomeUnknown if body.sent else CallNotSent
            # In one expression: a failure with a name would hold itself by its traceback.
            raise self.failure(kind, exc).with_nothing_sent(nothing_sent=not body.went_out) from exc
        return response.plain(self.where)

    def start(self, started: StartedExchange, headers: Mapping[str, str]) -> bool:
        """Send a request now, over a connection that is idle; False: nothing was sent.

        `started` gets its answer, or hands it to `post`. Raises `ValueError` for headers that cannot be sent.
        """
        if self._authorizer is not None and self._authorizer.has_token:
            return False
        head = self._head("POST", headers, len(started.data), self._route, remember=True)
        connection = self._idle_one(KEEPALIVE_S)
        if connection is None:
            return False
        started.goes_out(connection, None if self._prover is None else self._prover.association, head)
        return True

    async def get(self, headers: Mapping[str, str], route: Route | None = None) -> Response:
        """Open a stream of events. Raises `Unreachable`, `DialRefused`, `ProtocolBroken`."""
        try:
            return (await self._bodyless("GET", headers, route or self._route)).plain(self.where)
        except NotHttp as exc:
            raise self.failure(ProtocolBroken, exc) from exc
        except (OSError, ValueError) as exc:
            raise self.failure(Unreachable, exc).with_nothing_sent(nothing_sent=isinstance(exc, DialFailed)) from exc

    async def reach(self) -> None:
        """Have a connection for the next request. Raises `CallNotSent`, `DialRefused`."""
        try:
            self.take_back(await self._new_one())
        except OSError as exc:
            raise self.failure(CallNotSent, exc).with_nothing_sent() from exc

    async def knock(self) -> int:
        """The status of an answer to a POST that means nothing, over a connection that is its own.

        Raises `Unreachable`, `DialRefused`, `ProtocolBroken`.
        """
        try:
            connection = await self._new_one()
            try:
                head = self._new_head("POST", KNOCK_HEADERS, len(KNOCK), self._route)
                return (await connection.exchange(head + b"\r\n", KNOCK)).status
            finally:
                connection.abort(ConnectionBroken(NEEDED_NO_LONGER))
        except NotHttp as exc:
            raise self.failure(ProtocolBroken, exc) from exc
        except (OSError, ValueError) as exc:
            raise self.failure(Unreachable, exc) from exc

    async def delete(self, headers: Mapping[str, str], route: Route | None = None) -> None:
        """Tell the server that a session is over. Raises `Unreachable`; any answer will do."""
        try:
            response = await self._bodyless("DELETE", headers, route or self._route)
        except (OSError, ValueError, DialRefused) as exc:
            raise self.failure(Unreachable, exc) from exc
        response.release()

    def failure(self, kind: type[_F], exc: BaseException) -> _F:
        """Why the other side could not be reached, or what it did; what stands behind a colon is for operators."""
        what, colon, detail = str(exc).partition(":")
        if not isinstance(exc, DialFailed | ConnectionBroken):  # The words of a library may hold anything.
            what, colon, detail = kind.what, ": ", str(exc)
        return noted(kind.about(self.where, what, colon + detail), exc)

    @property
    def waited_for(self) -> list[Connection]:
        """The connections on which an answer, or the rest of one, is."""
        return [one for one in self._connections if one.is_waited_for]

    def close(self) -> None:
        """Close every connection; exchanges under way fail."""
        self._over = True
        for connection in tuple(self._connections):
            connection.abort(ConnectionBroken(LINK_ENDED))
        if self._expiry is not None:
            self._expiry.cancel()

    # Requests

    async def _exchange(self, headers: Mapping[str, str], data: bytes, body: RequestBody, route: Route) -> Response:
        authorizer = self._authorizer
        if authorizer is not None and authorizer.has_token:
            return await authorized(authorizer, headers, lambda more: self._exchange_proven(more, data, body, route))
        if self._prover is None:
            response = await self._exchange_once(headers, data, body, route, None)
        else:
            response = await self._exchange_proven(headers, data, body, route)
        if authorizer is None or response.status not in REFUSED:
            return response
        return await refused(
            authorizer, headers, lambda more: self._exchange_proven(more, data, body, route), response, None
        )

    async def _exchange_proven(
        self, headers: Mapping[str, str], data: bytes, body: RequestBody, route: Route
    ) -> Response:
        association = None if self._prover is None else self._prover.association
        response = await self._exchange_once(headers, data, body, route, association)
        if association is not None and forgets_us(response):
            response.release()
            body.sent = False
            renewed = await self._renewed(association)
            response = remembered(await self._exchange_once(headers, data, body, route, renewed))
        return response

    async def _exchange_once(
        self,
        headers: Mapping[str, str],
        data: bytes,
        body: RequestBody,
        route: Route,
        association: Association | None,
    ) -> Response:
        if body.begun is not None:
            answer, body.begun, body.data = body.begun, None, b""
            response = await answer()
            return response if response.whole is not None else self._noted(response, route)
        head = self._head("POST", headers, len(data), route, remember=not body.harmless)
        connection = self._idle_one(LAST_KEEPALIVE_S if body.harmless else KEEPALIVE_S)
        may_be_stale = connection is not None and body.harmless
        connection = connection or await self._new_one()
        whole_head, number = proving(head, association)
        body.data, body.sent = b"", True
        try:
            response = await connection.exchange(whole_head, data)
        except ConnectionBroken as exc:
            if not may_be_stale or self._over or isinstance(exc, NotHttp):
                raise
            connection = await self._new_one()
            whole_head, number = proving(head, association)
            response = await connection.exchange(whole_head, data)
        if association is None and response.whole is not None:
            return response
        return self._noted(proven(response, association, number), route)

    async def _renewed(self, stale: Association) -> Association:
        """Raises `CallNotSent`: the other side cannot prove any more who it is."""
        assert self._prover is not None, "there was an association"
        try:
            await self._prover.renew(stale)
        except LinkFailed as exc:
            raise CallNotSent.of(exc) from exc
        return self._prover.association

    async def _bodyless(self, method: str, headers: Mapping[str, str], route: Route) -> Response:
        async def exchange(more: Mapping[str, str]) -> Response:
            return await self._exchange_bodyless(method, more, route)

        response = await authorized(self._authorizer, headers, exchange)
        if self._is_moved(response, route):
            response.release()
            response = await authorized(self._authorizer, headers, exchange)
        return response

    async def _exchange_bodyless(self, method: str, headers: Mapping[str, str], route: Route) -> Response:
        """Once more where an idle connection ended at that moment: only a new one tells whether there is a server."""
        head = self._head(method, headers, None, route)
        association = None if self._prover is None else self._prover.association
        connection = (idle := self._idle_one(KEEPALIVE_S)) or await self._new_one()
        whole_head, number = proving(head, association)
        try:
            response = await connection.exchange(whole_head, b"")
        except ConnectionBroken as exc:
            if idle is None or self._over or isinstance(exc, NotHttp):
                raise
            return await self._exchange_bodyless(method, headers, route)
        return self._noted(remembered(proven(response, association, number)), route)

    def _noted(self, response: Response, route: Route) -> Response:
        """Keep the cookies of an answer."""
        if "Set-Cookie" in response.headers:
            origin = urlsplit(self._url)
            said, path = response.headers.getall("Set-Cookie"), route.target or self._target
            secure = origin.scheme == "https"
            route.cookies.take(said, origin.hostname or "", path, time.time(), secure=secure)
        return response

    def _is_moved(self, response: Response, route: Route) -> bool:
        """Whether to send the request once more, which was not executed, to the path that is remembered from now on."""
        if response.status not in SAME_REQUEST:
            return False
        moved = slash_only(self._url, route.target or self._target, response.headers.get("Location", ""))
        if moved is not None and route.target is None:
            self._target = moved
        elif moved is not None:
            route.target = moved
        return moved is not None

    def _head(
        self, method: str, headers: Mapping[str, str], length: int | None, route: Route, *, remember: bool = False
    ) -> bytes:
        """Everything before the body but for the empty line at the end. `remember`: the same may be needed again.

        Raises `ValueError` for a header that cannot be sent as it is.
        """
        if not remember or length is None or route.cookies.kept:
            return self._new_head(method, headers, length, route)
        target = route.target or self._target
        key = (target, headers) if type(headers) is RoutingHeaders else (target, *headers.items())
        known = None if self._heads is None else self._heads.get(key)
        if known is None:
            if self._heads is None or len(self._heads) >= _HEADS_REMEMBERED_MAX:
                self._heads = {}
            known = self._heads[key] = self._new_head(method, headers, 0, route).removesuffix(b"0\r\n")
        return known + b"%d\r\n" % length

    def _new_head(self, method: str, headers: Mapping[str, str], length: int | None, route: Route) -> bytes:
        lines = {"host": self._host, **self._lines}
        for name, value in headers.items():
            lines[name.lower()] = field_line(name, value)
        target = route.target or self._target
        if len(route.cookies) and (cookies := route.cookies.header(target, time.time(), self._cookie)):
            lines["cookie"] = f"Cookie: {cookies}\r\n"
        if length is not None:
            lines["content-length"] = f"Content-Type: application/json\r\nContent-Length: {length}\r\n"
        text = f"{method} {self._before_target}{target} HTTP/1.1\r\n{''.join(lines.values())}"
        # Bytes of a caller's header that are not UTF-8 are passed unchanged.
        return text.encode("utf-8", "surrogateescape")

    # Connections

    def _idle_one(self, keepalive_s: float) -> Connection | None:
        """One that is idle for no longer than this and alive at this very moment."""
        while self._idle:
            connection, since_s = self._idle.popitem()
            if since_s + keepalive_s > self._now_s() and not connection.is_dead(used_before=True):
                return connection
            connection.abort(ConnectionBroken("closed the connection"))
        return None

    async def _new_one(self) -> Connection:
        """Raises what `Dialler.dial` raises."""
        connection = await self._dialler.dial(lambda: Connection(self))
        if self._over or connection.is_dead(used_before=False):
            failure = connection.failure or ConnectionBroken("closes every connection at once")
            connection.abort(failure)
            raise failure
        self._connections[connection] = clock.now_s()
        return connection

    def take_back(self, connection: Connection) -> None:
        """As `ConnectionOwner.take_back`."""
        now_s = self._now_s()
        if self._dialler.by_name and now_s >= self._connections[connection] + NAMED_AGE_MAX_S:
            connection.abort(ConnectionBroken(NEEDED_NO_LONGER))
            return
        self._idle[connection] = now_s
        if self._expiry is not None and len(self._idle) > 1 and self._expiry.when() > now_s + KEEPALIVE_S:
            self._expiry.cancel()  # It was set for a last one.
            self._expiry = None
        if self._expiry is None:
            due_s = now_s + (LAST_KEEPALIVE_S if len(self._idle) == 1 else KEEPALIVE_S)
            self._expiry = asyncio.get_running_loop().call_at(due_s, self._expire)

    def lend(self, reader: asyncio.Protocol, headers: Mapping[str, str], length: int) -> Lent | None:
        """Let `reader` send a request of so many bytes over a kept connection, and read its answer, until `rests`.

        None without one, and where the request needs a token or a cookie. The kernel is not asked whether it ended.
        """
        if not self._idle or (self._authorizer is not None and self._authorizer.has_token) or len(self._route.cookies):
            return None
        connection, since_s = self._idle.popitem()
        if since_s + LAST_KEEPALIVE_S > clock.now_s() and (transport := connection.lend(reader)) is not None:
            head = self._head("POST", headers, length, self._route)
            return connection, transport, head, None if self._prover is None else self._prover.association
        connection.abort(ConnectionBroken("closed the connection"))
        return None

    def rests(self, connection: Connection) -> None:
        """Keep a lent one without a timer for its end: before that it is lent again, or the pool is closed."""
        if not connection.reads_again() or self._dialler.by_name:
            connection.finish()
            return
        if not self._idle and self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        self._idle[connection] = clock.now_s()

    def forget(self, connection: Connection) -> None:
        """As `ConnectionOwner.forget`."""
        self._connections.pop(connection, None)
        self._idle.pop(connection, None)

    def _expire(self) -> None:
        """Close what was idle for too long, and come back when the next one will have been."""
        self._expiry = None
        for connection, since_s in tuple(self._idle.items()):
            due_s = since_s + (KEEPALIVE_S if len(self._idle) > 1 else LAST_KEEPALIVE_S)
            if due_s > self._now_s():
                self._expiry = asyncio.get_running_loop().call_at(due_s, self._expire)
                break
            connection.abort(ConnectionBroken("closed the connection"))
