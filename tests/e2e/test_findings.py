"""What a real Consul lists that calls for an operator: a finding each in the status of a real node, and its metrics.

The one rule: none of it is dialled, and the entries that are well are used all the same.
"""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.consul_process import RunningConsul
from tests.e2e.running import RunningNode, StartNode
from tests.ports import free_ports
from tests.waiting import all_of, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.consul, pytest.mark.timeout(120)]

NAME = "mcp-node"
ELSEWHERE = "another-machine"
# An address of no machine (RFC 5737): what is dialled there shows as a link that fails.
NOWHERE = "192.0.2.7"


async def test_each_bad_entry_of_the_catalog_is_named_with_its_cause_and_none_is_dialled(
    consul: RunningConsul, start: StartNode, tmp_path: Path
) -> None:
    one, two = await all_of(
        start(name, tmp_path / name, servers={}, CONSUL_HTTP_ADDR=consul.url) for name in ("one", "two")
    )
    await eventually(partial(one.sees, "two"))
    own = await row_of(consul, one)
    holder, service_id, meta = own["Node"]["Node"], own["Service"]["ID"], own["Service"]["Meta"]
    port = free_ports(1)[0]
    await lists(consul, service_id, Port=one.port, Meta=meta)  # An agent that was renamed has left it.
    await lists(consul, "copy", Port=port, Meta=meta)  # A copied state folder.
    await lists(consul, "full", check=("free space", "critical", "2 MB are\nleft"), Port=10)
    await lists(consul, "resting", check=("Service Maintenance Mode", "critical", ""), reason="new disks")
    await lists(consul, "no-port", Port=0)
    await lists(consul, "no-path", Meta={"mcp_path": "mcp?x=1"})
    await lists(consul, "loopback", Address="127.0.0.1", Port=port, node="a-third-machine")
    await lists(consul, "sidecar", Kind="connect-proxy", Proxy={"DestinationServiceName": NAME})
    wanted = {
        ("own_entry_twice", service_id, f"Consul node {holder}, at 127.0.0.1:{one.port}"),
        ("own_entry_twice", service_id, f"Consul node {ELSEWHERE}, at {NOWHERE}:{one.port}"),
        ("own_id_elsewhere", "copy", f"{NOWHERE}:{port}, Consul node {ELSEWHERE}"),
        ("critical", "full", "free space: 2 MB are left"),
        ("in_maintenance", "resting", "new disks"),
        ("unusable", "no-port", "port 0 is none"),
        ("unusable", "no-path", "its mcp_path is not a plain path"),
        ("unusable", "loopback", "its loopback address belongs to another machine"),
    }
    await eventually(partial(finds, one, wanted))
    # Maintenance is no fault, and the one there is tried.
    await eventually(partial(has_links, one, {"two": True, "resting": False}))
    healths = {health: await one.metric("mesh_instances", health=health) for health in ("critical", "maintenance")}
    assert healths == {"critical": 1, "maintenance": 1}
    assert await one.metric("mesh_registered") == 1
    assert await one.metric("mesh_peer_up", peer="two") == 1
    assert await one.metric("mesh_peer_up", peer="resting") == 0
    assert await one.metric("mesh_servers_file_ok") == 1
    assert await two.metric("mesh_registered") == 1
    for machine in (ELSEWHERE, "a-third-machine"):
        await consul.call("PUT", "/v1/catalog/deregister", {"Node": machine})
    await eventually(partial(finds, one, set()))
    await eventually(partial(one.sees, "two"))  # The link to what rested goes a step later.


async def lists(
    consul: RunningConsul,
    service_id: str,
    *,
    node: str = ELSEWHERE,
    check: tuple[str, str, str] | None = None,
    reason: str = "",
    **more: Any,
) -> None:
    """Put an entry into the catalog that no agent keeps."""
    service = {"ID": service_id, "Service": NAME, "Address": NOWHERE, "Port": 9, **more}
    entry: dict[str, Any] = {"Node": node, "Address": NOWHERE, "Service": service}
    if check is not None:
        name, status, output = check
        check_id = f"_service_maintenance:{service_id}" if reason else f"{service_id}-check"
        told = {"Name": name, "Status": status, "Output": output, "Notes": reason}
        entry["Checks"] = [{"Node": ELSEWHERE, "CheckID": check_id, "ServiceID": service_id, **told}]
    await consul.call("PUT", "/v1/catalog/register", entry)


async def finds(node: RunningNode, wanted: set[tuple[str, str, str]]) -> bool:
    found = {(one["kind"], one["name"], one["detail"]) for one in (await node.status())["findings"]}
    assert found == wanted
    return True


async def has_links(node: RunningNode, wanted: dict[str, bool]) -> bool:
    found = {name: peer["connected"] for name, peer in (await node.peers()).items()}
    assert found == wanted
    return True


async def row_of(consul: RunningConsul, node: RunningNode) -> Any:
    rows = await consul.call("GET", f"/v1/health/service/{NAME}")
    (row,) = [row for row in rows if row["Service"]["Meta"].get("name") == node.name]
    return row
