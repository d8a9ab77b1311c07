"""A catalog that forgets what its agents still hold: clean-up scripts, a restored snapshot, an agent that leaves.

Run against a real Consul of each test's own where its whole state is replaced. The one rule: we are back as soon as the
watch sees that we are missing, no healthy peer is dropped meanwhile, and no entry is left behind.
"""

import asyncio
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from discovery.consul.client import open_client
from discovery.consul.registration import ConsulRegistrar, check_id, register_payload
from discovery.consul.session import open_session
from discovery.consul.watch import ConsulWatch
from discovery.model import Registration
from tests.consul_process import RunningConsul, running_consul
from tests.contract.following import MACHINE_S, Follower, health_of, ids, next_look, running, until, until_catalog_holds

pytestmark = pytest.mark.consul

SERVER = "test-consul"
PEERS = {"peer-1", "peer-2"}
# So often at most, until it was us who repaired it.
RESTORES_MAX = 5


async def test_an_entry_that_a_clean_up_script_removed_is_back_at_once(real_consul: RunningConsul, name: str) -> None:
    async with open_session(real_consul.settings()) as session, open_client(real_consul.settings()) as client:
        registrar = session.registrar(Registration(f"{name}-own", name, 8000, heartbeat_s=60.0, ttl_s=120.0))
        follower = Follower(session.source(name, registrar))
        async with running(registrar.keep(), follower.run()):
            await follower.until_ids(registrar.service_id)
            await until(lambda: registrar.status.registered, what="registered")
            shown = len(follower.catalogs)
            for _ in range(3):  # An agent that was started a moment ago may be quicker, once.
                await remove(real_consul, registrar.service_id)
                async with asyncio.timeout(2.0 + MACHINE_S):
                    await until_catalog_holds(client, name, {registrar.service_id})
                await until(lambda: follower.source.status.up, within_s=2, what="trusted again")
            assert registrar.status.registrations_total >= 2
            assert all(ids(catalog) for catalog in follower.catalogs[shown:])
            listed = await real_consul.call("GET", f"/v1/health/service/{name}?passing")
            assert [row["Service"]["ID"] for row in listed] == [registrar.service_id]
        await registrar.leave()


async def test_an_entry_that_was_removed_is_back_at_once_though_one_under_another_consul_node_stays(
    real_consul: RunningConsul, name: str
) -> None:
    theirs = {"ID": f"{name}-own", "Service": name, "Port": 8000}
    await real_consul.call(
        "PUT", "/v1/catalog/register", {"Node": f"{name}-gone", "Address": "127.0.0.1", "Service": theirs}
    )
    async with open_session(real_consul.settings()) as session:
        registrar = session.registrar(Registration(f"{name}-own", name, 8000, heartbeat_s=60.0, ttl_s=120.0))
        follower = Follower(session.source(name, registrar))
        async with running(registrar.keep(), follower.run()):
            await follower.until(lambda seen: len(seen.instances) == 2)
            for _ in range(3):  # As above.
                before = await made_at(real_consul, name)
                await remove(real_consul, registrar.service_id)
                async with asyncio.timeout(2.0 + MACHINE_S):
                    while await made_at(real_consul, name) in (None, before):
                        await next_look()
            assert registrar.status.registrations_total >= 2
        await registrar.leave()
    await real_consul.call("PUT", "/v1/catalog/deregister", {"Node": f"{name}-gone"})


async def test_a_whole_consul_node_that_was_removed_is_back_with_our_entry(binary: Path, tmp_path: Path) -> None:
    async with (
        running_consul(binary, tmp_path) as consul,
        open_session(consul.settings()) as session,
        open_client(consul.settings()) as client,
    ):
        registrar = session.registrar(Registration("own", "mcp-node", 8000))
        follower = Follower(session.source("mcp-node", registrar))
        async with running(registrar.keep(), follower.run()):
            await follower.until_ids("own")
            await until(lambda: registrar.status.registered, what="registered")
            await consul.call("PUT", "/v1/catalog/deregister", {"Datacenter": "dc1", "Node": SERVER})
            async with asyncio.timeout(2.0 + MACHINE_S):
                await until_catalog_holds(client, "mcp-node", {"own"})
            await until(lambda: follower.source.status.up, within_s=2, what="trusted again")
            assert all(ids(catalog) for catalog in follower.catalogs[-1:])
        await registrar.leave()


async def test_a_restored_snapshot_costs_one_wait_and_no_peer(binary: Path, tmp_path: Path) -> None:
    """Each node finds by its own watch that the catalog lacks it; the agent's own sync would take a minute or two."""
    wait_s = 3.0
    async with running_consul(binary, tmp_path) as consul, open_client(consul.settings()) as client:
        empty = await consul.snapshot()
        nodes = [ConsulRegistrar(client, Registration(one, "mcp-node", 8000)) for one in ("own", *sorted(PEERS))]
        more: dict[str, Any] = {"wait_s": wait_s, "settle_s": 0.5, "answers": lambda one: one.key.service_id != "dead"}
        followers = [Follower(ConsulWatch(client, "mcp-node", own=node, **more)) for node in nodes]
        async with running(*(node.keep() for node in nodes), *(follower.run() for follower in followers)):
            for follower in followers:
                await follower.until_ids("own", *PEERS)
            for node in nodes:
                await until(lambda node=node: node.status.registered, what="registered")
            dead = {"ID": "dead", "Service": "mcp-node", "Port": 8000}
            elsewhere = {"Node": "elsewhere", "Address": "127.0.0.1", "Service": dead}
            await consul.call("PUT", "/v1/catalog/register", elsewhere)
            for follower in followers:
                await follower.until_ids("own", *PEERS, "dead")
            shown = [len(follower.catalogs) for follower in followers]
            for _ in range(RESTORES_MAX):
                await consul.restore(empty)
                async with asyncio.timeout(wait_s * 17 / 16 + 2.0 + MACHINE_S):
                    await until_catalog_holds(client, "mcp-node", {"own", *PEERS})
                if any(node.status.registrations_total > 1 for node in nodes):
                    break  # Else the agent's own sync, which comes once a minute, was quicker.
            assert any(node.status.registrations_total > 1 for node in nodes)
            await client.register(register_payload(Registration("newcomer", "mcp-node", 8000)))
            for follower, before in zip(followers, shown, strict=True):
                await follower.until(lambda seen: "newcomer" in ids(seen), within_s=wait_s * 17 / 16 + 2)
                assert all(ids(catalog) >= {"own", *PEERS} for catalog in follower.catalogs[before:])
                await follower.until(lambda seen: health_of(seen, "peer-1") == "passing", within_s=5)
                # What is gone for good and has no link is no finding for as long as others may need to come back.
                await follower.until_ids("own", *PEERS, "newcomer", within_s=wait_s * 17 / 16 + 2)
        for node in nodes:
            await node.leave()


@pytest.mark.parametrize("reason", ["the catalog lacks us", "another offer"])
async def test_an_agent_that_leaves_its_cluster_gets_no_registration_that_would_outlive_it(
    binary: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, reason: str
) -> None:
    caplog.set_level(logging.INFO)
    ours = Registration("own", "mcp-node", 8000)
    (tmp_path / "server").mkdir()
    (tmp_path / "client").mkdir()
    async with running_consul(binary, tmp_path / "server") as server:
        joins = {"server": False, "bootstrap_expect": 0, "node_name": "client-1"}
        joins["retry_join"] = [f"127.0.0.1:{server.ports['serf_lan']}"]
        async with (
            running_consul(binary, tmp_path / "client", extra=joins) as agent,
            open_client(agent.settings()) as client,
        ):
            registrar = ConsulRegistrar(client, ours)
            async with running(registrar.keep()):
                await until_catalog_holds(client, "mcp-node", {"own"})
                await until(lambda: registrar.status.registered, what="registered")
                assert await client.is_member(check_id(ours))
                async with running(_leave(agent)):
                    while await client.is_member(check_id(ours)):
                        await next_look()
                    if reason == "another offer":
                        registrar.change(replace(ours, meta={"offer_digest": "b"}))
                    else:
                        registrar.repair()
                    await until(lambda: "Connect call failed" in registrar.status.last_error, what="has left")
            # The catalog itself proves nothing: an agent that has only just started syncs once more by itself.
            assert registrar.status.registrations_total == 1
            assert any("Consul's agent is leaving" in str(vars(record)) for record in caplog.records)


async def made_at(consul: RunningConsul, name: str) -> int | None:
    """When the entry under our agent's own Consul node was made, by Consul's index; None where there is none."""
    rows = await consul.call("GET", f"/v1/health/service/{name}")
    return next((row["Service"]["CreateIndex"] for row in rows if row["Node"]["Node"] == SERVER), None)


async def _leave(agent: RunningConsul) -> None:
    await agent.call("PUT", "/v1/agent/leave")


async def remove(consul: RunningConsul, service_id: str) -> None:
    entry = {"Datacenter": "dc1", "Node": SERVER, "ServiceID": service_id}
    await consul.call("PUT", "/v1/catalog/deregister", entry)
