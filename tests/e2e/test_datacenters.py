"""Two datacentres of Consul, joined over the WAN, and nodes of both: where calls go, and what a cut WAN does.

The one rule: no call fails while a replica is there in either of them.
"""

import random
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.journal_server import journal_server
from tests.chaos.namespace import Machine, other_machine, why_not
from tests.chaos.placed_nodes import placed
from tests.consul_process import NODE_RULES, RunningConsul, running_consul
from tests.e2e.running import RunningNode, StartNode, running_nodes, stop_node
from tests.e2e.servers_files import example, write_servers
from tests.e2e.steady_calls import Tally, steady_calls
from tests.measured import measured
from tests.ports import free_port, free_ports
from tests.waiting import all_of, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.consul, pytest.mark.timeout(180)]

ANSWERED_AGAIN_S = 60.0
# A past latency counts for 1/e after 10 s: one of 1.4 s is tried again after 10 s; the rest is the machine's.
MOVED_S = 60.0
USUAL = 10.0
# Nodes that only their own machine dials.
LOCAL = {"MESH_ADVERTISE_ADDRESS": "127.0.0.1"}


@pytest.fixture
async def datacenters(consul_program: Path, tmp_path: Path) -> AsyncIterator[tuple[RunningConsul, RunningConsul]]:
    """Consul of dc1 and of dc2, each knowing the other."""
    folders = [tmp_path / name for name in ("dc1", "dc2")]
    for folder in folders:
        folder.mkdir()
    wan = free_ports(2)
    one, two = (
        {"datacenter": f"dc{n + 1}", "node_name": f"consul-{n + 1}", "retry_join_wan": [f"127.0.0.1:{wan[1 - n]}"]}
        for n in range(2)
    )
    async with (
        running_consul(consul_program, folders[0], extra=one, ports={"serf_wan": wan[0]}) as home,
        running_consul(consul_program, folders[1], extra=two, ports={"serf_wan": wan[1]}) as away,
    ):
        await eventually(partial(knows_both, home))
        await eventually(partial(knows_both, away))
        yield home, away


async def test_the_other_datacentre_serves_when_home_cannot_and_a_cut_wan_takes_nothing_away(
    datacenters: tuple[RunningConsul, RunningConsul], start: StartNode, tmp_path: Path
) -> None:
    home, away = datacenters
    dice = {"dice": example("dice", "service")}
    # The list is the same for all nodes of both, so the own one is in it.
    everywhere = {"MESH_DATACENTERS": "dc1,dc2", "CONSUL_HTTP_ADDR": home.url}
    abroad = {"CONSUL_HTTP_ADDR": away.url, "MESH_ADVERTISE_ADDRESS": "localhost"}
    caller, near, _far = await all_of(
        start(name, tmp_path / name, servers=servers, **settings)
        for name, servers, settings in (
            ("caller", {}, everywhere),
            ("near", dice, {"CONSUL_HTTP_ADDR": home.url}),
            ("far", dice, abroad),
        )
    )
    await eventually(partial(caller.sees, "near", "far"))
    await eventually(partial(caller.offers, "dice__roll"))
    said = {"name": "datacenter dc2", "up": True, "last_error": "", "instances": 1, "filtered_by_acls": False}

    async def is_well() -> bool:
        found = await source(caller)
        assert found | said == found, found
        assert (status := await caller.status())["findings"] == [], status["findings"]
        return True

    await eventually(is_well)
    assert {name: peer["datacenter"] for name, peer in (await caller.peers()).items()} == {"near": "", "far": "dc2"}
    assert "our own datacentre is in MESH_DATACENTERS" in caller.log()
    async with steady_calls(caller, "dice__roll") as tally:
        # That home goes first is for the next test: here a slow moment of the machine may send calls abroad.
        await tally.grows(10)
        await stop_node(near)
        before = await calls_to(caller, "far")
        await tally.grows(30)
        assert await calls_to(caller, "far") - before >= 20
        away.kill()  # Nothing of the other datacentre's catalog arrives any more.
        await eventually(partial(source_is, caller, up=False), ANSWERED_AGAIN_S)
        await tally.grows(30)
        assert await caller.sees("far")
        away.start()
        await eventually(partial(source_is, caller, up=True), ANSWERED_AGAIN_S)
        await start("again", tmp_path / "again", servers=dice, **abroad)
        await eventually(partial(caller.sees, "far", "again"))
    assert tally.failures == []


async def test_calls_go_to_the_other_datacentre_while_home_is_three_times_slower_and_come_back(
    datacenters: tuple[RunningConsul, RunningConsul], start: StartNode, tmp_path: Path
) -> None:
    home, away = datacenters
    rng = random.Random(1)  # How long a call takes: 17 ms, times what a server is slower by.
    async with (
        journal_server(tmp_path / "near.journal", rng) as at_home,
        journal_server(tmp_path / "far.journal", rng) as abroad,
    ):
        caller, *_ = await all_of(
            start(name, tmp_path / name, servers=servers, CONSUL_HTTP_ADDR=consul.url, **(LOCAL | more))
            for name, consul, servers, more in (
                ("caller", home, {}, {"MESH_DATACENTERS": "dc2"}),
                ("near", home, {"journal": {"url": at_home.url}}, {}),
                # Another address, for nodes of one machine are no far ones of one another.
                ("far", away, {"journal": {"url": abroad.url}}, {"MESH_ADVERTISE_ADDRESS": "localhost"}),
            )
        )
        await eventually(partial(caller.sees, "near", "far"))
        await eventually(partial(caller.offers, "journal__read"))

        async def share_abroad(tally: Tally) -> float:
            before = at_home.executed().total(), abroad.executed().total()
            await tally.grows(15)
            near, far = (now.executed().total() - then for now, then in zip((at_home, abroad), before, strict=True))
            return far / (near + far)

        async def is_abroad(tally: Tally) -> bool:
            shares.append(await share_abroad(tally))
            assert shares[-1] > 0.7, shares
            return True

        async def is_at_home(tally: Tally) -> bool:
            shares.append(await share_abroad(tally))
            assert shares[-1] < 0.3, shares
            return True

        shares: list[float] = []
        # So slow that a busy machine makes little difference, and one call at a time, for those in flight count, too.
        at_home.slower_by = abroad.slower_by = USUAL
        async with steady_calls(caller, "journal__read", {"id": "any"}, eras=["auto"]) as tally:
            await eventually(partial(is_at_home, tally), MOVED_S)
            at_home.slower_by = 2 * USUAL
            await tally.grows(5)
            await eventually(partial(is_at_home, tally), MOVED_S)  # A slow moment sends calls abroad for a while.
            at_home.slower_by, began_s = 8 * USUAL, time.monotonic()
            await eventually(partial(is_abroad, tally), MOVED_S)
            moved_s = time.monotonic() - began_s
            at_home.slower_by, began_s = USUAL, time.monotonic()
            await eventually(partial(is_at_home, tally), MOVED_S)
        assert tally.failures == []
        assert (await caller.peers()).keys() == {"near", "far"}
    measured(
        f"moved abroad in {moved_s:.1f} s, and back in {time.monotonic() - began_s:.1f} s; shares abroad: {shares}"
    )


@pytest.fixture
def machine() -> Iterator[Machine]:
    """Where the other datacentre is."""
    if reason := why_not():
        pytest.skip(f"NO NETWORK NAMESPACES: a WAN that loses packets was not tried; {reason}")
    with other_machine() as made:
        yield made


async def test_a_wan_that_loses_every_packet_takes_nothing_away_and_after_it_heals_the_other_datacentre_serves(
    consul_program: Path, machine: Machine, tmp_path: Path
) -> None:
    dice = {"dice": example("dice", "service")}
    wan = free_ports(2)
    for name in ("dc1", "dc2"):
        (tmp_path / name).mkdir()
    one, two = (
        {"datacenter": f"dc{n + 1}", "node_name": f"consul-{n + 1}", "retry_join_wan": [f"{other}:{wan[1 - n]}"]}
        for n, other in enumerate((machine.far, machine.near))
    )
    here, there = (machine.near, ()), (machine.far, machine.command())
    async with (
        running_consul(consul_program, tmp_path / "dc1", extra=one, ports={"serf_wan": wan[0]}, place=here) as home,
        running_consul(consul_program, tmp_path / "dc2", extra=two, ports={"serf_wan": wan[1]}, place=there) as away,
        running_nodes() as start,
    ):
        await eventually(partial(knows_both, home))
        own = {"CONSUL_HTTP_ADDR": away.url, "MESH_SERVERS_FILE": str(write_servers(tmp_path / "far", dice))}
        far = placed("far", tmp_path, (machine.far, free_port()), own, machine.name)
        try:
            near = await start("near", tmp_path / "near", servers=dice, CONSUL_HTTP_ADDR=home.url, **LOCAL)
            everywhere = {"MESH_DATACENTERS": "dc2", "CONSUL_HTTP_ADDR": home.url, **LOCAL}
            caller = await start("caller", tmp_path / "caller", servers={}, **everywhere)
            await eventually(partial(caller.sees, "near", "far"))
            await eventually(partial(caller.offers, "dice__roll"))
            async with steady_calls(caller, "dice__roll", pause_s=0.2) as tally:
                machine.lose_what_is_sent_here()
                await eventually(partial(source_is, caller, up=False), ANSWERED_AGAIN_S)
                await tally.grows(30)
                assert (await caller.peers()).keys() == {"near", "far"}
                machine.heal()
                await eventually(partial(source_is, caller, up=True), ANSWERED_AGAIN_S)
                await eventually(partial(caller.sees, "near", "far"))
                await stop_node(near)
                await tally.grows(30)
                assert await calls_to(caller, "far") >= 20
            assert tally.failures == []
        finally:
            machine.heal()
            await stop_node(far)


async def test_a_token_that_loses_its_rights_in_the_other_datacentre_costs_no_call_and_is_named(
    consul_program: Path, start: StartNode, tmp_path: Path
) -> None:
    wan = free_ports(2)
    for name in ("dc1", "dc2"):
        (tmp_path / name).mkdir()
    one, two = (
        {"datacenter": f"dc{n + 1}", "node_name": f"consul-{n + 1}", "retry_join_wan": [f"127.0.0.1:{wan[1 - n]}"]}
        for n in range(2)
    )
    async with (
        running_consul(consul_program, tmp_path / "dc1", extra=one, ports={"serf_wan": wan[0]}) as home,
        running_consul(consul_program, tmp_path / "dc2", acl=True, extra=two, ports={"serf_wan": wan[1]}) as away,
    ):
        await eventually(partial(knows_both, home))
        theirs, token = await away.token_for(NODE_RULES), await away.token_for(NODE_RULES)
        everywhere = {"MESH_DATACENTERS": "dc2", "CONSUL_HTTP_ADDR": home.url, "MESH_CONSUL_WAIT_S": "2"}
        abroad = {"CONSUL_HTTP_ADDR": away.url, "CONSUL_HTTP_TOKEN": theirs, "MESH_ADVERTISE_ADDRESS": "localhost"}
        dice = {"dice": example("dice", "service")}
        caller, _ = await all_of(
            [
                start("caller", tmp_path / "caller", servers={}, CONSUL_HTTP_TOKEN=token, **everywhere),
                start("far", tmp_path / "far", servers=dice, **abroad),
            ]
        )
        await eventually(partial(caller.offers, "dice__roll"))
        async with steady_calls(caller, "dice__roll") as tally:
            await away.change_rules(token, NODE_RULES.replace('node_prefix ""', 'node_prefix "none"'))
            await eventually(partial(source_is, caller, up=False, why="node:read"), ANSWERED_AGAIN_S)
            assert await caller.sees("far")
            await tally.grows(30)
            await away.change_rules(token, NODE_RULES)
            await eventually(partial(source_is, caller, up=True), ANSWERED_AGAIN_S)
        assert await caller.sees("far")
        assert tally.failures == []


async def knows_both(consul: RunningConsul) -> bool:
    return len(await consul.call("GET", "/v1/catalog/datacenters")) == 2


async def source(node: RunningNode) -> dict[str, Any]:
    found: dict[str, Any]
    (found,) = (await node.status())["self"]["discovery"]["sources"]
    return found


async def source_is(node: RunningNode, *, up: bool, why: str = "") -> bool:
    found = await source(node)
    assert why in found["last_error"], found
    return bool(found["up"]) is up


async def calls_to(node: RunningNode, peer: str) -> float:
    _, text = await node.request("GET", "/metrics")
    wanted = f'mesh_calls_total{{backend="peer:{peer}"'
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(wanted))
