"""A server of scope `fleet` on several nodes is one set of tools: over one hop, over two, and behind a gateway."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastmcp import FastMCP
from mcp_types import ToolAnnotations

from agent.cli.parser import main
from agent.client.protocol import McpClient, Request
from agent.errors import RpcError
from agent.model import Era, HttpTarget, Json, ServerScope, ServerSpec
from tests.integration.servers.clock_server import ask, listed, text_of
from tests.integration.servers.nodes import RunningNode, catalog, client, instance, running_node, served

eras = pytest.mark.parametrize("era", list(Era))
NODES = ("n0", "n1", "n2")
TOOLS = ("broken", "clean", "mixed", "slow", "usage")
READ_ONLY = ToolAnnotations(read_only_hint=True)


class Disk:
    """A server of one node, and what it was asked for. `hold`: whether `slow` waits for `let_go`."""

    def __init__(self, name: str) -> None:
        self.calls: list[str] = []
        self.cancelled = asyncio.Event()
        self.asked = asyncio.Event()
        self.server: FastMCP = FastMCP("disk", instructions="Watch it.")
        self._add_tools(name)

    def _add_tools(self, name: str) -> None:
        @self.server.tool(annotations=READ_ONLY)
        def usage(path: str) -> dict[str, Any]:
            """How full a disk is."""
            self.calls.append(path)
            return {"free": 1 if path == "/same" else name}

        @self.server.tool(annotations=READ_ONLY)
        def broken() -> str:
            if name == "n1":
                raise RuntimeError("disk full")
            return "fine"

        @self.server.tool(annotations=READ_ONLY)
        async def slow() -> str:
            self.asked.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
            return "never"

        @self.server.tool(annotations=READ_ONLY, description="Another release." if name == "n1" else "The release.")
        def mixed() -> str:
            return name

        @self.server.tool
        def clean(node: str) -> str:
            self.calls.append(node)
            return f"cleaned {node} on {name}"

        @self.server.resource("disk://table")
        def table() -> str:
            return f"table of {name}"


@asynccontextmanager
async def fleet(folder: Path, names: tuple[str, ...] = NODES) -> AsyncIterator[tuple[list[RunningNode], list[Disk]]]:
    """Nodes with one such server each."""
    async with AsyncExitStack() as stack:
        disks = [Disk(name) for name in names]
        nodes = []
        for number, (name, disk) in enumerate(zip(names, disks, strict=True)):
            url = await stack.enter_async_context(served(disk.server))
            spec = ServerSpec("disk", HttpTarget(url), ServerScope.FLEET)
            nodes.append(await stack.enter_async_context(running_node(name, folder / str(number), servers=[spec])))
            await nodes[-1].connected("disk")
        yield nodes, disks


@asynccontextmanager
async def front_before(folder: Path, *nodes: RunningNode, **more: Any) -> AsyncIterator[RunningNode]:
    """A node that is linked to all of them."""
    async with running_node("front", folder / "front", **more) as front:
        front.mesh.take_catalog(catalog(*map(instance, nodes)))
        await front.when(lambda: len(members(front)) == len(nodes))
        yield front


def members(node: RunningNode) -> list[str]:
    route = node.mesh.routes.tools.get("disk__usage")
    return [] if route is None or route.fleet is None else list(route.fleet.members)


async def call(mcp: McpClient, name: str, /, **arguments: Any) -> Json:
    return await ask(mcp, "tools/call", name=name, arguments=arguments)


async def test_a_fleet_is_called_through_one_node_and_through_two(tmp_path: Path) -> None:
    async with fleet(tmp_path) as (nodes, disks), front_before(tmp_path, *nodes, search_mode=False) as front:
        nodes[0].mesh.take_catalog(catalog(*map(instance, nodes[1:])))
        await nodes[0].when(lambda: len(members(nodes[0])) == len(nodes))
        for entry in (front, nodes[0]):  # The first has none of the servers, the second one of them.
            for era in Era:
                async with client(entry.url, era) as mcp:
                    await _one_node_answers_as_itself(mcp, disks)
                    await _several_nodes_are_one_result(mcp)
                    await _another_definition_is_a_finding_and_not_called(entry, mcp)
                    await _what_writes_runs_on_one_node(mcp)
        async with client(f"{front.url}?tools=search", Era.MODERN) as mcp:
            inner = await call(mcp, "call_tool", name="disk__usage", arguments={"node": "all", "path": "/same"})
            assert len(inner["structuredContent"]["results"]) == 3
        async with client(f"{front.url}?servers=disk", Era.MODERN) as mcp:
            assert await listed(mcp) == [f"disk__{name}" for name in TOOLS]
            assert len((await call(mcp, "disk__usage", node="all", path="/"))["structuredContent"]["results"]) == 3
        async with client(f"{front.url}?servers=n1__disk", Era.MODERN) as mcp:
            assert await listed(mcp) == [f"n1__disk__{name}" for name in TOOLS]
            assert (await call(mcp, "n1__disk__usage", path="/"))["structuredContent"] == {"free": "n1"}
        async with client(f"{front.base}/mcp/s/n1__disk", Era.MODERN) as mcp:
            assert (await call(mcp, "usage", path="/"))["structuredContent"] == {"free": "n1"}
            assert await listed(mcp) == list(TOOLS)
            assert await text_of(mcp, "mixed") == "n1", "by itself it has its own definition"


async def _one_node_answers_as_itself(mcp: McpClient, disks: list[Disk]) -> None:
    assert [name for name in await listed(mcp) if name.endswith("__usage")] == ["disk__usage"]
    one = await call(mcp, "disk__usage", node="n1", path="/")
    assert one["structuredContent"] == {"free": "n1"}
    assert one["content"][0]["text"] == '{"free":"n1"}'
    before = [len(disk.calls) for disk in disks]
    anywhere = await call(mcp, "disk__usage", node="any", path="/")
    assert anywhere["structuredContent"]["free"] in NODES
    assert sum(len(disk.calls) for disk in disks) == sum(before) + 1
    uris = [entry["uri"] for entry in (await ask(mcp, "resources/list"))["resources"]]
    assert {f"disk://{name}__disk/table" for name in NODES} <= set(uris), "resources stay per node"
    (nodes,) = (await ask(mcp, "resources/read", uri="mesh-fleet://disk/nodes"))["contents"]
    assert json.loads(nodes["text"])["nodes"] == list(NODES)
    ref = {"type": "ref/resource", "uri": "mesh-fleet://disk/nodes/{node}"}
    found = await ask(mcp, "completion/complete", ref=ref, argument={"name": "node", "value": "n1"})
    assert found["completion"]["values"] == ["n1"]
    (node,) = (await ask(mcp, "resources/read", uri="mesh-fleet://disk/nodes/n1"))["contents"]
    assert json.loads(node["text"]) == {"server": "disk", "node": "n1"}


async def _several_nodes_are_one_result(mcp: McpClient) -> None:
    same = await call(mcp, "disk__usage", node="all", path="/same")
    assert [block["text"] for block in same["content"]] == ["## n0, n1, n2", '{"free":1}']
    two = await call(mcp, "disk__usage", node=["n2", "n0"], path="/")
    rows = two["structuredContent"]["results"]
    assert [(row["node"], row["outcome"], row["structuredContent"]) for row in rows] == [
        ("n0", "ok", {"free": "n0"}),
        ("n2", "ok", {"free": "n2"}),
    ]
    part = await call(mcp, "disk__broken", node="all")
    outcomes = {row["node"]: row["outcome"] for row in part["structuredContent"]["results"]}
    assert outcomes == {"n0": "ok", "n1": "tool_error", "n2": "ok"}
    assert part.get("isError") is not True
    assert (await call(mcp, "disk__broken", node=["n1"]))["isError"] is True


async def _another_definition_is_a_finding_and_not_called(node: RunningNode, mcp: McpClient) -> None:
    (shown,) = [tool for tool in (await ask(mcp, "tools/list"))["tools"] if tool["name"] == "disk__mixed"]
    assert shown["description"] == "The release."
    rows = (await call(mcp, "disk__mixed", node="all"))["structuredContent"]["results"]
    assert [(row["node"], row["outcome"]) for row in rows] == [("n0", "ok"), ("n1", "not_executed"), ("n2", "ok")]
    with pytest.raises(RpcError, match="another definition"):
        await call(mcp, "disk__mixed", node="n1")
    status = (await node.rest("GET", "/status"))[1]["data"]
    assert [one["reason"] for one in status["conflicts"] if one["name"] == "disk__mixed"] == ["definition"]


async def _what_writes_runs_on_one_node(mcp: McpClient) -> None:
    assert await text_of(mcp, "disk__clean", mesh_node="n2", node="x") == "cleaned x on n2"
    with pytest.raises(RpcError, match="not read-only"):
        await call(mcp, "disk__clean", mesh_node="all", node="x")


async def test_a_fleet_behind_a_gateway_is_called_by_its_nodes(tmp_path: Path) -> None:
    async with (
        fleet(tmp_path, NODES[:2]) as (nodes, _disks),
        front_before(tmp_path, *nodes) as gateway,
        running_node("far", tmp_path / "far", fleet_writes=("disk__clean",)) as far,
    ):
        await far.add_peer("gate", gateway.url, scope="mesh")
        await far.when(lambda: len(members(far)) == 2)
        for era in Era:
            async with client(far.url, era) as mcp:
                assert [name for name in await listed(mcp) if "usage" in name] == ["disk__usage"]
                assert (await call(mcp, "disk__usage", node="n1", path="/"))["structuredContent"] == {"free": "n1"}
                every = await call(mcp, "disk__usage", node="all", path="/")
                assert [row["structuredContent"]["free"] for row in every["structuredContent"]["results"]] == [
                    "n0",
                    "n1",
                ]
                written = await call(mcp, "disk__clean", mesh_node="all", node="x")
                assert [row["outcome"] for row in written["structuredContent"]["results"]] == ["ok", "ok"]
            assert "## Server n1__disk\nWatch it." in str(mcp.server_info.instructions)
        servers = (await far.rest("GET", "/servers"))[1]["data"]["servers"]
        (gate,) = [row["servers"] for row in servers if row["name"] == "gate"]
        assert [(one["name"], one["about"]["instructions"]) for one in gate] == [
            ("n0__disk", "Watch it."),
            ("n1__disk", "Watch it."),
        ]


@eras
async def test_progress_counts_nodes_and_a_cancelled_call_ends_on_all(era: Era, tmp_path: Path) -> None:
    async with (
        fleet(tmp_path, NODES[:2]) as (nodes, disks),
        front_before(tmp_path, *nodes) as front,
        client(front.url, era) as mcp,
    ):
        notes: list[Json] = []

        async def hear(method: str, note: Json) -> None:
            if method == "notifications/progress":
                notes.append(note)

        params = {"name": "disk__usage", "arguments": {"node": "all", "path": "/"}, "_meta": {"progressToken": "p"}}
        await mcp.request(Request.within("tools/call", params, timeout_s=10, on_notification=hear))
        assert [(note["progressToken"], note["progress"], note["total"]) for note in notes] == [
            ("p", 1, 2),
            ("p", 2, 2),
        ]
        assert notes[-1]["message"] == "2 of 2 nodes"
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(call(mcp, "disk__slow", node="all"), name="slow")
            for disk in disks:
                await disk.asked.wait()
            waiting.cancel()
        for disk in disks:
            async with asyncio.timeout(10):
                await disk.cancelled.wait()


async def test_a_node_that_is_slow_or_away_is_a_row(tmp_path: Path) -> None:
    async with (
        fleet(tmp_path, NODES[:2]) as (nodes, _disks),
        front_before(tmp_path, *nodes, call_timeout_s=1.0) as front,
        client(front.url, Era.MODERN) as mcp,
    ):
        slow = await call(mcp, "disk__slow", node="all")
        assert slow["isError"] is True
        assert {row["outcome"] for row in slow["structuredContent"]["results"]} == {"unknown"}
        front.mesh.take_catalog(catalog(instance(nodes[0])))
        await front.when(lambda: members(front) == ["n0"])
        rows = (await call(mcp, "disk__usage", node="all", path="/"))["structuredContent"]["results"]
        assert [(row["node"], row["outcome"]) for row in rows] == [("n0", "ok"), ("n1", "away")]
        named = (await call(mcp, "disk__usage", node=["n1"], path="/"))["structuredContent"]["results"]
        assert named[0]["content"][0]["text"] == "node n1 is away"


async def test_nodes_of_one_name_are_all_called(tmp_path: Path) -> None:
    async with (
        fleet(tmp_path, ("any", "twin", "twin")) as (nodes, disks),
        front_before(tmp_path, *nodes) as front,
        client(front.url, Era.MODERN) as mcp,
    ):
        every = await call(mcp, "disk__usage", node="all", path="/")
        rows = every["structuredContent"]["results"]
        assert [row["outcome"] for row in rows] == ["ok"] * 3
        assert [disk.calls for disk in disks] == [["/"]] * 3
        async with client(f"{front.url}?servers=disk", Era.MODERN) as view:
            every = await call(view, "disk__usage", node="all", path="/")
            assert len(every["structuredContent"]["results"]) == 3
        for name in members(front):
            assert await text_of(mcp, "disk__clean", mesh_node=name, node="x") == f"cleaned x on {name.split('-')[0]}"


async def test_the_command_line_names_nodes_and_shows_what_servers_say_of_themselves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with fleet(tmp_path, NODES[:2]) as (nodes, _disks), front_before(tmp_path, *nodes) as front:

        async def run(*argv: str) -> str:
            code = await asyncio.to_thread(main, [*argv, "--url", front.base])
            said = capsys.readouterr()
            return f"{code} {said.out}{said.err}"

        every = await run("tools", "call", "disk__usage", "--node", "all", "path=/same")
        assert every == '0 ## n0, n1\n{"free":1}\n'
        assert await run("tools", "call", "disk__clean", "--node", "n1", "node=x") == "0 cleaned x on n1\n"
        some = await run("tools", "call", "disk__usage", "--node", "n1,n0", "path=/")
        assert some == '0 ## n0\n{"free":"n0"}\n## n1\n{"free":"n1"}\n'
        assert "--node is for tools of a fleet" in await run("tools", "call", "list_mcp_servers", "--node", "n1")
        wide = (await run("servers", "ls", "-o", "wide")).splitlines()
        assert [line.split()[0] for line in wide[1:]] == ["n0__disk", "n1__disk"]
        assert "Watch it." in wide[1]
