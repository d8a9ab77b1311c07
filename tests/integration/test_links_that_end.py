"""Links that end go at once, with all that they held: nothing of them waits for the garbage collector.

What comes and goes all day would fill the memory of a node otherwise, whose collector hardly ever looks at what is old.
The one rule: each end happens several times, and no kind of object of ours is left as often.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path

import pytest

from agent.client.protocol import Request
from agent.links import state
from agent.model import HttpTarget, Json, ServerScope, ServerSpec, StdioTarget
from tests.integration.servers import pid_server
from tests.integration.servers.hosting import Seen, discovered, http, initialized, rpc_error, rpc_result, scripted
from tests.integration.servers.nodes import RunningNode, catalog, instance, running_node
from tests.integration.servers.sse_hosting import OldServer, old_server
from tests.integration.test_nothing_for_the_collector import left_for_the_collector
from tests.ports import free_port
from tests.waiting import eventually, one_pass

TIMES = 3
# A link's last tasks end a few passes of the loop after the mesh has forgotten it.
SETTLED_S = 5.0


Serve = Callable[[int], AbstractAsyncContextManager[object]]


async def answer(request: Seen) -> tuple[bytes, bool]:
    match request.body.get("method"):
        case "server/discover":
            return discovered(request), True
        case "tools/list":
            return rpc_result(request, {"tools": [{"name": "pid", "inputSchema": {"type": "object"}}]}), True
        case _:
            return rpc_error(request, 404, -32601, "Method not found"), True


async def answer_in_session(request: Seen) -> tuple[bytes, bool]:
    if request.method != "POST":
        return http(405), True
    match request.body.get("method"):
        case "initialize":
            return initialized(request, Mcp_Session_Id="one"), True
        case "tools/list" | "ping":
            return await answer(request)
        case _ if "id" not in request.body:
            return http(202), True
        case _:
            return rpc_error(request, 400, -32600, "Bad Request: no valid session ID provided"), True


async def answer_of_old_transport(_: OldServer, __: str) -> Json:
    return {"tools": [{"name": "pid", "inputSchema": {"type": "object"}}]}


KINDS = ("modern", "sessions", "old transport")
# A server of each, on a port.
SERVED: tuple[Serve, ...] = (
    lambda port: scripted(answer, port=port),
    lambda port: scripted(answer_in_session, port=port),
    lambda port: old_server(OldServer(answers={"": answer_of_old_transport}), port),
)


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


@pytest.mark.parametrize("serve", SERVED, ids=KINDS)
async def test_servers_that_end_and_return_leave_nothing_for_the_garbage_collector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Serve
) -> None:
    monkeypatch.setattr(state, "FLAPS_MIN", 100)  # It would be held down.
    port = free_port()
    async with AsyncExitStack() as stack:
        up = await stack.enter_async_context(AsyncExitStack())
        await up.enter_async_context(serve(port))
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
            await up.enter_async_context(serve(port))
            await front.connected("kit")

        await is_clean_after(end_and_return)


async def test_children_that_end_and_are_started_again_leave_nothing_for_the_garbage_collector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "CRASHES_MAX", 100)  # It would be parked.
    monkeypatch.setattr(state, "CHILD_DIALS", state.NAMED_DIALS)
    child = StdioTarget(sys.executable, (str(pid_server.__file__),))
    async with running_node("front", tmp_path, servers=[ServerSpec("kit", child, ServerScope.SERVICE)]) as front:
        await front.connected("kit")

        async def end_and_return() -> None:
            before = front.view("kit").reconnects
            call = Request.within("tools/call", {"name": "pid", "arguments": {}}, timeout_s=5)
            result = await front.supervisor.links()[0].request(call)
            os.kill(int(result["content"][0]["text"]), signal.SIGKILL)
            await front.when(lambda: front.view("kit").reconnects > before and front.is_up("kit"))

        await is_clean_after(end_and_return)


@pytest.mark.parametrize("serve", SERVED, ids=KINDS)
async def test_links_that_are_reloaded_leave_nothing_for_the_garbage_collector(tmp_path: Path, serve: Serve) -> None:
    port = free_port()
    async with serve(port), running_node("front", tmp_path, servers=[spec(port)]) as front:
        await front.connected("kit")

        async def reload() -> None:
            await front.mesh.reload("kit", 5)
            await front.connected("kit")

        await is_clean_after(reload)


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
    return ServerSpec("kit", HttpTarget(f"http://127.0.0.1:{port}/sse"), ServerScope.SERVICE)


async def was_tried(node: RunningNode, times: int) -> bool:
    return node.view("kit").attempts >= times
