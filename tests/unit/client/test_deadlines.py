"""Deadlines without timers: they end a request at their moment, or not at all, and leave nothing behind."""

import asyncio
import gc
import weakref

import pytest

from agent.client.deadlines import NEAR_S, Deadline, Deadlines
from agent.client.streaming import LargeResult, ResultStream
from agent.lossless_json.raw import Bytes
from agent.lossless_json.rewriter import JsonRewriter, Place

pytestmark = pytest.mark.looptime


async def wait_until(
    deadlines: Deadlines, deadline_s: float, answered: asyncio.Event, sink: LargeResult | None
) -> None:
    async with asyncio.timeout(None) as timeout:
        deadlines.add(timeout, deadline_s, sink)
        try:
            await answered.wait()
        finally:
            deadlines.discard(timeout)


@pytest.mark.parametrize("after_s", [0.0, 0.5, NEAR_S, NEAR_S + 0.25, 3.0, 600.0])
async def test_a_request_ends_at_its_deadline_however_far_that_is(after_s: float) -> None:
    loop, deadlines = asyncio.get_running_loop(), Deadlines()
    due_s = loop.time() + after_s
    with pytest.raises(TimeoutError):
        await wait_until(deadlines, due_s, asyncio.Event(), None)
    assert loop.time() == pytest.approx(due_s, abs=0.01)
    assert repr(deadlines) == "<Deadlines 0 far>"


async def test_deadlines_end_their_own_requests_alone_in_any_order() -> None:
    loop, deadlines = asyncio.get_running_loop(), Deadlines()
    began_s, ended = loop.time(), list[float]()

    async def one(after_s: float) -> None:
        with pytest.raises(TimeoutError):
            await wait_until(deadlines, began_s + after_s, asyncio.Event(), None)
        ended.append(round(loop.time() - began_s, 1))

    async with asyncio.TaskGroup() as tasks:
        for after_s in (30.0, 5.5, 0.1, 12.0):
            tasks.create_task(one(after_s), name="a request")
    assert ended == [0.1, 5.5, 12.0, 30.0]


async def test_an_answered_request_leaves_no_deadline_behind() -> None:
    loop, deadlines, answered = asyncio.get_running_loop(), Deadlines(), asyncio.Event()
    loop.call_later(5.0, answered.set)
    await wait_until(deadlines, loop.time() + 5.5, answered, None)
    assert repr(deadlines) == "<Deadlines 0 far>"


@pytest.mark.parametrize("begun_after_s", [0.1, 8.5])
async def test_a_result_that_has_begun_lifts_its_deadline(begun_after_s: float) -> None:
    async def begin() -> bool:
        return True

    async def taken(_part: Bytes = b"") -> None:
        pass

    loop, deadlines, answered = asyncio.get_running_loop(), Deadlines(), asyncio.Event()
    sink = LargeResult(ResultStream(begin, taken, taken, {}), lambda: JsonRewriter(Place()))
    loop.call_later(60.0, answered.set)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(wait_until(deadlines, loop.time() + 9.0, answered, sink), name="a request")
        await asyncio.sleep(begun_after_s)
        await sink.begin()


@pytest.mark.parametrize("after_s", [0.5, NEAR_S + 0.25, 30.0])
async def test_a_block_with_a_deadline_ends_as_one_of_asyncio_does(after_s: float) -> None:
    loop, deadlines = asyncio.get_running_loop(), Deadlines()
    due_s = loop.time() + after_s
    with pytest.raises(TimeoutError), Deadline(deadlines, due_s, None) as _:
        await asyncio.Event().wait()
    assert loop.time() == pytest.approx(due_s, abs=0.01)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert repr(deadlines) == "<Deadlines 0 far>"


async def test_a_cancellation_from_outside_is_no_deadline_even_at_the_same_moment() -> None:
    deadlines, due_s = Deadlines(), asyncio.get_running_loop().time() + 0.5

    async def request() -> None:
        with Deadline(deadlines, due_s, None):
            await asyncio.Event().wait()

    async with asyncio.timeout(5.0):
        for at_s in (0.25, 0.5):
            asked = asyncio.create_task(request())
            asyncio.get_running_loop().call_at(due_s - 0.5 + at_s, asked.cancel)
            with pytest.raises((asyncio.CancelledError, TimeoutError)) as ended:
                await asked
            assert at_s == 0.5 or ended.type is asyncio.CancelledError
    assert repr(deadlines) == "<Deadlines 0 far>"


async def test_what_a_request_held_is_gone_with_it_and_does_not_wait_for_the_collector() -> None:
    async def taken(_part: Bytes = b"") -> None:
        pass

    async def begin() -> bool:
        return True

    def rewriter() -> JsonRewriter:
        return JsonRewriter(Place())

    deadlines, is_gone = Deadlines(), list[bool]()
    weakref.finalize(rewriter, is_gone.append, True)
    sink = LargeResult(ResultStream(begin, taken, taken, {}), rewriter)
    gc.disable()
    try:
        with Deadline(deadlines, asyncio.get_running_loop().time() + 9.0, sink):
            del sink, rewriter
        assert is_gone
    finally:
        gc.enable()
