"""What our client relies on, tried on the embedded catalog and on a real Consul alike."""

import asyncio
import logging
import time

import aiohttp
import pytest
from aiohttp import web

from discovery.consul.client import ConsulClient
from discovery.consul.environment import ConsulSettings
from discovery.consul.registration import CHANGE_SPACING_S, ConsulRegistrar, agrees, check_id, register_payload
from discovery.consul.session import ConsulConnection, open_session
from discovery.model import Registration, RegistrationLost
from tests.contract.following import MACHINE_S, Follower, health_of, ids, meta_of, next_look, running, until
from tests.measured import measured
from tests.ports import free_ports


def registration(name: str, number: int = 1, **fields: object) -> Registration:
    values: dict[str, object] = {"service_id": f"{name}-{number}", "service_name": name, "port": 8000 + number}
    return Registration(**(values | fields))  # type: ignore[arg-type] # any field, by name


async def test_a_registration_is_seen_by_a_waiting_watcher(session: ConsulConnection, name: str) -> None:
    follower = Follower(session.source(name))
    ours = registration(name, meta={"node_id": "n1", "epoch": "1"}, tags=("v1",))
    registrar = session.registrar(ours)
    async with running(follower.run()):
        await follower.until_ids()
        async with running(registrar.keep()):
            catalog = await follower.until_ids(ours.service_id, within_s=5)
            await until(lambda: registrar.status.registered, what="answer")
        (instance,) = catalog.instances
        assert (instance.address, instance.port, instance.health.value) == ("127.0.0.1", 8001, "passing")
        assert (dict(instance.meta), instance.tags) == ({"node_id": "n1", "epoch": "1"}, ("v1",))
        assert instance.key.datacenter
        assert instance.key.node
        assert registrar.status.registrations_total == 1
        assert registrar.status.registered
        await registrar.leave()
        await follower.until_ids(within_s=5)
        assert not registrar.status.registered


async def test_an_address_of_its_own_beats_the_nodes_address(session: ConsulConnection, name: str) -> None:
    follower = Follower(session.source(name))
    registrar = session.registrar(registration(name, address="127.0.0.9"))
    async with running(follower.run(), registrar.keep()):
        catalog = await follower.until(lambda seen: bool(seen.instances))
    await registrar.leave()
    assert catalog.instances[0].address == "127.0.0.9"


async def test_an_identical_registration_bumps_no_index(client: ConsulClient, name: str) -> None:
    payload = register_payload(registration(name, meta={"a": "1"}))
    await client.register(payload)
    before = await _settled_index(client, name)
    await client.register(payload)
    await client.register(payload)
    after = await client.health(name, index=before, wait_s=0.3)
    assert after.index == before
    await client.deregister(payload["ID"])


async def test_a_heartbeat_of_a_passing_check_bumps_no_index(client: ConsulClient, name: str) -> None:
    ours = registration(name)
    await client.register(register_payload(ours))
    before = await _settled_index(client, name)
    await client.pass_check(check_id(ours))
    after = await client.health(name, index=before, wait_s=0.3)
    assert after.index == before
    await client.deregister(ours.service_id)


async def test_changed_metadata_is_seen_and_sent_once(session: ConsulConnection, name: str) -> None:
    follower = Follower(session.source(name))
    first = registration(name, meta={"digest": "a"})
    registrar = session.registrar(first)
    async with running(follower.run(), registrar.keep()):
        await follower.until(lambda seen: meta_of(seen, first.service_id) == {"digest": "a"})
        registrar.change(registration(name, meta={"digest": "b"}))
        await follower.until(lambda seen: meta_of(seen, first.service_id) == {"digest": "b"}, within_s=2)
        # The watcher may hear of it before the registrar has its answer.
        await until(lambda: registrar.status.registrations_total == 2, what="the second registration's answer")
        registrar.change(registration(name, meta={"digest": "b"}))
        await _one_pass()
    assert registrar.status.registrations_total == 2
    await registrar.leave()


async def test_a_burst_of_changes_is_one_leading_registration_and_then_the_last(
    session: ConsulConnection, name: str
) -> None:
    follower = Follower(session.source(name))
    registrar = session.registrar(registration(name))
    async with running(follower.run(), registrar.keep()):
        await follower.until(lambda seen: bool(seen.instances))
        began_s = time.monotonic()
        for number in range(20):
            registrar.change(registration(name, meta={"digest": str(number)}))
            await _one_pass()
        await follower.until(lambda seen: meta_of(seen, f"{name}-1") == {"digest": "19"}, within_s=3)
        took_s = time.monotonic() - began_s
    # The one at the start, the leading one, and one for each spacing in which there were changes: on a busy machine the
    # burst takes more than one.
    assert registrar.status.registrations_total <= 2 + took_s / CHANGE_SPACING_S
    await registrar.leave()


async def test_a_lone_departure_is_shown_at_once(session: ConsulConnection, client: ConsulClient, name: str) -> None:
    for number in (1, 2, 3):
        await client.register(register_payload(registration(name, number)))
    follower = Follower(session.source(name))
    async with running(follower.run()):
        await follower.until_ids(f"{name}-1", f"{name}-2", f"{name}-3")
        await client.deregister(f"{name}-2")
        await follower.until_ids(f"{name}-1", f"{name}-3", within_s=2)
        await client.deregister(f"{name}-1")
        await follower.until_ids(f"{name}-3", within_s=2)
        await client.deregister(f"{name}-3")
        await follower.until_ids(within_s=2)
        assert not follower.source.status.holding_removals


async def test_a_lapsed_ttl_turns_critical_and_a_heartbeat_turns_it_back(
    session: ConsulConnection, client: ConsulClient, name: str
) -> None:
    ours = registration(name, ttl_s=0.6)
    await client.register(register_payload(ours))
    follower = Follower(session.source(name))

    async def beat() -> None:
        while True:
            await client.pass_check(check_id(ours))
            await next_look()

    async with running(follower.run()):
        # That it is passing lasts for 0.6 s alone: a busy machine may show the catalog later than that.
        async with running(beat()):
            await follower.until(lambda seen: health_of(seen, ours.service_id) == "passing")
        await follower.until(lambda seen: health_of(seen, ours.service_id) == "critical", within_s=5)
        async with running(beat()):
            await follower.until(lambda seen: health_of(seen, ours.service_id) == "passing", within_s=2)
    await client.deregister(ours.service_id)


async def test_a_node_whose_check_had_run_out_is_passing_as_soon_as_it_registers(
    session: ConsulConnection, client: ConsulClient, name: str
) -> None:
    await client.register(register_payload(registration(name, ttl_s=0.6)))
    follower = Follower(session.source(name))
    registrar = session.registrar(registration(name, meta={"epoch": "2"}, heartbeat_s=60.0))
    async with running(follower.run()):
        await follower.until(lambda seen: health_of(seen, registrar.service_id) == "critical", within_s=5)
        began_s = time.monotonic()
        async with running(registrar.keep()):
            await follower.until(lambda seen: health_of(seen, registrar.service_id) == "passing", within_s=2)
            measured(f"passing again {time.monotonic() - began_s:.2f} s after the start")
    assert registrar.status.registrations_total == 1
    await registrar.leave()


async def test_a_heartbeat_for_an_unknown_check_says_that_the_registration_is_lost(
    client: ConsulClient, name: str
) -> None:
    with pytest.raises(RegistrationLost, match=name):
        await client.pass_check(f"service:{name}-1")


async def test_deregistering_what_is_gone_is_no_error(client: ConsulClient, name: str) -> None:
    await client.deregister(f"{name}-1")


async def test_a_lost_registration_is_made_again_by_the_next_heartbeat(
    session: ConsulConnection, client: ConsulClient, name: str
) -> None:
    follower = Follower(session.source(name))
    ours = registration(name, heartbeat_s=0.2)
    registrar = session.registrar(ours)
    async with running(follower.run(), registrar.keep()):
        await follower.until_ids(ours.service_id)
        await client.deregister(ours.service_id)
        await until(lambda: registrar.status.registrations_total == 2, within_s=3, what="registered again")
        await follower.until_ids(ours.service_id, within_s=3)
    await registrar.leave()


async def test_a_watch_with_its_own_registrar_notices_the_loss_before_any_heartbeat(
    session: ConsulConnection, client: ConsulClient, name: str
) -> None:
    ours = registration(name, 1, heartbeat_s=60.0, ttl_s=120.0)
    registrar = session.registrar(ours)
    follower = Follower(session.source(name, registrar))
    await client.register(register_payload(registration(name, 2)))
    async with running(follower.run(), registrar.keep()):
        await follower.until_ids(ours.service_id, f"{name}-2")
        shown = len(follower.catalogs)
        await client.deregister(ours.service_id)
        await until(lambda: registrar.status.registrations_total == 2, within_s=3, what="registered again")
        # The answer without us was never shown.
        assert all(ids(catalog) == {ours.service_id, f"{name}-2"} for catalog in follower.catalogs[shown:])
    await registrar.leave()
    await client.deregister(f"{name}-2")


async def test_a_foreign_registration_under_our_id_is_named_and_repaired(
    settings: ConsulSettings, client: ConsulClient, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    ours = registration(name, meta={"epoch": "7"}, heartbeat_s=0.2)
    registrar = ConsulRegistrar(client, ours, compare_s=0.2)
    async with open_session(settings) as session:
        follower = Follower(session.source(name))
        with caplog.at_level(logging.ERROR):
            async with running(follower.run(), registrar.keep()):
                await follower.until(lambda seen: meta_of(seen, ours.service_id) == {"epoch": "7"})
                await client.register(register_payload(registration(name, meta={"epoch": "8"})))
                await until(lambda: registrar.status.registrations_total >= 2, within_s=3, what="repaired")
                await follower.until(lambda seen: meta_of(seen, ours.service_id) == {"epoch": "7"}, within_s=3)
    assert "another process registers under our service ID" in caplog.text
    await registrar.leave()


async def test_a_wait_without_news_ends_in_time_with_the_same_index(client: ConsulClient, name: str) -> None:
    await client.register(register_payload(registration(name)))
    index = await _settled_index(client, name)
    started_s = time.monotonic()
    answer = await client.health(name, index=index, wait_s=0.8)
    took_s = time.monotonic() - started_s
    assert answer.index == index
    assert 0.79 <= took_s <= 0.8 * 17 / 16 + MACHINE_S
    await client.deregister(f"{name}-1")


async def test_the_agents_own_list_holds_what_was_registered(client: ConsulClient, name: str) -> None:
    await client.register(register_payload(registration(name, 1, meta={"k": "v"}, tags=("b", "a"))))
    await client.register(register_payload(registration(name, 2)))
    held = await client.agent_services()
    assert held[f"{name}-1"]["Service"] == name
    assert (held[f"{name}-1"]["Port"], held[f"{name}-1"]["Meta"]) == (8001, {"k": "v"})
    assert sorted(held[f"{name}-1"]["Tags"]) == ["a", "b"]
    assert f"{name}-2" in held
    await client.deregister(f"{name}-1")
    await client.deregister(f"{name}-2")
    assert not {f"{name}-1", f"{name}-2"} & (await client.agent_services()).keys()


async def test_a_weight_is_seen_by_others_changed_at_once_and_one_by_default(
    session: ConsulConnection, client: ConsulClient, name: str
) -> None:
    follower = Follower(session.source(name))
    registrar = session.registrar(registration(name, weight=3))
    async with running(follower.run(), registrar.keep()):
        await follower.until(lambda seen: [instance.weight for instance in seen.instances] == [3])
        registrar.change(registration(name, weight=7))
        await follower.until(lambda seen: [instance.weight for instance in seen.instances] == [7], within_s=2)
        assert agrees((await client.agent_services())[f"{name}-1"], registration(name, weight=7))
        assert not agrees((await client.agent_services())[f"{name}-1"], registration(name))
        registrar.change(registration(name))
        await follower.until(lambda seen: [instance.weight for instance in seen.instances] == [1], within_s=2)
        assert agrees((await client.agent_services())[f"{name}-1"], registration(name))
    await registrar.leave()


async def test_an_http_check_follows_the_url(session: ConsulConnection, name: str) -> None:
    statuses = [200]

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(status=statuses[0])

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    port = free_ports(1)[0]
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        ours = registration(name, http_check_url=f"http://127.0.0.1:{port}/healthz", heartbeat_s=1.0)
        registrar = session.registrar(ours)
        follower = Follower(session.source(name))
        async with running(follower.run(), registrar.keep()):
            await follower.until(lambda seen: health_of(seen, ours.service_id) == "passing")
            statuses[0] = 503
            await follower.until(lambda seen: health_of(seen, ours.service_id) == "critical", within_s=5)
            statuses[0] = 204
            await follower.until(lambda seen: health_of(seen, ours.service_id) == "passing", within_s=5)
        await registrar.leave()
    finally:
        await runner.cleanup()


async def test_a_catalog_with_a_leader_answers_and_a_closed_port_does_not(
    session: ConsulConnection, settings: ConsulSettings
) -> None:
    assert await session.answers()
    assert settings.url
    async with open_session(ConsulSettings(url=f"http://127.0.0.1:{free_ports(1)[0]}")) as nobody:
        assert not await nobody.answers()


# Of 1.8 and the embedded catalog, and of newer ones; both make us register again (`RegistrationLost`).
UNKNOWN_CHECK = 500


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v1/health/service/x?index=abc", b"", 400),
        ("GET", "/v1/health/service/x?index=1&wait=soon", b"", 400),
        ("PUT", "/v1/agent/service/register", b"{not json", 400),
        ("PUT", "/v1/agent/service/register", b'{"ID": "x"}', 400),
        ("PUT", "/v1/agent/service/register", b'{"Name": "x", "Meta": {"bad key": "v"}}', 400),
        ("PUT", "/v1/agent/service/register", b'{"Name": "x", "Check": {"TTL": "never"}}', 400),
        ("PUT", "/v1/agent/service/register", b'{"Name": "x", "Check": {"TTL": "5s", "Status": "fine"}}', 400),
        ("PUT", "/v1/agent/service/register", b'{"Name": "x", "Weights": {"Passing": 0}}', 400),
        ("PUT", "/v1/agent/service/register", b'{"Name": "x", "Weights": {"Passing": 1, "Warning": -1}}', 400),
        ("PUT", "/v1/agent/service/register", b'{"Name": "x", "Weights": {"Passing": 65536}}', 400),
        ("PUT", "/v1/agent/service/register", b'{"Name": "x", "Weights": {"Passing": "3"}}', 400),
        ("PUT", "/v1/agent/check/pass/unknown", b"", UNKNOWN_CHECK),
        ("POST", "/v1/status/leader", b"", 405),
        ("GET", "/v1/agent/service/register", b"", 405),
        ("GET", "/v1/no/such/thing", b"", 404),
    ],
)
async def test_what_is_wrong_gets_consuls_own_status(
    settings: ConsulSettings, method: str, path: str, body: bytes, status: int
) -> None:
    expected = {500, 404} if status == UNKNOWN_CHECK else {status}
    async with aiohttp.ClientSession() as http, http.request(method, settings.url + path, data=body) as answer:
        assert answer.status in expected, await answer.text()


async def test_many_watchers_of_one_process_all_see_a_change(session: ConsulConnection, name: str) -> None:
    followers = [Follower(session.source(name)) for _ in range(50)]
    registrar = session.registrar(registration(name))
    async with running(*(follower.run() for follower in followers)):
        for follower in followers:
            await follower.until_ids()
        async with running(registrar.keep()):
            for follower in followers:
                await follower.until_ids(f"{name}-1", within_s=5)
    await registrar.leave()


async def _settled_index(client: ConsulClient, name: str) -> int:
    """The index once the agent's own follow-up writes are through."""
    answer = await client.health(name)
    while True:
        following = await client.health(name, index=max(1, answer.index), wait_s=0.3)
        if following.index == answer.index and following.rows:
            return following.index
        answer = following


async def _one_pass() -> None:
    passed = asyncio.Event()
    asyncio.get_running_loop().call_soon(passed.set)
    await passed.wait()
