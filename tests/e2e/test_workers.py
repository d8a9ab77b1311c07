"""A node of two processes: one port and one identity, whichever has a connection, and whatever becomes of either."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.meshes import RunningKit
from tests.e2e.raw_line import Line, line_to
from tests.e2e.running import RunningNode, StartNode, nodes_below, start_node
from tests.e2e.servers_files import example, replace_file
from tests.measured import measured
from tests.ports import free_port
from tests.waiting import all_of, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

# More than a connection makes before a worker has it.
CALLS = 6
CALLERS = 12


async def ready(node: RunningNode, workers: int = 1) -> bool:
    assert await node.metric("mesh_workers") == workers
    return await node.offers("kit__add")


async def calls_of_workers(node: RunningNode) -> float:
    return await node.metric("mesh_worker_calls_total") or 0.0


async def more_calls_of_workers(node: RunningNode, before: float) -> bool:
    return await calls_of_workers(node) > before


async def add(line: Line, one: int = 1) -> None:
    answer = await line.call("kit__add", {"terms": [one, 2]})
    assert answer["result"]["structuredContent"]["total"] == one + 2, answer


async def workers_have(node: RunningNode, connections: int) -> bool:
    return await node.metric("mesh_worker_connections") == connections


async def until_worker_has(node: RunningNode, line: Line, connections: int = 1) -> None:
    """Call until a worker has the connection, which it keeps while nothing but calls come.

    `connections`: that workers have then. Of two that call, the node keeps one.
    """

    async def is_moved() -> bool:
        await add(line)
        return await workers_have(node, connections)

    await eventually(is_moved)


@asynccontextmanager
async def line_of_worker(node: RunningNode, token: str | None = None) -> AsyncGenerator[Line, None]:
    """The only connection of a worker."""
    await eventually(partial(workers_have, node, 0))
    async with line_to(node.port, token=token) as line:
        await until_worker_has(node, line)
        yield line


async def has_lost(node: RunningNode, workers: int) -> bool:
    return await node.metric("mesh_lost_workers_total") == workers


def workers_of(node: RunningNode) -> list[int]:
    """The pids of a node's workers, by its log."""
    return [event["pid"] for event in node.events("a worker was started")]


async def has_started(node: RunningNode, workers: int) -> bool:
    return len(workers_of(node)) == workers


def is_alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def has_ended(pid: int) -> bool:
    return not is_alive(pid)


@pytest.fixture(scope="module")
def pair(kit: RunningKit, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node of two processes in front of the kit, and of a child of its own."""
    folder = tmp_path_factory.mktemp("pair")
    servers = {"kit": {"url": kit.url}, "dice": example("dice", "service")}

    async def begun() -> RunningNode:
        node = await start_node("pair", folder, servers=servers, MESH_DISCOVERY="off", MESH_WORKERS="2")
        await eventually(partial(ready, node))
        return node

    with nodes_below(folder):
        yield asyncio.run(begun())


@asynccontextmanager
async def lines(node: RunningNode, count: int, token: str | None = None) -> AsyncGenerator[list[Line], None]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(line_to(node.port, token=token)) for _ in range(count)]


async def test_calls_are_made_by_both_processes_and_counted_once(pair: RunningNode) -> None:
    labels = {"backend": "server:kit", "outcome": "ok", "tool": "kit__plant"}  # Which no other test calls.
    async with lines(pair, CALLERS) as callers:
        await until_worker_has(pair, callers[0])
        of_workers = await calls_of_workers(pair)

        async def calls(line: Line) -> None:
            for number in range(CALLS):
                assert "result" in await line.call("kit__plant", {"tree": {"label": str(number)}})

        await all_of(calls(line) for line in callers)

        async def all_counted() -> bool:
            return await pair.metric("mesh_calls_total", **labels) == CALLERS * CALLS

        async def all_written() -> bool:
            lines = sum(event.get("mcp_name") == "kit__plant" for event in pair.events("MCP request"))
            return lines >= CALLERS * CALLS

        await eventually(all_counted)
        assert 0 < await calls_of_workers(pair) - of_workers < CALLERS * CALLS
        await eventually(all_written)
        # One line for each, in one place.
        assert sum(event.get("mcp_name") == "kit__plant" for event in pair.events("MCP request")) == CALLERS * CALLS
        status, shown = await pair.request("GET", "/api/v1/mcp/logs?level=info")
        assert status == 200
        assert str(shown).count("kit__plant") >= CALLERS * CALLS


async def test_any_request_on_any_connection_is_answered_as_ever(pair: RunningNode) -> None:
    async with line_of_worker(pair) as line:
        status, _, body = await line.request("GET", "/api/v1/mcp/status")
        assert (status, body["data"]["self"]["name"]) == (200, "pair")
        await add(line)
    async with line_of_worker(pair) as line:
        status, _, page = await line.request("GET", "/ui/")
        assert status == 200
        assert "<html" in page
        await add(line)
    async with line_of_worker(pair) as line:
        # A tool of a child, which the node alone has.
        assert "result" in await line.call("dice__roll", {"sides": 6})
        await eventually(partial(workers_have, pair, 0))
        await until_worker_has(pair, line)
        assert (await line.call_refused("kit__nothing"))["error"]["code"] == -32602
        await until_worker_has(pair, line)


async def test_sessions_are_served_by_either_process(pair: RunningNode) -> None:
    await eventually(partial(workers_have, pair, 0))
    async with lines(pair, 3) as (first, second, third):
        headers = await first.open_session()
        for line in (second, third):
            line.join_session(headers)
        await until_worker_has(pair, second)
        for line in (first, second, third):
            await add(line)
        status, _, _ = await first.request("DELETE", "/mcp", headers=headers)
        assert status == 200

        async def is_gone(line: Line) -> bool:
            message = {"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": {"name": "kit__add"}}
            status, _, _ = await line.post(message, headers)
            return status == 404

        for line in (first, second, third):
            assert await is_gone(line)


async def test_calls_of_another_nodes_tools_are_made_by_workers_of_the_node_that_has_any(
    kit: RunningKit, start: StartNode, tmp_path: Path
) -> None:
    settings = {"MESH_DISCOVERY": "embedded", "MESH_EMBEDDED_PORT": str(free_port())}
    servers = {"kit": {"url": kit.url}, "dice": example("dice", "service")}
    back = await start("back", tmp_path / "back", servers=servers, **settings)
    front = await start("front", tmp_path / "front", MESH_WORKERS="2", **settings)
    await eventually(partial(ready, front))
    async with line_of_worker(front) as line:
        assert "result" in await line.call("dice__roll", {"sides": 6})
        await until_worker_has(front, line)
        before = await calls_of_workers(front)
        assert "result" in await line.call("dice__roll", {"sides": 6})
        await eventually(partial(more_calls_of_workers, front, before))
        assert await back.metric("mesh_workers") == 0
        assert not workers_of(back)
        back.kill()

        async def is_away() -> bool:
            # The worker has no way any more, so the node says what it says without workers.
            error: dict[str, Any] = (await line.call("kit__add", {"terms": [1]})).get("error", {})
            return error.get("code") == -32000 and error["data"]["outcome"] == "not_executed"

        await eventually(is_away)


async def test_death_of_a_worker_costs_the_calls_in_it_and_the_nodes_death_ends_it(
    kit: RunningKit, start: StartNode, tmp_path: Path
) -> None:
    node = await start("loses", tmp_path, servers={"kit": {"url": kit.url}}, MESH_DISCOVERY="off", MESH_WORKERS="2")
    await eventually(partial(ready, node))
    (pid,) = workers_of(node)
    stopping, broken, answered = asyncio.Event(), [0], [0]

    async def caller() -> None:
        while not stopping.is_set():
            with suppress(ConnectionError):
                async with line_to(node.port) as line:
                    while not stopping.is_set():
                        broken[0] += 1  # Until it is answered.
                        await add(line)
                        broken[0] -= 1
                        answered[0] += 1

    async def answers(more: int) -> bool:
        return answered[0] >= more

    async with asyncio.TaskGroup() as group:
        for number in range(CALLERS):
            group.create_task(caller(), name=f"caller {number}")
        await eventually(partial(answers, CALLERS * CALLS))
        await eventually(partial(more_calls_of_workers, node, 0))  # They are counted a quarter of a second later.
        status_before = await node.status()
        os.kill(pid, signal.SIGKILL)
        # A busy machine lets it die a while after that, and for a while the node counts it among those that are ready.
        await eventually(partial(has_lost, node, 1))
        await eventually(partial(has_started, node, 2))
        await eventually(partial(answers, answered[0] + CALLERS * CALLS))
        await eventually(partial(ready, node))
        stopping.set()
    measured(f"a killed worker broke {broken[0]} of {answered[0] + broken[0]} calls")
    assert await has_lost(node, 1)
    assert broken[0] <= CALLERS  # Each connection of the worker once at most; those of the node never.
    assert (await node.status())["self"]["node_id"] == status_before["self"]["node_id"]
    assert node.events("a worker ended, and is started again")[0]["code"] == -signal.SIGKILL
    first, second = workers_of(node)
    node.kill()
    for one in (first, second):
        await eventually(partial(has_ended, one))


async def test_revoked_token_is_refused_by_every_process(kit: RunningKit, start: StartNode, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.txt"
    old, new = "old-token-of-clients-0123456789", "new-token-of-clients-0123456789"
    replace_file(tokens, f"{old}\n{new}\n".encode())
    servers = {"kit": {"url": kit.url}}
    settings: dict[str, Any] = {"MESH_DISCOVERY": "off", "MESH_WORKERS": "2", "MESH_TOKEN_FILE": str(tokens)}
    node = await start("guards", tmp_path, servers=servers, **settings)
    node.token = new
    await eventually(partial(ready, node))
    async with line_of_worker(node, old) as line, line_to(node.port, token=new) as other:
        await add(other)
        replace_file(tokens, f"{new}\n".encode())
        node.process.send_signal(signal.SIGHUP)

        async def is_refused() -> bool:
            error: dict[str, Any] = (await line.call_refused("kit__add")).get("error", {})
            return error.get("data") == {"code": "unauthorized"}

        await eventually(is_refused)
        await add(other)


async def test_sigterm_waits_for_calls_in_workers_and_leaves_none_behind(
    kit: RunningKit, start: StartNode, tmp_path: Path
) -> None:
    node = await start("stops", tmp_path, servers={"kit": {"url": kit.url}}, MESH_DISCOVERY="off", MESH_WORKERS="2")
    await eventually(partial(ready, node))
    (pid,) = workers_of(node)
    gate = tmp_path / "gate"
    async with line_of_worker(node) as line, lines(node, 2) as (other, idle), asyncio.TaskGroup() as group:
        await add(other)
        await add(other)  # The node keeps it, so that a worker gets the next one.
        await until_worker_has(node, idle, 2)
        held = group.create_task(line.call("kit__hold", {"gate": str(gate)}), name="held call")

        async def has_begun() -> bool:
            return await asyncio.to_thread(gate.with_name("gate.begun").exists)

        await eventually(has_begun)
        node.process.terminate()

        async def is_draining() -> bool:
            return bool(node.events("node draining"))

        await eventually(is_draining)
        gate.touch()
        assert (await held)["result"]["content"][0]["text"] == "released"
        async with asyncio.timeout(20):
            assert await node.process.wait() == 0
    assert not is_alive(pid)
