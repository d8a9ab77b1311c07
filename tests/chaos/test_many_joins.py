"""A thousand peers join one real node at once, and leave it: how soon all are linked, and what that costs it.

The peers are hundreds of stub nodes in few processes; that at most 50 are dialled at a time is seen from inside
(`tests/unit/links/test_supervisor.py`). The one rule: calls to a peer that was there before go on meanwhile.
"""

import time
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest

from bench.processes import cpu_s, resident_bytes
from tests.chaos.stub_peers import TOOL, links, listed, stub_peers
from tests.e2e.running import RunningNode, running_nodes
from tests.e2e.steady_calls import steady_calls
from tests.measured import measured
from tests.ports import many_ports
from tests.processor_time import processor_time
from tests.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

PEERS, PROCESSES = 1_000, 4
# On two cores a node needs a tenth of the minute that docs/reliability.md allows; other work on the machine makes every
# clock lie, so its processor time is judged as well, and what it waited for a core does not count.
PROCESSOR_S_MAX = 15.0
# Of a core, for the probes of those that are linked already: 200 a second.
PROBES_SHARE = 0.05
LINKED_WITHIN_S = 60.0
# By the clock: at a load of 30 a node has a twenty-fifth of a core.
PATIENCE_S = 400.0
GROWTH_MB_MAX = 300.0


async def test_a_thousand_peers_that_join_at_once_are_linked_soon_and_gone_as_soon_and_calls_go_on(
    tmp_path: Path,
) -> None:
    share = PEERS // PROCESSES
    async with AsyncExitStack() as stack:
        ports = stack.enter_context(many_ports(PEERS))
        for first in range(0, PEERS, share):
            await stack.enter_async_context(stub_peers(tmp_path, ports[first : first + share], first=first))
        start = await stack.enter_async_context(running_nodes())
        peers = listed(tmp_path / "peers.json", ports[:1])
        front = await start("front", tmp_path / "front", MESH_DISCOVERY="off", MESH_PEER_FILES=str(peers))
        await eventually(partial(has_ready, front, 1))
        held, used_s = resident_bytes(front.process.pid), cpu_s(front.process.pid)
        before = processor_time(front.process.pid)
        async with steady_calls(front, TOOL, {"node": "n0", "text": "x"}, eras=["auto"]) as tally:
            await tally.grows(1)
            began_s = time.monotonic()
            listed(peers, ports)

            async def all_are_linked() -> bool:
                nonlocal took_s, waited_s
                took_s = time.monotonic() - began_s
                waited_s = (processor_time(front.process.pid) - before).waited_s
                if took_s - waited_s > LINKED_WITHIN_S:
                    raise RuntimeError(
                        f"not linked after {took_s:.0f} s, of which the node had no core for {waited_s:.0f}"
                    )
                return await has_ready(front, PEERS)

            took_s = waited_s = 0.0
            await eventually(all_are_linked, PATIENCE_S)
            listed(peers, ports[:1])
            await eventually(partial(has_ready, front, 1), PATIENCE_S)
            gone_s = time.monotonic() - began_s - took_s
        grown_mb = (resident_bytes(front.process.pid) - held) / 2**20
        used_s = cpu_s(front.process.pid) - used_s
        measured(
            f"{PEERS:,} linked {took_s:.1f} s after they were listed, {waited_s:.1f} s of which the node waited for a"
            f" core, with {used_s:.1f} s of processor time and"
            f" {grown_mb:.0f} MB; gone {gone_s:.1f} s after they were no longer listed"
        )
        assert tally.failures == []
        assert used_s < PROCESSOR_S_MAX + PROBES_SHARE * (took_s + gone_s)
        assert grown_mb < GROWTH_MB_MAX


async def has_ready(node: RunningNode, count: int) -> bool:
    return (await links(node)).get("ready", 0) == count
