"""Pairings: what happens while a call runs: its progress, its log messages, and its cancellation."""

import asyncio
import json

import pytest

from agent.model import Era, Json
from tests.integration.pairings.cells import Cell, Wire, wire
from tests.integration.servers.pairing_definitions import LEVELS
from tests.waiting import UNREPAIRED_S

LOG_LEVEL_KEY = "io.modelcontextprotocol/logLevel"


async def met(mcp: Wire, token: object, name: str, *others: str) -> list[Json]:
    """The progress of a call that ends when the others are under way, too."""
    meta = None if token is None else {"progressToken": token}
    assert await mcp.text("meet", meta, room=mcp.cell.room, name=name, others=list(others)) == "done"
    assert {note["method"] for note in mcp.told} <= {"notifications/progress"}
    return [note["params"] for note in mcp.told]


def progress(token: object, name: str) -> list[Json]:
    more = {"progressToken": token, "total": 2.5, "message": name, "x-future": 1.0}
    return [{**more, "progress": step} for step in (1, 2)]


@pytest.mark.parametrize("token", ["text", 7])
async def test_callers_with_the_same_token_hear_the_progress_of_their_own_call(cell: Cell, token: object) -> None:
    async with wire(cell) as one, wire(cell) as other, asyncio.timeout(UNREPAIRED_S), asyncio.TaskGroup() as group:
        first = group.create_task(met(one, token, "first", "second"), name="first")
        second = group.create_task(met(other, token, "second", "first"), name="second")
    assert first.result() == progress(token, "first")
    assert second.result() == progress(token, "second")


async def test_a_call_without_a_progress_token_hears_no_progress(cell: Cell) -> None:
    async with wire(cell) as mcp:
        assert await met(mcp, None, "alone") == []


async def test_log_messages_come_with_their_call_from_the_level_on_that_its_client_asked_for(cell: Cell) -> None:
    async with wire(cell) as mcp:
        for level in ("warning", "debug", "error"):
            meta = None
            if cell.front is Era.MODERN:
                meta = {LOG_LEVEL_KEY: level}
            else:
                assert await mcp.ask("logging/setLevel", {"level": level}) == {}
            mcp.told.clear()
            assert await mcp.text("talk", meta) == "done"
            assert mcp.told == [
                {
                    "jsonrpc": "2.0",
                    "method": "notifications/message",
                    "params": {"level": said, "logger": "pair", "data": {"said": said, "n": 1.0}, "x-future": 1.0},
                }
                for said in LEVELS[LEVELS.index(level) :]
            ]


async def test_a_stateless_client_that_asks_for_no_level_gets_no_log_messages(cell: Cell) -> None:
    async with wire(cell) as mcp:
        await mcp.text("talk")
        levels = [note["params"]["level"] for note in mcp.told]
    # One with a session that sets no level leaves it to the node.
    assert levels == ([] if cell.front is Era.MODERN else ["info", "warning", "error"])


async def test_a_client_cancels_its_call_and_no_other(cell: Cell) -> None:
    async with wire(cell) as one, wire(cell) as other, asyncio.timeout(UNREPAIRED_S), asyncio.TaskGroup() as group:
        params: Json = {"name": cell.name("hang"), "arguments": {"room": cell.room, "name": "one"}}
        # Both clients number their requests alike.
        first = group.create_task(one.raw("tools/call", params, 77), name="first")
        second = group.create_task(
            other.raw("tools/call", {**params, "arguments": {"room": cell.room, "name": "other"}}, 77), name="second"
        )
        async with wire(cell) as witness:
            await witness.text("when", room=cell.room, states=["one hangs", "other hangs"])
            if cell.front is Era.MODERN:
                first.cancel()
            else:
                await one.note("notifications/cancelled", {"requestId": 77, "reason": "enough"})
            await witness.text("when", room=cell.room, states=["one cancelled"])
            await witness.text("release", room=cell.room)
            await witness.text("when", room=cell.room, states=["other done"])
    assert json.loads(second.result())["result"]["content"][0]["text"] == "done"
    if cell.front is Era.LEGACY:
        assert first.result() == b"", "a call that was cancelled has no answer"


@pytest.mark.parametrize("way", [(Era.LEGACY, "own"), (Era.LEGACY, "peer")], indirect=True, ids=["own", "peer"])
async def test_a_client_with_a_session_that_drops_its_connection_cancels_nothing(cell: Cell) -> None:
    async with wire(cell) as mcp, wire(cell) as witness, asyncio.timeout(UNREPAIRED_S), asyncio.TaskGroup() as group:
        dropped = group.create_task(mcp.call("hang", room=cell.room, name="dropped"), name="dropped")
        await witness.text("when", room=cell.room, states=["dropped hangs"])
        dropped.cancel()
        await asyncio.wait([dropped])
        await witness.text("release", room=cell.room)
        await witness.text("when", room=cell.room, states=["dropped done"])
