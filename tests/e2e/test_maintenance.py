"""An operator takes a node into maintenance and out of it, in a real Consul: where calls go, and what commands print.

The one rule: no call fails, and every node lists the same throughout.
"""

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

REASON = "new disks"
# At once; the rest is the machine's.
BACK_WITHIN_S = 5.0


async def test_a_node_in_maintenance_gets_no_calls_while_another_serves_them_and_is_back_at_once(
    consul: RunningConsul, start: StartNode, tmp_path: Path
) -> None:
    dice = {"dice": example("dice", "service")}
    caller, resting, busy = await all_of(
        start(name, tmp_path / name, servers=servers, CONSUL_HTTP_ADDR=consul.url)
        for name, servers in (("caller", {}), ("resting", dice), ("busy", dice))
    )
    for node in (caller, resting, busy):
        await eventually(partial(node.offers, "dice__roll"))
        await eventually(partial(node.sees, *sorted({"caller", "resting", "busy"} - {node.name})))
    listed = await caller.tool_names()
    await maintain(consul, resting, enable=True)
    await eventually(partial(peer_rests, caller, "resting", REASON))
    await eventually(partial(rests, resting, REASON))
    before = await calls_of(caller, "peer:resting"), await calls_of(resting, "server:dice")
    async with steady_calls(caller, "dice__roll") as tally, steady_calls(resting, "dice__roll") as own_tally:
        await tally.grows(30)
        await own_tally.grows(30)  # Its own clients' calls go to the other node as well.
        assert (await calls_of(caller, "peer:resting"), await calls_of(resting, "server:dice")) == before
        late = await start("late", tmp_path / "late", servers={}, CONSUL_HTTP_ADDR=consul.url)
        await eventually(partial(late.sees, "caller", "resting", "busy"))
        await eventually(partial(late.offers, *listed))
        assert await late.tool_names() == await caller.tool_names() == listed
        await eventually(partial(peer_rests, late, "resting", REASON))
        await maintain(consul, resting, enable=False)
        over_s = time.monotonic()

        async def called_again() -> bool:
            return await calls_of(caller, "peer:resting") > before[0]

        await eventually(called_again, BACK_WITHIN_S)
        measured(f"called again {time.monotonic() - over_s:.2f} s after the end of its maintenance")
        await eventually(partial(peer_rests, caller, "resting", ""))
        await eventually(partial(rests, resting, ""))
    assert (tally.failures, own_tally.failures) == ([], [])
    for node, event in ((caller, "a peer is in maintenance"), (resting, "this node is in maintenance")):
        (said,) = [record for record in node.events() if record["event"].startswith(event)]
        assert said["reason"] == REASON


async def test_a_node_that_is_started_anew_in_its_maintenance_gets_no_call_and_says_how_that_ends(
    consul: RunningConsul, start: StartNode, tmp_path: Path
) -> None:
    dice = {"dice": example("dice", "service")}
    caller, resting, _ = await all_of(
        start(name, tmp_path / name, servers=servers, CONSUL_HTTP_ADDR=consul.url)
        for name, servers in (("caller", {}), ("resting", dice), ("busy", dice))
    )
    await eventually(partial(caller.sees, "busy", "resting"))
    await eventually(partial(caller.offers, "dice__roll"))
    await maintain(consul, resting, enable=True)
    await eventually(partial(peer_rests, caller, "resting", REASON))
    before = await calls_of(caller, "peer:resting")
    async with steady_calls(caller, "dice__roll") as tally:
        assert await stop_node(resting) == 0
        again = await start(resting)
        await eventually(partial(peer_rests, caller, "resting", REASON))
        await eventually(partial(rests, again, REASON))
        await tally.grows(30)
        assert await calls_of(caller, "peer:resting") == before
        (finding,) = [f for f in (await again.status())["findings"] if f["kind"] == "maintenance_resumed"]
        command = f"consul maint -disable -service={finding['name']}"
        assert REASON in finding["detail"]
        assert command in finding["detail"]
        (said,) = again.events("the maintenance of before is taken up again")
        assert (said["reason"], said["ended_by"]) == (REASON, command)
        await maintain(consul, again, enable=False)
        await eventually(partial(rests, again, ""))

        async def called_again() -> bool:
            return await calls_of(caller, "peer:resting") > before

        await eventually(called_again, BACK_WITHIN_S)
        assert [f for f in (await again.status())["findings"] if f["kind"] == "maintenance_resumed"] == []
    assert tally.failures == []


async def test_maintenance_that_went_with_the_entry_of_a_dead_node_is_said_by_the_others_when_it_is_back(
    consul: RunningConsul, start: StartNode, tmp_path: Path
) -> None:
    seer, dead = await all_of(
        start(name, tmp_path / name, servers={}, CONSUL_HTTP_ADDR=consul.url) for name in ("seer", "dead")
    )
    await eventually(partial(seer.sees, "dead"))
    service_id = await service_id_of(consul, dead)
    dead.kill()
    await consul.call("PUT", f"/v1/agent/check/fail/service:{service_id}")  # As when its time is over.
    await maintain(consul, dead, enable=True)
    await eventually(partial(finds, seer, "in_maintenance", service_id))
    await consul.call("PUT", f"/v1/agent/service/deregister/{service_id}")
    await eventually(partial(finds, seer, "in_maintenance"))
    back = await start(dead)
    await eventually(partial(seer.sees, "dead"))
    await eventually(partial(finds, seer, "maintenance_lost", service_id))
    (said,) = seer.events("a peer has lost the maintenance of its dead entry")
    assert (said["peer"], said["reason"]) == (service_id, REASON)
    await maintain(consul, back, enable=True)
    await eventually(partial(finds, seer, "maintenance_lost"))
    await eventually(partial(peer_rests, seer, "dead", REASON))


async def finds(node: RunningNode, kind: str, *names: str) -> bool:
    """Whether these are what its status has of a kind."""
    return [one["name"] for one in (await node.status())["findings"] if one["kind"] == kind] == list(names)


async def service_id_of(consul: RunningConsul, node: RunningNode) -> str:
    rows = await consul.call("GET", "/v1/health/service/mcp-node")
    (service_id,) = [row["Service"]["ID"] for row in rows if row["Service"]["Meta"]["name"] == node.name]
    return str(service_id)


async def maintain(consul: RunningConsul, node: RunningNode, *, enable: bool) -> None:
    service_id = await service_id_of(consul, node)
    query = f"enable={str(enable).lower()}&reason=new+disks"
    await consul.call("PUT", f"/v1/agent/service/maintenance/{service_id}?{query}")


async def peer_rests(node: RunningNode, peer: str, reason: str) -> bool:
    seen = (await node.peers())[peer]["maintenance"]
    told = await node.metric("mesh_maintenance_info", peer=peer, reason=reason or REASON)
    assert told == (1 if reason else None)
    return bool(seen == reason and await node.metric("mesh_peers_in_maintenance") == bool(reason))


async def rests(node: RunningNode, reason: str) -> bool:
    seen = (await node.status())["self"]["maintenance"]
    told = await node.metric("mesh_maintenance_info", peer="", reason=reason or REASON)
    assert told == (1 if reason else None)
    return bool(seen == reason and await node.metric("mesh_maintenance") == bool(reason))


async def calls_of(node: RunningNode, backend: str) -> float:
    _, text = await node.request("GET", "/metrics")
    wanted = f'mesh_calls_total{{backend="{backend}"'
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(wanted))
