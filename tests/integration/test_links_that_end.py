"""Links that end go at once, with all that they held: nothing of them waits for the garbage collector.

What comes and goes all day would fill the memory of a node otherwise, whose collector hardly ever looks at what is old.
The one rule: each end happens several times, and no kind of object of ours is left as often.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from agent.links import state
from agent.model import HttpTarget, ServerScope, ServerSpec
from tests.integration.servers.hosting import Seen, discovered, rpc_error, rpc_result, scripted
from tests.integration.servers.nodes import RunningNode, catalog, instance, running_node
from tests.integration.test_nothing_for_the_collector import left_for_the_collector
from tests.ports import free_port
from tests.waiting import eventually, one_pass

TIMES = 3
# A link's last tasks end a few passes of the loop after the mesh has forgotten it.
SETTLED_S = 5.0


async def test_nodes_that_join_and_leave_leave_nothing_for_the_garbage_collector(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        names = ("two", "three")
        others = [await stack.enter_async_context(running_node(name, tmp_path / name)) for name in names]
        front = await stack.enter_async_context(running_node("front", tmp_path / "front"))

        async def join_and_leave() -> None:
            front.mesh.take_catalog(catalog(*map(instance, others)))
            await front.connected(*names)
            front.mesh.take_catalog(catalog(instance(others[0])))
            await front.when(lambda: len(front.mesh.views()) == 1)
            front.mesh.take_catalog(catalog(instance(others[1])))
            await front.connected("three")

        await is_clean_after(join_and_leave)


async def test_servers_that_end_and_return_leave_nothing_for_the_garbage_collector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "FLAPS_MIN", 100)  # It would be held down.
    port = free_port()
    async with AsyncExitStack() as stack:
        up = await stack.enter_async_context(AsyncExitStack())
        await up.enter_async_context(scripted(answer, port=port))
        front = await stack.enter_async_context(running_node("front", tmp_path, servers=[spec(port)]))
        await front.connected("kit")

        async def end_and_return() -> None:
            await up.aclose()
            life = front.supervisor.links()[0]._session
            assert life is not None
            life._probes.doubt.set()  # As a call would; else the next probe would find out.
            del life
            await front.when(lambda: not front.is_up("kit"))
            await eventually(lambda: was_tried(front, 2))
            await up.enter_async_context(scripted(answer, port=port))
            await front.connected("kit")

        await is_clean_after(end_and_return)


async def test_servers_that_are_removed_while_they_are_dialled_leave_nothing_for_the_garbage_collector(
    tmp_path: Path,
) -> None:
    async def silent(_: Seen) -> tuple[None, bool]:
        await over.wait()
        return None, False

    over = asyncio.Event()
    async with AsyncExitStack() as stack:
        script = await stack.enter_async_context(scripted(silent))
        stack.callback(over.set)
        front = await stack.enter_async_context(running_node("front", tmp_path))
        hangs = ServerSpec("hangs", HttpTarget(script.url), ServerScope.SERVICE)

        async def add_and_remove() -> None:
            front.mesh.take_servers([hangs, spec(free_port())])
            await front.when(lambda: len(front.mesh.views()) == 2)
            await eventually(lambda: was_tried(front, 2))
            front.mesh.take_servers([])
            await front.when(lambda: not front.mesh.views())

        await is_clean_after(add_and_remove)


async def is_clean_after(act: Callable[[], Awaitable[None]]) -> None:
    await act()  # What is made once stays.
    await has_settled()
    with left_for_the_collector() as found:
        for _ in range(TIMES):
            await act()
        await has_settled()
    assert {kind: count for kind, count in found.items() if count >= TIMES} == {}


async def has_settled() -> None:
    """Return when no task is on its way to its end."""
    async with asyncio.timeout(SETTLED_S):
        before = None
        while before != (before := {task.get_name() for task in asyncio.all_tasks()}):
            for _ in range(20):
                await one_pass()


def spec(port: int) -> ServerSpec:
    return ServerSpec("kit", HttpTarget(f"http://127.0.0.1:{port}/mcp"), ServerScope.SERVICE)


async def was_tried(node: RunningNode, times: int) -> bool:
    return node.view("kit").attempts >= times


async def answer(request: Seen) -> tuple[bytes, bool]:
    match request.body.get("method"):
        case "server/discover":
            return discovered(request), True
        case "tools/list":
            return rpc_result(request, {"tools": [{"name": "pid", "inputSchema": {"type": "object"}}]}), True
        case _:
            return rpc_error(request, 404, -32601, "Method not found"), True
