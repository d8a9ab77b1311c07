"""The servers of a node's own file: children and URLs, scopes, a file that changes, a file that is wrong, reloads."""

import contextlib
import os
import shutil
import signal
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from fastmcp.exceptions import ToolError

from tests.e2e.by_hand import modern_request
from tests.e2e.meshes import RunningKit
from tests.e2e.processes import has_ended
from tests.e2e.running import MANAGEMENT_TOOLS, RunningNode, StartNode
from tests.e2e.servers_files import example, replace_file, write_servers
from tests.e2e.steady_calls import steady_calls
from tests.ports import free_port
from tests.waiting import all_of, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


def embedded() -> dict[str, str]:
    return {"MESH_DISCOVERY": "embedded", "MESH_EMBEDDED_PORT": str(free_port())}


def child_of(node: RunningNode, module: str) -> int:
    """The process ID of the node's child that runs a module."""
    children = Path(f"/proc/{node.process.pid}/task/{node.process.pid}/children").read_text().split()
    found = []
    for pid in children:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # It ends just now.
            found += [int(pid)] if module in Path(f"/proc/{pid}/cmdline").read_text() else []
    assert len(found) == 1, (module, children)
    return found[0]


async def changed_child(node: RunningNode, module: str, before: int) -> bool:
    return child_of(node, module) != before


async def test_scope_decides_what_a_servers_tools_are_called_and_which_clients_see_them(
    kit: RunningKit, start: StartNode, tmp_path: Path
) -> None:
    settings = {**embedded(), "MESH_INSTRUCTIONS": "names", "MESH_FLEET_WRITES": "disk__*"}
    servers = {
        "dice": example("dice", "service"),
        "disk": example("dice", "fleet"),
        "notes": example("notes"),
        "clock": example("clock", "private"),
        "kit": {"url": kit.url, "mesh": {"scope": "node"}},
        "off": example("clock") | {"disabled": True},
    }
    owner, other = await all_of(
        start(name, tmp_path / name, servers=own, **settings) for name, own in (("owner", servers), ("other", {}))
    )
    shown = {"dice__roll", "disk__roll", "owner__notes__add", "owner__kit__add"}
    await eventually(partial(owner.offers, *shown, "owner__clock__now"))
    await eventually(partial(other.offers, *shown))
    assert not any("clock" in name for name in await other.tool_names())
    listed = await owner.servers()
    assert {name: (listed[name]["status"], listed[name]["transport"]) for name in servers} == {
        "dice": ("connected", "stdio"),
        "disk": ("connected", "stdio"),
        "notes": ("connected", "stdio"),
        "clock": ("connected", "stdio"),
        "kit": ("connected", "http"),
        "off": ("disabled", "stdio"),
    }
    async with other.client() as client:
        with pytest.raises(Exception, match="Unknown tool"):
            await client.call_tool("owner__clock__now", {})
        # The long name always resolves, listed or not.
        rolled = await client.call_tool("owner__dice__roll", {"seed": 1})
        assert rolled.structured_content == (await client.call_tool("dice__roll", {"seed": 1})).structured_content
        fleet = await client.call_tool("disk__roll", {"node": "all", "seed": 1})
        (row,) = fleet.structured_content["results"]
        assert (row["node"], row["structuredContent"]) == ("owner", rolled.structured_content)
    await names_and_settings_count(owner, other)


async def names_and_settings_count(owner: RunningNode, other: RunningNode) -> None:
    """What the app makes of its settings for clients: instructions by name, servers as themselves, their own names."""

    async def names_all() -> bool:
        # What servers say of themselves comes as resources do, whose list may be older than that of the tools.
        said = (await modern_request(other.url, "server/discover"))["instructions"]
        assert "Servers: dice, owner__disk, owner__kit, owner__notes." in said
        assert "## Server" not in said
        return True

    await eventually(names_all)
    alone = await modern_request(f"{other.base}/mcp/s/dice", "tools/list")
    assert [tool["name"] for tool in alone["tools"]] == ["roll"]
    told = await modern_request(owner.url, "tools/call", {"name": "now", "arguments": {}})
    assert told["structuredContent"]["zone"] == "UTC"
    assert await owner.metric("mesh_own_name_requests_total", method="tools/call") == 1.0


async def test_changed_file_is_taken_up_and_a_bad_entry_or_file_ends_nothing_and_is_reported_with_its_line(
    start: StartNode, tmp_path: Path
) -> None:
    settings = {**embedded(), "MESH_VIEWS_FILE": str(write_view(tmp_path, "owner__clock__now"))}
    folder = tmp_path / "owner"
    owner, other = await all_of(
        start(name, tmp_path / name, servers={"clock": example("clock")} if name == "owner" else None, **settings)
        for name in ("owner", "other")
    )
    await eventually(partial(other.offers, "owner__clock__now"))
    await views_are_read_again(other, Path(settings["MESH_VIEWS_FILE"]))
    clock = child_of(owner, "clock")
    write_servers(folder, {"clock": example("clock"), "dice": example("dice", "service")})
    for node in (owner, other):
        await eventually(partial(node.offers, "owner__clock__now", "dice__roll"))
    assert child_of(owner, "clock") == clock

    bad = '{"mcpServers": {\n  "clock": {\n    "command": "true",\n    "args": "not an array"\n  }\n}}'
    replace_file(folder / "servers.json", bad.encode())
    await eventually(partial(left_out_with, owner, "servers.json:4: mcpServers.clock.args: must be an array"))
    await eventually(partial(lists_exactly, other, {"owner__clock__now", "owner__clock__convert"}))
    replace_file(folder / "servers.json", b'{"mcpServers": {')
    await eventually(partial(logged_reason, owner, "servers.json:1: is not JSON"))
    assert child_of(owner, "clock") == clock
    async with other.client() as client:
        assert (await client.call_tool("owner__clock__now", {})).structured_content["zone"] == "UTC"

    entries = {"clock": {"args": "no"}, "My Dice": example("dice"), "input": {"command": "x", "args": ["${input:k}"]}}
    write_servers(folder, entries)
    await eventually(
        partial(lists_exactly, owner, {"owner__clock__now", "owner__clock__convert", "owner__My-Dice__roll"})
    )
    status = (await owner.status())["self"]
    assert [(entry["name"], entry["keeps_running"]) for entry in status["servers_left_out"]] == [
        ("clock", True),
        ("input", False),
    ]
    assert [server["configured_name"] for server in status["servers"] if "configured_name" in server] == ["My Dice"]
    assert (await owner.servers())["input"]["status"] == "left_out"
    assert child_of(owner, "clock") == clock

    write_servers(folder, {"dice": example("dice", "service")})
    for node in (owner, other):
        await eventually(partial(lists_exactly, node, {"dice__roll"}))


def write_view(folder: Path, *tools: str) -> Path:
    """Write a views file with one view of these tools, in place of the one that is there."""
    view = {"tools": list(tools), "aliases": {"owner__clock__now": "time"}}
    return replace_file(folder / "views.json", orjson.dumps({"views": {"team": view}}))


async def views_are_read_again(node: RunningNode, file: Path) -> None:
    """What a view of the file shows is what the file says now."""

    async def shows(*names: str) -> bool:
        listed = (await modern_request(f"{node.base}/mcp/v/team", "tools/list"))["tools"]
        assert sorted(tool["name"] for tool in listed) == sorted(names)
        return True

    await eventually(partial(shows, "time"))
    write_view(file.parent, "owner__clock__*")
    await eventually(partial(shows, "owner__clock__convert", "time"))


async def logged_reason(node: RunningNode, reason: str) -> bool:
    refusals = node.events("servers file refused, the running configuration stays")
    return any(reason in record["reason"] for record in refusals)


async def left_out_with(node: RunningNode, reason: str) -> bool:
    return any(reason in record["reason"] for record in node.events("servers file: an entry is left out"))


async def lists_exactly(node: RunningNode, names: set[str]) -> bool:
    return await node.tool_names() == names


async def test_reload_starts_a_server_anew_and_tells_how_it_went(start: StartNode, tmp_path: Path) -> None:
    settings = embedded()
    servers = {"clock": example("clock"), "dice": example("dice")}
    owner, other = await all_of(
        start(name, tmp_path / name, servers=own, **settings) for name, own in (("owner", servers), ("other", None))
    )
    await eventually(partial(owner.offers, "owner__clock__now", "owner__dice__roll"))
    await eventually(partial(owner.sees, "other"))
    clock, dice = child_of(owner, "clock"), child_of(owner, "dice")
    async with owner.client() as client:

        async def call(tool: str, **arguments: Any) -> Any:
            return (await client.call_tool(tool, arguments)).structured_content

        told = await call("reload_mcp_server", server_name="clock")
        assert told == {
            "server_name": "clock",
            "success": True,
            "status": "connected",
            "function_count": 2,
            "message": "Server 'clock' reloaded",
        }
        assert child_of(owner, "clock") != clock
        assert child_of(owner, "dice") == dice
        assert (await call("reload_mcp_server", server_name="other"))["function_count"] == len(MANAGEMENT_TOOLS)
        with pytest.raises(ToolError, match="no MCP server or peer named 'nobody'"):
            await call("reload_mcp_server", server_name="nobody")
        everything = await call("reload_all_mcp_servers")
        assert [(server["server_name"], server["success"]) for server in everything["servers"]] == [
            ("clock", True),
            ("dice", True),
        ]
        assert child_of(owner, "dice") != dice
        # A server that cannot be started is reported as such, and its neighbours stay.
        write_servers(tmp_path / "owner", {**servers, "broken": {"command": "/nonexistent/server"}})
        told = await call("reload_all_mcp_servers")
        outcome = {server["server_name"]: server["success"] for server in told["servers"]}
        assert outcome == {"clock": True, "dice": True, "broken": False}
        assert "was not found" in next(s["message"] for s in told["servers"] if s["server_name"] == "broken")
    assert await other.sees("owner")


async def test_killed_child_is_started_again_and_counted_while_others_answer(start: StartNode, tmp_path: Path) -> None:
    servers = {"clock": example("clock"), "notes": example("notes")}
    node = await start("node", tmp_path, servers=servers, MESH_DISCOVERY="off")
    await eventually(partial(node.offers, "node__clock__now", "node__notes__list"))
    before = child_of(node, "clock")
    async with steady_calls(node, "node__notes__list") as tally:
        os.kill(before, signal.SIGKILL)
        await eventually(partial(changed_child, node, "clock", before))
        await eventually(partial(node.offers, "node__clock__now"))
        await tally.grows()
    assert tally.failures == []
    assert await node.metric("mesh_stdio_restarts_total", server="clock") == 1
    async with node.client() as client:
        assert (await client.call_tool("node__clock__now", {})).structured_content["zone"] == "UTC"


# The clock, and then it stays, whatever happens to its stdin.
STUBBORN = """
import runpy, threading
try:
    runpy.run_module("agent.examples.clock", run_name="__main__")
finally:
    threading.Event().wait()
"""


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="NO setpriv ON THIS MACHINE: children may outlive a kill")
async def test_child_that_ignores_the_end_of_its_stdin_does_not_outlive_a_node_that_is_killed(
    start: StartNode, tmp_path: Path
) -> None:
    servers = {"stubborn": example("clock") | {"args": ["-c", STUBBORN]}}
    node = await start("node", tmp_path, servers=servers, MESH_DISCOVERY="off")
    await eventually(partial(node.offers, "node__stubborn__now"))
    child = child_of(node, "agent.examples.clock")
    assert not has_ended(child)
    node.kill()

    async def child_has_ended() -> bool:
        return has_ended(child)

    try:
        await eventually(child_has_ended)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
