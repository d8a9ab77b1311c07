"""A node of the mesh that offers a service which an operator has given to another node: it never gets a call."""

from functools import partial
from pathlib import Path

import pytest

from tests.attacks.clients import Holder
from tests.e2e.running import RunningNode, running_nodes
from tests.e2e.servers_files import example
from tests.waiting import all_of, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


async def metrics_of(node: RunningNode) -> list[str]:
    status, text = await node.request("GET", "/metrics")
    assert status == 200
    return list(text.splitlines())


async def test_a_pinned_service_is_served_by_its_node_alone_also_while_that_is_away(tmp_path: Path) -> None:
    async with running_nodes() as start:
        owner, other = await all_of(
            start(name, tmp_path / name, servers={"dice": example("dice", "service")}, MESH_DISCOVERY="off")
            for name in ("owner", "other")
        )
        node_id = (await owner.status())["self"]["node_id"]
        pins = {"MESH_SERVICE_NODES": f"dice={node_id}", "MESH_DISCOVERY": "off"}
        front = await start("front", tmp_path / "front", MESH_PEERS=f"owner={owner.url},other={other.url}", **pins)
        await eventually(partial(front.sees, "owner", "other"))
        await eventually(partial(front.offers, "dice__roll"))
        conflicts = (await front.status())["conflicts"]
        assert {(c["reason"], *c["others"]) for c in conflicts} == {("pinned", "peer:other")}

        client = Holder(front.base, None)
        for _ in range(10):
            assert (await client.modern("tools/call", name="dice__roll", arguments={})).status == 200
        calls = [line for line in await metrics_of(front) if line.startswith("mesh_calls_total{")]
        assert [line for line in calls if 'backend="peer:owner"' in line], calls
        assert [line for line in calls if 'backend="peer:other"' in line] == []
        owner.kill()

        async def is_gone() -> bool:
            return not (await front.peers())["owner"]["connected"]

        await eventually(is_gone)
        reply = await client.modern("tools/call", name="dice__roll", arguments={})
        assert "error" in reply.body, reply
        assert not [event for event in other.events("MCP request") if event.get("method") == "tools/call"]
