"""`mesh-agent demo`: three nodes on this machine, that find each other and answer for each other.

Called by the command line. Starts real processes on free ports, with state and logs in a temporary folder and an
embedded catalog of their own, so that no other node of this machine joins. The one rule: the three processes have ended
when this function returns, in every case.
"""

import asyncio
import json
import os
import shlex
import shutil
import signal
import socket
import sys
import time
from argparse import Namespace
from asyncio.subprocess import Process
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import aiohttp

from agent import __file__ as package_file
from agent.demo.plan import (
    CALLED_ARGUMENTS,
    CALLED_TOOL,
    NodePlan,
    Seen,
    instructions,
    missing,
    node_environment,
    plan_nodes,
    read_status,
    servers_json,
    what_to_try,
)
from agent.harmless_text import many_lines

START_DEADLINE_S: Final = 60.0  # Starting takes 3 s; a machine that is busy with something else may need this.
STOP_DEADLINE_S: Final = 15.0
POLL_S: Final = 0.1
REQUEST_TIMEOUT_S: Final = 5.0
LOG_TAIL_LINES: Final = 15
PROTOCOL: Final = "2026-07-28"

_Nodes = Mapping[NodePlan, Process]


class DemoFailed(Exception):
    """The mesh did not come up; the message has been written for the user."""


def run_demo(args: Namespace) -> int:
    """Start the mesh, show it, and stay until Ctrl-C (or, with `--once`, leave at once). Returns the exit code."""
    try:
        asyncio.run(_demo(once=args.once))
    except DemoFailed as exc:
        print(f"\n{exc}", file=sys.stderr)
        return 1
    except asyncio.CancelledError:
        pass  # A signal; the nodes have ended.
    print("\nall three nodes have stopped")  # On a line of its own, after the ^C of a terminal.
    return 0


async def _demo(*, once: bool) -> None:
    task = asyncio.current_task()
    assert task is not None
    # Both, so that `kill` stops the nodes as well, and Ctrl-C does where a shell made us ignore it.
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    # A terminal that closes may send it twice, which must not count as a second Ctrl-C; under nohup it is ignored.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: task.cancelling() or task.cancel())
    with TemporaryDirectory(prefix="mesh-demo-") as folder, held_ports(4) as (*ports, embedded_port):
        plans = plan_nodes(ports, Path(folder))
        started_at_s = time.monotonic()
        print("starting three nodes on this machine", flush=True)
        nodes: dict[NodePlan, Process] = {}
        try:
            for plan in plans:
                nodes[plan] = await _start(plan, embedded_port)
            timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
            async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
                await _until_complete(session, nodes, started_at_s)
                await _call_across(session, plans[0])
            print(f"\n{instructions(plans, command_name(), shlex.quote(sys.executable))}", flush=True)
            if not once:
                print(f"\n{what_to_try(plans[0], plans[1], nodes[plans[1]].pid, command_name())}", flush=True)
                print(f"\nLogs are in {folder}. Ctrl-C stops all three.", flush=True)
                await _stay(nodes, embedded_port)
        finally:
            await _stop(nodes)


@contextmanager
def held_ports(count: int) -> Iterator[list[int]]:
    """Free loopback ports, which the kernel gives to no other program before the nodes listen on them.

    Linux lets a node listen beside a socket that is only bound; elsewhere they are free again at once.
    """
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in sockets]
        if sys.platform != "linux":
            held.close()
        yield ports


def command_name() -> str:
    """Say how the user can run this program again: by its script, or as a module."""
    script = Path(sys.argv[0])
    if script.name not in ("mesh-agent", "mcp-mesh-agent"):
        return f"{shlex.quote(sys.executable)} -m agent"
    on_path = shutil.which(script.name)
    # `make demo` calls the script in .venv, which no PATH knows unless the user has activated it.
    found = on_path is not None and Path(on_path).resolve() == script.resolve()
    return script.name if found else shlex.quote(str(script))


async def _start(plan: NodePlan, embedded_port: int) -> Process:
    root = str(Path(package_file).parents[1])  # So that nodes and servers find this package, installed or not.
    plan.folder.mkdir(exist_ok=True)
    plan.servers_path.write_text(servers_json(plan, sys.executable, root))
    with plan.log_path.open("ab") as log:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "agent",
            "run",
            env=node_environment(plan, os.environ, embedded_port),
            cwd=root,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # A terminal's Ctrl-C must reach the demo alone, which then stops its nodes in an orderly way.
            start_new_session=True,
        )


async def _until_complete(session: aiohttp.ClientSession, nodes: _Nodes, started_at_s: float) -> None:
    announced: set[str] = set()
    while True:
        if ended := ended_nodes(nodes):
            raise DemoFailed("\n".join(_exit_report(plan, nodes[plan]) for plan in ended))
        seen = {plan.name: await _poll(session, plan) for plan in nodes}
        elapsed_s = time.monotonic() - started_at_s
        for name, node in seen.items():
            if node.state is not None and name not in announced:
                announced.add(name)
                print(f"  {elapsed_s:4.1f} s  {name} is up", flush=True)
        waits = missing(seen)
        if not waits:
            print(f"  {elapsed_s:4.1f} s  all three see each other and each other's tools", flush=True)
            return
        if elapsed_s > START_DEADLINE_S:
            tails = [_tail(plan) for plan in nodes]
            raise DemoFailed("\n".join([f"the mesh is not complete after {elapsed_s:.0f} s:", *waits, *tails]))
        await asyncio.sleep(POLL_S)


async def _poll(session: aiohttp.ClientSession, plan: NodePlan) -> Seen:
    try:
        async with session.get(f"{plan.url}/api/v1/mcp/status") as response:
            envelope = await response.json()
        return read_status(envelope.get("data"), await _mcp(session, plan, "tools/list", {}))
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError, AttributeError):
        return Seen()


async def _call_across(session: aiohttp.ClientSession, plan: NodePlan) -> None:
    started_at_s = time.monotonic()
    result = await _mcp(session, plan, "tools/call", {"name": CALLED_TOOL, "arguments": CALLED_ARGUMENTS})
    took_ms = (time.monotonic() - started_at_s) * 1000
    if not isinstance(result, dict) or result.get("isError") or "content" not in result:
        raise DemoFailed(f"{plan.name} could not have {CALLED_TOOL} done: {json.dumps(result)[:500]}\n{_tail(plan)}")
    texts = [str(block.get("text")) for block in result["content"]]
    print(f"\n{plan.name} runs no dice; asked for {CALLED_TOOL}, it had a peer roll them, in {took_ms:.0f} ms:")
    print(f"  {many_lines(' '.join(texts))}")


async def _mcp(session: aiohttp.ClientSession, plan: NodePlan, method: str, params: dict[str, Any]) -> Any:
    """Make one stateless MCP request by hand; returns `result`, or what came instead of one.

    FastMCP's client would be the ordinary way, but its import takes a second that the nodes need for theirs.
    """
    prefix = "io.modelcontextprotocol/"
    client = {"name": "mesh-agent-demo", "version": "1"}
    meta = {f"{prefix}protocolVersion": PROTOCOL, f"{prefix}clientInfo": client, f"{prefix}clientCapabilities": {}}
    headers = {
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": PROTOCOL,
        "Mcp-Method": method,
        **({"Mcp-Name": params["name"]} if "name" in params else {}),
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}
    async with session.post(f"{plan.url}/mcp", json=body, headers=headers) as response:
        text = await response.text()
    if response.content_type == "text/event-stream":
        text = next((line[5:] for line in reversed(text.splitlines()) if line.startswith("data:")), "null")
    answer = json.loads(text)
    return answer["result"] if isinstance(answer, dict) and "result" in answer else answer


async def _stay(nodes: dict[NodePlan, Process], embedded_port: int) -> None:
    """Wait for Ctrl-C. A user may kill a node to see the others go on, and start it again with Enter.

    Leaves only when none is left.
    """
    reported: set[NodePlan] = set()
    entered = asyncio.Event()
    with _set_by_lines(entered):
        while len(reported) < len(nodes):
            await asyncio.sleep(POLL_S)
            ended = set(ended_nodes(nodes)) - reported
            reported |= ended
            for plan in sorted(ended, key=lambda one: one.name):
                hint = "\nEnter starts it again." if len(reported) < len(nodes) else ""
                print(f"\n{_exit_report(plan, nodes[plan])}{hint}", flush=True)
            if entered.is_set():
                entered.clear()
                for plan in sorted(reported, key=lambda one: one.name):
                    nodes[plan] = await _start(plan, embedded_port)
                    print(f"{plan.name} is started again, as process {nodes[plan].pid}", flush=True)
                reported.clear()
    raise DemoFailed("no node is left")


@contextmanager
def _set_by_lines(entered: asyncio.Event) -> Iterator[None]:
    """Set the event for each line of stdin, where that is a terminal or a pipe."""
    loop, stdin = asyncio.get_running_loop(), 0

    def read() -> None:
        data = os.read(stdin, 4096)
        if not data:
            loop.remove_reader(stdin)
        elif b"\n" in data:
            entered.set()

    try:
        loop.add_reader(stdin, read)
    except OSError:  # Closed, or a file: nothing will be entered.
        yield
        return
    try:
        yield
    finally:
        loop.remove_reader(stdin)


def ended_nodes(nodes: _Nodes) -> list[NodePlan]:
    """The nodes whose processes have ended."""
    return [plan for plan, process in nodes.items() if process.returncode is not None]


async def _stop(nodes: _Nodes) -> None:
    """End all nodes: asked first, killed at the deadline or at a second Ctrl-C."""
    try:
        for process in nodes.values():
            with suppress(ProcessLookupError):
                process.terminate()
        async with asyncio.timeout(STOP_DEADLINE_S):
            for process in nodes.values():
                await process.wait()
    except TimeoutError:
        print("a node did not stop when asked and is killed", file=sys.stderr)
    finally:
        for process in nodes.values():
            if process.returncode is None:
                process.kill()


def _exit_report(plan: NodePlan, process: Process) -> str:
    return f"{plan.name} has ended with exit code {process.returncode}\n{_tail(plan)}"


def _tail(plan: NodePlan) -> str:
    lines: Sequence[str] = plan.log_path.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
    return f"the end of {plan.name}'s log:\n" + many_lines("\n".join(f"  {line}" for line in lines))
