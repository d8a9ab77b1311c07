"""The client to a stateless HTTP server (2026-07-28 and later): every request is complete in itself.

Made by `agent.client.http.connect` after `server/discover`; used through
`agent.client.protocol.McpClient`. The hot path of forwarded calls. The one rule: closing a request's connection cancels
the request, so a caller that stops waiting closes it.
"""

import asyncio
import itertools
from collections.abc import Callable, Mapping
from typing import Final, Self

from multidict import CIMultiDict, CIMultiDictProxy

from agent.client import jsonrpc
from agent.client.capabilities import ASKED_FOR_ALL
from agent.client.deadlines import Deadline
from agent.client.event import Event
from agent.client.http.answer import HEARD_NO_MORE, ConnectionBroken
from agent.client.http.held import HeldStream
from agent.client.http.pool import HttpPool
from agent.client.http.quiet import PROBES_NODE, QuietQuestions
from agent.client.http.received import Response
from agent.client.http.request import RequestBody
from agent.client.http.response import (
    ANSWER_BYTES_MAX,
    SSE_TYPE,
    HttpRefusal,
    MessageStream,
    check_status,
    error_instead,
    exchange,
)
from agent.client.http.started import Habit, StartedExchange
from agent.client.negotiation import DISCOVER, Handshake, ModernStamp, judge_discovery
from agent.client.protocol import Request, ResultTaker, shown_s, why_lost
from agent.client.server_info import (
    ACKNOWLEDGE_TIMEOUT_S,
    ListenNotSupported,
    ServerInfo,
    is_leaving,
    listen_failure,
)
from agent.client.sessions.beside import LISTS
from agent.client.streams import LISTEN, ListChanges, Listening, Updates
from agent.errors import CallFailed, CallNotSent, CallTimedOut, DialRefused, MeshError, RpcError, Unreachable
from agent.model import HEADER_BYTES_MAX, Json
from agent.rpc_codes import INVALID_PARAMS, METHOD_NOT_FOUND, UNSUPPORTED_PROTOCOL_VERSION

# Errors that a server gives only when it no longer speaks our era: replaced by an older one behind the same URL.
_OTHER_ERA: Final = frozenset({METHOD_NOT_FOUND, UNSUPPORTED_PROTOCOL_VERSION})
# What a server does nothing for but answer: a link probes by it every few seconds, and reads lists every half a minute,
# so that an idle link dials for neither.
_SENT_TWICE: Final = frozenset({DISCOVER}) | LISTS
_NO_HEADERS: Final = CIMultiDictProxy(CIMultiDict[str]())


class HttpStatelessClient:
    """Stateless requests over one pool. Nothing to close but the pool.

    Long because one pool has all that a stateless server is asked: calls, waited for or not, streams, and what a link
    asks at rest.
    """

    __slots__ = (
        "_habit",
        "_ids",
        "_pool",
        "_probe_params",
        "_quiet",
        "_stamp",
        "lost",
        "lost_reason",
        "lost_what",
        "server_info",
    )

    def __init__(self, pool: HttpPool, stamp: ModernStamp, server_info: ServerInfo) -> None:
        self.server_info = pool.as_believed(server_info)
        self.lost = Event()
        self.lost_reason = self.lost_what = ""
        self._pool = pool
        self._stamp = stamp
        self._ids = itertools.count(1)
        self._habit = Habit()
        self._quiet: QuietQuestions | None = None
        self._probe_params = ASKED_FOR_ALL if self.server_info.mesh is None else PROBES_NODE

    def __repr__(self) -> str:
        """Where it leads, and whether it is broken."""
        return f"<HttpStatelessClient {self._pool.where}{' lost: ' + self.lost_reason if self.lost.is_set() else ''}>"

    async def request(self, request: Request) -> Json:
        """As `McpClient.request`; a stateless server keeps nothing for an affinity."""
        method, started = request.method, request.started
        stamped = self._stamp.params(request.params)
        if isinstance(started, StartedExchange):
            request_id, body = started.request_id, started.body()
        else:
            request_id = next(self._ids)
            body = RequestBody(jsonrpc.encode_request(request_id, method, stamped), harmless=method in _SENT_TWICE)
        headers = self._stamp.headers(method, stamped)
        if request.headers or len(body.data) > HEADER_BYTES_MAX // 2:  # They repeat less than that, in base64 at most.
            headers = _short({**headers, **request.headers} if request.headers else headers)
        on_notification, sink = request.on_notification, request.sink

        async def on_message(message: Json) -> None:
            # A modern server sends no requests on a stream; its notifications there belong to this request.
            if on_notification is not None and jsonrpc.is_notification(message):
                await on_notification(message["method"], jsonrpc.params_of(message))

        deadline = Deadline(self._pool.deadlines, request.deadline_s, sink)
        try:
            with deadline:
                message, _ = await exchange(self._pool, body, headers, request_id, on_message, large=sink)
        except TimeoutError as exc:
            raise timed_out(self._pool, method, deadline.lasts_s, sent=body.sent) from exc
        except HttpRefusal as exc:
            raise exc.as_failure() from exc
        except DialRefused as exc:
            raise CallNotSent(str(exc)) from exc
        if body.harmless and self._quiet is not None:
            self._quiet.forget(method)
        return jsonrpc.result_of(message)

    def start_request(self, request: Request, taker: ResultTaker) -> bool:
        """As `StartsRequests.start_request`."""
        if request.headers or (self._habit.misses and not self._habit.is_worth_trying()):
            return False
        stamped = self._stamp.params(request.params)
        request_id = next(self._ids)
        try:
            data = jsonrpc.encode_request(request_id, request.method, stamped)
            if len(data) > HEADER_BYTES_MAX // 2:  # Its headers have to be looked at.
                return False
            started = StartedExchange(request_id, data, taker, self._habit)
            is_started = self._pool.start(started, self._stamp.headers(request.method, stamped))
        except (RpcError, ValueError):  # `request` says what is wrong with it.
            return False
        request.started = started if is_started else None
        return is_started

    @property
    def is_waited_for(self) -> bool:
        """Whether an answer is, or the rest of one; streams that are held are no answers."""
        return bool(self._pool.waited_for)

    def give_up(self) -> None:
        """As `GivesUp.give_up`."""
        # As the kernel does where nothing is acknowledged.
        for connection in self._pool.waited_for:
            connection.abort(ConnectionBroken(HEARD_NO_MORE, silent=True))

    @property
    def lists_by_session(self) -> bool:
        """As `McpClient.lists_by_session`: another node may have servers whose lists do."""
        return self.server_info.mesh is not None

    def hear_sessions(self, on_news: Callable[[str, str], None]) -> None:
        """As `McpClient.hear_sessions`: there are none."""

    async def listen(self, on_change: Callable[[str], None]) -> None:
        """As `McpClient.listen`."""
        try:
            await self._listen(ListChanges(on_change))
        except RpcError as exc:
            raise listen_failure(exc) from exc

    async def listen_quietly(
        self, on_change: Callable[[str], None], ended: Callable[[MeshError], None]
    ) -> Callable[[], None]:
        """As `Quiet.listen_quietly`."""
        try:
            held = await self._listen(ListChanges(on_change), ended)
        except RpcError as exc:
            raise listen_failure(exc) from exc
        assert held is not None, "else it ends with an exception"
        return held.drop

    async def follow(self, updates: Updates) -> None:
        """As `McpClient.follow`."""
        await self._listen(updates)

    async def _listen(
        self, listening: Listening, ended: Callable[[MeshError], None] | None = None
    ) -> HeldStream | None:
        """Hold one long `subscriptions/listen` request; always ends with an exception, but where `ended` gets that."""
        try:
            async with asyncio.timeout(ACKNOWLEDGE_TIMEOUT_S) as deadline:
                return await self._read_stream(deadline, listening, ended)
        except TimeoutError as exc:
            what = "did not acknowledge the subscription in time"
            raise Unreachable(f"{self._pool.where} {what}", silent=True) from exc
        except HttpRefusal as exc:
            if exc.error is None and exc.status in (404, 405, 501):
                raise ListenNotSupported(str(exc)) from exc
            raise _failure_of_stream(exc) from exc
        except CallFailed as exc:
            raise Unreachable.because(exc) from exc

    async def probe(self, timeout_s: float) -> None:
        """As `McpClient.probe`. An answer of another era or node makes the client `lost`, so that it is opened anew."""
        try:
            result = await self.request(Request.within(DISCOVER, self._probe_params, timeout_s=timeout_s))
        except RpcError as exc:
            if exc.code in _OTHER_ERA:
                raise self._lose(f"no longer speaks {self._stamp.version}") from exc
            return
        except CallFailed as exc:
            raise Unreachable.because(exc) from exc
        self._take(result)

    def _take(self, result: Json) -> None:
        """Take another answer to a probe. Raises `Unreachable` for one of another node or era, or of one that ends."""
        verdict = judge_discovery(result, self._stamp.version)
        if isinstance(verdict, Handshake):
            raise self._lose(f"no longer speaks {self._stamp.version}")
        verdict = self._pool.as_believed(verdict)
        if _node_of(verdict) != _node_of(self.server_info):
            # Requests are stateless, so nothing else would show that the address belongs to another node now.
            raise self._lose("is another node now")
        if is_leaving(verdict):
            raise self._lose("is stopping")
        self.server_info = verdict  # Its capabilities may have changed, as a node's servers come and go.

    @property
    def quiet(self) -> Self:
        """As `McpClient.quiet`."""
        return self

    def prober(self) -> Callable[[Callable[[bool], None]], Callable[[], None] | None]:
        """As `Quiet.prober`."""
        return self._probe_quietly

    def _probe_quietly(self, heard: Callable[[bool], None]) -> Callable[[], None] | None:
        return self._questions.probe(self._take, heard)

    def list_quietly(
        self, method: str, is_known: Callable[[Json], bool], heard: Callable[[bool], None]
    ) -> Callable[[], None] | None:
        """As `Quiet.list_quietly`."""
        return self._questions.list_again(method, is_known, heard)

    @property
    def _questions(self) -> QuietQuestions:
        if self._quiet is None:
            to_node = self.server_info.mesh is not None
            self._quiet = QuietQuestions(self._pool, self._stamp, to_node=to_node)
        return self._quiet

    def _lose(self, what: str) -> Unreachable:
        self.lost_reason, self.lost_what = f"{self._pool.where} {what}", what
        self.lost.set()
        return why_lost(self)

    async def _open_stream(self, listening: Listening) -> Response:
        """A function of its own, so that the request's body is not held while the stream is read."""
        stamped = self._stamp.params(listening.params)
        body = RequestBody(jsonrpc.encode_request(f"listen-{next(self._ids)}", LISTEN, stamped), harmless=True)
        return await self._pool.post(body, self._stamp.headers(LISTEN, stamped))

    async def _read_stream(
        self, deadline: asyncio.Timeout, listening: Listening, ended: Callable[[MeshError], None] | None
    ) -> HeldStream | None:
        response = await self._open_stream(listening)
        try:
            await check_status(response, self._pool)
            if response.content_type != SSE_TYPE:
                no_stream = ListenNotSupported(f"{self._pool.where} answers {LISTEN} without a stream")
                raise await error_instead(response, self._pool) or no_stream
            response.headers = _NO_HEADERS  # It may be hours until the stream ends.
            bytes_max = ANSWER_BYTES_MAX if listening.has_results else jsonrpc.NOTIFICATION_BYTES_MAX
            stream = MessageStream(response, self._pool, bytes_max, bytes_max)
            while (message := await stream.next()) is not None:
                if "method" not in message:
                    jsonrpc.result_of(message)
                    break
                listening.take(message["method"], jsonrpc.params_of(message))
                del message  # It may be hours until the next one.
                if listening.acknowledged:
                    deadline.reschedule(None)
                    if ended is not None and (held := HeldStream.of(stream, listening, self._pool, ended)):
                        return held
            raise Unreachable(f"{self._pool.where} ended the stream of changes")
        finally:
            response.close()


def _failure_of_stream(refusal: HttpRefusal) -> MeshError:
    failure = refusal.as_failure()
    return Unreachable(str(failure)) if isinstance(failure, CallFailed) else failure


def _node_of(server_info: ServerInfo) -> object:
    """The identity of the other side as it claims it: None for a plain server. A node may come back renamed."""
    return (server_info.mesh.get("node_id"), server_info.mesh.get("name")) if server_info.mesh is not None else None


def _short(headers: Mapping[str, str]) -> Mapping[str, str]:
    """`headers` unchanged. Raises `RpcError` for so many that a server would refuse the connection."""
    if sum(map(len, headers.values())) > HEADER_BYTES_MAX:
        said = f"What headers have to repeat of this request is longer than {HEADER_BYTES_MAX} bytes"
        raise RpcError(INVALID_PARAMS, said)
    return headers


def timed_out(pool: HttpPool, method: str, timeout_s: float, *, sent: bool) -> CallFailed:
    """The failure of a request whose deadline passed."""
    if sent:
        return CallTimedOut.about(pool.where, f"did not answer {method} within {shown_s(timeout_s)}")
    what = f"did not accept the connection for {method} within {shown_s(timeout_s)}"
    return CallNotSent.about(pool.where, what).as_silence()
