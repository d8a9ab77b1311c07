"""The command line as its users start it: processes, signals and exit codes, against real nodes."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.processes import INHERITED, ROOT
from tests.e2e.running import RunningNode, running_nodes
from tests.e2e.servers_files import example
from tests.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(150)]

TOKEN = "token-0123456789-abcdef"
CLOCK = {"clock": {"command": sys.executable, "args": ["-m", "agent.examples.clock"], "cwd": str(ROOT)}}
DEAF = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
CLOSED_TERMINAL = pytest.param(signal.SIGHUP, marks=pytest.mark.skipif(DEAF, reason="under nohup it is not heard"))
# From the command to three nodes that see each other, without the packages.
LIVING_WITHIN_S = 60.0


@asynccontextmanager
async def started(
    *argv: str, stdin: int = asyncio.subprocess.DEVNULL, **environ: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A command of ours as a process; ended when the test leaves it."""
    kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-u", "-m", "agent", *argv),
        env={**kept, **environ},
        cwd=ROOT,
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def run(*argv: str, **environ: str) -> tuple[int, str]:
    """Run a command to its end; returns exit code and output."""
    async with started(*argv, **environ) as process:
        out, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode()


async def output_until(process: asyncio.subprocess.Process, words: str) -> str:
    """Read output up to the line with `words`."""
    assert process.stdout is not None
    lines = []
    async with asyncio.timeout(60):
        while line := (await process.stdout.readline()).decode():
            lines.append(line)
            if words in line:
                return "".join(lines)
    raise AssertionError("".join(lines))


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def none_listens(output: str) -> bool:
    ports = {int(port) for port in re.findall(r"http://127\.0\.0\.1:(\d+)/mcp", output)}
    assert len(ports) == 3, output
    for port in ports:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            continue
        writer.close()
        return False
    return True


async def test_demo_once_shows_three_nodes_and_a_call_between_them_and_leaves_nothing() -> None:
    code, output = await run("demo", "--once")
    assert code == 0, output
    living = re.search(r"([\d.]+) s +all three see each other and each other's tools", output)
    assert living is not None, output
    assert float(living[1]) <= LIVING_WITHIN_S
    assert re.search(r'had a peer roll them, in \d+ ms:\n +\{"rolls": \[\d+, \d+, \d+\], "total": \d+\}', output), (
        output
    )
    assert await none_listens(output)


@pytest.mark.skipif(sys.platform != "linux", reason="finds the nodes through /proc")
async def test_demo_tells_of_a_node_that_dies_goes_on_and_stops_at_an_interrupt() -> None:
    async with started("demo", stdin=asyncio.subprocess.PIPE) as process:
        output = await output_until(process, "Ctrl-C stops all three")
        nodes = children_of(process.pid)
        assert len(nodes) == 3
        assert f"kill -9 {nodes[1]} " in output
        os.kill(nodes[1], signal.SIGKILL)
        assert "has ended with exit code -9" in await output_until(process, "the end of node-")
        await output_until(process, "Enter starts it again")
        assert process.stdin is not None
        process.stdin.write(b"\n")
        again = re.search(r"node-b is started again, as process (\d+)", await output_until(process, "started again"))
        assert again is not None
        assert children_of(process.pid) == [nodes[0], nodes[2], int(again[1])]
        code, listed = await run(
            "tools", "call", "node-c__notes__list", MESH_URL=re.findall(r"http://[\d.:]+", output)[0]
        )
        assert (code, listed) == (0, '{"titles": []}\n')
        process.send_signal(signal.SIGINT)
        rest, _ = await process.communicate()
        assert process.returncode == 0, rest
        assert "all three nodes have stopped" in rest.decode()
        assert "is killed" not in rest.decode()
        assert await none_listens(output)
        folder = re.search(r"Logs are in (\S+)\.", output)
        assert folder is not None
        assert not os.path.exists(folder[1])  # noqa: PTH110, ASYNC240 - one look, after everything has ended


@pytest.mark.skipif(sys.platform != "linux", reason="finds the nodes through /proc")
async def test_demo_whose_last_node_dies_ends_with_an_error_and_offers_no_other_start() -> None:
    async with started("demo", stdin=asyncio.subprocess.PIPE) as process:
        await output_until(process, "Ctrl-C stops all three")
        for pid in children_of(process.pid):
            os.kill(pid, signal.SIGKILL)
        rest, _ = await process.communicate()
        assert process.returncode == 1
        assert rest.decode().count("has ended with exit code -9") == 3
        assert "no node is left" in rest.decode()
        assert "Enter starts" not in rest.decode().rpartition("has ended")[2]


@pytest.mark.skipif(sys.platform != "linux", reason="finds the nodes through /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, CLOSED_TERMINAL])
async def test_demo_that_is_stopped_while_its_nodes_start_leaves_none_of_them(number: signal.Signals) -> None:
    async with started("demo") as process:
        await output_until(process, "starting three nodes")
        await eventually(partial(has_three_children, process.pid))
        nodes = children_of(process.pid)
        process.send_signal(number)
        rest, _ = await process.communicate()
        assert process.returncode == 0, rest
        assert "all three nodes have stopped" in rest.decode()
        assert await asyncio.to_thread(living, nodes) == []


def living(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


async def has_three_children(pid: int) -> bool:
    return len(children_of(pid)) == 3


async def test_clients_talk_to_a_real_node_and_are_refused_without_its_token(tmp_path: Path) -> None:
    async with running_nodes() as start:
        node: RunningNode = await start("node-1", tmp_path, servers=CLOCK, MESH_TOKEN=TOKEN, MESH_DISCOVERY="off")
        known = {"MESH_URL": node.base, "MESH_TOKEN": TOKEN}

        async def offered() -> bool:
            code, listed = await run("tools", "ls", "--json", **known)
            assert code == 0, listed
            return "node-1__clock__now" in {tool["name"] for tool in json.loads(listed)["tools"]}

        await eventually(offered)
        code, status = await run("status", **known)
        assert code == 0
        assert status.startswith("node-1 is ready")
        assert "discovery: off" in status
        code, told = await run("tools", "call", "node-1__clock__now", "zone=Asia/Taipei", **known)
        assert code == 0
        assert json.loads(told)["zone"] == "Asia/Taipei"
        assert (await run("tools", "call", "node-1__clock__now", "zone=Nowhere", **known))[0] == 5
        for command in (["status"], ["tools", "ls"]):
            assert (await run(*command, MESH_URL=node.base))[0] == 3
            assert (await run(*command, MESH_URL=node.base, MESH_TOKEN="wrong-0123456789-abc"))[0] == 3
        assert TOKEN not in node.log()
        assert "MCP" in node.log()


async def test_peer_is_added_listed_and_removed_by_the_command_line(tmp_path: Path) -> None:
    async with running_nodes() as start:
        one: RunningNode = await start("node-1", tmp_path / "1", MESH_DISCOVERY="off")
        two: RunningNode = await start("node-2", tmp_path / "2", MESH_DISCOVERY="off")
        code, told = await run("peers", "add", "second", two.url, MESH_URL=one.base)
        assert (code, told) == (0, "Peer node 'second' added successfully\n")
        code, listed = await run("peers", "ls", "--json", MESH_URL=one.base)
        (peer,) = json.loads(listed)["peers"]
        assert (peer["name"], peer["connected"], peer["source"]) == ("second", True, "override")
        code, told = await run("ping", "second", MESH_URL=one.base)
        assert code == 0
        assert re.search(r"^node-1 -> second +\d+\.\d ms$", told, re.MULTILINE), told
        assert [(e["method"], e["caller"]) for e in two.events("MCP request")] == []
        assert (await run("peers", "rm", "second", MESH_URL=one.base))[0] == 0
        assert (await run("peers", "ls", MESH_URL=one.base)) == (0, "no peers\n")
        code, told = await run("peers", "rm", "second", MESH_URL=one.base)
        assert code == 1, told
        assert "404" in told
        assert one.process.returncode is None, one.log()


async def test_refused_settings_end_a_run_with_exit_code_two_and_one_line() -> None:
    code, output = await run("run", HOST="0.0.0.0", PORT="8000")
    assert code == 2
    assert output.count("\n") == 1
    assert "in a compose file, add the same MESH_TOKEN=<32 random characters> to the environment of each node" in output


async def test_import_takes_over_what_other_programs_have_and_a_running_node_starts_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    files: dict[str, object] = {
        ".cursor/mcp.json": {"mcpServers": {"clock": CLOCK["clock"], "my dice": example("dice")}},
        ".claude.json": {"mcpServers": {"old": {"type": "ws", "url": "http://127.0.0.1:9/sse?key=canary"}}},
        ".gemini/settings.json": {
            "mcpServers": {"clock": {"command": "other", "env": {"KEY": "canary", "A": "$NONE"}}}
        },
        ".config/Code/User/mcp.json": 5,
        "project/.mcp.json": {"mcpServers": {"of-a-repository": {"command": "evil"}}},
    }
    for name, content in files.items():
        (path := home / name).parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    (home / ".codeium/windsurf").mkdir(parents=True)
    (home / ".codeium/windsurf/mcp_config.json").write_text("{broken")
    before = (
        '{\n  // by hand\n  "mcpServers": {\n    "notes": {"command": "no-notes", "disabled": true}, // off\n  }\n}\n'
    )
    link, path = tmp_path / "servers.json", tmp_path / "real.json"
    path.write_text(before)
    path.chmod(0o640)
    link.symlink_to(path)
    environ = {"HOME": str(home), "MESH_SERVERS_FILE": str(link), "XDG_CONFIG_HOME": ""}

    code, output = await run("servers", "import", "--dry-run", **environ)
    assert (code, path.read_text()) == (0, before), output
    assert "a dry run: 3 would be written" in output

    async with running_nodes() as start:
        settings = {"MESH_DISCOVERY": "off", "MESH_SERVERS_FILE": str(link), "NONE": "set"}
        node = await start("importer", tmp_path / "node", **settings)
        code, output = await run("servers", "import", **environ)
        assert code == 0, output
        for words in (
            f"taken     clock, from Cursor ({home / '.cursor/mcp.json'})",
            "taken     my-dice (there: my dice), from Cursor",
            "taken     clock-gemini (there: clock), from Gemini CLI",
            "needs NONE in the node's environment, which is not set here",
            "left out  old, from Claude Code",
            "mcp_config.json:1: is not JSON",
            "3 written to",
        ):
            assert words in output
        assert "canary" not in output
        assert "of-a-repository" not in output
        await eventually(partial(node.offers, "importer__clock__now", "importer__my-dice__roll"))
        command = [CLOCK["clock"]["command"], *CLOCK["clock"]["args"]]
        code, output = await run("servers", "add", "second", "--scope", "node", "--", *command, **environ)
        assert code == 0, output
        await eventually(partial(node.offers, "importer__second__now"))
        code, output = await run("servers", "rm", "second", **environ)
        assert code == 0, output
        await eventually(partial(offers_no_more, node, "importer__second__now"))
    assert path.read_text().startswith(before.rstrip().removesuffix("}").rstrip().removesuffix("}").rstrip())
    assert (link.is_symlink(), path.stat().st_mode & 0o777) == (True, 0o640)

    written = path.read_text()
    code, output = await run("servers", "import", "--json", **environ)
    told = json.loads(output)
    assert (code, told["written"], told["taken"], path.read_text()) == (0, False, [], written)
    assert [known["name"] for known in told["known"]] == ["clock", "my-dice", "clock-gemini"]

    code, output = await run("servers", "import", "--from", str(home / "project/.mcp.json"), "--dry-run", **environ)
    assert "taken     of-a-repository, from Claude Code" in output
    assert (await run("servers", "import", "--from", str(home / "none.json"), **environ))[0] == 2
    assert (await run("servers", "import", HOME=str(home)))[0] == 2


async def offers_no_more(node: RunningNode, name: str) -> bool:
    return name not in await node.tool_names()
