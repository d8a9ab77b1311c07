"""A call over pipes whose large answer has come, and whose reader is not there yet, in loop time."""

import asyncio

import orjson
import pytest

from agent.client.protocol import Request
from agent.client.server_info import ServerInfo
from agent.client.stdio.client import StdioClient
from agent.client.stdio.lines import LineCutter
from agent.client.stdio.process import Child
from agent.client.streaming import HELD_BYTES_MAX, LargeResult, ResultStream, result_rewriter
from agent.errors import CallTimedOut
from agent.lossless_json.ends import Text
from agent.lossless_json.raw import Bytes
from agent.model import Era, Json

pytestmark = [pytest.mark.asyncio, pytest.mark.looptime]


class Answering(Child):
    """A child that answers each call at once, with more than is held. `told`: the methods of all that it was sent."""

    def __init__(self, client: StdioClient) -> None:
        super().__init__("kit", LineCutter(client._on_line, client._on_too_long), client._on_end)
        self.told: list[str] = []

    @property
    def can_write(self) -> bool:
        return True

    def write(self, *line: Text) -> bool:
        message: Json = orjson.loads(b"".join(line))
        self.told.append(message["method"])
        if "id" in message:
            result = {"content": [{"type": "text", "text": "x" * 2 * HELD_BYTES_MAX}], "resultType": "complete"}
            self._lines.feed(orjson.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}) + b"\n")
        return True


class Reader:
    """Takes a result only once `is_there`, and is slow."""

    def __init__(self) -> None:
        self.is_waited_for, self.is_there = asyncio.Event(), asyncio.Event()

    async def begin(self) -> bool:
        self.is_waited_for.set()
        await self.is_there.wait()
        return True

    async def part(self, _part: Bytes) -> None:
        await asyncio.sleep(10)

    async def end(self) -> None:
        """It has all."""

    def request(self) -> Request:
        sink = LargeResult(ResultStream(self.begin, self.part, self.end, {}), lambda: result_rewriter({}, {}))
        return Request.within("tools/call", {"name": "write", "arguments": {}}, timeout_s=5.0, sink=sink)


def opened() -> tuple[StdioClient, Answering]:
    client = StdioClient("kit", "node")
    client._child = child = Answering(client)
    client.adopt(ServerInfo(Era.MODERN, "2026-07-28", {}, {}, None, None))
    return client, child


async def test_a_deadline_that_passes_before_the_reader_takes_a_result_leaves_the_call_executed() -> None:
    client, child = opened()
    reader = Reader()
    with pytest.raises(CallTimedOut, match="did not answer tools/call within 5 s"):
        await client.request(reader.request())
    assert reader.is_waited_for.is_set()
    assert child.told == ["tools/call"], "it has answered, so there is nothing to cancel"


async def test_a_caller_that_goes_before_it_takes_a_result_cancels_nothing() -> None:
    client, child = opened()
    reader = Reader()
    call = asyncio.ensure_future(client.request(reader.request()))
    await reader.is_waited_for.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert child.told == ["tools/call"]


async def test_a_reader_that_comes_in_time_may_take_longer_than_the_deadline() -> None:
    client, child = opened()
    reader = Reader()
    asyncio.get_running_loop().call_later(4.0, reader.is_there.set)
    result = await client.request(reader.request())
    assert (result["resultType"], child.told) == ("complete", ["tools/call"])
