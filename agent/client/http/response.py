"""Reading one HTTP answer of an MCP server: its status, then a JSON body or a stream of events, within limits.

Called by the HTTP clients with the response that `agent.client.http.pool` got. The one rule: only a complete message is
ever handed on; an answer that breaks off is `CallOutcomeUnknown`, one that is not MCP is `ProtocolBroken`.
"""

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Final

from agent.client import jsonrpc
from agent.client.http.forgetting import Refused, Standing
from agent.client.http.origin import redirect_detail
from agent.client.http.pool import HttpPool, RequestBody, Response, Route
from agent.client.http.resumption import Resumption
from agent.client.http.sse import EventTooLarge, SseParser
from agent.client.http.streaming import RestOfBody, RestOfLine
from agent.client.streaming import HELD_BYTES_MAX, LargeResult, pass_on
from agent.errors import AuthRefused, CallOutcomeUnknown, ProtocolBroken, RpcError, Unreachable
from agent.harmless_text import one_line
from agent.model import AUTH_REALM, Json
from agent.rpc_codes import INVALID_REQUEST

log = logging.getLogger(__name__)

# The largest result that we hold for one caller: sixteen times the 4 MiB that a request may have, since files come as
# results; a few such answers at once still fit a small machine.
ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024
# An error page is read for its JSON-RPC error only.
ERROR_BYTES_MAX: Final = 1024 * 1024
# After the final event the server ends the stream by itself. The connection returns to the pool then, or is closed.
STREAM_END_WAIT_S: Final = 1.0

# Of the text of a refusal: enough for a sentence and a URL.
SAID_LEN_MAX: Final = 300

UNAUTHORIZED: Final = 401
FORBIDDEN: Final = 403
# What an operator has to know of a status whose own text says it badly.
_MEANINGS: Final = {
    UNAUTHORIZED: ", the token is missing or wrong",
    FORBIDDEN: ", access is refused",
    407: ", the proxy wants a user and a password in its URL (HTTP_PROXY)",
    421: ", its Host check does not know the name that we dial it by",
}

# What proxies and their maintenance pages say in place of a server that they do not reach, or do not know of any more;
# nginx answers a POST for such a page with 405. Of 500 and above all are taken so (`agent.client.http.connect`).
_SAID_OF_ABSENT_ONES: Final = frozenset({404, 405, 410})

# The statuses whose `Retry-After` says when to come again (RFC 9110, section 10.2.3; RFC 6585, section 4).
_ASKS_TO_WAIT: Final = (429, 503)
# A longer wait is an error of a clock or of a unit.
_WAIT_MAX_S: Final = 86_400.0

_NODE_MARK: Final = re.compile(r'node="([0-9a-f]{16})"')
_JSON: Final = "application/json"
_TEXT: Final = "text/plain"
SSE_TYPE: Final = "text/event-stream"
SESSION_HEADER: Final = "Mcp-Session-Id"

OnMessage = Callable[[Json], Awaitable[None]]


class HttpRefusal(Exception):
    """An answer of 4xx or 5xx that does not concern the token, or a JSON-RPC error that may concern the session.

    Never leaves the HTTP clients. `about`: what `MeshError.about` takes, for the failure that it becomes.
    `error`: the JSON-RPC error in its body, if it is one. `said`: the body's text in one line; empty for HTML pages.
    `retry_after_s`: how long the server asks to wait (429 and 503).
    """

    def __init__(
        self,
        status: int,
        where: str,
        message: Json | None,
        said: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        self.about = (where, f"answered HTTP {status}{_MEANINGS.get(status, '')}", f"{': ' if said else ''}{said}")
        super().__init__("{} {}{}".format(*self.about))
        self.status = status
        self.retry_after_s = retry_after_s
        error = message.get("error") if message is not None else None
        self.error: RpcError | None = jsonrpc.error_of(error) if isinstance(error, dict) else None
        self.refused = Refused(status, self.error, said)

    @property
    def may_be_away(self) -> bool:
        """Whether it may be a proxy's word for a server that is away: not of JSON-RPC, and not about the token."""
        return self.error is None and self.status in _SAID_OF_ABSENT_ONES

    def as_outage(self) -> Unreachable:
        """The failure where the whole server is meant."""
        failure = Unreachable.about(*self.about, retry_after_s=self.retry_after_s)
        return failure.as_said(self.status, in_own_words=self.error is not None)

    @property
    def forgets_session(self) -> bool:
        """Whether it is clear that the server no longer knows the session that the request was sent in.

        It restarted, or the session was idle for too long.
        """
        return self.refused.standing is Standing.FORGOTTEN

    def as_failure(self) -> RpcError | CallOutcomeUnknown | ProtocolBroken | AuthRefused:
        """The failure to raise: the server's own error, else what the status means for the request."""
        if self.status in (UNAUTHORIZED, FORBIDDEN):
            return AuthRefused.about(*self.about, status=self.status)
        if self.error is not None:
            return self._with_wait(self.error)
        if self.status == 413:  # noqa: PLR2004 - Content Too Large: this one request is wrong, not the link
            return RpcError(INVALID_REQUEST, "The server refuses the request as too large (HTTP 413)")
        if self.status in (408, 429) or self.status >= 500:  # noqa: PLR2004 - the server's or a proxy's trouble
            return CallOutcomeUnknown.about(*self.about, retry_after_s=self.retry_after_s).as_said(self.status)
        where, what, said = self.about
        return ProtocolBroken.about(where, what, f"{said}: no MCP endpoint").as_away(may_be_away=self.may_be_away)

    def _with_wait(self, error: RpcError) -> RpcError:
        """The server's own error, and what only the answer's head says; another object, for its cause is this one."""
        if self.retry_after_s is None or not isinstance(error.data, dict | None):
            return RpcError(error.code, error.message, error.data)
        return RpcError(error.code, error.message, {"retry_after_s": self.retry_after_s} | (error.data or {}))


async def exchange(
    pool: HttpPool,
    body: RequestBody,
    headers: Mapping[str, str],
    request_id: int | str,
    on_message: OnMessage | None = None,
    *,
    large: LargeResult | None = None,
    route: Route | None = None,
    resumption: Resumption | None = None,
) -> tuple[Json, Mapping[str, str]]:
    """Send a request; return its response message and the answer's headers.

    Every other message of the answer's stream goes to `on_message`, in order. A large result goes to `large`
    while it comes, and the message only says how it ended. Cancellation closes the connection. `resumption` takes a
    stream up again that ends before its time.

    Raises:
        CallNotSent, DialRefused: No connection could be made.
        AuthRefused, HttpRefusal: By status.
        ProtocolBroken: A redirect, an unknown content type, no JSON, the wrong ID, or a limit broken.
        CallOutcomeUnknown: The answer ended before it was complete (`AnswerCut`: `large` has got a part).
    """
    response = await pool.post(body, headers, route)
    if response.whole is not None:  # Most answers, which say nothing that has to be looked at.
        return _matching(jsonrpc.decode(response.whole), request_id, pool), response.headers
    stream: MessageStream | None = None
    try:
        await check_status(response, pool, in_session=SESSION_HEADER in headers)
        if response.content_type == SSE_TYPE:
            stream = MessageStream(response, pool, ANSWER_BYTES_MAX, resumption=resumption)
            message = await _read_stream(stream, request_id, pool, on_message, large)
        else:
            message = await _read_response(response, request_id, pool, large)
    except BaseException:
        (response if stream is None else stream.response).close()
        raise
    finish(response if stream is None else stream.response)
    return message, response.headers


async def _read_response(response: Response, request_id: int | str, pool: HttpPool, large: LargeResult | None) -> Json:
    kind = response.content_type
    if kind != _JSON:
        what = f"answered HTTP {response.status} with something else than MCP"
        raise ProtocolBroken.about(pool.where, what, f": {kind[:80]!r}").as_away()  # Perhaps a page of a proxy's.
    return await _read_message(response, request_id, pool, large)


async def _read_stream(
    stream: "MessageStream",
    request_id: int | str,
    pool: HttpPool,
    on_message: OnMessage | None,
    large: LargeResult | None,
) -> Json:
    while (message := stream.taken()) is not None or await stream.read_on():
        if message is None:
            if large is not None and (held := stream.large_data()) is not None:
                rest = RestOfLine(stream.response, pool)
                if (passed := await pass_on(held, rest, request_id, pool.where, large)) is not None:
                    return passed
            continue
        if "method" not in message:
            return _matching(message, request_id, pool)
        if on_message is not None:
            await on_message(message)
    raise CallOutcomeUnknown.about(pool.where, "ended its stream without an answer")


async def _read_message(response: Response, request_id: int | str, pool: HttpPool, large: LargeResult | None) -> Json:
    declared = response.content_length
    if large is None or (declared is not None and declared <= HELD_BYTES_MAX):
        return _matching(jsonrpc.decode(await _read_body(response, pool, ANSWER_BYTES_MAX)), request_id, pool)
    rest, parts, size = RestOfBody(response, pool), list[bytes](), 0
    while size <= HELD_BYTES_MAX and (part := await rest.more()):
        parts.append(part)
        size += len(part)
    held = b"".join(parts)
    if size > HELD_BYTES_MAX:
        if (passed := await pass_on(held, rest, request_id, pool.where, large)) is not None:
            return passed
        held = await _read_body(response, pool, ANSWER_BYTES_MAX, held)
    return _matching(jsonrpc.decode(held), request_id, pool)


class MessageStream:
    """The messages of one event stream. Not a generator: one that is left early would be closed in a stray task."""

    __slots__ = (
        "_event_bytes_max",
        "_judged",
        "_note_bytes_max",
        "_parser",
        "_pool",
        "_ready",
        "_resumption",
        "response",
    )

    def __init__(
        self,
        response: Response,
        pool: HttpPool,
        event_bytes_max: int,
        note_bytes_max: int = jsonrpc.NOTIFICATION_BYTES_MAX,
        *,
        resumption: Resumption | None = None,
    ) -> None:
        """`note_bytes_max`: of a notification; a larger one is dropped, where a larger event ends the stream.

        `response` becomes another when `resumption` takes the stream up again.
        """
        self.response = response
        self._pool = pool
        self._resumption = resumption
        self._event_bytes_max = event_bytes_max
        self._note_bytes_max = note_bytes_max
        self._parser = SseParser(event_bytes_max)
        self._ready: Iterator[bytes] = iter(())
        self._judged = False

    async def next(self) -> Json | None:
        """The next message, None at the end. Raises `CallOutcomeUnknown` when it breaks, and `ProtocolBroken`."""
        while (message := self.taken()) is None and await self.read_on():
            pass
        return message

    @property
    def endpoint(self) -> str | None:
        """Where messages are to be posted, as the old HTTP+SSE transport says it; None before it has."""
        return None if self._parser.endpoint is None else self._parser.endpoint.decode(errors="replace").strip()

    @property
    def parser(self) -> SseParser:
        """What reads the events."""
        return self._parser

    def taken(self) -> Json | None:
        """The next message of those that are complete. Raises `ProtocolBroken`."""
        for data in self._ready:  # Continues where it stopped.
            if not (len(data) > self._note_bytes_max and jsonrpc.is_too_large(data)):
                message = jsonrpc.decode(data)
                if not jsonrpc.is_notification(message) or len(data) <= self._note_bytes_max:
                    return message
            log.warning("MCP notification dropped, larger than the limit", extra={"where": self._pool.where})
        return None

    async def read_on(self) -> bool:
        """Wait for more, False at the end. Raises as `next`."""
        try:
            chunk = await self.response.more()
        except OSError as exc:
            if await self._taken_up():
                return True
            raise self._pool.failure(CallOutcomeUnknown, exc) from exc
        if not chunk:
            return await self._taken_up()
        try:
            self._ready = iter(self._parser.feed(chunk))
        except EventTooLarge as exc:
            raise ProtocolBroken.about(
                self._pool.where, "answered with an event that is too large", f": {exc}"
            ) from exc
        return True

    async def _taken_up(self) -> bool:
        """Go on with another connection, if the server lets us."""
        if self._resumption is None:
            return False
        ended = self._parser
        response = await self._resumption.next(ended.last_id, ended.retry_ms)
        if response is None:
            return False
        self.response.close()
        self.response = response
        self._judged = False
        self._parser = SseParser(self._event_bytes_max, ended.last_id, ended.retry_ms)
        return True

    def large_data(self) -> bytes | None:
        """The beginning of a large event, returned once. A reader that streams it continues from the response."""
        if self._parser.unfinished_bytes <= HELD_BYTES_MAX:
            self._judged = False
        elif not self._judged:
            self._judged = True
            return self._parser.begun_data()
        return None


async def check_status(response: Response, pool: HttpPool, *, in_session: bool = False) -> None:
    """Pass 200 on. Raises `AuthRefused`, `ProtocolBroken` (a redirect, or an answer without content), `HttpRefusal`.

    `in_session`: the request had a session ID, so that 401 or 403 may be about that in place of the token.
    """
    status = response.status
    if status == 200:  # noqa: PLR2004 - the only status that carries an answer
        return
    if 300 <= status < 400:  # noqa: PLR2004 - redirects
        detail = one_line(redirect_detail(pool.where, response.headers.get("Location")))
        raise ProtocolBroken.about(pool.where, f"answered HTTP {status}, a redirect", f" {detail}")
    if status < 400:  # noqa: PLR2004 - 1xx and 2xx
        raise ProtocolBroken.about(pool.where, f"answered a request with HTTP {status} and no content")
    message, said = await _refused_body(response, pool)
    wait_s = retry_after_s(response.headers.get("Retry-After", ""), time.time()) if status in _ASKS_TO_WAIT else None
    refusal = HttpRefusal(status, pool.where, message, said, wait_s)
    challenge = response.headers.get("WWW-Authenticate", "")
    by_node = f'realm="{AUTH_REALM}"' in challenge
    if status in (UNAUTHORIZED, FORBIDDEN) and not _is_of_session(refusal, challenge, in_session and not by_node):
        marked = _NODE_MARK.search(challenge) if by_node else None
        mark = marked[1] if marked is not None else None
        raise AuthRefused.about(*refusal.about, by_node=by_node, node_mark=mark, status=status)
    try:
        raise refusal
    finally:
        del refusal  # Its traceback has this frame: a circle, for the garbage collector to find.


def _is_of_session(refusal: HttpRefusal, challenge: str, in_session: bool) -> bool:
    """Whether a 401 or 403 is about the session: the one that is forgotten, or, without one, that none was opened."""
    return refusal.forgets_session and (in_session or (refusal.status == UNAUTHORIZED and not challenge))


def retry_after_s(value: str, now_s: float) -> float | None:
    """The seconds that a `Retry-After` header asks for: a number, or a date after `now_s` (Unix time); else None."""
    if value.strip().isdecimal():
        return min(float(value), _WAIT_MAX_S)
    try:
        wait_s = parsedate_to_datetime(value).timestamp() - now_s
    except (ValueError, OverflowError):
        return None
    return min(wait_s, _WAIT_MAX_S) if wait_s > 0 else None


async def _refused_body(response: Response, pool: HttpPool) -> tuple[Json | None, str]:
    """The message in a refusal's body, if it is one, and the body's text in one line; empty for HTML pages."""
    if response.content_type not in (_JSON, _TEXT):
        return None, ""
    try:
        body = await _read_body(response, pool, ERROR_BYTES_MAX)
    except (ProtocolBroken, CallOutcomeUnknown):
        return None, ""  # The status alone decides.
    message: Json | None = None
    text = body.decode(errors="replace")
    with contextlib.suppress(ProtocolBroken):
        message = jsonrpc.decode(body)
        error = message.get("error")
        text = str(error.get("message", "")) if isinstance(error, dict) else str(error or message.get("message") or "")
    return message, one_line(text)[:SAID_LEN_MAX]


async def error_instead(response: Response, pool: HttpPool) -> RpcError | None:
    """The JSON-RPC error that a server answers in place of a stream, if that is what it did."""
    if response.content_type != _JSON:
        return None
    error = jsonrpc.decode(await _read_body(response, pool, ERROR_BYTES_MAX)).get("error")
    return jsonrpc.error_of(error) if isinstance(error, dict) else None


def finish(response: Response) -> None:
    """Give the connection back when the server ends the answer by itself soon, else close it. Never waits."""
    if response.closed:
        return
    if response.is_complete:
        response.release()
    else:
        asyncio.get_running_loop().call_later(STREAM_END_WAIT_S, response.close)


def _matching(message: Json, request_id: int | str, pool: HttpPool) -> Json:
    answered = message.get("id")
    if answered == request_id or jsonrpc.answered(message) == request_id or (answered is None and "error" in message):
        return message
    raise ProtocolBroken.about(pool.where, "answered another request than the one that was sent")


def _too_large(pool: HttpPool, bytes_max: int) -> ProtocolBroken:
    return ProtocolBroken.about(pool.where, f"gave an answer larger than {bytes_max} bytes")


async def _read_body(response: Response, pool: HttpPool, bytes_max: int, held: bytes = b"") -> bytes:
    """The whole body, beginning with `held`, which was read before."""
    declared = response.content_length
    if declared is not None and declared > bytes_max:
        raise _too_large(pool, bytes_max)
    try:
        if declared is not None:
            return held + await response.read()
        # Chunked, or until the connection ends: counted as it comes.
        chunks = [held]
        size = len(held)
        while chunk := await response.more():
            size += len(chunk)
            if size > bytes_max:
                raise _too_large(pool, bytes_max)
            chunks.append(chunk)
    except OSError as exc:
        raise pool.failure(CallOutcomeUnknown, exc) from exc
    return b"".join(chunks)
