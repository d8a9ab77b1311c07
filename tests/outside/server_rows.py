"""Runs one server's row: the server by itself, then the same server behind a node, and compares what clients see.

Checks: `lists` (the same tools, schemas, resources, prompts), `call` and `wrong` (the same answer in both eras), and in
a full run `busy` (a call of 20 s is answered, the process stays), `idle` (nothing happens to an idle server) and `back`
(it answers again after its process died). The one rule: the server alone is the measure; a row's own expectations only
make sure that the measure works.
"""

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastmcp import Client
from fastmcp.client.transports import SSETransport, StdioTransport, StreamableHttpTransport
from fastmcp.exceptions import McpError

from tests.e2e.processes import ROOT, environment_of
from tests.e2e.running import ERAS, RunningNode, start_node, stop_node
from tests.outside.checks import Check, short
from tests.outside.installing import node, node_group, python_group
from tests.outside.processes import children, end, kill_all, listening, start, until_listening
from tests.outside.rows import Call, Server, filled
from tests.ports import free_port
from tests.waiting import eventually

LINKED_WITHIN_S = 120.0
BACK_WITHIN_S = 45.0
STEP_TIMEOUT_S = 150.0
NODES_OWN = ("config://app", "health://system")
# Three rounds of the node's own pings, and the 12 s after which it gives a silent server up.
IDLE_S = 16.0


@dataclass(frozen=True)
class Prepared:
    """A row with its places filled in, and its server's command or address."""

    row: Server
    folder: Path
    command: list[str]
    environment: dict[str, str]
    port: int
    call: Call | None
    wrong: Call | None
    busy: Call | None

    @property
    def url(self) -> str:
        """Where a server over HTTP listens."""
        return f"http://127.0.0.1:{self.port}{self.row.path}"

    @property
    def entry(self) -> dict[str, Any]:
        """Its entry of a servers file."""
        mesh = {"mesh": {"scope": "service"}}
        if self.row.transport != "stdio":
            return {"type": self.row.transport, "url": self.url, **mesh}
        command, *arguments = self.command
        named = {"command": command, "args": arguments, "env": self.environment, "cwd": str(self.folder)}
        return {**named, **mesh}

    @property
    def whole_environment(self) -> dict[str, str]:
        """What its process gets when we start it ourselves."""
        return {**environment_of({}), **self.environment}


@dataclass
class Seen:
    """What a client saw of the server; names are the server's own."""

    tools: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    call: str = ""
    wrong: str = ""


def prepare(row: Server, folder: Path, site: str) -> Prepared:
    """Install the row's packages and fill its places. Raises `NotInstalled`."""
    folder.mkdir(parents=True, exist_ok=True)
    places = {"folder": str(folder), "site": site, "python": sys.executable, "root": str(ROOT)}
    port = free_port()
    places["port"] = str(port)
    if row.registry == "pypi":
        places["bin"] = str(python_group(row.group))
    else:
        places |= {"node": str(node()), "modules": str(node_group(row.group) / "node_modules")}
    for name, content in row.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (folder / "home").mkdir(exist_ok=True)
    if row.git:
        commit = ["-c", "user.name=outside", "-c", "user.email=outside@example.org", "commit", "-qm", "First"]
        for arguments in (["init", "-q", "-b", "main"], ["add", "."], commit):
            subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True)
    calls = {name: _filled(getattr(row, name), places) for name in ("call", "wrong", "busy")}
    own = {"HOME": str(folder / "home"), **filled(row.environment, places)}
    if row.registry == "npm":
        own["PATH"] = f"{node().parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return Prepared(row, folder, filled(row.command, places), own, port, **calls)


def _filled(call: Call | None, places: dict[str, str]) -> Call | None:
    return call and Call(call.tool, filled(call.arguments, places), call.expect)


async def check_server(prepared: Prepared, *, full: bool) -> dict[str, Check]:
    """All checks of the row, or the quick ones."""
    row = prepared.row
    direct, busy_directly = await _directly(prepared, full=full)
    if row.transport != "stdio":
        async with AsyncExitStack() as stack:
            process = await _serve(prepared)
            stack.push_async_callback(lambda: end(process))
            return await _through_node(prepared, direct, busy_directly, process, full=full)
    return await _through_node(prepared, direct, busy_directly, None, full=full)


async def _directly(prepared: Prepared, *, full: bool) -> tuple[Seen, str]:
    log = prepared.folder / "direct.log"
    async with AsyncExitStack() as stack:
        transport: StdioTransport | StreamableHttpTransport | SSETransport
        if prepared.row.transport != "stdio":
            served = listening(prepared.command, prepared.whole_environment, prepared.folder, log, prepared.port)
            await stack.enter_async_context(served)
            by_sse = prepared.row.transport == "sse"
            transport = SSETransport(prepared.url) if by_sse else StreamableHttpTransport(prepared.url)
        else:
            command, *arguments = prepared.command
            transport = StdioTransport(
                command,
                arguments,
                env=prepared.whole_environment,
                cwd=str(prepared.folder),
                keep_alive=False,
                log_file=log,
            )
        mode = "legacy" if prepared.row.legacy_only else "auto"
        client = await stack.enter_async_context(
            Client(transport, mode=mode, timeout=STEP_TIMEOUT_S, init_timeout=STEP_TIMEOUT_S)
        )
        seen = await _look(client, prepared, {})
        busy = ""
        if full and prepared.busy is not None:
            busy = await _answer(client, prepared.busy, prepared.busy.tool)
        return seen, busy


async def _serve(prepared: Prepared) -> subprocess.Popen[bytes]:
    log = prepared.folder / "served.log"
    process = start(prepared.command, prepared.whole_environment, prepared.folder, log)
    try:
        await until_listening(process, prepared.port, log)
    except BaseException:
        await end(process)
        raise
    return process


async def _look(client: Client[Any], prepared: Prepared, names: dict[str, str]) -> Seen:
    """`names`: the name that the client sees -> the server's own; empty where it sees those."""
    tools = {
        names.get(tool.name, tool.name): tool for tool in await client.list_tools() if not names or tool.name in names
    }
    seen = Seen(tools)
    public = {own: name for name, own in names.items()}
    for kind in ("resources", "resource_templates", "prompts"):
        try:
            listed = await getattr(client, f"list_{kind}")()
            seen.counts[kind] = sum(str(getattr(entry, "uri", "")) not in NODES_OWN for entry in listed)
        except McpError:
            seen.counts[kind] = 0
    for name in ("call", "wrong"):
        asked: Call | None = getattr(prepared, name)
        if asked is not None:
            setattr(seen, name, await _answer(client, asked, public.get(asked.tool, asked.tool)))
    return seen


async def _answer(client: Client[Any], asked: Call, name: str) -> str:
    """`result: ...`, `isError: ...` or `error: ...`."""
    try:
        result = await client.call_tool(name, asked.arguments, raise_on_error=False)
    except Exception as exc:  # noqa: BLE001 - whatever a client raises is what its user sees
        return f"error: {exc}"
    texts = "\n".join(getattr(block, "text", f"({block.type})") for block in result.content)
    return f"{'isError' if result.is_error else 'result'}: {texts}"


def _matches(asked: Call, answer: str, *, wrong: bool = False) -> bool:
    kind, _, text = answer.partition(": ")
    return (kind != "result") == wrong and re.search(asked.expect, text) is not None


@asynccontextmanager
async def _node_before(prepared: Prepared) -> AsyncGenerator[RunningNode, None]:
    settings = {"MESH_DISCOVERY": "embedded", "MESH_EMBEDDED_PORT": str(free_port())}
    folder = prepared.folder.with_name(f"{prepared.folder.name}-node")
    running = await start_node("front", folder, servers={"it": prepared.entry}, **settings)
    try:
        yield running
    finally:
        await stop_node(running)


async def _through_node(
    prepared: Prepared, direct: Seen, busy_directly: str, process: subprocess.Popen[bytes] | None, *, full: bool
) -> dict[str, Check]:
    began_s = time.monotonic()
    async with _node_before(prepared) as running:
        must = f"{_counted(direct)}, at least {prepared.row.tools} tools; linked"
        try:
            names = await eventually(lambda: _linked(running), LINKED_WITHIN_S)
        except AssertionError as exc:
            words = (await running.servers()).get("it", {}).get("last_error", "")
            return {"lists": Check(must, _counted(direct), short(f"not linked: {words or exc}"), right=False)}
        linked_s = time.monotonic() - began_s
        seen = {}
        for era in ERAS:
            async with _client(running, era) as client:
                seen[era] = await _look(client, prepared, names)
        checks = {"lists": _lists(prepared, direct, seen, linked_s)}
        if prepared.call is not None:
            checks["call"] = _same(prepared.call, direct.call, {era: one.call for era, one in seen.items()})
        if prepared.wrong is not None:
            found = {era: one.wrong for era, one in seen.items()}
            checks["wrong"] = _same(prepared.wrong, direct.wrong, found, wrong=True)
        if full:
            checks |= await _lasting(prepared, running, names, busy_directly, process)
        return checks


def _client(running: RunningNode, era: str) -> Client[StreamableHttpTransport]:
    transport = StreamableHttpTransport(running.url)
    return Client(transport, mode=era, timeout=STEP_TIMEOUT_S, init_timeout=STEP_TIMEOUT_S)


async def _linked(running: RunningNode) -> dict[str, str]:
    """Public name -> own name, once the server is linked; an empty list is a list too."""
    server = (await running.servers())["it"]
    assert server["connected"], server["last_error"]
    names: dict[str, str] = {function["mesh_name"]: function["name"] for function in server["functions"]}
    assert names, "connected, no functions"
    return names


def _counted(seen: Seen) -> str:
    counts = seen.counts
    return (
        f"{len(seen.tools)} tools, {counts['resources']} resources, {counts['resource_templates']} templates,"
        f" {counts['prompts']} prompts"
    )


def _lists(prepared: Prepared, direct: Seen, seen: dict[str, Seen], linked_s: float) -> Check:
    differences = [f"only {len(direct.tools)} tools directly"] if len(direct.tools) < prepared.row.tools else []
    for era, one in seen.items():
        if missing := direct.tools.keys() - one.tools.keys():
            differences.append(f"{era}: missing {sorted(missing)}")
        if one.counts != direct.counts:
            differences.append(f"{era}: {_counted(one)}")
        for name in direct.tools.keys() & one.tools.keys():
            parts = ("input_schema", "description")
            changed = [part for part in parts if getattr(direct.tools[name], part) != getattr(one.tools[name], part)]
            differences += [f"{era}: another {part} of {name}" for part in changed]
    found = f"the same, linked after {linked_s:.0f} s" if not differences else "; ".join(differences)
    return Check("the same lists in both eras", _counted(direct), short(found), right=not differences)


def _same(asked: Call, direct: str, found: dict[str, str], *, wrong: bool = False) -> Check:
    must = f"{'an error' if wrong else 'a result'} like {asked.expect!r}, in both eras"
    right = all(_matches(asked, one, wrong=wrong) for one in (direct, *found.values()))
    # Both eras usually agree; then one text is enough.
    texts = set(found.values())
    shown = texts.pop() if len(texts) == 1 else "; ".join(f"{era}: {short(text)}" for era, text in found.items())
    return Check(must, short(direct), short(shown), right=right)


async def _lasting(
    prepared: Prepared,
    running: RunningNode,
    names: dict[str, str],
    busy_directly: str,
    process: subprocess.Popen[bytes] | None,
) -> dict[str, Check]:
    checks: dict[str, Check] = {}
    asked = prepared.call or Call("", {})
    public = {own: name for name, own in names.items()}
    if prepared.busy is not None:
        before = children(running.process.pid)
        async with _client(running, "auto") as client:
            answer = await _answer(client, prepared.busy, public[prepared.busy.tool])
        kept = "the process stays" if children(running.process.pid) == before else "another process"
        must = f"a call of {prepared.row.busy_s:g} s is answered, the process stays"
        right = _matches(prepared.busy, answer) and kept == "the process stays"
        checks["busy"] = Check(must, short(busy_directly), short(f"{kept}; {answer}"), right=right)
    before = children(running.process.pid)
    await asyncio.sleep(IDLE_S)
    state = (await running.servers())["it"]
    kept = state["connected"] and children(running.process.pid) == before and not state["reconnects"]
    found = f"{state['status']}, {state['reconnects']} reconnects, {state['last_error']}".rstrip(", ")
    checks["idle"] = Check(f"{IDLE_S:g} idle seconds change nothing", "", short(found), right=bool(kept))
    if prepared.call is not None:
        checks["back"] = await _comes_back(prepared, running, asked, public[asked.tool], process)
    return checks


async def _comes_back(
    prepared: Prepared, running: RunningNode, asked: Call, name: str, process: subprocess.Popen[bytes] | None
) -> Check:
    """Let the server die; a server over HTTP is started again, its sessions forgotten."""
    replacement: subprocess.Popen[bytes] | None = None
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(_client(running, "auto"))
        if process is None:
            kill_all(children(running.process.pid))
        else:
            await end(process)
            replacement = await _serve(prepared)
            stack.push_async_callback(end, replacement)
        began_s = time.monotonic()
        first = await _answer(client, asked, name)

        async def answers() -> bool:
            answer = await _answer(client, asked, name)
            assert _matches(asked, answer), answer
            return True

        try:
            if not _matches(asked, first):
                await eventually(answers, BACK_WITHIN_S)
            found = f"after {time.monotonic() - began_s:.1f} s; first answer: {first}"
            right = "unknown tool" not in first.lower()
        except AssertionError as exc:
            found, right = f"{exc}; first answer: {first}", False
    must = "answers again by itself, and nothing says 'unknown tool' meanwhile"
    return Check(must, "", short(found), right=right)
