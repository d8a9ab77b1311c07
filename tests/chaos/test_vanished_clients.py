"""Clients on another machine that are not heard for a while, that take nothing for a while, or that vanish for good.

The other machine is a network namespace: what is lost is acknowledged by nothing. The one rule: a client that is back
within eight seconds, as a phone that changes its network, has its answer; one that vanished is let go in thirty.
"""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import pytest

from agent.app.sockets import KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES, USER_TIMEOUT_MS
from agent.client.http.dial import TCP_USER_TIMEOUT_MS
from tests.chaos.namespace import Machine, other_machine, why_not
from tests.chaos.placed_nodes import TOKEN, Placed, placed
from tests.e2e.processes import ROOT, environment_of
from tests.e2e.running import stop_node
from tests.e2e.servers_files import write_servers
from tests.integration.servers.hosting import Seen, discovered, rpc_error, rpc_result, scripted
from tests.measured import measured
from tests.ports import free_port
from tests.processor_time import Stopwatch
from tests.waiting import PATIENCE_S, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

# Longer than what a node that dials waits for acknowledgements.
GAP_S = 8.0
# The kernel's own steps, and the test machine's.
MORE_S = 6.0
# Makes one request, and stays.
IDLE = """
import socket, sys, time
line = socket.create_connection((sys.argv[1], int(sys.argv[2])))
line.sendall(b"GET /healthz HTTP/1.1\\r\\nHost: " + sys.argv[1].encode() + b"\\r\\n\\r\\n")
assert line.recv(1000).startswith(b"HTTP/1.1 200")
time.sleep(600)
"""
# Makes a call, and waits as long as the kernel does.
CALL = """
import http.client, json, sys
prefix = "io.modelcontextprotocol/"
meta = {"protocolVersion": "2026-07-28", "clientInfo": {"name": "far", "version": "1"}, "clientCapabilities": {}}
meta = {prefix + name: said for name, said in meta.items()}
params = {"name": "kit__echo", "arguments": {"text": "x"}, "_meta": meta}
head = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
head |= {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "kit__echo"}
head |= {"Authorization": "Bearer " + sys.argv[3]}
line = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=60)
line.request("POST", "/mcp", json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}), head)
print(line.getresponse().read().decode(), flush=True)
"""


class WaitingServer:
    """A server with one tool, `echo`, which answers a call when the test says so: its answer is lost on its way."""

    def __init__(self) -> None:
        self._called, self._answered = asyncio.Event(), asyncio.Event()

    async def has_a_call(self) -> None:
        """Return when one is under way."""
        async with asyncio.timeout(PATIENCE_S):
            await self._called.wait()
        self._called.clear()

    def answer(self) -> None:
        """Let it be answered."""
        self._answered.set()

    async def serve(self, request: Seen) -> tuple[bytes, bool]:
        """Answer one request."""
        match request.body.get("method"):
            case "server/discover":
                return discovered(request), True
            case "tools/list":
                return rpc_result(request, {"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]}), True
            case "tools/call":
                self._answered.clear()
                self._called.set()
                await self._answered.wait()
                return rpc_result(request, {"content": [{"type": "text", "text": "x"}]}), True
            case _:
                return rpc_error(request, 404, -32601, "Method not found"), True


@pytest.fixture
async def apart(tmp_path: Path) -> AsyncIterator[tuple[Machine, Placed, WaitingServer]]:
    """The other machine, and a node with a server on this one."""
    if reason := why_not():
        pytest.skip(f"NO NETWORK NAMESPACES: clients that vanish were not tried; {reason}")
    server = WaitingServer()
    async with scripted(server.serve) as at:
        kit = {"kit": {"url": at.url, "mesh": {"scope": "service"}}}
        with other_machine() as machine:
            own = {"MESH_DISCOVERY": "off", "MESH_SERVERS_FILE": str(write_servers(tmp_path, kit))}
            node = placed("node", tmp_path, (machine.near, free_port()), own)
            try:
                await eventually(partial(node.offers, "kit__echo"))
                yield machine, node, server
            finally:
                machine.heal()
                await stop_node(node)


def test_accepted_sockets_wait_longer_than_dialled_ones() -> None:
    # Else the next test would show nothing.
    assert USER_TIMEOUT_MS / 1000 > GAP_S > TCP_USER_TIMEOUT_MS / 1000


async def test_a_client_that_is_not_heard_for_eight_seconds_has_its_answer_and_one_that_vanishes_is_let_go_in_thirty(
    apart: tuple[Machine, Placed, WaitingServer],
) -> None:
    machine, node, server = apart
    with calling(machine, node) as caller:
        await server.has_a_call()
        lose_both_ways(machine)
        server.answer()
        await eventually(partial(has_lasted, time.monotonic(), GAP_S))
        machine.heal()
        back_s = time.monotonic()
        answer, _ = await asyncio.to_thread(caller.communicate, timeout=60)
        measured(f"not heard for {GAP_S:g} s, a client had its answer {time.monotonic() - back_s:.1f} s later")
        assert b'"result"' in answer
    with idle(machine, node), calling(machine, node):
        await server.has_a_call()
        await eventually(partial(has_connections, node.port, machine.far, 2))
        lose_both_ways(machine)
        watch = Stopwatch(node.process.pid)
        server.answer()
        limit_s = KEEPALIVE_IDLE_S + KEEPALIVE_PROBES * KEEPALIVE_INTERVAL_S + MORE_S
        closed_s = await watch.until(partial(has_connections, node.port, machine.far, 0), limit_s)
        measured(f"the connections of clients that vanished were closed after {closed_s:.1f} s")


def lose_both_ways(machine: Machine) -> None:
    machine.lose_what_is_sent_there()
    machine.lose_what_is_sent_here()


def calling(machine: Machine, node: Placed) -> AbstractContextManager[subprocess.Popen[bytes]]:
    return there(machine, CALL, node.address, str(node.port), TOKEN)


def idle(machine: Machine, node: Placed) -> AbstractContextManager[subprocess.Popen[bytes]]:
    return there(machine, IDLE, node.address, str(node.port))


@contextmanager
def there(machine: Machine, program: str, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A client on the other machine."""
    command = [*machine.command(), sys.executable, "-c", program, *words]
    client = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, env=environment_of({}))
    try:
        yield client
    finally:
        client.kill()
        client.communicate()


async def has_connections(port: int, address: str, count: int) -> bool:
    """Whether so many connections of this machine's port to that address are established."""
    there = socket.inet_aton(address)[::-1].hex().upper()
    table = await asyncio.to_thread(Path("/proc/net/tcp").read_text)
    rows = [line.split() for line in table.splitlines()[1:]]
    here = f":{port:04X}"
    return sum(row[1].endswith(here) and row[2].startswith(there) and row[3] == "01" for row in rows) == count


async def has_lasted(since_s: float, seconds: float) -> bool:
    return time.monotonic() - since_s >= seconds
