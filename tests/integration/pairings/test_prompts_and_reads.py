"""Pairings: prompts and reads tell of their progress, log, are cancelled and ask, just as calls do."""

import asyncio
import json

import pytest

from agent.errors import RpcError
from agent.model import Era, Json
from tests.integration.pairings.cells import Cell, Wire, wire
from tests.integration.pairings.test_asking import ANSWERS, Human, connected
from tests.integration.pairings.test_during_calls import LOG_LEVEL_KEY, UNREPAIRED_S, progress
from tests.integration.servers.pairing_definitions import QUESTIONS

both = pytest.mark.parametrize("method", ["prompts/get", "resources/read"])


def asking(cell: Cell, method: str, what: str, meta: Json | None = None) -> Json:
    """The params of a prompt or a read that does something in the cell's room."""
    if method == "prompts/get":
        params: Json = {"name": cell.name(what), "arguments": {"room": cell.room}}
    else:
        params = {"uri": cell.uri(f"pair://act/{what}/{cell.room}")}
    return params if meta is None else {**params, "_meta": meta}


async def text(mcp: Wire, method: str, params: Json) -> str:
    """What a prompt or a read says."""
    result = await mcp.ask(method, params)
    said = result["messages"][0]["content"] if method == "prompts/get" else result["contents"][0]
    return str(said["text"])


@both
async def test_progress_comes_under_the_clients_own_token(cell: Cell, method: str) -> None:
    async with wire(cell) as mcp:
        assert await text(mcp, method, asking(cell, method, "meet", {"progressToken": "own"})) == "done"
        assert [note["params"] for note in mcp.told] == progress("own", "it")


@both
async def test_log_messages_come_from_the_level_on_that_was_asked_for(cell: Cell, method: str) -> None:
    async with wire(cell) as mcp:
        if cell.front is Era.LEGACY:
            await mcp.ask("logging/setLevel", {"level": "warning"})
        meta = {LOG_LEVEL_KEY: "warning"} if cell.front is Era.MODERN else None
        assert await text(mcp, method, asking(cell, method, "talk", meta)) == "done"
        assert [note["params"]["level"] for note in mcp.told] == ["warning", "error"]


@both
async def test_a_client_cancels_it(cell: Cell, method: str) -> None:
    async with wire(cell) as mcp, wire(cell) as witness, asyncio.timeout(UNREPAIRED_S), asyncio.TaskGroup() as group:
        waiting = group.create_task(mcp.raw(method, asking(cell, method, "hang"), "text"), name="waiting")
        await witness.text("when", room=cell.room, states=["it hangs"])
        if cell.front is Era.MODERN:
            waiting.cancel()
        else:
            await mcp.note("notifications/cancelled", {"requestId": "text"})
        await witness.text("when", room=cell.room, states=["it cancelled"])


@both
async def test_a_client_is_asked_in_the_middle_of_it(cell: Cell, method: str) -> None:
    human = Human()
    async with connected(cell, human) as mcp:
        params = asking(cell, method, "ask")
        if method == "prompts/get":
            said = (await mcp.get_prompt(params["name"], params["arguments"])).messages[0].content
        else:
            said = (await mcp.read_resource(params["uri"])).contents[0]
    (answer,) = json.loads(said.text)
    if cell.server == "legacy-stdio":  # A child that all share cannot say which client it asks.
        assert (answer["error"]["code"], human.asked) == (-32601, [])
        return
    assert answer == ANSWERS["form"]
    assert [asked["message"] for asked in human.asked] == [QUESTIONS["form"]["params"]["message"]]


async def test_an_error_about_a_page_names_it_as_its_client_did_and_says_all_else_that_its_server_said(
    cell: Cell,
) -> None:
    uri = cell.uri("pair://nowhere/é%20 x")
    async with wire(cell) as mcp:
        with pytest.raises(RpcError) as refused:
            await mcp.ask("resources/read", {"uri": uri})
    assert (refused.value.code, refused.value.message) == (-32602, "no such page")
    assert refused.value.data == {"uri": uri, "x": 1.0}
