"""Passes a large result from the client that reads it to the caller that waits for it, in parts.

The endpoints make a `ResultStream` for each request, dispatch a `LargeResult` for each attempt, which clients are
given; where calls outlive attempts, a `PendingCall` stands between. An answer is held up to `HELD_BYTES_MAX`; what goes
on after that is passed on by `pass_on` if the part that is held shows that it is a complete result. The one rule: a
result that has begun goes to that caller alone, whole or visibly broken: before, a failure is an ordinary one; after
that it is `AnswerCut`, and the caller's connection must break.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeAlias

from agent.client import jsonrpc
from agent.errors import AnswerCut, CallOutcomeUnknown
from agent.lossless_json.raw import END_BYTES_MAX, Bytes, ends_response, response_head
from agent.lossless_json.rewriter import JsonRewriter, Place, RewriteBroken
from agent.model import Json

# Up to this size an answer is read whole: that keeps exact errors and, where it is safe, another attempt, and delays
# no other call (docs/adr/0009-large-answers.md).
HELD_BYTES_MAX: Final = 256 * 1024
# A server that stops in the middle of a result for so long has failed; as long as it would wait for a slow reader.
STALL_TIMEOUT_S: Final = 30.0

# A rewriter through so much takes 10 ms where every other word is a URI to be changed, and 0.1 ms where it is one text.
_STEP_BYTES: Final = 64 * 1024

# Members that neither an `input_required` result nor a task has.
_SUBSTANCE: Final = frozenset({"content", "contents", "messages", "structuredContent"})
_NOTED: Final = _SUBSTANCE | {"resultType", "isError", "ttlMs", "cacheScope"}

MakeRewriter: TypeAlias = Callable[[], JsonRewriter]


@dataclass(slots=True)
class ResultStream:
    """Takes one result in parts; each call waits while the caller reads slower than we do.

    `begin` comes once, before the first part, and says whether parts are taken; `end` once, after the last. A caller
    that has gone raises `ConnectionError` or cancels the task. `added`: members that the result needs, unless it has
    them.
    """

    begin: Callable[[], Awaitable[bool]]
    part: Callable[[Bytes], Awaitable[None]]
    end: Callable[[], Awaitable[None]]
    added: Json


class LargeResult:
    """A sink, and the rewriter for one replica's results on the way to it. One for each attempt."""

    __slots__ = ("_begun", "_sink", "ended_with_error", "is_begun", "make_rewriter")

    def __init__(self, sink: ResultStream, make_rewriter: MakeRewriter) -> None:
        self._sink = sink
        self._begun: list[Callable[[], None]] = []
        self.is_begun = False
        self.ended_with_error: bool | None = None  # None before its end.
        self.make_rewriter = make_rewriter

    def when_begun(self, call: Callable[[], None]) -> None:
        """Call `call` once the result has begun."""
        self._begun.append(call)

    async def begin(self) -> bool:
        """As `ResultStream.begin`."""
        if not await self._sink.begin():
            return False
        self.is_begun = True
        for call in self._begun:
            call()
        return True

    async def part(self, part: Bytes) -> None:
        """As `ResultStream.part`."""
        if part:
            await self._sink.part(part)

    async def end(self, *, is_error: bool) -> None:
        """As `ResultStream.end`. `is_error`: of the result, as it says itself."""
        self.ended_with_error = is_error  # The whole result has gone out: a caller that leaves now has it.
        await self._sink.end()


def lift(deadline: asyncio.Timeout, large: LargeResult | None) -> None:
    """Lift a request's deadline when its result begins: the server is not to blame for a slow reader."""
    if large is not None:
        large.when_begun(lambda: deadline.reschedule(None))


class Rest(Protocol):
    """The part of an answer that has not been read yet."""

    async def more(self) -> bytes:
        """The next part, nothing at the end. Raises `CallOutcomeUnknown` when the answer breaks off."""
        ...


class RestOfHeld:
    """As `Rest`, of a message that has come whole, from so many bytes on."""

    def __init__(self, message: bytes, at: int) -> None:
        self._message = message
        self._at = at

    async def more(self) -> bytes:
        """As `Rest.more`."""
        begin, self._at = self._at, self._at + _STEP_BYTES
        return self._message[begin : self._at]


async def pass_on_held(message: bytes, request_id: int, where: str, large: LargeResult) -> Json:
    """As `pass_on`, of a response that has come whole; it is read where it is not handed on."""
    rest = RestOfHeld(message, HELD_BYTES_MAX)
    passed = await pass_on(message[:HELD_BYTES_MAX], rest, request_id, where, large)
    return jsonrpc.decode(message) if passed is None else passed


async def pass_on(held: bytes, rest: Rest, request_id: int | str, where: str, large: LargeResult) -> Json | None:
    """Hand the result of an answer that begins with `held` to `large`; returns what is known of it as a message.

    None: nothing was handed on nor read, and the answer has to be read whole. Raises `AnswerCut`.
    """
    head = response_head(held)
    if head is None or head[0] not in (None, request_id):
        return None
    rewriter = large.make_rewriter()
    try:
        part = await _rewritten(held[head[1] :], rewriter)
    except RewriteBroken:
        return None  # The reader of the whole answer reports what is wrong with it.
    if rewriter.rest is not None or not _shows_result(rewriter.noted) or not await large.begin():
        return None
    await large.part(part)
    del held, part
    while True:
        with _cutting(where):
            part = await _more(rest, rewriter)
        if not part:
            break
        await large.part(part)
    with _cutting(where):
        if rewriter.rest is None or not ends_response(rewriter.rest, None if head[0] is not None else int(request_id)):
            raise RewriteBroken("it does not end with its result")
        if rewriter.noted.get("resultType", "complete") != "complete":
            raise RewriteBroken("it turned out to be no complete result")
    is_error = rewriter.noted.get("isError") is True
    await large.end(is_error=is_error)
    known: Json = {"resultType": "complete", **({"isError": True} if is_error else {})}
    return {"jsonrpc": "2.0", "id": request_id, "result": known}


def result_rewriter(places: Mapping[str, Place], added: Json) -> JsonRewriter:
    """A rewriter for a result: it changes the values at `places`, and notes those that `pass_on` judges by.

    `added`: see `ResultStream`.
    """
    noted = {name: replace(places.get(name, Place()), note=name) for name in _NOTED}
    return JsonRewriter(Place({**places, **noted}), added)


def _shows_result(noted: Json) -> bool:
    """Whether it is a complete result, by its `resultType` or by members that only those have."""
    if "resultType" in noted:
        return bool(noted["resultType"] == "complete")
    return not _SUBSTANCE.isdisjoint(noted)


async def _more(rest: Rest, rewriter: JsonRewriter) -> bytes:
    """The next part of the result that can be passed on, empty at the end of the answer."""
    while True:
        async with asyncio.timeout(STALL_TIMEOUT_S):
            part = await rest.more()
        if not part:
            return b""
        if passed := await _rewritten(part, rewriter):
            return passed


async def _rewritten(part: bytes, rewriter: JsonRewriter) -> bytes:
    """What of a part can be passed on. Yields to other tasks: a small part may hold thousands of texts to change."""
    passed: list[bytes] = []
    for start in range(0, len(part), _STEP_BYTES):
        step = part[start : start + _STEP_BYTES]
        if rewriter.rest is None:
            passed.append(rewriter.feed(step))
        else:
            rewriter.rest += step
        if rewriter.rest is not None and len(rewriter.rest) > END_BYTES_MAX:
            raise RewriteBroken("something follows its result")
        await asyncio.sleep(0)
    return b"".join(passed)


@contextmanager
def _cutting(where: str) -> Iterator[None]:
    """Turn failures into `AnswerCut`: a part has gone out already."""
    try:
        yield
    except (CallOutcomeUnknown, RewriteBroken, TimeoutError) as exc:
        why = f": {exc}" if isinstance(exc, RewriteBroken) else ""
        raise AnswerCut(f"{where} broke off in the middle of a large result{why}") from exc
