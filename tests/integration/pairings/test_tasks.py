"""Pairings: a tool that is called as a task, in the words of the client's era, whatever era its server is of."""

import pytest

from agent.errors import RpcError
from agent.model import Era, Json
from agent.tasks.ids import TAKES_TASKS
from tests.integration.pairings.cells import Cell, Wire, wire
from tests.integration.servers.pairing_definitions import RESULT
from tests.integration.servers.pairing_server import TASK

RELATED = "io.modelcontextprotocol/related-task"


async def made(mcp: Wire) -> Json:
    """The task as its client gets it."""
    params: Json = {"name": mcp.cell.name("chore"), "arguments": {}}
    if mcp.cell.front is Era.MODERN:
        task = await mcp.ask("tools/call", {**params, "_meta": TAKES_TASKS})
        assert task.pop("resultType") == "task"
        return task
    task = (await mcp.ask("tools/call", {**params, "task": {}}))["task"]
    assert isinstance(task, dict)
    return task


async def about(mcp: Wire, method: str, task_id: str) -> Json:
    params: Json = {"taskId": task_id}
    return await mcp.ask(method, params if mcp.cell.front is Era.LEGACY else {**params, "_meta": TAKES_TASKS})


async def test_a_task_is_made_asked_about_and_gives_its_result(cell: Cell) -> None:
    async with wire(cell) as mcp:
        task = await made(mcp)
        lasting = {"ttl": None} if cell.front is Era.LEGACY else {"ttlMs": None}
        assert task == {**TASK, "taskId": task["taskId"], **lasting}
        assert task["taskId"].endswith(f"/{cell.server}/the chore")
        now = await about(mcp, "tasks/get", task["taskId"])
        if cell.front is Era.LEGACY:
            assert now == task
            whole = await about(mcp, "tasks/result", task["taskId"])
            assert whole["_meta"].pop(RELATED) == {"taskId": task["taskId"]}
        else:
            whole = now["result"]
        assert whole == RESULT


async def test_a_task_that_is_unknown_or_over_is_reported_in_the_clients_words(cell: Cell) -> None:
    async with wire(cell) as mcp:
        task_id = (await made(mcp))["taskId"]
        for method in ("tasks/get", "tasks/cancel"):
            with pytest.raises(RpcError, match="no such task") as unknown:
                await about(mcp, method, task_id + "?")
            assert unknown.value.code == -32602
        if cell.front is Era.MODERN:
            assert await about(mcp, "tasks/cancel", task_id) == {"resultType": "complete"}
            return
        with pytest.raises(RpcError, match="has ended") as over:
            await about(mcp, "tasks/cancel", task_id)
        assert over.value.code == -32602
