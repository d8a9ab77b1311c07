"""`python -m tests.chaos.by_hand outage`: faults on real processes that take too long for every run.

`outage`: ten minutes without Consul, whose state is wiped then, under calls. `partitions`: packets between two machines
are lost in one direction, in the other, in both, for longer than the longest back-off; as root. It prints what it
measured. The one rule: exit code 1 where that is not what docs/reliability.md promises.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path

from agent.links.state import FLAP_S
from tests.chaos.test_lost_packets import HEALED_WITHIN_S, cut_and_healed, nodes_apart
from tests.consul_binary import consul_binary
from tests.consul_process import RunningConsul, running_consul
from tests.e2e.copied_nodes import copies
from tests.e2e.processes import environment_of
from tests.e2e.running import running_nodes, stop_node
from tests.e2e.servers_files import example
from tests.e2e.steady_calls import steady_calls
from tests.waiting import all_of, eventually

OUTAGE_S, LOOK_EVERY_S = 600.0, 5.0
# Twice as long as the longest back-off, once it was seen.
PARTITION_S = 30.0
# Both registered again, by the longest back-off of a long outage (docs/reliability.md, ASK_AGAIN).
AUTOJOIN_S = 30.0


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


async def partitions(folder: Path) -> bool:
    """How long two rounds of partitions take to be seen and to heal, and how calls go."""
    healed = []
    async with nodes_apart(folder) as apart:
        machine = apart.machine
        async with steady_calls(apart.front, "dice__roll") as tally:
            for cut in 2 * (machine.lose_what_is_sent_there, machine.lose_what_is_sent_here, machine.lose_all):
                await asyncio.sleep(FLAP_S)  # Else it would count as flapping.
                began_s = time.monotonic()
                seen_s, healed_s = await cut_and_healed(apart, cut, tally, lasts_s=PARTITION_S)
                healed.append(healed_s)
                lasted_s = time.monotonic() - began_s - healed_s
                print(f"{cut.__name__}: lasted {lasted_s:.0f} s, seen after {seen_s:.1f} s, healed in {healed_s:.1f} s")
    print(f"{tally}, the longest took {tally.longest_s:.1f} s")
    return not tally.failures and max(healed) < HEALED_WITHIN_S


SUBJECTS: dict[str, Callable[[Path], Coroutine[None, None, bool]]] = {"outage": outage, "partitions": partitions}

if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="mesh-chaos-") as at, copies(environment_of({})):
        sys.exit(0 if asyncio.run(SUBJECTS[sys.argv[1]](Path(at))) else 1)
