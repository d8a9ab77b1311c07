"""A large result on its way: when it has begun, and when all of it has gone out."""

import asyncio

import pytest

from agent.client.streaming import LargeResult, ResultStream
from agent.lossless_json.raw import Bytes
from agent.lossless_json.rewriter import JsonRewriter, Place


@pytest.mark.parametrize("is_error", [False, True])
async def test_how_a_result_ended_is_known_when_its_last_part_is_out_though_its_reader_leaves_then(
    is_error: bool,
) -> None:
    async def begin() -> bool:
        return True

    async def part(_part: Bytes) -> None:
        assert large.ended_with_error is None

    async def end() -> None:
        raise asyncio.CancelledError

    large = LargeResult(ResultStream(begin, part, end, {}), lambda: JsonRewriter(Place()))
    begun: list[bool | None] = []
    large.when_begun(lambda: begun.append(large.ended_with_error))
    assert await large.begin()
    await large.part(b"{}")
    with pytest.raises(asyncio.CancelledError):
        await large.end(is_error=is_error)
    assert (begun, large.is_begun, large.ended_with_error) == ([None], True, is_error)
