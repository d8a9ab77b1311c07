"""A large result on its way: when it has begun, and when all of it has gone out."""

import asyncio

import pytest

from agent.client.streaming import LargeResult, ResultStream
from agent.lossless_json.raw import Bytes
from agent.lossless_json.rewriter import JsonRewriter, Place


async def test_a_result_is_over_when_its_last_part_is_out_though_its_reader_leaves_then() -> None:
    async def begin() -> bool:
        return True

    async def part(_part: Bytes) -> None:
        assert not large.is_over

    async def end() -> None:
        raise asyncio.CancelledError

    large = LargeResult(ResultStream(begin, part, end, {}), lambda: JsonRewriter(Place()))
    begun: list[bool] = []
    large.when_begun(lambda: begun.append(large.is_over))
    assert await large.begin()
    await large.part(b"{}")
    with pytest.raises(asyncio.CancelledError):
        await large.end()
    assert (begun, large.is_begun, large.is_over) == ([False], True, True)
