"""Calls of sessions whose connection breaks: their client takes the stream up by `Last-Event-ID`, here or elsewhere."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from fastmcp import Context, FastMCP
from mcp.client import Client
from mcp.shared.exceptions import MCPError

from agent.model import HttpTarget, Json, ServerScope, ServerSpec
from agent.server.sessions.resumption import named_call
from tests.integration.servers.nodes import RunningNode, running_node, served
from tests.integration.servers.raw_session import RawSession, call, messages, raw_session

VERSION = "2025-11-25"
UNKNOWN = {"outcome": "unknown", "timed_out": False, "replica": None, "bytes_sent": True}


class Kit:
    """A server whose tool tells of its progress and waits; `runs` counts its calls."""

    def __init__(self) -> None:
        self.release, self.runs = asyncio.Event(), 0
        self.server: FastMCP = FastMCP("kit")
        self.server.tool(self.wait)

    async def wait(self, ctx: Context) -> str:
        self.runs += 1
        await ctx.report_progress(1, 2)
        await self.release.wait()
        await ctx.report_progress(2, 2)
        return "released"


@asynccontextmanager
async def scene(folder: Path) -> AsyncIterator[tuple[RunningNode, Kit]]:
    kit = Kit()
    async with asyncio.timeout(30), served(kit.server) as url:
        spec = ServerSpec("kit", HttpTarget(url), ServerScope.SERVICE)
        async with running_node("one", folder / "one", servers=[spec]) as node:
            await node.connected("kit")
            yield node, kit
            kit.release.set()


@dataclass
class Balancer:
    """Passes connections on to one node; `moves_to` breaks them all, as the death of that node does."""

    base: str
    url: str = ""
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self.base.removeprefix("http://").partition(":")
        from_node, to_node = await asyncio.open_connection(host, int(port))
        self.writers += [writer, to_node]
        async with asyncio.TaskGroup() as group:
            group.create_task(pump(reader, to_node), name="to the node")
            group.create_task(pump(from_node, writer), name="from the node")

    def moves_to(self, base: str) -> None:
        self.base = base
        for writer in self.writers:
            writer.transport.abort()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def balancer_before(node: RunningNode) -> AsyncIterator[Balancer]:
    balancer = Balancer(node.base)
    async with await asyncio.start_server(balancer.serve, "127.0.0.1", 0) as server:
        balancer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp"
        yield balancer
        balancer.moves_to(node.base)


def waits(request_id: object = "w") -> Json:
    sent = call("kit__wait", request_id)
    sent["params"]["_meta"] = {"progressToken": "p"}
    return sent


async def beginning_of(response: aiohttp.ClientResponse) -> dict[str, str]:
    """The fields of the first event of a stream."""
    event = (await response.content.readuntil(b"\r\n\r\n")).decode()
    return dict(line.split(": ", 1) for line in event.splitlines() if line)


def taken_up(mcp: RawSession, url: str, event_id: str) -> Any:
    """A GET that asks for a stream again, to be used as a context."""
    return mcp.http.get(url, headers={**mcp.headers, "Last-Event-ID": event_id})


async def broken(mcp: RawSession, message: Json) -> str:
    """Begin a call and leave when its stream has begun; returns the ID of its first event."""
    async with mcp.post(message) as response:
        first = await beginning_of(response)
        assert first["data"] == ""
        assert int(first["retry"]) > 0
        response.close()
    return first["id"]


@pytest.mark.parametrize("request_id", ["w", 7])
async def test_a_call_goes_on_where_its_client_takes_its_stream_up(request_id: object, tmp_path: Path) -> None:
    async with scene(tmp_path) as (node, kit), raw_session(node.url, VERSION) as mcp:
        event_id = await broken(mcp, waits(request_id))
        async with taken_up(mcp, node.url, event_id) as first, taken_up(mcp, node.url, event_id) as second:
            assert (first.status, first.content_type) == (200, "text/event-stream")
            assert (await beginning_of(second))["id"] == event_id, "it may break again"
            kit.release.set()
            progress, answer = [message async for message in messages(second)]
            assert [message async for message in messages(first)] == [], "the newest has it"
        assert progress["params"] == {"progressToken": "p", "progress": 2.0, "total": 2.0}
        assert (answer["id"], answer["result"]["content"][0]["text"]) == (request_id, "released")
        assert kit.runs == 1
        async with taken_up(mcp, node.url, event_id) as late:
            (answer,) = [message async for message in messages(late)]
        assert (answer["id"], answer["error"]["code"], answer["error"]["data"]) == (request_id, -32001, UNKNOWN)
        assert kit.runs == 1


async def test_a_call_under_way_at_another_node_has_an_unknown_outcome_there(tmp_path: Path) -> None:
    async with (
        scene(tmp_path) as (node, kit),
        running_node("two", tmp_path / "two") as two,
        raw_session(node.url, VERSION) as mcp,
    ):
        event_id = await broken(mcp, waits())
        async with taken_up(mcp, two.url, event_id) as response:
            (answer,) = [message async for message in messages(response)]
        assert (answer["id"], answer["error"]["code"], answer["error"]["data"]) == ("w", -32001, UNKNOWN)
        async with taken_up(mcp, f"{two.url}?errors=result", event_id) as response:
            (answer,) = [message async for message in messages(response)]
        assert answer["result"]["isError"] is True
        assert kit.runs == 1


async def test_streams_of_earlier_versions_begin_as_their_clients_can_read_them(tmp_path: Path) -> None:
    async with (
        scene(tmp_path) as (node, kit),
        raw_session(node.url, "2025-06-18") as mcp,
        mcp.post(waits()) as response,
    ):
        kit.release.set()
        assert "id" not in await beginning_of(response)


@pytest.mark.parametrize("event_id", ["7", "call-", "call-!", "call-WzFd", "call-W3RydWUsIngiXQ", f"call-{'A' * 2000}"])
async def test_an_id_of_no_call_opens_the_sessions_own_stream(event_id: str, tmp_path: Path) -> None:
    assert named_call(event_id) is None
    async with (
        running_node("one", tmp_path) as node,
        raw_session(node.url, VERSION) as mcp,
        taken_up(mcp, node.url, event_id) as response,
    ):
        assert await response.content.readuntil(b"\r\n\r\n") == b": ping\r\n\r\n"


async def test_calls_that_a_stopping_node_cannot_wait_for_end_as_unknown(tmp_path: Path) -> None:
    async with scene(tmp_path) as (node, _), raw_session(node.url, VERSION) as mcp, mcp.post(waits()) as response:
        await beginning_of(response)
        sessions = node.endpoints[0].sessions
        await sessions.on_shutdown(web.Application())
        sessions.cut_off()
        answer = [message async for message in messages(response)][-1]
        assert (answer["id"], answer["error"]["code"], answer["error"]["data"]) == ("w", -32001, UNKNOWN)


async def test_the_sdks_client_hears_of_an_unknown_outcome_when_its_node_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.server.sessions.resumption.RETRY_AFTER_S", 0.05)
    began = asyncio.Event()

    async def progressed(*_: object) -> None:
        began.set()

    async def goes(client: Client) -> None:
        with pytest.raises(MCPError, match="may have been executed") as caught:
            await client.call_tool("kit__wait", {}, progress_callback=progressed)
        assert (caught.value.error.code, caught.value.error.data) == (-32001, UNKNOWN)

    async with (
        scene(tmp_path) as (node, _),
        running_node("two", tmp_path / "two") as two,
        balancer_before(node) as balancer,
        Client(balancer.url, mode="legacy") as client,
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(goes(client), name="call")
        await began.wait()
        balancer.moves_to(two.base)
