"""A node of two processes: one port and one identity, whichever has a connection, and whatever becomes of either."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.e2e.meshes import RunningKit
from tests.e2e.processes import has_ended
from tests.e2e.raw_line import ENVELOPE, VERSION, Line, line_to
from tests.e2e.running import RunningNode, StartNode, nodes_below, start_node
from tests.e2e.servers_files import example, replace_file
from tests.measured import measured
from tests.ports import free_port
from tests.waiting import all_of, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

# More than a connection makes before a worker has it.
CALLS = 6
CALLERS = 12
SPARE = {"spare": False, "other": True}


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


async def is_gone(pid: int) -> bool:
    return has_ended(pid)


@pytest.fixture(scope="module")
def pair(kit: RunningKit, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node of two processes in front of the kit, and of a child of its own."""
    folder = tmp_path_factory.mktemp("pair")
    # To the spare ones no worker has a way before a test calls them.
    spare = {name: {"url": kit.url} for name in SPARE}
    servers = {"kit": {"url": kit.url}, "dice": example("dice", "service"), **spare}

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
        await eventually(partial(all_shown, pair))


async def all_shown(node: RunningNode) -> bool:
    """Whether the node shows the lines; a worker writes its own, and tells the node of them up to 0.25 s later."""
    status, shown = await node.request("GET", "/api/v1/mcp/logs?level=info")
    assert status == 200
    return str(shown).count("kit__plant") >= CALLERS * CALLS


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


@pytest.mark.parametrize(("server", "in_session"), SPARE.items())
async def test_a_call_that_a_worker_has_no_way_for_yet_is_the_nodes_and_has_one_line(
    pair: RunningNode, server: str, *, in_session: bool
) -> None:
    await eventually(partial(pair.offers, f"{server}__add"))
    await eventually(partial(workers_have, pair, 0))
    async with line_to(pair.port) as line:
        if in_session:
            await line.open_session()
        await until_worker_has(pair, line)
        answer = await line.call(f"{server}__add", {"terms": [1, 2]})
        assert answer["result"]["structuredContent"]["total"] == 3, answer

        async def has_lines() -> bool:
            return any(event.get("mcp_name") == f"{server}__add" for event in pair.events("MCP request"))

        await eventually(has_lines)
        await until_worker_has(pair, line)  # Whose lines of before are out by now.
        assert sum(event.get("mcp_name") == f"{server}__add" for event in pair.events("MCP request")) == 1


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

        async def is_over(line: Line) -> bool:
            message = {"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": {"name": "kit__add"}}
            status, _, _ = await line.post(message, headers)
            return status == 404

        for line in (first, second, third):  # A worker learns it beside its connections, and may read those first.
            await eventually(partial(is_over, line))


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


async def test_a_node_that_stops_still_answers_what_a_worker_of_another_one_has_under_way(
    kit: RunningKit, start: StartNode, tmp_path: Path
) -> None:
    settings = {"MESH_DISCOVERY": "embedded", "MESH_EMBEDDED_PORT": str(free_port())}
    back = await start("back", tmp_path / "back", servers={"kit": {"url": kit.url}}, **settings)
    front = await start("front", tmp_path / "front", MESH_WORKERS="2", **settings)
    await eventually(partial(ready, front))
    gate = tmp_path / "gate"
    async with line_of_worker(front) as line, asyncio.TaskGroup() as group:
        held = group.create_task(line.call("kit__hold", {"gate": str(gate)}), name="held call")

        async def has_begun() -> bool:
            return await asyncio.to_thread(gate.with_name("gate.begun").exists)

        await eventually(has_begun)
        assert await workers_have(front, 1)
        back.process.terminate()

        async def is_unlinked() -> bool:
            return "kit__add" not in await front.tool_names()  # Workers hear of it in the same turn.

        await eventually(is_unlinked)
        assert not held.done()
        await asyncio.to_thread(gate.touch)
        assert (await held)["result"]["content"][0]["text"] == "released"


async def test_death_of_a_worker_breaks_no_call_and_the_nodes_death_ends_it(
    kit: RunningKit, start: StartNode, tmp_path: Path
) -> None:
    node = await start("loses", tmp_path, servers={"kit": {"url": kit.url}}, MESH_DISCOVERY="off", MESH_WORKERS="2")
    await eventually(partial(ready, node))
    (pid,) = workers_of(node)
    stopping, answered = asyncio.Event(), [0]

    async def caller() -> None:
        async with line_to(node.port) as line:
            while not stopping.is_set():
                await add(line)
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
    measured(f"a killed worker broke none of {answered[0]} calls")
    assert await has_lost(node, 1)
    assert (await node.status())["self"]["node_id"] == status_before["self"]["node_id"]
    assert node.events("a worker ended, and is started again")[0]["code"] == -signal.SIGKILL
    first, second = workers_of(node)
    node.kill()
    for one in (first, second):
        await eventually(partial(is_gone, one))


async def test_idle_connection_and_half_a_request_outlive_their_worker(
    kit: RunningKit, start: StartNode, tmp_path: Path
) -> None:
    node = await start("outlives", tmp_path, servers={"kit": {"url": kit.url}}, MESH_DISCOVERY="off", MESH_WORKERS="2")
    await eventually(partial(ready, node))
    async with line_of_worker(node) as line:
        await killed_worker(node, 1)
        await add(line)
        await until_worker_has(node, line)
        # An answer in parts, as progress comes before it.
        assert (await line.call("kit__count", {"to": 3}))["result"]["content"][0]["text"] == "counted"
        await eventually(partial(workers_have, node, 1))
        await killed_worker(node, 2)
        await add(line)
        await until_worker_has(node, line)
        request = written_add("halves")
        line.send_raw(request[:400])
        await killed_worker(node, 3)
        line.send_raw(request[400:])
        _, _, answer = await line.answer()
        assert (answer["id"], answer["result"]["structuredContent"]["total"]) == ("halves", 3)
        await add(line)


def written_add(request_id: str) -> bytes:
    """A call of 2026-07-28 as bytes."""
    params = {"name": "kit__add", "arguments": {"terms": [1, 2]}, "_meta": ENVELOPE}
    body = orjson.dumps({"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params})
    headers = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
    headers |= {"MCP-Protocol-Version": VERSION, "Mcp-Method": "tools/call", "Mcp-Name": "kit__add"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in (headers | {"Content-Length": len(body)}).items())
    return f"POST /mcp HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode() + body


async def killed_worker(node: RunningNode, deaths: int) -> None:
    """Kill the only one, and wait until another one serves."""
    os.kill(workers_of(node)[-1], signal.SIGKILL)
    await eventually(partial(has_lost, node, deaths))
    await eventually(partial(has_started, node, deaths + 1))
    await eventually(partial(ready, node))


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
    assert has_ended(pid)
