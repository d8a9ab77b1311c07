"""Peers without any Consul: real nodes that a file and a name of DNS list, found, followed and linked once each."""

import asyncio
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import dns.rcode
import pytest

from tests.chaos.placed_nodes import placed
from tests.consul_process import RunningConsul, running_consul
from tests.contract.dns_server import NameServer, name_server
from tests.e2e.processes import ROOT, environment_of
from tests.e2e.running import RunningNode, StartNode, stop_all, stop_node
from tests.e2e.servers_files import example, replace_file
from tests.ports import free_ports
from tests.waiting import all_of, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

# A back-off of 30 s at most, or the TTL of a name that other nodes have left; the rest is the test machine's.
FOUND_AGAIN_S = 60.0


async def test_nodes_listed_by_a_file_and_by_dns_are_one_mesh_without_a_catalog(
    start: StartNode, tmp_path: Path
) -> None:
    alone = {"MESH_DISCOVERY": "off"}
    ports = free_ports(3)
    dice = {"dice": example("dice", "node")}
    listed = tmp_path / "peers.json"
    async with name_server() as server:
        publish(server, ports[2])
        write(listed, *ports[:2])  # The caller itself is in it, as in a file that is the same for all.
        sources = {
            "MESH_PEER_FILES": str(tmp_path / "*.json"),
            "MESH_PEER_DNS": "_mcp._tcp.mesh.test",
            "MESH_DNS_SERVERS": server.address,
        }
        caller, two, three = await all_of(
            start(name, tmp_path / name, port=port, servers=servers, **alone, **more)
            for name, port, servers, more in (
                ("caller", ports[0], {}, sources),
                ("two", ports[1], dice, {}),
                ("three", ports[2], dice, {}),
            )
        )
        await eventually(partial(nodes_are, caller, two, three))
        await eventually(partial(caller.offers, "two__dice__roll", "three__dice__roll"))
        await eventually(partial(finds, caller, "ourselves"))
        # The same node by both sources keeps its one link.
        write(listed, *ports)
        server.fault = dns.rcode.SERVFAIL
        await eventually(partial(source_says, caller, "SERVFAIL"))
        await eventually(partial(nodes_are, caller, two, three))
        shown = await asyncio.to_thread(printed_status, caller)
        assert "dns _mcp._tcp.mesh.test: down, 1 instances, last error: " in shown
        replace_file(listed, b'[{"targets": ["127.0.0.1:')
        await eventually(partial(source_says, caller, "peers.json"))
        await eventually(partial(nodes_are, caller, two, three))
        server.fault = None
        write(listed, ports[0], ports[2])
        await eventually(partial(nodes_are, caller, three))
    assert three.process.returncode is None


async def test_a_node_that_starts_while_its_sources_cannot_be_read_begins_with_what_it_knew(
    start: StartNode, tmp_path: Path
) -> None:
    alone = {"MESH_DISCOVERY": "off"}
    ports = free_ports(3)
    listed = tmp_path / "peers.json"
    async with name_server() as server:
        publish(server, ports[2])
        write(listed, ports[1])
        sources = {
            "MESH_PEER_FILES": str(listed),
            "MESH_PEER_DNS": "_mcp._tcp.mesh.test",
            "MESH_DNS_SERVERS": server.address,
        }
        caller, two, three = await all_of(
            start(name, tmp_path / name, port=port, servers={}, **alone, **more)
            for name, port, more in (("caller", ports[0], sources), ("two", ports[1], {}), ("three", ports[2], {}))
        )
        await eventually(partial(nodes_are, caller, two, three))
        await eventually(partial(both_kept, tmp_path / "caller"))
        await stop_node(caller)
        server.fault = dns.rcode.SERVFAIL
        replace_file(listed, b'[{"targets": ["127.0.0.1:')
        again = await start("caller", tmp_path / "caller", port=ports[0], servers={}, **alone, **sources)
        await eventually(partial(nodes_are, again, two, three))
        await eventually(partial(source_says, again, "SERVFAIL"))
        await eventually(partial(source_says, again, "peers.json"))


async def test_a_name_with_addresses_of_both_kinds_links_each_node_once_whichever_of_them_is_its_own(
    start: StartNode, tmp_path: Path
) -> None:
    alone = {"MESH_DISCOVERY": "off"}
    (port,) = free_ports(1)
    async with name_server() as server:
        server.records |= {("mesh.test", "A"): ["127.0.0.1"], ("mesh.test", "AAAA"): ["::1"]}
        sources = {"MESH_PEER_DNS": f"mesh.test:{port}", "MESH_DNS_SERVERS": server.address}
        four = placed("four", tmp_path, ("127.0.0.1", port), alone)
        six = placed("six", tmp_path, ("[::1]", port), {**alone, "HOST": "::1"})
        try:
            caller = await start("caller", tmp_path / "caller", servers={}, **alone, **sources)
            await eventually(partial(nodes_are, caller, four, six))
        finally:
            await stop_all([four, six])
        dual = placed("dual", tmp_path, ("127.0.0.1", port), {**alone, "HOST": "::"})
        try:
            await eventually(partial(nodes_are, caller, dual), FOUND_AGAIN_S)
            await eventually(partial(is_one_peer, caller))
            await eventually(partial(finds, caller))
            assert (await caller.status())["departed"] == []
            server.faults["A"] = dns.rcode.SERVFAIL
            await eventually(partial(source_says, caller, "A records"))
            assert await nodes_are(caller, dual)
        finally:
            await stop_all([dual])


@pytest.mark.consul
async def test_nodes_of_a_consul_are_found_by_its_dns_alone(
    consul_program: Path, start: StartNode, tmp_path: Path
) -> None:
    """As Nomad registers its services: SRV records whose targets are names that only this DNS knows."""
    (dns_port,) = free_ports(1)
    async with running_consul(consul_program, tmp_path, ports={"dns": dns_port}) as consul:
        await found_by_dns(consul, dns_port, start, tmp_path)


async def found_by_dns(consul: RunningConsul, dns_port: int, start: StartNode, tmp_path: Path) -> None:
    registered = {"CONSUL_HTTP_ADDR": consul.url}
    sources = {"MESH_PEER_DNS": "_mcp-node._tcp.service.consul", "MESH_DNS_SERVERS": f"127.0.0.1:{dns_port}"}
    caller, two, three = await all_of(
        start(name, tmp_path / name, servers={}, **more)
        for name, more in (
            ("caller", {"MESH_DISCOVERY": "off", **sources}),
            ("two", {**registered, "MESH_ADVERTISE_ADDRESS": "127.0.0.1"}),
            ("three", {**registered, "MESH_ADVERTISE_ADDRESS": "localhost"}),
        )
    )
    await eventually(partial(nodes_are, caller, two, three))
    targets = {peer["url"] for peer in (await caller.peers()).values()}
    assert targets == {f"http://127.0.0.1:{two.port}/mcp", f"http://localhost:{three.port}/mcp"}
    await stop_node(three)
    await eventually(partial(nodes_are, caller, two), FOUND_AGAIN_S)


async def finds(node: RunningNode, *kinds: str) -> bool:
    """Whether its findings are of these kinds, and of all of them."""
    found = (await node.status())["findings"]
    assert {finding["kind"] for finding in found} == set(kinds), found
    return True


async def is_one_peer(node: RunningNode) -> bool:
    return len(await node.peers()) == 1


async def both_kept(folder: Path) -> bool:
    return len(await asyncio.to_thread(lambda: list(folder.rglob("catalog-*.json")))) == 2


def printed_status(node: RunningNode) -> str:
    command, environment = [sys.executable, "-m", "agent", "status"], environment_of({"MESH_URL": node.base})
    ended = subprocess.run(command, check=True, capture_output=True, timeout=30, env=environment, cwd=ROOT)
    return ended.stdout.decode()


def write(path: Path, *ports: int) -> None:
    replace_file(path, json.dumps([{"targets": [f"127.0.0.1:{port}" for port in ports]}]).encode())


def publish(server: NameServer, port: int) -> None:
    server.records["_mcp._tcp.mesh.test", "SRV"] = [f"0 0 {port} localhost."]


async def nodes_are(node: RunningNode, *others: RunningNode) -> bool:
    """Whether these nodes are linked, each once, whatever their links are called."""
    peers = [peer for peer in (await node.peers()).values() if peer["connected"]]
    wanted = [(await other.status())["self"]["node_id"] for other in others]
    assert sorted(str(peer["node_id"]) for peer in peers) == sorted(wanted), peers
    return True


async def source_says(node: RunningNode, text: str) -> bool:
    sources = (await node.discovery())["sources"]
    assert any(text in source["last_error"] for source in sources), sources
    return True
