"""Membership over real HTTP: the embedded catalog, which speaks Consul's language, stands for a Consul too."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from agent.control import datacenters
from agent.control import membership as of_membership
from agent.control.membership import Membership, MembershipPlan, own_address
from agent.errors import ConfigRefused
from agent.state.catalog_cache import CatalogCache
from discovery.consul.client import open_client
from discovery.consul.environment import ConsulSettings
from discovery.embedded.catalog import DATACENTER
from discovery.embedded.server import embedded_catalog
from discovery.model import Catalog, CatalogUnavailable, Registration
from tests.ports import free_port
from tests.waiting import eventually

SERVICE = "mcp-node"


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another Consul or address is looked for in real time here."""
    monkeypatch.setattr(of_membership, "LOOK_FOR_CONSUL_EVERY_S", 0.2)
    monkeypatch.setattr(of_membership, "ADDRESS_AGAIN_S", 0.05)


@asynccontextmanager
async def foreign_port() -> AsyncIterator[int]:
    """A port that belongs to a program which hangs up on every client."""

    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


def plan(mode: str, consul_port: int, embedded_port: int = 1, *, explicit: bool = True) -> MembershipPlan:
    return MembershipPlan(
        mode=mode,
        consul=ConsulSettings(url=f"http://127.0.0.1:{consul_port}", explicit=explicit),
        service_name=SERVICE,
        embedded_port=embedded_port,
        bind_host="127.0.0.1",
        port=8000,
        advertise_address=None,
        advertise_port=None,
    )


def registration(name: str = "one") -> Registration:
    return Registration(f"{name}-id", SERVICE, 8000, meta={"node_id": name, "name": name, "offer_digest": ""})


@dataclass
class Rig:
    membership: Membership
    task: asyncio.Task[None]
    catalogs: list[Catalog] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, catalog: Catalog) -> None:
        self.catalogs.append(catalog)
        self.news.set()

    async def until(self, condition: Callable[[Catalog], bool]) -> Catalog:
        async with asyncio.timeout(20):
            while not (self.catalogs and condition(self.catalogs[-1])):
                self.news.clear()
                await self.news.wait()
        return self.catalogs[-1]

    async def until_names(self, *names: str) -> Catalog:
        return await self.until(lambda catalog: names_in(catalog) == set(names))


def names_in(catalog: Catalog) -> set[str]:
    return {instance.meta["name"] for instance in catalog.instances}


@asynccontextmanager
async def member(
    how: MembershipPlan,
    ours: Registration | None = None,
    cache: CatalogCache | None = None,
    wait_for_consul_s: float = 60.0,
) -> AsyncIterator[Rig]:
    async with asyncio.TaskGroup() as group:
        rig: Rig

        def take(catalog: Catalog) -> None:
            rig.take(catalog)

        membership = Membership(how, ours or registration(), take, cache, wait_for_consul_s=wait_for_consul_s)
        rig = Rig(membership, group.create_task(membership.run(), name="membership"))
        try:
            yield rig
        finally:
            rig.task.cancel()


async def test_a_member_registers_sees_itself_and_leaves() -> None:
    port = free_port()
    async with embedded_catalog(port) as settings:
        async with member(plan("consul", port)) as one:
            await one.until_names("one")
            assert one.membership.view.mode == "consul"
            assert one.membership.view.registrar.registered
            async with member(plan("consul", port), registration("two")) as two:
                await two.until_names("one", "two")
                await one.until_names("one", "two")
            await one.until_names("one")
        async with open_client(settings) as client:
            assert list((await client.health(SERVICE, index=0, wait_s=0.0, consistent=False)).rows) == []


async def test_what_we_say_of_ourselves_is_published_at_once() -> None:
    port = free_port()
    async with embedded_catalog(port), member(plan("consul", port)) as one:
        await one.until_names("one")
        one.membership.describe_ourselves(offer_digest="abc")
        found = await one.until(lambda catalog: catalog.instances[0].meta["offer_digest"] == "abc")
        assert found.instances[0].meta["name"] == "one"


async def test_a_node_starts_from_its_cache_while_consul_is_away_and_goes_on_when_it_is_back(tmp_path: Path) -> None:
    port, cache = free_port(), CatalogCache(tmp_path)
    async with (
        embedded_catalog(port),
        member(plan("consul", port), cache=cache) as one,
        member(plan("consul", port), registration("two")),
    ):
        await one.until_names("one", "two")
        await both_kept(cache, f"http://127.0.0.1:{port}")
        one.task.cancel()
    async with member(plan("consul", port), cache=CatalogCache(tmp_path)) as again:
        assert names_in(await again.until(lambda _: True)) == {"two"}  # Its own former entry is no peer.
        assert not again.membership.view.source.up
        async with embedded_catalog(port), member(plan("consul", port), registration("three")):
            await again.until(lambda catalog: "three" in names_in(catalog))


async def both_kept(cache: CatalogCache, url: str) -> None:
    """Look until the file is complete; a thread writes it, without a signal."""
    async with asyncio.timeout(10):
        while True:
            kept = await cache.load(url, SERVICE)
            if kept is not None and len(kept.instances) == 2:
                return


async def test_our_own_datacentre_among_the_other_ones_is_left_out_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    port = free_port()
    # The embedded catalog answers for every datacentre alike, and calls its own one `local`.
    everywhere = replace(plan("consul", port), datacenters=(DATACENTER, "dc2"))
    async with embedded_catalog(port), member(everywhere) as one:
        await one.until_names("one")

        async def follows_the_other_one_alone() -> bool:
            return one.membership.view.others.keys() == {"datacenter dc2"}

        await eventually(follows_the_other_one_alone)
        warned = [record for record in caplog.records if "our own datacentre" in record.getMessage()]
        assert [vars(record)["datacenter"] for record in warned] == [DATACENTER]


async def test_other_datacentres_are_followed_though_the_home_catalog_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(datacenters, "HOME_FIRST_S", 0.05)
    async with member(replace(plan("consul", free_port()), datacenters=("dc2",))) as one:

        async def follows_it() -> bool:
            return bool(one.membership.view.others)

        await eventually(follows_it)
    assert one.catalogs == []


async def test_the_embedded_catalog_is_never_cached(tmp_path: Path) -> None:
    port, cache = free_port(), CatalogCache(tmp_path)
    async with member(plan("embedded", 1, port), cache=cache) as one:
        await one.until_names("one")
        assert one.membership.view.mode == "embedded"
    assert await cache.load(f"http://127.0.0.1:{port}", SERVICE) is None
    assert repr(cache) == "<CatalogCache catalog.json waiting=False>"


async def test_moving_over_to_a_consul_that_appears_loses_no_node_that_has_not_moved_yet() -> None:
    consul_port, embedded_port = free_port(), free_port()
    moving = plan("auto", consul_port, embedded_port, explicit=False)
    async with (
        member(moving) as one,
        member(plan("embedded", 1, embedded_port), registration("slow")),
    ):
        await one.until_names("one", "slow")
        async with embedded_catalog(consul_port), member(plan("consul", consul_port), registration("fast")):
            seen = await one.until(lambda catalog: "fast" in names_in(catalog))
            assert names_in(seen) - {"one"} == {"slow", "fast"}
            assert one.membership.view.mode == "consul"
            await one.until_names("one", "fast")  # A node that never moves is gone in the end.


@asynccontextmanager
async def was_in_consul(port: int, folder: Path) -> AsyncIterator[MembershipPlan]:
    """The plan of a node that was in a Consul, with two members, which is away now."""
    how, cache = plan("auto", port, free_port(), explicit=False), CatalogCache(folder)
    async with (
        embedded_catalog(port),
        member(how, cache=cache) as one,
        member(plan("consul", port), registration("two")),
    ):
        await one.until_names("one", "two")
        assert one.membership.view.mode == "consul"
        await both_kept(cache, f"http://127.0.0.1:{port}")
        one.task.cancel()
    yield how


async def test_a_node_that_was_in_a_consul_waits_for_it_with_what_it_knows_and_comes_back(tmp_path: Path) -> None:
    port = free_port()
    async with (
        was_in_consul(port, tmp_path) as how,
        member(how, cache=CatalogCache(tmp_path)) as again,
    ):
        assert names_in(await again.until(lambda _: True)) == {"two"}  # Its own former entry is no peer.
        view = again.membership.view
        assert (view.mode, view.source.up) == ("consul", False)
        assert "before" in view.reason
        async with embedded_catalog(port), member(plan("consul", port), registration("three")) as three:
            await again.until(lambda catalog: "three" in names_in(catalog))
            await three.until_names("one", "three")


async def test_a_node_does_not_wait_for_ever_for_a_consul_that_stays_away_and_waits_once_only(tmp_path: Path) -> None:
    port = free_port()
    async with (
        was_in_consul(port, tmp_path) as how,
        member(how, cache=CatalogCache(tmp_path), wait_for_consul_s=0.01) as again,
    ):
        await again.until(lambda _: again.membership.view.mode == "embedded" and again.membership.view.source.up)
        assert "one" in names_in(again.catalogs[-1])

        async def is_forgotten() -> bool:
            return await CatalogCache(tmp_path).load(f"http://127.0.0.1:{port}", SERVICE) is None

        await eventually(is_forgotten)
        async with embedded_catalog(port), member(plan("consul", port), registration("three")):
            await again.until(lambda catalog: "three" in names_in(catalog))  # It may come all the same, later.
            assert again.membership.view.mode == "consul"


async def test_settings_that_cannot_work_are_refused_at_the_start() -> None:
    async with foreign_port() as port:
        membership = Membership(plan("embedded", 1, port), registration(), lambda _: None)
        with pytest.raises(ConfigRefused, match="MESH_EMBEDDED_PORT"):
            await membership.run()


async def test_a_node_without_discovery_has_nothing_to_run() -> None:
    membership = Membership(plan("off", 1), registration(), lambda _: None)
    async with asyncio.timeout(5):
        await membership.run()
    assert membership.view.mode == "off"
    membership.describe_ourselves(offer_digest="abc")


async def test_an_address_that_others_cannot_reach_is_refused_with_the_fix() -> None:
    async def route(_host: str) -> str:
        return "10.1.2.9"

    far = ConsulSettings(url="http://10.1.2.3:8500", explicit=True)
    with pytest.raises(ConfigRefused, match=r"HOST=0\.0\.0\.0"):
        await own_address(plan("consul", 1), far, route)


async def test_a_consul_whose_name_does_not_resolve_is_joined_once_it_does() -> None:
    answers = iter([CatalogUnavailable("no such name"), ConfigRefused("no way in"), "127.0.0.1"])

    async def route(_host: str) -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    port = free_port()
    async with embedded_catalog(port), asyncio.TaskGroup() as group:
        catalogs: asyncio.Queue[Catalog] = asyncio.Queue()
        membership = Membership(plan("consul", port), registration(), catalogs.put_nowait, route_to=route)
        running = group.create_task(membership.run(), name="membership")
        async with asyncio.timeout(20):
            while not (catalog := await catalogs.get()).instances:
                assert not membership.view.registrar.registered
        assert [instance.address for instance in catalog.instances] == ["127.0.0.1"]
        running.cancel()
