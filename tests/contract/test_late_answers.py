"""An agent that carries writes out and answers too late, and one whose answers were lost: what was done is looked up.

Run against a real Consul that denies by default, behind a proxy that holds answers. The one rule: a write that timed
out is neither called failed nor sent again before the agent, or the catalog, says what came of it.
"""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from discovery.consul.session import open_session
from discovery.model import Registration
from tests.consul_process import NODE_RULES, RunningConsul
from tests.contract.following import MACHINE_S, Follower, health_of, running, until
from tests.contract.late_answers import late_answers

pytestmark = pytest.mark.consul

NAME = "mcp-node"
REGISTER, DEREGISTER = "PUT agent/service/register", "PUT agent/service/deregister"
BEAT, LOOK = "PUT agent/check/pass", "GET agent/checks"
# More than the TTL, and less than as many heartbeats take as may be on their way.
SLOWER_S, MORE_BEATS = 3.5, 12
# A machine that stands still for a second holds up heartbeats for longer than either; it does not each time.
TRIES = 3


async def listed(consul: RunningConsul, service_id: str) -> bool:
    return any(row["Service"]["ID"] == service_id for row in await consul.call("GET", f"/v1/health/service/{NAME}"))


async def test_a_first_registration_with_a_token_that_timed_out_and_was_done_counts(guarded: RunningConsul) -> None:
    token = await guarded.token_for(NODE_RULES)
    async with late_answers(guarded.settings(token)) as late, open_session(late.settings) as session:
        registrar = session.registrar(Registration("late-1", NAME, 8000, meta={"epoch": "1"}))
        late.held.add(REGISTER)
        async with running(registrar.keep()):
            await until(lambda: registrar.status.registered, what="looked up")
            assert await listed(guarded, "late-1")
            assert (late.count(REGISTER), registrar.status.last_error) == (1, "")
        await registrar.leave()
    assert not await listed(guarded, "late-1")


async def test_a_registration_with_a_new_token_that_was_lost_is_not_taken_for_the_one_with_the_old_token(
    guarded: RunningConsul, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(await guarded.token_for(NODE_RULES), "utf-8")
    settings = replace(guarded.settings(), token=None, token_file=str(file))
    async with late_answers(settings) as late, open_session(late.settings) as session:
        registrar = session.registrar(Registration("late-2", NAME, 8000))
        async with running(registrar.keep()):
            await until(lambda: registrar.status.registered, what="registered")
            late.held.add(REGISTER)
            late.lost = True
            file.write_text(await guarded.token_for(NODE_RULES), "utf-8")
            await until(lambda: "no answer" in registrar.status.last_error, what="called failed")
            assert registrar.status.registrations_total == 1
            late.held.clear()
            await until(lambda: registrar.status.registrations_total == 2, what="registered with the new one")
        await registrar.leave()
    assert not await listed(guarded, "late-2")


async def test_a_stop_with_a_new_token_whose_registration_timed_out_deregisters_all_the_same(
    guarded: RunningConsul, tmp_path: Path
) -> None:
    file, old = tmp_path / "token", await guarded.token_for(NODE_RULES)
    file.write_text(old, "utf-8")
    settings = replace(guarded.settings(), token=None, token_file=str(file))
    async with late_answers(settings) as late, open_session(late.settings) as session:
        registrar = session.registrar(Registration("late-6", NAME, 8000))
        async with running(registrar.keep()):
            await until(lambda: registrar.status.registered, what="registered")
        late.held.add(REGISTER)
        file.write_text(await guarded.token_for(NODE_RULES), "utf-8")
        await guarded.revoke(old)
        await registrar.leave()
    assert (late.count(REGISTER), late.count(DEREGISTER)) == (2, 1)
    assert not await listed(guarded, "late-6")


async def test_a_deregistration_that_timed_out_is_looked_up_in_the_catalog(
    guarded: RunningConsul, caplog: pytest.LogCaptureFixture
) -> None:
    settings = guarded.settings(await guarded.token_for(NODE_RULES))
    async with late_answers(settings) as late, open_session(late.settings) as session:
        for service_id, lost in (("late-3", False), ("late-4", True)):
            registrar = session.registrar(Registration(service_id, NAME, 8000))
            async with running(registrar.keep()):
                await until(lambda registrar=registrar: registrar.status.registered, what="registered")
            late.held, late.lost = {DEREGISTER}, lost
            caplog.clear()
            began_s = time.monotonic()
            await registrar.leave()
            assert time.monotonic() - began_s < 2.0 + MACHINE_S
            assert ("has not answered our deregistration" in caplog.text) is lost
            assert await listed(guarded, service_id) is lost
            late.held.clear()
        await guarded.call("PUT", "/v1/agent/service/deregister/late-4")


async def test_a_heartbeat_that_timed_out_is_no_failure_while_the_agent_holds_us_as_passing(
    guarded: RunningConsul,
) -> None:
    settings = guarded.settings(await guarded.token_for(NODE_RULES))
    async with late_answers(settings) as late, open_session(late.settings) as session:
        registrar = session.registrar(Registration("late-5", NAME, 8000, ttl_s=60.0, heartbeat_s=0.5))
        async with running(registrar.keep()):
            await until(lambda: registrar.status.holder != "", what="registered, and its Consul node known")
            beats, looks = late.count(BEAT), late.count(LOOK)
            late.held.add(BEAT)
            await until(lambda: late.count(LOOK) > looks, what="looked up")
            await until(lambda: late.count(BEAT) >= beats + 2, what="goes on")
            assert registrar.status.last_error == ""
            late.held.clear()
        await registrar.leave()


@pytest.mark.timeout(180)
async def test_an_agent_slower_than_our_ttl_has_us_as_passing_from_its_first_heartbeat_on(
    guarded: RunningConsul,
) -> None:
    settings = guarded.settings(await guarded.token_for(NODE_RULES))
    ours = Registration("late-6", NAME, 8000, ttl_s=3.0, heartbeat_s=1.0)
    async with (
        late_answers(settings) as late,
        open_session(late.settings) as session,
        open_session(guarded.settings()) as aside,
    ):
        registrar, peers = session.registrar(ours), Follower(aside.source(NAME))
        async with running(registrar.keep(), peers.run()):
            await until(lambda: registrar.status.holder != "", what="registered, and its Consul node known")
            late.takes_s = SLOWER_S
            late.arrived.clear()
            await until(lambda: late.arrived.count(f"{BEAT}/service:late-6") >= 2, what="the first heartbeats")
            others = {"critical"}
            for _ in range(TRIES):
                await peers.until(lambda seen: health_of(seen, "late-6") == "passing")
                peers.catalogs.clear()
                registrar.maintained("looked up")
                wanted = len(late.arrived) + MORE_BEATS
                await until(lambda wanted=wanted: len(late.arrived) >= wanted, within_s=30, what="more of them")
                others = {health_of(seen, "late-6") for seen in peers.catalogs} - {"passing"}
                if not others:
                    break
            assert not others
            late.takes_s = 0.0
        await registrar.leave()
    assert not await listed(guarded, "late-6")
