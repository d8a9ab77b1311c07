"""Large results through two nodes: neither holds more than next to nothing of them, however slowly they are read."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.running import RunningNode, StartNode
from tests.integration.servers.hosting import Script, Seen, rpc_error, rpc_result, scripted
from tests.integration.test_large_results import calling
from tests.measured import measured
from tests.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

MIB = 1 << 20
PIECE = b"0123456789abcdef" * (MIB // 16)
RESULT_MIB = 64
# An event is taken apart by lines first, in this process and in the next, which takes them longer.
EVENT_MIB = 16
READERS = 8
# One for each reader that is held back, and buffers on both sides of it; held whole, it would be 512 or 128.
GROWTH_MIB_MAX = 48
PROGRESS = b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}'


@dataclass
class LargeServer:
    """A script's answers; its results are written as they are read, so that it answers others meanwhile."""

    noted: bool = False
    script: Script | None = None

    async def answer(self, seen: Seen) -> tuple[bytes, bool]:
        match seen.body.get("method"):
            case "server/discover":
                return rpc_result(seen, {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}), True
            case "tools/list":
                return rpc_result(seen, {"tools": [{"name": "write", "inputSchema": {"type": "object"}}]}), True
            case "tools/call":
                assert self.script is not None
                await self._write(seen.body["id"], self.script.writers[seen.connection - 1])
                return b"", True
            case _:
                return rpc_error(seen, 404, -32601, "Method not found"), True

    async def _write(self, request_id: int, writer: asyncio.StreamWriter) -> None:
        pieces = (EVENT_MIB if self.noted else RESULT_MIB) - 1
        kind = "text/event-stream" if self.noted else "application/json"
        first = b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"' % request_id
        last = b'"}],"resultType":"complete"}}'
        if self.noted:
            first, last = b"data: " + PROGRESS + b"\n\ndata: " + first, last + b"\n\n"
        size = len(first) + pieces * MIB + len(last)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n" % (kind.encode(), size))
        for piece in (first, *[PIECE] * pieces, last):
            writer.write(piece)
            await writer.drain()


@asynccontextmanager
async def large_server(*, noted: bool = False) -> AsyncIterator[str]:
    """Yields its URL."""
    server = LargeServer(noted)
    async with scripted(server.answer) as script:
        server.script = script
        yield script.url


def _kib(node: RunningNode, field: str) -> int:
    for line in Path(f"/proc/{node.process.pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise AssertionError(f"the kernel tells no {field}")


@pytest.mark.parametrize("noted", [False, True], ids=["json", "events"])
async def test_slow_readers_of_large_results_cost_no_node_much_memory(
    noted: bool, start: StartNode, tmp_path: Path
) -> None:
    all_have_begun = asyncio.Barrier(READERS)

    async def read_slowly(url: str) -> int:
        async with calling(url) as response:
            assert response.content_type == ("text/event-stream" if noted else "application/json")
            size = len(await response.content.readexactly(MIB))
            await all_have_begun.wait()  # Now all of them are under way at once, and no reader has read on.
            while chunk := await response.content.readany():
                size += len(chunk)
            return size

    async with AsyncExitStack() as stack:
        kit = {"kit": {"url": await stack.enter_async_context(large_server(noted=noted))}}
        back = await start("back", tmp_path / "back", servers=kit, MESH_DISCOVERY="off")
        front = await start("front", tmp_path / "front", MESH_DISCOVERY="off", MESH_PEERS=f"back={back.url}")
        await eventually(lambda: front.offers("kit__write"))
        before = [_kib(node, "VmRSS") for node in (back, front)]
        async with asyncio.TaskGroup() as group:
            readers = [group.create_task(read_slowly(front.url), name=f"reader {n}") for n in range(READERS)]
        size_mib = EVENT_MIB if noted else RESULT_MIB
        assert all(reader.result() > (size_mib - 1) * MIB for reader in readers)
        after = [_kib(node, "VmHWM") for node in (back, front)]
        growth_mib = [(high - low) // 1024 for high, low in zip(after, before, strict=True)]
        measured(f"{READERS} slow readers of {size_mib} MiB each: {growth_mib} MiB of memory")
        assert max(growth_mib) < GROWTH_MIB_MAX, growth_mib


async def test_a_node_that_dies_in_the_middle_of_its_answer_breaks_the_clients_connection(
    start: StartNode, tmp_path: Path
) -> None:
    async with large_server() as url:
        kit = {"kit": {"url": url}}
        back = await start("back", tmp_path / "back", servers=kit, MESH_DISCOVERY="off")
        front = await start("front", tmp_path / "front", MESH_DISCOVERY="off", MESH_PEERS=f"back={back.url}")
        await eventually(lambda: front.offers("kit__write"))
        async with calling(front.url) as response:
            await response.content.readexactly(2 * MIB)
            back.kill()
            with pytest.raises(aiohttp.ClientError):
                await response.read()
