"""Programs of others, on both sides of a node: server-everything behind it, Inspector's CLI in front.

The servers are the same program over stdio and over HTTP, legacy only; Inspector asks in each way that it has. The one
rule: expectations come from the server asked directly, not from memory of what it offers.
"""

import asyncio
import signal
import subprocess
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from agent.client.connect import open_client
from agent.client.protocol import Request
from agent.model import HttpTarget
from agent.tasks.ids import TAKES_TASKS
from tests.conformance.node_tools import HERE, NodeTools
from tests.conformance.runs import running_node
from tests.e2e.by_hand import legacy_tools
from tests.e2e.processes import NodeProcess, environment_of
from tests.e2e.running import MANAGEMENT_TOOLS, RunningNode
from tests.integration.servers.raw_session import raw_session
from tests.ports import free_port
from tests.waiting import all_of, eventually

# The first test waits for the installation, should it be the first of all that needs one.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ERAS = ("legacy", "auto", "modern")
KINDS = ("pipe", "web")
INSPECTOR_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Hall:
    """One node with server-everything behind it twice: `pipe` over stdio, `web` over HTTP."""

    node: RunningNode
    direct_url: str
    home: Path


@pytest.fixture(scope="module")
def hall(tools: NodeTools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hall]:
    """Bound to no event loop, so that every test may use it."""
    folder = tmp_path_factory.mktemp("programs")
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        try:
            yield runner.run(stack.enter_async_context(started(tools, folder)))
        finally:
            runner.run(stack.aclose())


def everything_over_http(tools: NodeTools, port: int, folder: Path) -> NodeProcess:
    """The server in a process of its own."""
    node, *arguments = tools.command("everything", "streamableHttp")
    with (folder / "everything.log").open("wb") as log:
        return NodeProcess(
            subprocess.Popen(
                [node, "--require", str(HERE / "loopback.cjs"), *arguments],
                env=environment_of({"PORT": str(port)}),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        )


@asynccontextmanager
async def started(tools: NodeTools, folder: Path) -> AsyncGenerator[Hall, None]:
    """Both servers and the node; they end with the block."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/mcp"
    node, *arguments = tools.command("everything", "stdio")
    servers = {
        # The scope makes its names as short as those of the other.
        "pipe": {"command": node, "args": arguments, "mesh": {"scope": "service"}},
        "web": {"url": url},
    }
    process = everything_over_http(tools, port, folder)
    try:

        async def serves() -> bool:
            return bool(await legacy_tools(url))

        await eventually(serves)
        mesh: dict[str, Any] = {"MESH_DISCOVERY": "embedded", "MESH_EMBEDDED_PORT": str(free_port())}
        async with running_node("hall", folder, servers, mesh) as hall_node:

            async def offers() -> bool:
                return await hall_node.offers("pipe__echo", "web__echo")

            await eventually(offers)
            yield Hall(hall_node, url, folder)
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()


async def inspect(tools: NodeTools, hall: Hall, era: str, method: str, *options: str) -> dict[str, Any]:
    """One call of Inspector's CLI: the result as it prints it."""
    call = ("--transport", "http", "--protocol-era", era, "--format", "json", "--quiet", "--method", method, *options)
    process = await asyncio.create_subprocess_exec(
        *tools.command("inspector", "--cli", hall.node.url, *call),
        cwd=hall.home,
        env=environment_of({"HOME": str(hall.home)}),  # It keeps files of its own there.
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(INSPECTOR_TIMEOUT_S):
            out, err = await process.communicate()
    except TimeoutError:
        with suppress(ProcessLookupError):  # It has ended at the last moment.
            process.kill()
        await process.wait()
        raise
    assert process.returncode == 0, (err.decode(), out.decode())
    printed = orjson.loads(out)
    result: dict[str, Any] = printed.get("result", printed)
    return result


@pytest.mark.parametrize("era", ERAS)
async def test_inspector_sees_every_tool_of_both_servers_as_they_define_it(
    tools: NodeTools, hall: Hall, era: str
) -> None:
    # One child for all declares nothing; a session in which lists are read declares what a client can.
    as_tasks = {"elicitation": {"create": {}}, "sampling": {"createMessage": {}}}
    every_feature = {
        "sampling": {},
        "elicitation": {"form": {}, "url": {}},
        "roots": {},
        "tasks": {"requests": as_tasks},
    }
    declared = {"pipe": {}, "web": every_feature}
    direct = {
        kind: {tool["name"]: tool for tool in await legacy_tools(hall.direct_url, features)}
        for kind, features in declared.items()
    }
    shown = {tool["name"]: tool for tool in (await inspect(tools, hall, era, "tools/list"))["tools"]}
    assert shown.keys() - MANAGEMENT_TOOLS == {f"{kind}__{name}" for kind in KINDS for name in direct[kind]}
    for kind in KINDS:
        for name, definition in direct[kind].items():
            for key in ("title", "description", "inputSchema", "outputSchema", "annotations"):
                assert shown[f"{kind}__{name}"].get(key) == definition.get(key), (kind, name, key)


@pytest.mark.parametrize(("era", "kind"), [("legacy", "pipe"), ("legacy", "web"), ("auto", "web"), ("modern", "pipe")])
async def test_inspector_calls_tools_gets_prompts_and_reads_resources(
    tools: NodeTools, hall: Hall, era: str, kind: str
) -> None:
    uri = f"demo://{kind}/resource/dynamic/text/7"
    echoed, prompt, read = await all_of(
        inspect(tools, hall, era, method, *options)
        for method, options in {
            "tools/call": ("--tool-name", f"{kind}__echo", "--tool-arg", "message=through the mesh"),
            "prompts/get": ("--prompt-name", f"{kind}__args-prompt", "--prompt-args", "city=Taipei"),
            "resources/read": ("--uri", uri),
        }.items()
    )
    assert echoed["content"] == [{"type": "text", "text": "Echo: through the mesh"}]
    assert "Taipei" in prompt["messages"][0]["content"]["text"]
    assert read["contents"][0]["uri"] == uri
    assert "7" in read["contents"][0]["text"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("era", ["auto", "legacy"])
async def test_a_client_hears_the_progress_of_a_long_operation(hall: Hall, era: str, kind: str) -> None:
    heard: list[tuple[float, float | None]] = []

    async def on_progress(progress: float, total: float | None, _: str | None) -> None:
        heard.append((progress, total))

    async with hall.node.client(era) as client:
        arguments = {"duration": 0.3, "steps": 3}
        name = f"{kind}__trigger-long-running-operation"
        result = await client.call_tool(name, arguments, progress_handler=on_progress)
    assert "completed" in result.content[0].text
    assert heard == [(1.0, 3.0), (2.0, 3.0), (3.0, 3.0)]


@pytest.mark.parametrize("era", ["auto", "legacy"])
async def test_a_server_that_asks_while_a_call_runs_asks_the_client_that_called(hall: Hall, era: str) -> None:
    async def on_form(_message: str, _type: Any, _params: Any, _context: Any) -> Any:
        return {"name": "Ada Lovelace"}

    async def on_sampling(_messages: Any, params: Any, _context: Any) -> str:
        return f"as {params.system_prompt} says"

    options: dict[str, Any] = {
        "elicitation_handler": on_form,
        "sampling_handler": on_sampling,
        "roots": ["file:///home/ada"],
    }
    async with hall.node.client(era, **options) as client:
        formed = await client.call_tool("web__trigger-elicitation-request", {})
        assert "Ada Lovelace" in formed.content[1].text
        sampled = await client.call_tool("web__trigger-sampling-request", {"prompt": "Hello", "maxTokens": 20})
        assert "as You are a helpful test server. says" in sampled.content[0].text
        rooted = await client.call_tool("web__get-roots-list", {})
        assert "file:///home/ada" in rooted.content[0].text


async def as_a_task_of_2026(hall: Hall, call: dict[str, Any]) -> None:
    async with open_client(HttpTarget(hall.node.url)) as mcp:
        made = await mcp.request(Request.within("tools/call", {**call, "_meta": TAKES_TASKS}, timeout_s=10))
        assert (made["resultType"], made["status"]) == ("task", "working")
        asked = {"taskId": made["taskId"], "_meta": TAKES_TASKS}

        async def ended() -> Any:
            task = await mcp.request(Request.within("tasks/get", asked, timeout_s=10))
            return task if task["status"] == "completed" else None

        task = await eventually(ended)
        assert "# Research Report: tasks" in task["result"]["content"][0]["text"]


async def as_a_task_of_a_session(hall: Hall, call: dict[str, Any]) -> None:
    async with raw_session(hall.node.url, "2025-11-25") as session:
        before = (await session.request("tools/call", {**call, "task": {}}))["result"]["task"]
        assert before["status"] == "working"
        report = (await session.request("tasks/result", {"taskId": before["taskId"]}))["result"]
        assert "# Research Report: tasks" in report["content"][0]["text"]
        assert report["_meta"]["io.modelcontextprotocol/related-task"] == {"taskId": before["taskId"]}
        now = (await session.request("tasks/get", {"taskId": before["taskId"]}))["result"]
        assert now["status"] == "completed"


async def test_a_tool_that_has_to_be_a_task_is_one_for_clients_of_both_eras(hall: Hall) -> None:
    calls = [{"name": f"{kind}__simulate-research-query", "arguments": {"topic": "tasks"}} for kind in KINDS]
    # All at once: each takes the server four seconds.
    async with asyncio.timeout(60):
        await all_of(seen(hall, call) for seen in (as_a_task_of_2026, as_a_task_of_a_session) for call in calls)
