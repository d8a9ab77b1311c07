"""Passing a large result on while it comes, so that no node holds it whole.

Used by `agent.client.http.response` for the requests whose caller takes parts. An answer is held up to
`HELD_BYTES_MAX`; what goes on after that is streamed if the part that is held shows that it is a complete result. The
one rule: until the first part goes to the caller a failure is an ordinary one; after that it is `AnswerCut`, and the
caller's connection must break.
"""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Final, Protocol

from agent.client.http.pool import HttpPool, Response
from agent.client.streaming import LargeResult
from agent.errors import AnswerCut, CallOutcomeUnknown
from agent.lossless_json.raw import END_BYTES_MAX, ends_response, response_head
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


class Rest(Protocol):
    """The part of an answer that has not been read yet."""

    async def more(self) -> bytes:
        """The next part, nothing at the end. Raises `CallOutcomeUnknown` when the answer breaks off."""
        ...


class RestOfBody:
    """As `Rest`, of a body that is nothing but the answer."""

    def __init__(self, response: Response, pool: HttpPool) -> None:
        self._response = response
        self._pool = pool

    async def more(self) -> bytes:
        """As `Rest.more`."""
        try:
            return await self._response.more()
        except OSError as exc:
            raise self._pool.failure(CallOutcomeUnknown, exc) from exc


class RestOfLine:
    """As `Rest`, of an event whose line has begun: the answer ends where the line does."""

    def __init__(self, response: Response, pool: HttpPool) -> None:
        self._body = RestOfBody(response, pool)
        self._pool = pool
        self._ended = False

    async def more(self) -> bytes:
        """As `Rest.more`."""
        if self._ended:
            return b""
        part = await self._body.more()
        if not part:
            raise CallOutcomeUnknown.about(self._pool.where, "broke off in the middle of its answer")
        ends = [at for at in (part.find(b"\n"), part.find(b"\r")) if at >= 0]
        if not ends:
            return part
        self._ended = True
        return part[: min(ends)]


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
