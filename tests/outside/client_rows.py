"""Runs one client's row: the client before the plain server by itself, then before a node with the same server.

Checks: `lists`, `call`, `wrong` (a result with isError), `restart` (the same client object after the server or node was
started again), `many` (250 tools), `changed` (after a list has changed), `refused` (a wrong token), and in a full run
`long` (70 s). The one rule: a client's own limits are its row's, so that what is wrong is the node's.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.processes import ROOT, environment_of
from tests.e2e.running import start_again, start_node, stop_node
from tests.e2e.servers_files import example, write_servers
from tests.integration.servers import warm
from tests.outside.checks import Check, short
from tests.outside.installing import CLIENTS, node, node_group, python_group
from tests.outside.processes import end, start, until_listening
from tests.outside.rows import Client
from tests.ports import free_port
from tests.waiting import eventually

TOKEN = "a-token-of-the-outside-tests-000000000000"
STEP_TIMEOUT_S = 150.0
LATE_S = 15.0
LONG_S = 70.0
LINKED_WITHIN_S = 120.0
MANY = 250
TOOLS = ("--tools", str(MANY), "--page", "100")
ECHO = "echo: grüße"
# Nothing is sent to anybody but the loopback.
NO_TELEMETRY = {
    "DO_NOT_TRACK": "1",
    "OTEL_SDK_DISABLED": "true",
    "CREWAI_DISABLE_TELEMETRY": "true",
    "AGNO_TELEMETRY": "false",
    "MCP_USE_ANONYMIZED_TELEMETRY": "false",
}
# What a refusal says, whatever is around it; a client that shows it helps its user.
REFUSAL = re.compile(r"(?i)token|unauthori[sz]ed")


@dataclass(frozen=True)
class Place:
    """Where a client connects: a name's prefix, an address, and how to start it again."""

    prefix: str
    url: str
    token: str
    restart: Callable[[], Any]
    change: Callable[[], Any] | None


class Driven:
    """A client script in its process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._number = 0

    async def ask(self, step: str, *arguments: object, within_s: float = STEP_TIMEOUT_S) -> tuple[bool, Any]:
        """Whether the step went well, and its value or error."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._number += 1
        command = {"number": self._number, "step": step, "with": arguments, "within_s": within_s}
        answer: dict[str, Any] = {}
        try:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            async with asyncio.timeout(within_s + LATE_S):
                # An earlier step that was given up may still answer.
                while answer.get("number") != self._number:
                    answer = _answer_of(await self._process.stdout.readline())
        except TimeoutError:
            return False, f"no answer within {within_s + LATE_S:g} s"
        except (OSError, ValueError, EOFError):
            return False, "the client's process ended"
        return answer["ok"], answer["value"] if answer["ok"] else answer["error"]


def _answer_of(line: bytes) -> dict[str, Any]:
    """An answer of a script; empty for what a library prints when it is imported. Raises `EOFError`."""
    if not line:
        raise EOFError
    try:
        answer = json.loads(line)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def command_of(row: Client) -> tuple[list[str], dict[str, str]]:
    """The script's command and environment; installs the client. Raises `NotInstalled`."""
    environment = environment_of({"PYTHONPATH": "", **NO_TELEMETRY})
    if row.registry == "pypi":
        return [str(python_group(row.group) / "python"), str(CLIENTS / row.script)], environment
    group = node_group(row.group)
    if row.script.endswith(".py"):
        modules = {"NODE": str(node()), "MODULES": str(group / "node_modules")}
        return [sys.executable, str(CLIENTS / row.script)], {**environment, **modules}
    # Node looks for packages from where a script lies.
    for script in CLIENTS.glob("*.mjs"):
        (group / script.name).write_bytes(script.read_bytes())
    return [str(node()), str(group / row.script)], environment


@asynccontextmanager
async def driven(row: Client, folder: Path, log: str) -> AsyncGenerator[Driven, None]:
    """The client's script for as long as the block lasts."""
    command, environment = command_of(row)
    home = folder / "home"
    home.mkdir(parents=True, exist_ok=True)
    with (folder / log).open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *command,
            env={**environment, "HOME": str(home)},
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            limit=16 * 1024 * 1024,
        )
    try:
        yield Driven(process)
    finally:
        if process.returncode is None:
            process.kill()
        if process.stdin is not None:
            process.stdin.close()
        await process.wait()


async def check_client(row: Client, folder: Path, *, full: bool, direct: bool = True) -> dict[str, Check]:
    """All checks of the row, or the quick ones; `direct` False leaves out what only explains."""
    folder.mkdir(parents=True, exist_ok=True)
    alone: dict[str, str] = {}
    if direct:
        async with direct_place(folder) as place:
            alone = await _observe(row, folder, place, full=full)
    async with node_place(folder, row.query) as place:
        through = await _observe(row, folder, place, full=full)
    return judge(row, alone, through)


def _plain() -> dict[str, Any]:
    args = [*warm.COMMAND, "tests.outside.plain_server", *TOOLS]
    keeper = {warm.ADDRESS: warm.address_of(os.getpid())}
    return {"command": sys.executable, "args": args, "cwd": str(ROOT), "env": keeper, "mesh": {"scope": "service"}}


def _mesh() -> dict[str, str]:
    return {"MESH_DISCOVERY": "embedded", "MESH_EMBEDDED_PORT": str(free_port()), "MESH_TOKEN": TOKEN}


def _serve_plain(folder: Path, port: int) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.outside.plain_server", "--port", str(port), *TOOLS]
    return start(command, environment_of({}), ROOT, folder / "plain.log")


@asynccontextmanager
async def direct_place(folder: Path) -> AsyncGenerator[Place, None]:
    port = free_port()
    process = _serve_plain(folder, port)

    async def restart() -> None:
        nonlocal process
        await end(process)
        process = _serve_plain(folder, port)
        await until_listening(process, port, folder / "plain.log")

    try:
        await until_listening(process, port, folder / "plain.log")
        yield Place("", f"http://127.0.0.1:{port}/mcp", "", restart, None)
    finally:
        await end(process)


@asynccontextmanager
async def node_place(folder: Path, query: str = "") -> AsyncGenerator[Place, None]:
    servers = {"plain": _plain()}
    running = await start_node("front", folder / "node", servers=servers, **_mesh())

    async def linked(*names: str) -> None:
        async def are_connected() -> bool:
            states = {server["name"]: server["connected"] for server in (await running.status())["self"]["servers"]}
            assert all(states.get(name) for name in names), states
            return True

        await eventually(are_connected, LINKED_WITHIN_S)

    async def restart() -> None:
        nonlocal running
        await stop_node(running)
        running = await start_again(running)
        await linked("plain")

    async def change() -> None:
        write_servers(folder / "node", {**servers, "dice": example("dice", "service")})
        await linked("dice")

    try:
        await linked("plain")
        yield Place("plain__", running.url + query, TOKEN, restart, change)
    finally:
        await stop_node(running)


async def _observe(row: Client, folder: Path, place: Place, *, full: bool) -> dict[str, str]:
    """Check -> what the client's user sees, in a few words."""
    seen: dict[str, str] = {}
    async with driven(row, folder, "client.log") as client:
        seen["connects"] = _said(*await client.ask("connect", place.url, place.token))
        seen["lists"], seen["many"] = _names(*await client.ask("tools"))
        if row.calls:
            seen["call"] = _told(*await client.ask("call", f"{place.prefix}echo", {"text": "grüße"}))
            seen["wrong"] = _told(*await client.ask("call", f"{place.prefix}refuse", {"reason": "no"}))
            if full and row.long_s:
                seen["long"] = await _long(client, place)
            if place.change is not None:
                await place.change()
                seen["changed"] = _told(*await client.ask("call", f"{place.prefix}echo", {"text": "grüße"}))
            if row.lasting:
                await place.restart()
                seen["restart"] = await _after_restart(client, place)
        await client.ask("close", within_s=10)
    if place.token:
        async with driven(row, folder, "client-refused.log") as client:
            went, value = await client.ask("connect", place.url, "a-wrong-token-of-the-outside-tests-00000")
            if went:
                went, value = await client.ask("tools")
            seen["refused"] = f"no error: {value}" if went else str(value)
    return seen


async def _long(client: Driven, place: Place) -> str:
    began_s = asyncio.get_running_loop().time()
    answer = _told(*await client.ask("call", f"{place.prefix}wait", {"seconds": LONG_S}, within_s=LONG_S + 30))
    took_s = asyncio.get_running_loop().time() - began_s
    return answer if answer.startswith("returned") else f"after {took_s:.0f} s: {answer}"


async def _after_restart(client: Driven, place: Place) -> str:
    """The first call, and the second one when that fails: a single failure is not death."""
    answers = []
    for _ in range(2):
        answers.append(_told(*await client.ask("call", f"{place.prefix}echo", {"text": "grüße"})))
        if ECHO in answers[-1]:
            return "goes on" if len(answers) == 1 else f"the second call; the first: {answers[0]}"
    return f"dead: {answers[-1]}"


def _said(went: bool, value: Any) -> str:
    return "yes" if went else f"no: {value}"


def _names(went: bool, value: Any) -> tuple[str, str]:
    """The first tools, and how many there are; names may have prefixes of the client's own."""
    if not went:
        return f"error: {value}", f"error: {value}"
    first = [name for name in ("echo", "refuse", "wait") if any(re.search(rf"(^|_){name}$", one) for one in value)]
    return f"{', '.join(first)}", f"{sum('filler' in name for name in value)} tools"


def _told(went: bool, value: Any) -> str:
    return f"{value[0]}: {value[1]}" if went else f"raised: {value}"


def judge(row: Client, direct: dict[str, str], through: dict[str, str]) -> dict[str, Check]:
    """What must be, from the row; the server by itself shows what the client can."""
    checks: dict[str, Check] = {}

    def add(name: str, must: str, right: bool) -> None:
        if name in through:
            checks[name] = Check(must, short(direct.get(name, "")), short(through[name]), right=right)

    add("connects", "at the first try", through["connects"] == "yes")
    add("lists", "echo, refuse, wait", through["lists"] == "echo, refuse, wait")
    add("call", f"returned: {ECHO}", ECHO in through.get("call", ""))
    wrong = through.get("wrong", "")
    add("wrong", f"{row.wrong}, with the tool's text", wrong.startswith(row.wrong) and "refused: no" in wrong)
    add("restart", "the same client object goes on", through.get("restart") == "goes on")
    add("many", f"{MANY} tools", through["many"] == f"{MANY} tools")
    add("changed", f"returned: {ECHO}", ECHO in through.get("changed", ""))
    long = through.get("long", "")
    within = row.long_s >= LONG_S
    must = f"waited {LONG_S:g} s" if within else f"the client's own limit of {row.long_s:g} s"
    add("long", must, f"waited {LONG_S:g} s" in long if within else long.startswith("after"))
    shows = bool(REFUSAL.search(through["refused"])) and not through["refused"].startswith("no error")
    add("refused", "the text of the refusal" if row.refusal else "an error", shows or not row.refusal)
    return checks
