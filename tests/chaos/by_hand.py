"""`python -m tests.chaos.by_hand vanished | tools | outage`: faults on real processes that take too long for every run.

`vanished`: a client on another machine (a network namespace, as root) connects and is never heard of again. `tools`: a
server with more tools than a node takes, behind two nodes. `outage`: ten minutes without Consul, whose state is wiped
then, under calls. Each prints what it measured. The one rule: exit code 1 where that is not what docs/reliability.md
promises.
"""

import asyncio
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path

from agent.app.sockets import KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES
from bench.processes import resident_bytes
from tests.chaos.namespace import other_machine
from tests.chaos.placed_nodes import placed
from tests.consul_binary import consul_binary
from tests.consul_process import RunningConsul, running_consul
from tests.e2e.by_hand import modern_request
from tests.e2e.copied_nodes import node_copies
from tests.e2e.processes import environment_of, spawn
from tests.e2e.running import MANAGEMENT_TOOLS, RunningNode, running_nodes, stop_node
from tests.e2e.servers_files import example
from tests.e2e.steady_calls import steady_calls
from tests.ports import free_port
from tests.waiting import all_of, eventually

# Makes one request, and stays.
CLIENT = """
import socket, sys, time
line = socket.create_connection((sys.argv[1], int(sys.argv[2])))
line.sendall(b"GET /healthz HTTP/1.1\\r\\nHost: " + sys.argv[1].encode() + b"\\r\\n\\r\\n")
assert line.recv(1000).startswith(b"HTTP/1.1 200")
time.sleep(600)
"""
MORE_S = 5.0
TOOLS, TOOLS_MAX = 10_050, 10_000
LISTED_WITHIN_S = 60.0
OUTAGE_S, LOOK_EVERY_S = 600.0, 5.0
# Both registered again, by the longest back-off of a long outage (docs/reliability.md, ASK_AGAIN).
AUTOJOIN_S = 30.0


async def vanished(folder: Path) -> bool:
    """How long a node keeps the connection of a client that vanished without a word."""
    limit_s = KEEPALIVE_IDLE_S + KEEPALIVE_PROBES * KEEPALIVE_INTERVAL_S + MORE_S
    with other_machine() as machine:
        node = placed("node", folder, (machine.near, free_port()), {"MESH_DISCOVERY": "off"})
        try:
            await eventually(partial(is_ready, node))
            command = [*machine.command(), sys.executable, "-c", CLIENT, machine.near, str(node.port)]
            client = subprocess.Popen(command)
            try:
                await eventually(partial(has_connections, node.port, machine.far, 1))
                machine.lose_what_is_sent_there()
                machine.lose_what_is_sent_here()
                began_s = time.monotonic()
                await eventually(partial(has_connections, node.port, machine.far, 0), 2 * limit_s)
                took_s = time.monotonic() - began_s
            finally:
                client.kill()
                client.wait()
                machine.heal()
        finally:
            await stop_node(node)
    print(f"the connection of a client that vanished was closed after {took_s:.1f} s")
    return took_s < limit_s


async def tools(folder: Path) -> bool:
    """How soon two nodes list what is taken of a server with too many tools, and what they hold then."""
    port = free_port()
    server = spawn(("bench.canned_server", str(port), str(TOOLS)), folder / "server.log", environment_of({}))
    try:
        async with running_nodes() as start:
            kit = {"kit": {"url": f"http://127.0.0.1:{port}/mcp", "mesh": {"scope": "service"}}}
            began_s = time.monotonic()
            owner = await start("owner", folder / "owner", servers=kit, MESH_DISCOVERY="off")
            await eventually(partial(lists_all, owner), LISTED_WITHIN_S)
            owner_s = time.monotonic() - began_s
            began_s = time.monotonic()
            other = await start("other", folder / "other", MESH_DISCOVERY="off", MESH_PEERS=f"owner={owner.url}")
            await eventually(partial(lists_all, other), LISTED_WITHIN_S)
            other_s = time.monotonic() - began_s
            held = [resident_bytes(node.process.pid) / 2**20 for node in (owner, other)]
            conflicts = [one["reason"] for one in (await owner.status())["conflicts"]]
    finally:
        server.kill_and_reap()
    print(
        f"of {TOOLS:,} tools {TOOLS_MAX:,} are listed {owner_s:.1f} s after the node's start, by the node beside it"
        f" {other_s:.1f} s after its own; they hold {held[0]:.0f} and {held[1]:.0f} MB; conflicts: {conflicts}"
    )
    return "limit" in conflicts


async def outage(folder: Path) -> bool:
    """How calls go, what the node says of itself and what it asks for while Consul is away for ten minutes."""
    binary = consul_binary()
    assert binary is not None, "it needs a real Consul: make binaries"
    (folder / "consul").mkdir()
    async with running_consul(binary, folder / "consul") as consul, running_nodes() as start:
        one, _, three = await all_of(
            start(name, folder / name, servers=own, CONSUL_HTTP_ADDR=consul.url)
            for name, own in (("one", {}), ("two", {"clock": example("clock")}), ("three", {}))
        )
        for node in (one, three):
            await eventually(partial(node.offers, "two__clock__now"))
        looks: list[tuple[int, float | None, bool]] = []
        async with steady_calls(one, "two__clock__now", pause_s=0.5) as tally:
            await tally.grows()
            consul.kill(wipe=True)
            await stop_node(three)
            ends_s = time.monotonic() + OUTAGE_S
            while time.monotonic() < ends_s:
                await asyncio.sleep(LOOK_EVERY_S)
                ready, _ = await one.request("GET", "/readyz")
                connected = (await one.peers())["two"]["connected"]
                looks.append((ready, await one.metric("mesh_consul_up"), connected))
            again = await start(three)  # It knows the others from the catalog in its state folder.
            await eventually(partial(again.offers, "two__clock__now"))
            consul.start()
            await consul.wait_for_leader()
            serves_s = time.monotonic()
            await eventually(partial(are_passing, consul, 3), 2 * AUTOJOIN_S)
            joined_s = time.monotonic() - serves_s
            await tally.grows()
        peer = (await one.peers())["two"]
    unready = sum(ready != 200 for ready, _, _ in looks)
    ups = sum(up != 0 for _, up, _ in looks[6:])  # A wait of 25 s may be under way.
    lost = sum(not connected for _, _, connected in looks)
    print(
        f"{OUTAGE_S:.0f} s without Consul: {tally}, the longest took {tally.longest_s:.2f} s; of {len(looks)} looks"
        f" {unready} found the node not ready and {ups} mesh_consul_up not 0; {lost} the peer lost,"
        f" whose link broke {peer['reconnects']} times; the node that started meanwhile knew its peers;"
        f" three nodes were registered {joined_s:.1f} s after an empty Consul served"
    )
    return not (tally.failures or unready or ups or lost or peer["reconnects"]) and joined_s <= AUTOJOIN_S


async def are_passing(consul: RunningConsul, count: int) -> bool:
    return len(await consul.call("GET", "/v1/health/service/mcp-node?passing")) == count


async def lists_all(node: RunningNode) -> bool:
    listed, cursor = 0, None
    while True:
        page = await modern_request(node.url, "tools/list", {} if cursor is None else {"cursor": cursor})
        listed += len(page["tools"])
        if (cursor := page.get("nextCursor")) is None:
            return listed == TOOLS_MAX + len(MANAGEMENT_TOOLS)


async def is_ready(node: RunningNode) -> bool:
    return (await node.request("GET", "/readyz"))[0] == 200


async def has_connections(port: int, address: str, count: int) -> bool:
    """Whether so many connections of this machine's port to that address are established."""
    there = socket.inet_aton(address)[::-1].hex().upper()
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    here = f":{port:04X}"
    return sum(row[1].endswith(here) and row[2].startswith(there) and row[3] == "01" for row in rows) == count


SUBJECTS: dict[str, Callable[[Path], Coroutine[None, None, bool]]] = {
    "vanished": vanished,
    "tools": tools,
    "outage": outage,
}

if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="mesh-chaos-") as at, node_copies(environment_of({})):
        sys.exit(0 if asyncio.run(SUBJECTS[sys.argv[1]](Path(at))) else 1)
