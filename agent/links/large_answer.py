"""Passing a large result of a mesh node on while it comes, so that nobody holds it whole but the node that made it.

Used by `http_answer` for the requests whose caller gave a `ResultSink`. A node says of each large result how it ended,
in its header (`OUTCOME_HEADER`) or in a comment before its event, so there is nothing in it to be looked for. The one
rule: until the first part goes to the client a failure is an ordinary one; after that it is `AnswerCut`, and the
client's connection must break.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from agent.core.json_frame import FrameBroken, ObjectFrame
from agent.core.raw_json import Bytes
from agent.errors import AnswerCut, CallOutcomeUnknown, ProtocolBroken
from agent.links.http_pool import HttpPool, Response
from agent.model import OUTCOME_HEADER, Json

# An answer up to this size is held and read whole: it keeps exact errors and, where that is safe, another attempt.
HELD_BYTES_MAX: Final = 1024 * 1024
# The other node has all of it and writes as fast as we read; as long as its own patience with us.
STALL_TIMEOUT_S: Final = 30.0

# The words of `OUTCOME_HEADER`, and what they say of the result.
OUTCOMES: Final[dict[str, Json]] = {
    "ok": {"resultType": "complete"},
    "tool_error": {"resultType": "complete", "isError": True},
}


# The comment in a stream of events that says the same as the header.
_COMMENT: Final = OUTCOME_HEADER.lower().encode() + b" "
# How nodes begin the line of an event with a result in it.
_DATA: Final = b"data: "


class LargeEvent(NamedTuple):
    """An event with a large result that has come in part: how the call ended, and its line so far."""

    outcome: str
    line: bytes


@dataclass(frozen=True, slots=True)
class ResultSink:
    """Takes one result in parts; each call waits while the client reads slower than we do.

    `begin(size in bytes or None, outcome)` comes once, before the first part, `end` once after the last. A client that
    has gone raises `ConnectionError` or cancels the task.
    """

    begin: Callable[[int | None, str], Awaitable[None]]
    part: Callable[[Bytes], Awaitable[None]]
    end: Callable[[], Awaitable[None]]

    def noting(self, begun: Callable[[], None]) -> "ResultSink":
        """The same sink; `begun` is called when the result begins."""

        async def begin(size_bytes: int | None, outcome: str) -> None:
            begun()
            await self.begin(size_bytes, outcome)

        return replace(self, begin=begin)


# Where a large result of the present request may go. It travels beside the layers between dispatch and the one kind of
# door that can use it, which need not know of it.
result_sink: ContextVar[ResultSink | None] = ContextVar("result_sink", default=None)


def is_large(response: Response) -> bool:
    """Whether a JSON answer is one that may be passed on as it comes."""
    declared = response.content_length
    return declared is not None and declared > HELD_BYTES_MAX and response.headers.get(OUTCOME_HEADER) in OUTCOMES


async def pass_on(response: Response, request_id: int | str, pool: HttpPool, sink: ResultSink) -> Json:
    """Read a large answer and hand its result to `sink`; returns what is known of it in the place of a message.

    Raises:
        CallOutcomeUnknown, ProtocolBroken: Nothing was handed on.
        AnswerCut: The client has got a part.
    """
    assert response.content_length is not None
    outcome = response.headers[OUTCOME_HEADER]
    held = await _read(response, pool, HELD_BYTES_MAX)
    head = _head(request_id)
    frame, left = ObjectFrame(), response.content_length - len(held)
    try:
        part = _checked(frame, _after(head, held), left)
    except FrameBroken as exc:
        raise ProtocolBroken(f"{pool.where}: {exc}") from exc
    await sink.begin(response.content_length - len(head) - 1, outcome)
    await sink.part(part)
    while left:
        with _cutting(pool):
            chunk = await _read_on(response, pool)
            left -= len(chunk)
            part = _checked(frame, chunk, left)
        await sink.part(part)
    await sink.end()
    return _known(request_id, outcome)


async def pass_on_event(
    response: Response, request_id: int | str, pool: HttpPool, sink: ResultSink, begun: LargeEvent
) -> Json:
    """As `pass_on`, for an answer that is an event whose line has begun: it ends where the line does."""
    frame = ObjectFrame()
    try:
        part, last, ended = _split(_after(_DATA + _head(request_id), begun.line))
        frame.feed(part)
    except FrameBroken as exc:
        raise ProtocolBroken(f"{pool.where}: {exc}") from exc
    await sink.begin(None, begun.outcome)
    await sink.part(part)
    while not ended:
        with _cutting(pool):
            part, last, ended = _split(last + await _read_on(response, pool))
            frame.feed(part)
            if ended and not (frame.closed and last == b"}"):
                raise FrameBroken("the result does not end where its event does")
        await sink.part(part)
    await sink.end()
    return _known(request_id, begun.outcome)


def outcome_told(comment: bytes) -> str | None:
    """What the comment before an event says of the result in it; None for any other comment."""
    word = comment.removeprefix(_COMMENT).decode("ascii", "replace")
    return word if comment.startswith(_COMMENT) and word in OUTCOMES else None


def outcome_comment(outcome: str) -> bytes:
    """The line before an event that says so."""
    return b": " + _COMMENT + outcome.encode() + b"\r\n"


def _head(request_id: int | str) -> bytes:
    return b'{"jsonrpc":"2.0","id":%d,"result":' % int(request_id)


def _known(request_id: int | str, outcome: str) -> Json:
    return {"jsonrpc": "2.0", "id": request_id, "result": OUTCOMES[outcome]}


def _after(head: bytes, held: bytes) -> bytes:
    if not held.startswith(head):
        raise FrameBroken("it announces a result and answers with something else")
    return held[len(head) :]


def _split(line: bytes) -> tuple[bytes, bytes, bool]:
    """All but the last byte of a line, which may be the envelope's end; that byte; and whether the line ended."""
    ended = b"\r" in line or b"\n" in line
    if ended:
        line = line.replace(b"\n", b"\r").partition(b"\r")[0]
    return line[:-1], line[-1:], ended


@contextmanager
def _cutting(pool: HttpPool) -> Iterator[None]:
    """What fails now fails after a part has gone out."""
    try:
        yield
    except (CallOutcomeUnknown, FrameBroken, TimeoutError) as exc:
        raise AnswerCut(f"{pool.where} broke off in the middle of a large result") from exc


async def _read_on(response: Response, pool: HttpPool) -> bytes:
    async with asyncio.timeout(STALL_TIMEOUT_S):
        return await _read(response, pool, 1)


def _checked(frame: ObjectFrame, chunk: bytes, left: int) -> bytes:
    """The result's part of a chunk; behind it, `left` bytes of the answer are to come. Raises `FrameBroken`."""
    if left == 0:
        if not chunk.endswith(b"}"):
            raise FrameBroken("the envelope is not closed")
        chunk = chunk[:-1]
    frame.feed(chunk)
    if frame.closed is not (left <= 1):
        raise FrameBroken("the result does not end where the answer does")
    return chunk


async def _read(response: Response, pool: HttpPool, bytes_min: int) -> bytes:
    """At least so many bytes, or what is left. Raises `CallOutcomeUnknown` when the answer breaks off."""
    chunks: list[bytes] = []
    size = 0
    try:
        while size < bytes_min and (chunk := await response.content.readany()):
            size += len(chunk)
            chunks.append(chunk)
    except OSError as exc:
        raise CallOutcomeUnknown(pool.explain(exc)) from exc
    if not chunks:
        raise CallOutcomeUnknown(f"{pool.where} broke off in the middle of its answer")
    return b"".join(chunks)
