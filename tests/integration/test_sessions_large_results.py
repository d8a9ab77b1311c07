"""Large results of other nodes in sessions: they pass while they come, and outlive the connection that waited for them.

The other node is a script. The one rule: a client never takes a part of a result for the whole.
"""

import asyncio
from pathlib import Path

import aiohttp
import pytest

from tests.integration.servers.hosting import Seen
from tests.integration.servers.raw_session import call, raw_session
from tests.integration.test_large_results import MIB, ScriptedNode, answer_to, front_of, outcomes, result_of, settled


class Writer:
    """Writes the first MiB of a result of 64, and the rest (or a part of it) when it may; counts what it wrote."""

    def __init__(self, last_mib: int = 64) -> None:
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()
        self.result = result_of(64 * MIB)
        self._last_mib = last_mib

    async def write(self, seen: Seen, writer: asyncio.StreamWriter) -> None:
        whole = answer_to(seen, self.result)
        part = whole if self._last_mib == 64 else whole[: self._last_mib * MIB]
        writer.write(part[: 2 * MIB])
        await writer.drain()
        self.begun.set()
        await self.go_on.wait()
        writer.write(part[2 * MIB :])
        await writer.drain()


async def test_a_large_result_passes_while_it_comes(tmp_path: Path) -> None:
    writer = Writer()
    async with front_of(tmp_path, ScriptedNode("one", writer.write)) as front, raw_session(front.url) as mcp:
        async with mcp.post(call("kit__write")) as response:
            assert b"0123456789abcdef" in await response.content.readany()
            writer.go_on.set()
            rest = await response.read()
        assert rest.endswith(writer.result[-100:] + b"}")
        await settled(front)
        assert outcomes(front) == {"ok": 1.0}


async def test_one_that_breaks_off_breaks_the_clients_connection(tmp_path: Path) -> None:
    writer = Writer(last_mib=4)
    writer.go_on.set()
    async with front_of(tmp_path, ScriptedNode("one", writer.write)) as front, raw_session(front.url) as mcp:
        with pytest.raises(aiohttp.ClientError):
            async with mcp.post(call("kit__write")) as response:
                await response.read()
        await settled(front)
        assert outcomes(front) == {"unknown": 1.0}
        assert (await mcp.request("ping"))["result"] == {}


async def test_a_client_that_goes_amid_it_has_the_rest_dropped_and_blames_no_server(tmp_path: Path) -> None:
    writer = Writer()
    async with front_of(tmp_path, ScriptedNode("one", writer.write)) as front, raw_session(front.url) as mcp:
        async with mcp.post(call("kit__write")) as response:
            await response.content.readany()
        writer.go_on.set()
        await settled(front)
        assert outcomes(front) == {"ok": 1.0}
        assert (await mcp.request("ping"))["result"] == {}


async def test_a_call_that_is_cancelled_amid_it_breaks_the_connection(tmp_path: Path) -> None:
    writer = Writer()
    async with front_of(tmp_path, ScriptedNode("one", writer.write)) as front, raw_session(front.url) as mcp:
        async with mcp.post(call("kit__write", request_id=7)) as response:
            await response.content.readany()
            await mcp.note("notifications/cancelled", {"requestId": 7})
            with pytest.raises(aiohttp.ClientError):
                await response.read()
        writer.go_on.set()
        await settled(front)
        assert outcomes(front) == {"cancelled": 1.0}
