"""Tasks of a server with sessions (2025-11-25) in the words of 2026-07-28, behind one node and behind two."""

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from agent.client.connect import McpClient
from agent.client.protocol import Request
from agent.errors import RpcError
from agent.lossless_json.raw import exact
from agent.model import TASKS_EXTENSION, Era, HttpTarget, Json, ServerScope, ServerSpec, Sessions, StdioTarget
from tests.integration.servers import session_task_server, warm
from tests.integration.servers.hosting import Front, serving
from tests.integration.servers.nodes import RunningNode, catalog, client, instance, running_node
from tests.integration.servers.session_task_server import LARGE, SessionTasks
from tests.integration.test_tasks import CAPABILITIES_KEY, DECLARED, MISSING_CAPABILITY, ROOT, about, refusal

pytestmark = pytest.mark.usefixtures("warm_servers")

NOTHING: Json = {CAPABILITIES_KEY: {}}


@asynccontextmanager
async def backend(kind: str, tasks: SessionTasks, **more: Any) -> AsyncIterator[ServerSpec]:
    """The server `jobs`, over HTTP or as a child, which has tasks of its own then."""
    if kind == "stdio":
        target = StdioTarget(sys.executable, (*warm.COMMAND, session_task_server.__name__), cwd=str(ROOT))
        yield ServerSpec("jobs", target, ServerScope.SERVICE, **more)
        return
    app = tasks.server().streamable_http_app(host="127.0.0.1")
    async with app.router.lifespan_context(app), serving(Front(app, refuse_modern=400)) as base:
        yield ServerSpec("jobs", HttpTarget(f"{base}/mcp"), ServerScope.SERVICE, **more)


@asynccontextmanager
async def scene(folder: Path, spec: ServerSpec, hops: int = 1) -> AsyncIterator[RunningNode]:
    """The front node, which with two hops knows the server by its peer."""
    async with AsyncExitStack() as stack:
        back = await stack.enter_async_context(running_node("back", folder / "back", servers=[spec]))
        await back.connected("jobs")
        if hops == 1:
            yield back
            return
        front = await stack.enter_async_context(running_node("front", folder / "front"))
        front.mesh.take_catalog(catalog(instance(back)))
        await front.when(lambda: "jobs__must" in front.mesh.routes.tools and front.mesh.peer_views()[0].has_tasks)
        yield front


async def call(mcp: McpClient, tool: str, meta: Json = DECLARED, task: Json | None = None, **arguments: Any) -> Json:
    params: Json = {"name": f"jobs__{tool}", "arguments": arguments, "_meta": meta}
    return await mcp.request(
        Request.within("tools/call", params if task is None else {**params, "task": task}, timeout_s=15)
    )


@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize("kind", ["http", "stdio"])
async def test_what_has_to_be_a_task_is_one_and_gives_its_result(kind: str, hops: int, tmp_path: Path) -> None:
    async with (
        backend(kind, SessionTasks()) as spec,
        scene(tmp_path, spec, hops) as node,
        client(node.url, Era.MODERN) as mcp,
    ):
        assert TASKS_EXTENSION in mcp.server_info.capabilities["extensions"]
        made = await call(mcp, "must", task_id="job 1")
        task_id = made["taskId"]
        assert made == {
            "resultType": "task",
            "taskId": task_id,
            "status": "working",
            "createdAt": "2026-11-22T10:00:00Z",
            "lastUpdatedAt": "2026-11-22T10:00:01Z",
            "ttlMs": 60_000,
            "pollIntervalMs": 100,
            "_meta": {"x": 1},
        }
        working = await about(mcp, "tasks/get", task_id)
        assert (working["resultType"], working["taskId"], working["status"]) == ("complete", task_id, "working")
        await call(mcp, "finish", NOTHING, task_id="job 1")
        ended = exact(await about(mcp, "tasks/get", task_id))
        assert (ended["taskId"], ended["status"], ended["ttlMs"]) == (task_id, "completed", 60_000)
        said, link = ended["result"]["content"]
        assert (said["text"], link["uri"]) == ("job 1 at here", "notes://jobs/home")
        assert orjson.dumps(ended["result"]["structuredContent"]) == b'{"large":%d}' % LARGE
        assert "_meta" not in ended["result"], "the server's own ID stays inside"


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_call_that_can_do_without_a_task_is_one_where_its_client_asks_for_that(
    hops: int, tmp_path: Path
) -> None:
    tasks = SessionTasks()
    async with backend("http", tasks) as spec, scene(tmp_path, spec, hops) as node, client(node.url, Era.MODERN) as mcp:
        assert (await call(mcp, "may"))["content"][0]["text"] == "may at once at here"
        assert (await call(mcp, "may", NOTHING, {"ttl": 5}))["content"][0]["text"] == "may at once at here"
        assert (await call(mcp, "never", DECLARED, {"ttl": 5}))["content"][0]["text"] == "never at once at here"
        assert (await call(mcp, "may", DECLARED, {"ttl": 5}))["ttlMs"] == 5
        assert ["task" in sent for sent in tasks.calls] == [False, False, False, True]
        assert [sent for sent in tasks.calls if CAPABILITIES_KEY in sent.get("_meta", {})] == []


@pytest.mark.parametrize("hops", [1, 2])
async def test_the_outcome_of_a_task_is_reported_as_the_extension_has_it(hops: int, tmp_path: Path) -> None:
    async with (
        backend("http", SessionTasks()) as spec,
        scene(tmp_path, spec, hops) as node,
        client(node.url, Era.MODERN) as mcp,
    ):

        async def ended(status: str, **outcome: Any) -> Json:
            made = await call(mcp, "must")
            own_id = made["taskId"].rpartition("/")[2]
            await call(mcp, "finish", NOTHING, task_id=own_id, status=status, **outcome)
            return await about(mcp, "tasks/get", made["taskId"])

        failed = {"content": [], "isError": True}
        tool_error = await ended("failed", **failed)
        assert (tool_error["status"], tool_error["result"]) == ("completed", failed)
        error = {"code": -32603, "message": "broke", "data": {"why": 1}}
        broken = await ended("failed", **error)
        assert (broken["status"], broken["error"]) == ("failed", error)
        raised = await ended("failed", says="disk full")
        assert (raised["status"], raised["error"]) == ("failed", {"code": -32603, "message": "disk full"})
        assert "result" not in raised
        cancelled = await ended("cancelled")
        assert cancelled["status"] == "cancelled"
        assert cancelled.keys() & {"result", "error"} == set()


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_task_is_cancelled_and_an_unknown_one_is_refused_by_its_server(hops: int, tmp_path: Path) -> None:
    tasks = SessionTasks()
    async with backend("http", tasks) as spec, scene(tmp_path, spec, hops) as node, client(node.url, Era.MODERN) as mcp:
        task_id = (await call(mcp, "must"))["taskId"]
        for _ in range(2):  # The second one is too late, which is no error now.
            cancelled = await about(mcp, "tasks/cancel", task_id)
            assert cancelled == {"resultType": "complete"}
            assert (await about(mcp, "tasks/get", task_id))["status"] == "cancelled"
        assert await about(mcp, "tasks/update", task_id, inputResponses={}) == {"resultType": "complete"}
        for method in ("tasks/get", "tasks/update", "tasks/cancel"):
            unknown = await refusal(mcp, method, task_id + "0")
            assert (unknown.code, unknown.message) == (-32602, "no such task at here")


async def test_a_server_that_cannot_cancel_says_so(tmp_path: Path) -> None:
    tasks = SessionTasks(capability={"requests": {"tools": {"call": {}}}})
    async with backend("http", tasks) as spec, scene(tmp_path, spec) as node, client(node.url, Era.MODERN) as mcp:
        task_id = (await call(mcp, "must"))["taskId"]
        assert (await refusal(mcp, "tasks/cancel", task_id)).code == -32601
        assert (await about(mcp, "tasks/get", task_id))["status"] == "working"


@pytest.mark.parametrize("kind", ["http", "stdio"])
async def test_a_task_that_asks_hears_at_once_that_no_client_can_be_asked(kind: str, tmp_path: Path) -> None:
    async with (
        backend(kind, SessionTasks()) as spec,
        scene(tmp_path, spec) as node,
        client(node.url, Era.MODERN) as mcp,
    ):
        made = await call(mcp, "must", asks=True)
        assert made["status"] == "working"
        ended = await about(mcp, "tasks/get", made["taskId"])
        assert ended["status"] == "completed"
        assert ended["result"]["content"][0]["text"].startswith("refused with -3")


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_client_that_takes_no_tasks_hears_what_is_missing(hops: int, tmp_path: Path) -> None:
    tasks = SessionTasks()
    async with backend("http", tasks) as spec, scene(tmp_path, spec, hops) as node, client(node.url, Era.MODERN) as mcp:
        with pytest.raises(RpcError) as caught:
            await call(mcp, "must", NOTHING)
        assert caught.value.code == MISSING_CAPABILITY
        assert caught.value.data == {"requiredCapabilities": {"extensions": {TASKS_EXTENSION: {}}}}
        assert tasks.calls == []


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_client_with_a_session_is_refused_what_it_does_not_call_as_a_task(hops: int, tmp_path: Path) -> None:
    tasks = SessionTasks()
    async with backend("http", tasks) as spec, scene(tmp_path, spec, hops) as node, client(node.url, Era.LEGACY) as mcp:
        with pytest.raises(RpcError, match="only be called as a task") as caught:
            await call(mcp, "must")
        assert caught.value.code == -32601
        assert tasks.calls == []


@pytest.mark.parametrize("how", ["announces nothing", "sessions of their own"])
async def test_a_tool_that_needs_a_task_which_could_not_be_found_again_is_refused(how: str, tmp_path: Path) -> None:
    own = how == "sessions of their own"
    tasks = SessionTasks() if own else SessionTasks(capability=None)
    async with (
        backend("http", tasks, sessions=Sessions.OWN if own else Sessions.AUTO) as spec,
        scene(tmp_path, spec) as node,
        client(node.url, Era.MODERN) as mcp,
    ):
        assert TASKS_EXTENSION not in mcp.server_info.capabilities["extensions"]
        with pytest.raises(RpcError, match="only be called as a task") as caught:
            await call(mcp, "must")
        assert caught.value.code == -32601
        assert (await call(mcp, "may", DECLARED, {}))["content"][0]["text"] == "may at once at here"


async def test_a_task_is_lost_with_the_session_that_made_it(tmp_path: Path) -> None:
    first, second = SessionTasks("first"), SessionTasks("second")
    apps = [tasks.server().streamable_http_app(host="127.0.0.1") for tasks in (first, second)]
    front = Front(apps[0], refuse_modern=400)
    async with (
        apps[0].router.lifespan_context(apps[0]),
        apps[1].router.lifespan_context(apps[1]),
        serving(front) as base,
        scene(tmp_path, ServerSpec("jobs", HttpTarget(f"{base}/mcp"), ServerScope.SERVICE)) as node,
        client(node.url, Era.MODERN) as mcp,
    ):
        task_id = (await call(mcp, "must"))["taskId"]
        front.app = apps[1]
        lost = await refusal(mcp, "tasks/get", task_id)
        assert (lost.code, lost.message) == (-32602, "no such task at second")
        assert node.is_up("jobs")
