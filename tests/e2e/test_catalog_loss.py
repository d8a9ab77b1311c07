"""Consul forgets everything, or goes away: the mesh stays as it was, says so, and mends itself.

Needs a real Consul of each test's own. The one rule: no call fails and no peer is dropped because of Consul.
"""

import asyncio
import time
from functools import partial
from pathlib import Path

import pytest

from tests.consul_process import RunningConsul
from tests.e2e.running import RunningNode, StartNode, stop_node
from tests.e2e.servers_files import example
from tests.e2e.steady_calls import steady_calls
from tests.measured import measured
from tests.waiting import all_of, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.consul, pytest.mark.timeout(120)]

# Registered again within 5 s after Consul serves, and its new state is seen within 2 s; the rest is the test machine's.
REGISTERED_AGAIN_S, SEEN_AGAIN_S = 10.0, 7.0


@pytest.fixture
async def pair(consul: RunningConsul, start: StartNode, tmp_path: Path) -> tuple[RunningNode, RunningNode]:
    """Two nodes; the second has the clock."""
    one, two = await all_of(
        start(name, tmp_path / name, servers=own, CONSUL_HTTP_ADDR=consul.url)
        for name, own in (("one", {}), ("two", {"clock": example("clock")}))
    )
    await eventually(partial(one.sees, "two"))
    await eventually(partial(two.sees, "one"))
    await eventually(partial(one.offers, "two__clock__now"))
    return one, two


async def test_consul_that_forgot_everything_soon_knows_all_nodes_again(
    consul: RunningConsul, pair: tuple[RunningNode, RunningNode]
) -> None:
    one, two = pair
    async with steady_calls(one, "two__clock__now") as tally:
        await tally.grows()
        consul.kill(wipe=True)
        await eventually(partial(consul_is, one, up=False))
        consul.start()
        await consul.wait_for_leader()
        serves_s = time.monotonic()
        async with asyncio.timeout(REGISTERED_AGAIN_S):
            await eventually(partial(passing, consul, 2))
        measured(f"both registered {time.monotonic() - serves_s:.1f} s after an empty Consul served")
        await eventually(partial(consul_is, one, up=True), SEEN_AGAIN_S)
        measured(f"its new state was followed {time.monotonic() - serves_s:.1f} s after it served")
        await tally.grows()
    assert tally.failures == []
    for node, other in ((one, "two"), (two, "one")):
        peer = (await node.peers())[other]
        assert peer["connected"]
        assert peer["reconnects"] == 0
    assert (await one.metric("mesh_registrations_total") or 0) >= 2


async def test_without_consul_calls_go_on_and_the_node_stays_ready_and_says_what_is_wrong(
    consul: RunningConsul, pair: tuple[RunningNode, RunningNode], start: StartNode
) -> None:
    one, two = pair
    assert await one.metric("mesh_consul_up") == 1
    consul.kill()
    await eventually(partial(consul_is, one, up=False))
    async with steady_calls(one, "two__clock__now") as tally:
        await tally.grows(30)
    assert tally.failures == []
    assert await one.request("GET", "/readyz") == (200, {"status": "ready"})
    assert await one.metric("mesh_consul_up") == 0
    assert (await one.metric("mesh_catalog_age_seconds") or 0) > 0
    discovery = await one.discovery()
    assert not discovery["up"]
    assert discovery["last_error"]
    assert await one.sees("two")
    assert await two.sees("one")
    # One that starts now knows the others from the catalog that it kept.
    assert await stop_node(one) == 0
    again = await start(one)
    await eventually(partial(again.sees, "two"))
    await eventually(partial(again.offers, "two__clock__now"))
    consul.start()
    await consul.wait_for_leader()
    serves_s = time.monotonic()
    await eventually(partial(consul_is, again, up=True))
    measured(f"Consul is followed {time.monotonic() - serves_s:.1f} s after it served again")
    assert await again.metric("mesh_consul_up") == 1


async def consul_is(node: RunningNode, *, up: bool) -> bool:
    return bool((await node.discovery())["up"]) is up


async def passing(consul: RunningConsul, count: int) -> bool:
    return len(await consul.call("GET", "/v1/health/service/mcp-node?passing")) == count
