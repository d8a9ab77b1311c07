"""ACL tokens that are replaced while we run: Consul's agent keeps each registration's token, and acts with that one.

Run against a real Consul that denies by default. The one rule: no rotation leaves an entry behind that no node serves,
and where one is left all the same, we say so.
"""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from discovery.consul.client import ConsulClient, open_client
from discovery.consul.registration import ConsulRegistrar, register_payload
from discovery.consul.session import open_session
from discovery.model import Registration
from tests.consul_process import NODE_RULES, RunningConsul
from tests.contract.fault_server import fault_server, rows_answer
from tests.contract.following import MACHINE_S, Follower, running, until

NAME = "mcp-node"


@pytest.fixture
async def token_file(guarded: RunningConsul, tmp_path: Path) -> Path:
    """A file with a token that has a node's rights."""
    path = tmp_path / "token"
    replace_token(path, await guarded.token_for(NODE_RULES))
    return path


def current(token_file: Path) -> str:
    return token_file.read_text("utf-8")


def replace_token(token_file: Path, token: str) -> None:
    token_file.write_text(token, "utf-8")


async def listed(consul: RunningConsul, service_id: str) -> bool:
    return any(row["Service"]["ID"] == service_id for row in await consul.call("GET", f"/v1/health/service/{NAME}"))


@pytest.mark.consul
async def test_after_a_rotation_the_old_token_may_be_deleted_and_a_clean_stop_leaves_no_ghost(
    guarded: RunningConsul, token_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = current(token_file)
    settings = replace(guarded.settings(), token=None, token_file=str(token_file))
    async with open_session(settings) as session:
        registrar = session.registrar(Registration("rotating-1", NAME, 8000, heartbeat_s=60.0))
        async with running(registrar.keep()):
            await until(lambda: registrar.status.registered, what="registered")
            replace_token(token_file, await guarded.token_for(NODE_RULES))
            rotated_at_s = time.monotonic()
            await until(lambda: registrar.status.registrations_total == 2, what="registered with the new token")
            assert time.monotonic() - rotated_at_s < 2.0 + MACHINE_S
            await guarded.revoke(old)
        await registrar.leave()
    assert not await listed(guarded, "rotating-1")
    assert "still lists us" not in caplog.text


@pytest.mark.consul
async def test_a_rotation_that_was_not_seen_before_the_stop_leaves_no_ghost_either(
    guarded: RunningConsul, token_file: Path
) -> None:
    old = current(token_file)
    settings = replace(guarded.settings(), token=None, token_file=str(token_file))
    async with open_session(settings) as session:
        registrar = session.registrar(Registration("rotating-2", NAME, 8000))
        async with running(registrar.keep()):
            await until(lambda: registrar.status.registered, what="registered")
        replace_token(token_file, await guarded.token_for(NODE_RULES))
        await guarded.revoke(old)
        await registrar.leave()
    assert not await listed(guarded, "rotating-2")


@pytest.mark.consul
@pytest.mark.parametrize("noticed", [True, False])
async def test_leaving_with_a_token_that_was_deleted_says_that_the_entry_may_stay_and_how_it_goes(
    guarded: RunningConsul, caplog: pytest.LogCaptureFixture, *, noticed: bool
) -> None:
    token = await guarded.token_for(NODE_RULES)
    async with open_session(guarded.settings(token)) as session:
        registrar = session.registrar(Registration("deleted-1", NAME, 8000, heartbeat_s=0.2))
        async with running(registrar.keep()):
            await until(lambda: registrar.status.registered, what="registered")
            await guarded.revoke(token)
            if noticed:  # An agent knows a token for a moment that is deleted.
                await until(lambda: "refused" in registrar.status.last_error, within_s=40, what="refused")
        await registrar.leave()
    assert "our entry may stay, passing" in registrar.status.last_error
    assert "catalog/deregister" in caplog.text
    if noticed:
        assert await listed(guarded, "deleted-1")
    await guarded.call("PUT", "/v1/agent/service/deregister/deleted-1")


@pytest.mark.consul
async def test_a_registration_that_the_agent_cannot_take_back_is_said_when_we_leave(
    guarded: RunningConsul, caplog: pytest.LogCaptureFixture
) -> None:
    ours = Registration("ghost-1", NAME, 8000)
    other = await guarded.token_for(NODE_RULES)
    async with open_client(guarded.settings(await guarded.token_for(NODE_RULES))) as client:
        registrar = ConsulRegistrar(client, ours)
        async with running(registrar.keep()):
            await until(lambda: registrar.status.registered, what="registered")
        # Another program registers the same with its own token, which the agent keeps from now on, and deletes it.
        async with open_client(guarded.settings(other)) as theirs:
            await theirs.register(register_payload(ours))
        await guarded.revoke(other)
        await registrar.leave()
        if await listed(guarded, "ghost-1"):  # Newer agents take it back with their own token.
            assert "the catalog still lists us" in registrar.status.last_error
            assert "acl.tokens.agent" in caplog.text
        await client.register(register_payload(ours, 1))
        await client.deregister("ghost-1")


@pytest.mark.consul
async def test_an_entry_under_another_consul_node_is_said_at_once_and_is_not_blamed_on_the_token(
    guarded: RunningConsul, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = {"ID": "renamed-1", "Service": NAME, "Port": 8000}
    left = {"Node": "old-agent", "Address": "127.0.0.1", "SkipNodeUpdate": False, "Service": theirs}
    await guarded.call("PUT", "/v1/catalog/register", left)
    async with open_session(guarded.settings(await guarded.token_for(NODE_RULES))) as session:
        registrar = session.registrar(Registration("renamed-1", NAME, 8000))
        async with running(registrar.keep()):
            await until(lambda: registrar.status.registered, what="registered")
        await registrar.leave()
    rows = await guarded.call("GET", f"/v1/health/service/{NAME}")
    assert [row["Node"]["Node"] for row in rows if row["Service"]["ID"] == "renamed-1"] == ["old-agent"]
    assert "another Consul node too (old-agent)" in registrar.status.last_error
    assert "deregistered" in caplog.text  # Which is not said where the time for leaving has run out.
    assert "token" not in caplog.text
    await guarded.call("PUT", "/v1/catalog/deregister", {"Node": "old-agent"})


async def test_a_deregistration_that_never_arrives_is_said_within_the_time_for_leaving(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        fault_server(lambda _number, _request: rows_answer("own")) as server,
        open_client(server.settings) as client,
    ):
        registrar = ConsulRegistrar(client, Registration("own", NAME, 8000))
        await _registered(registrar)
        began_s = time.monotonic()
        await registrar.leave()
    assert time.monotonic() - began_s < 2.0 + MACHINE_S
    assert "the catalog still lists us" in registrar.status.last_error
    assert "still lists us" in caplog.text
    assert not registrar.status.registered


async def test_a_catalog_that_cannot_be_read_on_leaving_is_said_as_what_it_is() -> None:
    async with (
        fault_server(lambda _number, _request: web.Response(status=500, text="No cluster leader")) as server,
        open_client(server.settings) as client,
    ):
        registrar = ConsulRegistrar(client, Registration("own", NAME, 8000))
        await _registered(registrar)
        await registrar.leave()
        assert server.registered == {}
    assert "cannot be read" in registrar.status.last_error


async def test_rows_that_access_control_took_out_are_noticed(name: str) -> None:
    def script(_number: int, _request: web.Request) -> web.Response:
        answer = rows_answer()
        answer.headers["X-Consul-Results-Filtered-By-Acls"] = "true"
        return answer

    async with fault_server(script) as server, open_session(server.settings) as session:
        registrar = session.registrar(Registration("own", name, 8000))
        follower = Follower(session.source(name, registrar))
        async with running(registrar.keep(), follower.run()):
            await until(lambda: follower.source.status.filtered, what="the filter is named")
            await until(lambda: "left out" in follower.source.status.last_error, what="the cause is named")


async def _registered(registrar: ConsulRegistrar) -> None:
    async with running(registrar.keep()):
        await until(lambda: registrar.status.registered, what="registered")


async def test_the_catalog_is_asked_for_one_instance_alone(client: ConsulClient, name: str) -> None:
    for number in (1, 2):
        await client.register(register_payload(Registration(f"{name}-{number}", name, 8000)))
    assert len(await client.holders(name, f"{name}-1")) == 1
    assert await client.holders(name, f"{name}-3") == ()
    for number in (1, 2):
        await client.deregister(f"{name}-{number}")
