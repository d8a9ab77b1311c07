"""What Consul 1.8 and newer versions do differently, and that we do the same on both (CONSUL_BIN chooses one).

Snapshots are in test_forgotten, deleted tokens of a registration in test_rotated_tokens. The one rule: where an answer
differs by version, a test accepts both, and asserts what a node makes of it.
"""

import re
import urllib.request
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from discovery.consul import watch
from discovery.consul.client import open_client
from discovery.consul.registration import check_id
from discovery.consul.session import open_session
from discovery.consul.watch import ConsulWatch
from discovery.model import (
    AccessRefused,
    Catalog,
    CatalogUnavailable,
    Instance,
    InstanceKey,
    Registration,
    RegistrationLost,
)
from tests.consul_process import MASTER_TOKEN, NODE_RULES, RunningConsul, running_consul, version_of
from tests.contract.following import Follower, ids, running, until
from tests.ports import free_ports

pytestmark = pytest.mark.consul

# The streaming cache of the agent, and the header that names it.
STREAMING_SINCE = (1, 10)
PARTITIONS_SINCE = (1, 11)
PEERING_SINCE = (1, 13)
BACKENDS = {"streaming", "blocking-query"}


async def test_an_entry_without_a_port_is_shown_with_none_though_newer_versions_leave_the_key_out(
    real_consul: RunningConsul, name: str
) -> None:
    await real_consul.call("PUT", "/v1/agent/service/register", {"ID": f"{name}-bare", "Name": name})
    async with open_session(real_consul.settings()) as session:
        follower = Follower(session.source(name))
        async with running(follower.run()):
            seen = await follower.until_ids(f"{name}-bare")
    await real_consul.call("PUT", f"/v1/agent/service/deregister/{name}-bare")
    assert [one.port for one in seen.instances] == [0]


async def test_the_status_names_what_answers_where_consul_says_so(real_consul: RunningConsul, name: str) -> None:
    async with open_session(real_consul.settings()) as session:
        registrar = session.registrar(Registration(f"{name}-1", name, 8000))
        follower = Follower(session.source(name, registrar))
        async with running(registrar.keep(), follower.run()):
            await follower.until_ids(f"{name}-1")
            says = version_of(real_consul.binary) >= STREAMING_SINCE
            await until(lambda: (follower.source.status.backend in BACKENDS) is says, what="the backend's name")
            assert follower.source.status.backend in (BACKENDS if says else {""})
            assert follower.source.status.confirmed_at_s is not None
        await registrar.leave()


async def test_an_unknown_check_is_a_lost_registration_whatever_its_status(
    real_consul: RunningConsul, name: str
) -> None:
    async with open_client(real_consul.settings()) as client:
        with pytest.raises(RegistrationLost):
            await client.pass_check(check_id(Registration(f"{name}-1", name, 8000)))


async def test_the_index_of_a_name_that_was_never_registered_may_go_back_and_hides_nothing(
    real_consul: RunningConsul, name: str
) -> None:
    async with open_session(real_consul.settings()) as session:
        follower = Follower(session.source(name))
        async with running(follower.run()):
            await follower.until(lambda seen: not seen.instances)
            # Older versions wake a wait for a name without instances at every registration.
            await real_consul.call(
                "PUT", "/v1/agent/service/register", {"ID": f"{name}-other", "Name": f"{name}-other"}
            )
            await real_consul.call("PUT", f"/v1/agent/service/deregister/{name}-other")
            first = session.registrar(Registration(f"{name}-1", name, 8000))
            async with running(first.keep()):
                await follower.until(lambda seen: ids(seen) == {f"{name}-1"}, within_s=2)
            await first.leave()
            await follower.until(lambda seen: not seen.instances, within_s=2)
            assert [ids(seen) for seen in follower.catalogs] == [set(), {f"{name}-1"}, set()]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes a minute takes seconds."""
    monkeypatch.setattr(watch, "CONFIRM_EVERY_S", 2.0)


@pytest.mark.usefixtures("quick")
async def test_an_agent_whose_servers_are_gone_is_no_catalog_though_its_cache_answers_waits(
    binary: Path, tmp_path: Path
) -> None:
    for folder in ("server", "agent"):
        (tmp_path / folder).mkdir()
    async with running_consul(binary, tmp_path / "server") as server:
        joins = {"server": False, "bootstrap_expect": 0, "node_name": "agent-1"}
        joins["retry_join"] = [f"127.0.0.1:{server.ports['serf_lan']}"]
        async with (
            running_consul(binary, tmp_path / "agent", extra=joins) as agent,
            open_client(agent.settings()) as client,
        ):
            await agent.call("PUT", "/v1/agent/service/register", {"ID": "peer-1", "Name": "mcp-node", "Port": 8000})
            follower = Follower(ConsulWatch(client, "mcp-node", wait_s=3.0))
            async with running(follower.run()):
                await follower.until_ids("peer-1")
                await until(lambda: follower.source.status.up, what="followed")
                server.kill()
                await until(lambda: not follower.source.status.up, within_s=30, what="seen as gone")
                assert follower.source.status.last_error
                assert [ids(seen) for seen in follower.catalogs] == [{"peer-1"}]


@pytest.mark.usefixtures("quick")
async def test_a_token_that_is_deleted_while_a_query_waits_empties_nothing_and_is_named(
    guarded: RunningConsul, name: str
) -> None:
    rules = NODE_RULES.replace("mcp-node", name)
    ours, theirs = await guarded.token_for(rules), await guarded.token_for(rules)
    async with open_session(guarded.settings(theirs)) as others, open_client(guarded.settings(ours)) as client:
        registrar = others.registrar(Registration(f"{name}-1", name, 8000))
        follower = Follower(ConsulWatch(client, name, wait_s=3.0))
        async with running(registrar.keep(), follower.run()):
            await follower.until_ids(f"{name}-1")
            shown = len(follower.catalogs)
            await guarded.revoke(ours)
            error = "refused our ACL token"
            await until(lambda: error in follower.source.status.last_error, within_s=20, what="the refusal is named")
            assert follower.catalogs[shown:] == []
        await registrar.leave()


@pytest.mark.usefixtures("quick")
async def test_an_unknown_token_is_refused_or_gets_an_empty_list_and_neither_empties_anything(
    guarded: RunningConsul, name: str
) -> None:
    known = Catalog((Instance(InstanceKey("dc1", "m", f"{name}-1"), "10.0.0.1", 8000),))
    async with open_client(guarded.settings("99999999-0000-0000-0000-000000000000")) as client:
        with suppress(AccessRefused):  # Refused by 1.8; an empty list, from the agent's cache, by 1.21.
            assert list((await client.health(name, index=1, wait_s=1.0)).rows) == []
        follower = Follower(ConsulWatch(client, name, wait_s=1.0, known=known))
        async with running(follower.run()):
            error = "refused our ACL token"
            await until(lambda: error in follower.source.status.last_error, what="the refusal is named")
            assert follower.catalogs == [known]


async def test_deregistering_what_is_unknown_is_no_error_whatever_its_status(real_consul: RunningConsul) -> None:
    async with open_client(real_consul.settings()) as client:
        await client.deregister("never-there")


async def test_an_agent_without_a_token_of_its_own_leaves_a_ghost_that_is_said_or_none(
    binary: Path, tmp_path: Path
) -> None:
    acl = {"enabled": True, "default_policy": "deny", "tokens": {"master": MASTER_TOKEN}}
    async with running_consul(binary, tmp_path, acl=True, extra={"acl": acl}) as consul:
        async with open_session(consul.settings(await consul.token_for(NODE_RULES))) as session:
            registrar = session.registrar(Registration("own", "mcp-node", 8000))
            async with running(registrar.keep()):
                await until(lambda: registrar.status.registered, what="registered")
            await registrar.leave()
        left = await consul.call("GET", "/v1/health/service/mcp-node")
        said = "the catalog still lists us" in registrar.status.last_error
        assert said is bool(left), (left, registrar.status)


async def test_the_token_that_an_agent_needs_of_its_own_is_enough_for_a_node_to_leave_without_a_ghost(
    binary: Path, tmp_path: Path
) -> None:
    """Node write for its own name, service read, as consul/client.hcl has it."""
    acl = {"enabled": True, "default_policy": "deny", "tokens": {"master": MASTER_TOKEN}}
    rules = 'node "test-consul" { policy = "write" } service_prefix "" { policy = "read" }'
    async with running_consul(binary, tmp_path, acl=True, extra={"acl": acl}) as consul:
        await consul.call("PUT", "/v1/agent/token/agent", {"Token": await consul.token_for(rules)})
        async with open_session(consul.settings(await consul.token_for(NODE_RULES))) as session:
            registrar = session.registrar(Registration("own", "mcp-node", 8000))
            async with running(registrar.keep()):
                await until(lambda: registrar.status.registered, what="registered")
            await registrar.leave()
        assert await consul.call("GET", "/v1/health/service/mcp-node") == []
        assert registrar.status.last_error == ""


async def test_a_second_server_on_this_machine_starts_beside_the_first(
    real_consul: RunningConsul, binary: Path, tmp_path: Path
) -> None:
    async with running_consul(binary, tmp_path, extra={"node_name": "second"}) as second:
        assert second.serves()
        assert real_consul.serves()


async def test_a_server_that_has_no_leader_yet_is_unavailable_whatever_it_answers(binary: Path, tmp_path: Path) -> None:
    consul = RunningConsul(binary, tmp_path, dict(zip(("http", "server", "serf_lan"), free_ports(3), strict=True)))
    consul.extra = {"bootstrap_expect": 2}
    try:
        consul.start()
        async with open_client(consul.settings()) as client:
            await until(lambda: answers_http(consul), what="its API answers")
            with pytest.raises(CatalogUnavailable):
                await client.health("mcp-node")
    finally:
        consul.kill()


@pytest.mark.usefixtures("quick")
async def test_a_lost_leader_takes_nothing_away_and_one_that_is_back_is_followed_at_once(
    binary: Path, tmp_path: Path
) -> None:
    ports = [dict(zip(("http", "server", "serf_lan"), free_ports(3), strict=True)) for _ in range(2)]
    servers = []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        joins = [f"127.0.0.1:{ports[1 - number]['serf_lan']}"]
        extra = {"bootstrap_expect": 2, "retry_join": joins, "retry_interval": "1s", "node_name": f"server-{number}"}
        servers.append(RunningConsul(binary, tmp_path / str(number), ports[number], extra=extra))
    one, other = servers
    try:
        for server in servers:
            server.start()
        await one.wait_for_leader()
        await one.call("PUT", "/v1/agent/service/register", {"ID": "peer-1", "Name": "mcp-node", "Port": 8000})
        async with open_client(one.settings()) as client:
            follower = Follower(ConsulWatch(client, "mcp-node", wait_s=2.0))
            async with running(follower.run()):
                await follower.until_ids("peer-1")
                other.kill()
                await until(lambda: not follower.source.status.up, within_s=40, what="no leader is seen")
                # 500 and an index of 1, or 503 and none: neither is taken for an answer.
                with pytest.raises(CatalogUnavailable):
                    await client.health("mcp-node")
                other.start()
                await until(lambda: follower.source.status.up, within_s=40, what="a leader is seen")
                await one.call("PUT", "/v1/agent/service/register", {"ID": "peer-2", "Name": "mcp-node", "Port": 8001})
                await follower.until_ids("peer-1", "peer-2")
            assert [ids(seen) for seen in follower.catalogs] == [{"peer-1"}, {"peer-1", "peer-2"}]
    finally:
        for server in servers:
            server.kill()


async def test_a_node_asks_for_no_peering_and_no_legacy_access_control_which_versions_answer_differently(
    binary: Path, tmp_path: Path
) -> None:
    (folder := tmp_path / "consul").mkdir()
    async with running_consul(binary, folder, acl=True, extra={"log_level": "DEBUG"}) as consul:
        await consul.call("PUT", "/v1/agent/service/register", {"ID": "other-1", "Name": "other", "Port": 8000})
        # An older one gives the home list in place of the other cluster's, as if its nodes were ours.
        found = await consul.call("GET", "/v1/health/service/other?peer=elsewhere")
        assert len(found) == (0 if version_of(binary) >= PEERING_SINCE else 1)
        token, log = await consul.token_for(NODE_RULES), folder / "consul.log"
        told = len(log.read_text("utf-8"))
        async with open_session(consul.settings(token)) as session:
            registrar = session.registrar(Registration("own", "mcp-node", 8000))
            follower = Follower(session.source("mcp-node", registrar))
            async with running(registrar.keep(), follower.run()):
                await follower.until_ids("own")
            await registrar.leave()
        asked = re.findall(r"Request finished: method=\S+ url=(\S+)", log.read_text("utf-8")[told:])
    assert "/v1/agent/service/deregister/own" in asked
    assert not [url for url in asked if "/acl/" in url or "peer" in url or "partition=" in url or "ns=" in url]


async def test_a_partition_that_an_operator_set_is_asked_for_and_refused_by_name_where_there_are_none(
    real_consul: RunningConsul, name: str
) -> None:
    await real_consul.call("PUT", "/v1/agent/service/register", {"ID": name, "Name": name, "Port": 8000})
    async with open_client(replace(real_consul.settings(), partition="west")) as client:
        if version_of(real_consul.binary) >= PARTITIONS_SINCE:
            with pytest.raises(CatalogUnavailable, match="partition"):
                await client.health(name)
        else:  # It knows no such word, and answers for all of the datacentre.
            assert len((await client.health(name)).rows) == 1
    await real_consul.call("PUT", f"/v1/agent/service/deregister/{name}")


def answers_http(consul: RunningConsul) -> bool:
    """Whether its API answers, leader or not."""
    with suppress(OSError), urllib.request.urlopen(f"{consul.url}/v1/status/leader", timeout=1):
        return True
    return False
