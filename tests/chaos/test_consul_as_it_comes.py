"""What Consul does to a mesh on bad days: health that flaps, an entry that a script removes, servers without a leader.

Two real servers of Consul, which have a leader only together, and two real nodes. The one rule: what the
catalog forgot it knows again, and for the rest no call fails, no link ends and no list changes.
"""

import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from discovery.consul.blocking_query import CONFIRM_EVERY_S
from tests.consul_process import RunningConsul, running_consul
from tests.e2e.running import RunningNode, running_nodes
from tests.e2e.servers_files import example
from tests.e2e.steady_calls import steady_calls
from tests.measured import measured
from tests.ports import free_ports
from tests.processor_time import Stopwatch
from tests.waiting import all_of, eventually, settled

pytestmark = [pytest.mark.e2e, pytest.mark.consul, pytest.mark.timeout(180)]

NAMES = ("one", "two")
PASSING = "/v1/health/service/mcp-node?passing"
FLAPS = 4
# docs/reliability.md: what the catalog forgets is back after one wait at most, which is a short one here.
BACK_WITHIN_S = 5.0
LEADERLESS_CALLS = 50
# From 1.10 on the agent's cache goes on answering waits, and the next confirming read tells; the rest is the machine's.
SEEN_WITHIN_S = CONFIRM_EVERY_S + 20.0
# A query of 25 s would hide for as long that there is no leader.
SHORT_WAITS = {"MESH_CONSUL_WAIT_S": "2"}


@pytest.fixture
async def cluster(consul_program: Path, tmp_path: Path) -> AsyncIterator[tuple[RunningConsul, RunningConsul]]:
    """Two servers; neither leads alone."""
    gossip = free_ports(2)

    def server(number: int) -> AbstractAsyncContextManager[RunningConsul]:
        folder = tmp_path / f"consul-{number}"
        folder.mkdir()
        join = {"retry_join": [f"127.0.0.1:{gossip[1 - number]}"], "retry_interval": "1s"}
        extra = {"node_name": f"consul-{number}", "bootstrap_expect": 2, **join}
        return running_consul(consul_program, folder, extra=extra, ports={"serf_lan": gossip[number]})

    async with AsyncExitStack() as stack:
        near, far = await all_of(stack.enter_async_context(server(number)) for number in range(2))
        yield near, far


async def test_no_call_link_or_list_is_lost_by_what_the_catalog_says_on_a_bad_day(
    cluster: tuple[RunningConsul, RunningConsul], tmp_path: Path
) -> None:
    near, far = cluster
    async with running_nodes() as start:
        servers = {"one": {}, "two": {"clock": example("clock")}}
        one, two = await all_of(
            start(name, tmp_path / name, servers=servers[name], CONSUL_HTTP_ADDR=near.url, **SHORT_WAITS)
            for name in NAMES
        )
        await eventually(partial(one.sees, "two"))
        await eventually(partial(one.offers, "two__clock__now"))
        notices = await settled(partial(one.metric, "mesh_list_changes_total", kind="tools"))
        before = [(await node.peers())[other] for node, other in ((one, "two"), (two, "one"))]
        back_s = await back_after_removal(near, one, two)
        async with steady_calls(one, "two__clock__now") as tally:
            check = await eventually(partial(check_of, near, two))
            for _ in range(FLAPS):
                for word, ill in (("fail", 1), ("pass", 0)):
                    await near.call("PUT", f"/v1/agent/check/{word}/{check}")
                    await eventually(partial(counts_ill, one, ill))
            far.kill()
            killed_s = time.monotonic()
            await Stopwatch(one.process.pid).until(partial(discovery_is, one, up=False), SEEN_WITHIN_S)
            await tally.grows(LEADERLESS_CALLS)
            assert await one.request("GET", "/readyz") == (200, {"status": "ready"})
            assert await one.sees("two")
            far.start()
            await near.wait_for_leader()
            leaderless_s, led_s = time.monotonic() - killed_s, time.monotonic()
            for node in (one, two):
                await eventually(partial(discovery_is, node, up=True))
            again_s = time.monotonic() - led_s
            await tally.grows()
        measured(f"an entry that was removed is back after {back_s:.2f} s")
        measured(f"health flapped {FLAPS} times, then there was no leader for {leaderless_s:.1f} s")
        measured(f"followed again {again_s:.1f} s after there was a leader")
        assert tally.failures == []
        assert await one.metric("mesh_list_changes_total", kind="tools") == notices
        after = [(await node.peers())[other] for node, other in ((one, "two"), (two, "one"))]
        assert [peer["reconnects"] for peer in after] == [peer["reconnects"] for peer in before]
        assert all(peer["connected"] for peer in after)


async def back_after_removal(consul: RunningConsul, one: RunningNode, two: RunningNode) -> float:
    """Seconds until the catalog has an entry again that a script removed; then all is as before."""
    row = await eventually(partial(row_of, consul, two))
    place = {"Datacenter": "dc1", "Node": row["Node"]["Node"], "ServiceID": row["Service"]["ID"]}
    await eventually(partial(is_removed, consul, place))
    took_s = await Stopwatch(two.process.pid).until(
        partial(has_newer_row, consul, two, row["Service"]["CreateIndex"]), BACK_WITHIN_S
    )
    await eventually(partial(one.sees, "two"))
    await eventually(partial(two.sees, "one"))
    await eventually(partial(one.offers, "two__clock__now"))
    return took_s


async def asked(consul: RunningConsul, method: str, path: str, body: Any = None) -> Any:
    """As its `call`; a refusal is no end: on a busy machine two servers lose their leader for a moment."""
    try:
        return await consul.call(method, path, body)
    except RuntimeError as exc:
        raise AssertionError(str(exc)) from exc


async def is_removed(consul: RunningConsul, place: dict[str, str]) -> bool:
    await asked(consul, "PUT", "/v1/catalog/deregister", place)
    return True


async def row_of(consul: RunningConsul, node: RunningNode) -> Any:
    rows = [row for row in await asked(consul, "GET", PASSING) if row["Service"]["Port"] == node.port]
    assert len(rows) == 1, rows
    return rows[0]


async def has_newer_row(consul: RunningConsul, node: RunningNode, index: int) -> bool:
    return bool((await row_of(consul, node))["Service"]["CreateIndex"] > index)


async def check_of(consul: RunningConsul, node: RunningNode) -> str:
    checks = (await row_of(consul, node))["Checks"]
    return str(next(check["CheckID"] for check in checks if check["CheckID"] != "serfHealth"))


async def passing(consul: RunningConsul, count: int) -> bool:
    return len(await consul.call("GET", PASSING)) == count


async def counts_ill(node: RunningNode, count: int) -> bool:
    return bool((await node.metric("mesh_instances", health="critical") or 0) == count)


async def discovery_is(node: RunningNode, *, up: bool) -> bool:
    return bool((await node.discovery())["up"]) is up
