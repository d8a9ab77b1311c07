"""The end of a turn of the event loop: what waits for it goes out, in order, before the loop waits for anything."""

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from agent import turns
from agent.turns import PART_LEN, WRITE_BYTES_MAX, WRITES_MAX, Turn, in_parts, turn_of
from tests.waiting import one_pass

LIMIT_S = 10


class Transport(asyncio.WriteTransport):
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))


async def the_next_turn() -> None:
    loop = asyncio.get_running_loop()
    begun = loop.create_future()
    loop.call_soon(begun.set_result, None)
    await begun


def more_is_due() -> None:
    """Have this callback not be the last one of its turn."""
    asyncio.get_running_loop().call_soon(int)


def in_our_loop(main: Callable[[Turn], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        await asyncio.wait_for(main(turn_of(asyncio.get_running_loop())), LIMIT_S)

    turns.run(run())


def test_what_waits_goes_out_in_its_order_at_the_end_of_the_turn_and_not_before() -> None:
    async def main(turn: Turn) -> None:
        one, other = Transport(), Transport()
        more_is_due()
        turn.write(one, b"first")
        turn.write(other, b"second")
        turn.write(one, b"third")
        assert one.written == other.written == []
        await the_next_turn()
        assert (one.written, other.written, turn.written) == ([b"first", b"third"], [b"second"], 1)

    in_our_loop(main)


def test_the_last_callback_of_a_turn_does_not_wait_for_its_end_and_overtakes_nothing() -> None:
    async def main(turn: Turn) -> None:
        loop, transport, seen, done = asyncio.get_running_loop(), Transport(), [], asyncio.Event()

        def writes(data: bytes) -> None:
            turn.write(transport, data)
            seen.append(list(transport.written))

        def last() -> None:
            writes(b"last")
            writes(b"one more")
            done.set()

        loop.call_soon(writes, b"first")
        loop.call_soon(last)
        await done.wait()
        assert seen == [[], [b"first", b"last"], [b"first", b"last", b"one more"]]

    in_our_loop(main)


def test_the_other_end_gets_its_bytes_while_the_loop_waits_for_ever() -> None:
    async def main(turn: Turn) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.settimeout(10)
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(asyncio.Protocol, ours)
            got: list[bytes] = []
            reader = threading.Thread(target=lambda: got.append(theirs.recv(100)))
            reader.start()
            turn.write(transport, b"nothing else happens in this loop")
            await asyncio.get_running_loop().run_in_executor(None, reader.join)
            transport.abort()
        assert got == [b"nothing else happens in this loop"]

    in_our_loop(main)


def test_many_writes_do_not_wait_for_the_end_of_a_long_turn() -> None:
    async def main(turn: Turn) -> None:
        transport = Transport()
        more_is_due()
        for number in range(WRITES_MAX):
            assert transport.written == []
            turn.write(transport, b"%d" % number)
        assert transport.written == [b"%d" % number for number in range(WRITES_MAX)]

    in_our_loop(main)


def test_a_large_write_does_not_wait_and_overtakes_nothing() -> None:
    async def main(turn: Turn) -> None:
        transport, large = Transport(), b"x" * (WRITE_BYTES_MAX + 1)
        more_is_due()
        turn.write(transport, b"small")
        turn.write(transport, large)
        assert transport.written == [b"small", large]

    in_our_loop(main)


def test_what_is_called_at_the_end_may_ask_for_the_next_one_and_for_callbacks_which_are_not_late() -> None:
    async def main(turn: Turn) -> None:
        loop, called, done = asyncio.get_running_loop(), [], asyncio.Event()

        def first() -> None:
            called.append("end of this turn")
            turn.at_end(second)

        def second() -> None:
            called.append("end of the next")
            loop.call_soon(done.set)

        turn.at_end(first)
        await done.wait()  # With no timer and no socket: a loop that looked at the sockets first would wait for ever.
        assert called == ["end of this turn", "end of the next"]

    in_our_loop(main)


def test_a_timer_that_is_started_at_the_end_of_a_turn_is_not_late() -> None:
    async def main(turn: Turn) -> None:
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        began_s = loop.time()
        turn.at_end(lambda: loop.call_later(0.01, done.set) and None)
        await done.wait()
        assert loop.time() - began_s < LIMIT_S / 2, "the loop had waited for the next timer of before"

    in_our_loop(main)


def test_a_failure_at_the_end_of_a_turn_is_reported_and_ends_neither_the_loop_nor_the_others() -> None:
    async def main(turn: Turn) -> None:
        reported: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        fault, called = ValueError("of the first"), []

        def fails() -> None:
            raise fault

        turn.at_end(fails)
        turn.at_end(lambda: called.append("second"))
        await the_next_turn()
        assert called == ["second"]
        assert [context["exception"] for context in reported] == [fault]

    in_our_loop(main)


def test_what_was_written_last_goes_out_before_the_loop_is_closed() -> None:
    transport = Transport()

    async def main(turn: Turn) -> None:
        more_is_due()
        turn.write(transport, b"goodbye")

    in_our_loop(main)
    assert transport.written == [b"goodbye"]


def test_in_a_loop_of_others_nothing_waits() -> None:
    async def main() -> None:
        turn, transport, called = turn_of(asyncio.get_running_loop()), Transport(), asyncio.Event()
        turn.write(transport, b"at once")
        turn.at_end(called.set)
        assert (transport.written, turn.written) == ([b"at once"], 1)
        await asyncio.wait_for(called.wait(), 10)

    asyncio.run(main())


@pytest.mark.parametrize("code", [0, 3])
def test_what_the_coroutine_returns_is_returned(code: int) -> None:
    async def main() -> int:
        return code

    assert turns.run(main()) == code


async def test_others_have_their_turn_between_parts_and_none_is_left_out_or_comes_twice() -> None:
    turns, parts = 0, list[int]()

    async def count() -> None:
        nonlocal turns
        while True:
            await one_pass()
            turns += 1

    async with asyncio.TaskGroup() as group:
        counting = group.create_task(count(), name="count")
        await one_pass()
        before, seen = turns, list[int]()
        async for part in in_parts(range(3 * PART_LEN + 1)):
            seen += part
            parts.append(turns - before)
        counting.cancel()
    assert seen == list(range(3 * PART_LEN + 1))
    assert parts == [0, 1, 2, 3]


async def test_a_few_are_one_part_at_once() -> None:
    parts = [list(part) async for part in in_parts([1, 2, 3])]
    assert parts == [[1, 2, 3]]
    assert [part async for part in in_parts([])] == []
