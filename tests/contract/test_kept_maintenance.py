"""The operator's maintenance of our entry outlives the entry, in a real Consul: no peer sees the one without the other.

The one rule: what the agent says of an entry that it holds counts more than what was kept.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from agent.state.maintenance import SavedMaintenance
from discovery.consul.environment import ConsulSettings
from discovery.consul.registration import check_id
from discovery.consul.rows import split_checks
from discovery.consul.session import open_session
from discovery.model import Catalog, Registrar, Registration
from tests.consul_process import NODE_RULES, RunningConsul
from tests.contract.following import MACHINE_S, Follower, running, until

pytestmark = pytest.mark.consul

REASON = "new disks, rack 7"
# A disk that others write to can hold up a write that has to be on it for more than ten seconds.
DISK_S = 40.0


@dataclass
class Node:
    """A registrar that may end in order or by force, and what peers have seen of it."""

    consul: RunningConsul
    registration: Registration
    record: SavedMaintenance
    peers: Follower
    settings: ConsulSettings

    @asynccontextmanager
    async def run(self, *, leaves: bool = True) -> AsyncIterator[Registrar]:
        """One life of its process."""
        async with open_session(self.settings) as session:
            registrar = session.registrar(self.registration, self.record)
            own = Follower(session.source(self.registration.service_name, registrar))
            async with running(registrar.keep(), own.run()):
                await until(lambda: registrar.status.registered, what="registered")
                yield registrar
            if leaves:
                await registrar.leave()

    async def maintain(self, reason: str = "") -> None:
        """`consul maint`; without a reason it ends."""
        query = f"enable=true&reason={reason.replace(' ', '+')}" if reason else "enable=false"
        await self.consul.call("PUT", f"/v1/agent/service/maintenance/{self.registration.service_id}?{query}")

    async def shows(self, *reasons: str, within_s: float = 2.0) -> None:
        """Until peers see an entry for each of these reasons."""
        await self.peers.until(lambda seen: self._reasons(seen) == list(reasons), within_s=within_s)

    async def keeps(self, reason: str | None) -> None:
        """Until the disk has it."""
        await until(_is(self.record, reason), within_s=DISK_S, what=f"{reason!r} on the disk")

    async def listed_within(self) -> str:
        """The maintenance of its entry as soon as the catalog has that again."""
        service_id = self.registration.service_id
        async with asyncio.timeout(MACHINE_S):
            while True:
                rows = await self.consul.call("GET", f"/v1/health/service/{self.registration.service_name}")
                found = [row["Checks"] for row in rows if row["Service"]["ID"] == service_id]
                if found:
                    return split_checks(found[0])[1]

    def seen(self) -> list[str]:
        """What every catalog said of it, one after the other."""
        return [reason for catalog in self.peers.catalogs for reason in self._reasons(catalog)]

    def _reasons(self, catalog: Catalog) -> list[str]:
        ours = (one for one in catalog.instances if one.key.service_id == self.registration.service_id)
        return [one.maintenance for one in ours]


def take_away(path: Path) -> Path:
    """Let the system refuse to read it."""
    whole = path.with_name("whole")
    path.rename(whole)
    (path / "in the way").mkdir(parents=True)
    return whole


def give_back(path: Path, whole: Path) -> None:
    """Let it be read again."""
    (path / "in the way").rmdir()
    path.rmdir()
    whole.rename(path)


def _is(record: SavedMaintenance, reason: str | None) -> Callable[[], bool]:
    path = record._path
    return lambda: path.exists() if reason else not path.exists()


@pytest.fixture
async def node(real_consul: RunningConsul, name: str, tmp_path: Path) -> AsyncIterator[Node]:
    """A node, and a peer that follows the catalog."""
    ours = Registration(f"{name}-1", name, 8000, meta={"epoch": "1"})
    other = Registration(f"{name}-2", name, 8001)
    async with open_session(real_consul.settings()) as session:
        registrar = session.registrar(other)
        peers = Follower(session.source(name, registrar))
        async with running(registrar.keep(), peers.run()):
            yield Node(real_consul, ours, SavedMaintenance(tmp_path), peers, real_consul.settings())
        await registrar.leave()


async def test_a_clean_restart_brings_the_maintenance_back_with_the_entry_and_its_end_is_kept(node: Node) -> None:
    async with node.run():
        await node.shows("")
        await node.maintain(REASON)
        await node.shows(REASON)
        await node.keeps(REASON)
    await node.shows()
    node.peers.catalogs.clear()
    node.registration = replace(node.registration, meta={"epoch": "2"}, http_check_url="http://127.0.0.1:9/healthz")
    async with node.run() as registrar:
        await node.shows(REASON)
        assert registrar.status.resumed == REASON
        registrar.change(replace(node.registration, port=8002))
        await until(lambda: registrar.status.registrations_total == 2, what="registered again")
        assert set(node.seen()) == {REASON}
        await node.maintain()
        await node.shows("")
        await node.keeps(None)
        assert registrar.status.resumed == ""
    await node.shows()
    node.peers.catalogs.clear()
    node.registration = replace(node.registration, meta={"epoch": "3"}, http_check_url=None)
    async with node.run() as registrar:
        await node.shows("")
        assert registrar.status.resumed == ""
    assert REASON not in node.seen()


async def test_maintenance_that_began_a_moment_before_the_stop_is_kept(node: Node) -> None:
    async with node.run():
        await node.shows("")
        await node.maintain(REASON)
    assert await node.record.load() == REASON
    async with node.run():
        await node.shows(REASON)


async def test_a_damaged_record_is_said_by_the_status_until_the_maintenance_is_known_again(node: Node) -> None:
    node.record._path.write_text("{")
    async with node.run() as registrar:
        await node.shows("")
        assert "is now maintenance.json.unreadable" in registrar.status.unkept
        await node.maintain(REASON)
        await node.keeps(REASON)
        await until(lambda: registrar.status.unkept == "", what="known again")


async def test_an_end_that_the_disk_refuses_is_said_and_kept_as_soon_as_it_can_be(node: Node) -> None:
    async with node.run() as registrar:
        await node.maintain(REASON)
        await node.keeps(REASON)
        node.record._path.unlink()
        (node.record._path / "in the way").mkdir(parents=True)
        await node.maintain()
        await until(lambda: "a restart brings it back" in registrar.status.unkept, what="said")
        (node.record._path / "in the way").rmdir()
        node.record._path.rmdir()
        registrar.verify()
        await until(lambda: registrar.status.unkept == "", what="kept")


async def test_a_record_that_cannot_be_read_yet_is_taken_up_as_soon_as_it_can_be(node: Node) -> None:
    async with node.run():
        await node.maintain(REASON)
        await node.keeps(REASON)
    whole = take_away(node.record._path)
    async with node.run() as registrar:
        await node.shows("")
        assert "the file stays as it is and is read again" in registrar.status.unkept
        registrar.verify()
        await until(lambda: registrar.status.unkept != "", what="still not known")
        give_back(node.record._path, whole)
        registrar.verify()
        await node.shows(REASON)
        await until(lambda: registrar.status.resumed == REASON, what="taken up again")
        assert registrar.status.unkept == ""
        await node.maintain()
        await node.shows("")
        await node.keeps(None)
    async with node.run() as registrar:
        await node.shows("")
        assert registrar.status.resumed == ""


async def test_what_an_operator_says_while_the_record_cannot_be_read_counts_more_than_the_record(node: Node) -> None:
    async with node.run():
        await node.maintain("an older reason")
        await node.keeps("an older reason")
    whole = take_away(node.record._path)
    async with node.run() as registrar:
        await node.maintain(REASON)
        await node.shows(REASON)
        await until(lambda: "cannot be kept on disk" in registrar.status.unkept, what="tried")
        give_back(node.record._path, whole)
        registrar.verify()
        await until(lambda: registrar.status.unkept == "", what="kept")
        assert await node.record.load() == REASON
        assert set(node.seen()[-1:]) == {REASON}


async def test_maintenance_that_began_while_the_node_was_dead_is_kept_with_its_entry(node: Node) -> None:
    async with node.run(leaves=False):
        await node.shows("")
    await node.maintain(REASON)
    await node.shows(REASON)
    node.peers.catalogs.clear()
    async with node.run() as registrar:
        await node.keeps(REASON)
        assert registrar.status.unkept == ""
    assert set(node.seen()) <= {REASON}


async def test_maintenance_that_ended_while_the_node_was_down_is_over(node: Node) -> None:
    async with node.run(leaves=False):
        await node.maintain(REASON)
        await node.keeps(REASON)
        await node.shows(REASON)
    await node.maintain()
    await node.shows("")
    node.peers.catalogs.clear()
    node.registration = replace(node.registration, meta={"epoch": "2"})
    async with node.run():
        await node.keeps(None)
    assert REASON not in node.seen()


async def test_a_node_that_was_killed_and_whose_entry_went_meanwhile_is_in_maintenance_again(node: Node) -> None:
    async with node.run(leaves=False):
        await node.maintain(REASON)
        await node.keeps(REASON)
    await node.consul.call("PUT", f"/v1/agent/service/deregister/{node.registration.service_id}")
    await node.shows()
    node.peers.catalogs.clear()
    async with node.run():
        await node.shows(REASON)
    assert set(node.seen()) == {REASON}


async def test_an_agent_that_loses_a_running_node_gets_its_maintenance_back_too(node: Node) -> None:
    async with node.run() as registrar:
        await node.maintain(REASON)
        await node.keeps(REASON)
        await node.consul.call("PUT", f"/v1/agent/service/deregister/{node.registration.service_id}")
        await node.shows()
        node.peers.catalogs.clear()
        registrar.verify()
        await node.shows(REASON)
        assert set(node.seen()) == {REASON}


async def test_a_catalog_that_forgets_a_node_gets_its_maintenance_back_with_it_and_it_still_ends(node: Node) -> None:
    (holder,) = {row["Node"]["Node"] for row in await node.consul.call("GET", "/v1/health/service/consul")}
    async with node.run() as registrar:
        await node.maintain(REASON)
        await node.keeps(REASON)
        for times in (1, 2):
            body = {"Node": holder, "ServiceID": node.registration.service_id}
            await node.consul.call("PUT", "/v1/catalog/deregister", body)
            registrar.repair()
            await until(lambda now=1 + times: registrar.status.registrations_total >= now, what="registered again")
            assert await node.listed_within() == REASON
        await node.maintain()
        await node.shows("")
        await node.keeps(None)


async def test_maintenance_that_was_taken_up_again_ends_after_its_token_was_replaced_and_deleted(
    guarded: RunningConsul, tmp_path: Path
) -> None:
    ours = Registration("rested-1", "mcp-node", 8000)
    tokens = [await guarded.token_for(NODE_RULES) for _ in range(2)]
    path = tmp_path / "token"
    path.write_text(tokens[0], "utf-8")
    settings = replace(guarded.settings(), token=None, token_file=str(path))
    async with open_session(guarded.settings()) as session:
        peers = Follower(session.source("mcp-node"))
        node = Node(guarded, ours, SavedMaintenance(tmp_path), peers, settings)
        async with running(peers.run()):
            async with node.run():
                await node.maintain(REASON)
                await node.shows(REASON)
            async with node.run() as registrar:
                await node.shows(REASON)
                (tmp_path / "new").write_text(tokens[1], "utf-8")
                (tmp_path / "new").replace(path)
                await until(lambda: registrar.status.registrations_total == 2, what="registered with the new token")
                await guarded.revoke(tokens[0])
                held = await guarded.call("GET", "/v1/agent/checks")
                assert check_id(ours) in held
                await node.maintain()
                await node.shows("")
            await node.shows()


async def test_a_token_that_may_not_read_nodes_keeps_and_obeys_what_the_agent_says_of_our_entry(
    guarded: RunningConsul, tmp_path: Path
) -> None:
    ours, heard = Registration("blind-1", "mcp-node", 8000), list[str]()
    record = SavedMaintenance(tmp_path, heard.append)
    own_rules = 'service "mcp-node" { policy = "write" }'
    settings = replace(guarded.settings(), token=await guarded.token_for(own_rules))
    async with open_session(guarded.settings()) as session:
        peers = Follower(session.source("mcp-node"))
        node = Node(guarded, ours, record, peers, settings)
        async with running(peers.run()):
            async with node.run() as registrar:
                await node.maintain(REASON)
                registrar.verify()
                await node.keeps(REASON)
            async with node.run() as registrar:
                await node.shows(REASON)
                await until(lambda: registrar.status.resumed == REASON, what="taken up again")
                await node.maintain()
                registrar.verify()
                await node.keeps(None)
            assert [one for i, one in enumerate(heard) if heard[i - 1 : i] != [one]] == ["", REASON, ""]
            await node.shows()
