"""An agent that answers too late, in loop time: each write that timed out is looked up before it is called failed."""

import asyncio
import itertools
from collections.abc import Mapping
from typing import Any

import pytest

from discovery.consul.heartbeats import ON_THEIR_WAY_MAX
from discovery.model import AgentSlow
from tests.unit.discovery.consul.test_watch_and_registration import OURS, ScriptedClient, kept, registrar_of

pytestmark = pytest.mark.looptime


class SlowClient(ScriptedClient):
    """Takes writes and answers `late` ones too late; `arrives` is whether they were done all the same."""

    def __init__(self, *late: str, token: str | None = None) -> None:
        super().__init__(lambda _number, _query: None)
        self.late = set(late)
        self.arrives = True
        self.token = token
        self.check_status = "passing"
        self.answers_take_s = 0.0

    async def register(self, payload: Mapping[str, Any]) -> None:
        before = dict(self.held)
        await super().register(payload)
        if "register" in self.late and not self.arrives:
            self.held = before
        self._answer("register")

    async def pass_check(self, check_id: str) -> None:
        await super().pass_check(check_id)
        await asyncio.sleep(self.answers_take_s)
        self._answer("beat")

    async def agent_services(self) -> Mapping[str, Any]:
        services = await super().agent_services()
        await asyncio.sleep(self.answers_take_s)
        return services

    async def deregister(self, service_id: str) -> None:
        if self.arrives:
            await super().deregister(service_id)
        if "deregister" in self.late:
            await asyncio.sleep(60)

    async def held_check(self, check_id: str) -> Mapping[str, Any] | None:
        held = await super().held_check(check_id)
        await asyncio.sleep(self.answers_take_s)
        return {**held, "Status": self.check_status} if held else {}

    def _answer(self, call: str) -> None:
        if call in self.late:
            raise AgentSlow("no answer within 5.0 s")


@pytest.mark.parametrize("token", [None, "a token"])
async def test_a_first_registration_whose_answer_came_too_late_is_looked_up_before_it_is_sent_again(
    token: str | None,
) -> None:
    client = SlowClient("register", token=token)
    registrar = registrar_of(client, OURS)
    await kept(registrar, 20)
    assert registrar.status.registered
    assert registrar.status.last_error == ""
    assert client.count("register") == 1


async def test_a_registration_that_came_too_late_and_was_not_done_is_sent_again() -> None:
    client = SlowClient("register")
    client.arrives = False
    registrar = registrar_of(client, OURS)
    await kept(registrar, 20)
    assert not registrar.status.registered
    assert "no answer" in registrar.status.last_error
    assert client.count("register") > 2


@pytest.mark.parametrize("arrives", [True, False])
async def test_a_registration_with_a_new_token_that_came_too_late_is_not_the_one_with_the_old_token(
    *, arrives: bool
) -> None:
    client = SlowClient(token="old")
    client.token_rotates = True
    registrar = registrar_of(client, OURS)
    async with asyncio.TaskGroup() as group:
        keeping = group.create_task(registrar.keep())
        await asyncio.sleep(10.0)
        client.late, client.arrives, client.token = {"register"}, arrives, "new"
        await asyncio.sleep(20.0)
        keeping.cancel()
    assert registrar.status.registrations_total == 1 + arrives
    assert (registrar.status.last_error == "") is arrives
    assert (client.count("register") == 2) is arrives


async def test_a_repair_that_came_too_late_and_was_not_done_is_sent_again() -> None:
    client = SlowClient()
    registrar = registrar_of(client, OURS)
    async with asyncio.TaskGroup() as group:
        keeping = group.create_task(registrar.keep())
        await asyncio.sleep(1.0)
        client.late, client.arrives = {"register"}, False
        registrar.repair()
        await asyncio.sleep(10.0)
        assert client.count("register") > 2
        assert registrar.status.registrations_total == 1
        assert "no answer" in registrar.status.last_error
        client.arrives = True
        await asyncio.sleep(10.0)
        keeping.cancel()
    assert registrar.status.registrations_total == 2
    assert registrar.status.last_error == ""


async def test_a_heartbeat_whose_answer_came_too_late_is_no_failure_while_the_check_is_passing() -> None:
    client = SlowClient()
    registrar = registrar_of(client, OURS)
    async with asyncio.TaskGroup() as group:
        keeping = group.create_task(registrar.keep())
        await asyncio.sleep(1.0)
        client.late = {"beat"}
        await asyncio.sleep(20.0)
        assert registrar.status.last_error == ""
        client.check_status = "critical"
        await asyncio.sleep(20.0)
        assert "no answer" in registrar.status.last_error
        client.held.clear()
        client.late = set()
        await asyncio.sleep(20.0)
        keeping.cancel()
    assert registrar.status.last_error == ""
    assert client.count("register") == 2


@pytest.mark.parametrize("answers_take_s", [4.0, 8.0, 12.0, 20.0])
async def test_an_agent_that_answers_slowly_has_each_heartbeat_within_our_ttl(answers_take_s: float) -> None:
    client = SlowClient()
    client.answers_take_s = answers_take_s
    registrar = registrar_of(client, OURS)
    asyncio.get_running_loop().call_later(150.0, registrar.verify)  # As after an outage of the watch.
    await kept(registrar, 300.0)
    beats = [at_s for at_s, call in client.calls if call == "beat"]
    assert max(later - earlier for earlier, later in itertools.pairwise([0.0, *beats, 300.0])) < OURS.ttl_s
    assert registrar.status.last_error == ""


class BusyClient(ScriptedClient):
    """An agent that carries each request out so long after it was made; what is read is given up before that."""

    def __init__(self) -> None:
        super().__init__(lambda _number, _query: None)
        self.takes_s = 0.0

    async def pass_check(self, check_id: str) -> None:
        await asyncio.sleep(self.takes_s)
        await super().pass_check(check_id)

    async def agent_services(self) -> Mapping[str, Any]:
        await self._given_up()
        return await super().agent_services()

    async def held_check(self, check_id: str) -> Mapping[str, Any] | None:
        await self._given_up()
        return await super().held_check(check_id)

    async def held_checks(self) -> Mapping[str, Any] | None:
        await self._given_up()
        return await super().held_checks()

    async def _given_up(self) -> None:
        await asyncio.sleep(min(5.0, self.takes_s))
        if self.takes_s >= 5.0:
            raise AgentSlow("no answer within 5.0 s")


@pytest.mark.parametrize("takes_s", [8.0, 12.0, 18.0])
async def test_an_agent_that_is_slower_than_our_ttl_lets_our_check_run_out_once_at_most(takes_s: float) -> None:
    client = BusyClient()
    registrar = registrar_of(client, OURS)
    loop = asyncio.get_running_loop()
    loop.call_later(60.0, setattr, client, "takes_s", takes_s)
    loop.call_later(150.0, registrar.maintained, "an operator's reason")
    await kept(registrar, 400.0)
    beats = [at_s for at_s, call in client.calls if call == "beat"]
    gaps = [later - earlier for earlier, later in itertools.pairwise([*beats, 400.0])]
    assert sum(gap >= OURS.ttl_s for gap in gaps) <= 1
    assert max(gaps) < takes_s + 2 * OURS.heartbeat_s
    assert client.count("register") == 1


async def test_of_heartbeats_without_an_answer_the_oldest_is_given_up_for_a_new_one() -> None:
    client = BusyClient()
    registrar = registrar_of(client, OURS)
    asyncio.get_running_loop().call_later(60.0, setattr, client, "takes_s", 10_000.0)
    async with asyncio.TaskGroup() as group:
        keeping = group.create_task(registrar.keep())
        await asyncio.sleep(600.0)
        assert f"on_their_way={ON_THEIR_WAY_MAX}" in repr(registrar._heartbeats)
        client.takes_s = 0.0
        before = client.count("beat")
        await asyncio.sleep(OURS.heartbeat_s * 1.2)
        assert client.count("beat") > before
        keeping.cancel()


async def test_a_lost_registration_is_found_while_something_else_waits_for_the_agent() -> None:
    client = BusyClient()
    registrar = registrar_of(client, OURS)
    async with asyncio.TaskGroup() as group:
        keeping = group.create_task(registrar.keep())
        await asyncio.sleep(20.0)
        client.held.clear()
        await asyncio.sleep(20.0)
        keeping.cancel()
    assert client.count("register") == 2


@pytest.mark.parametrize(("arrives", "said"), [(True, ""), (False, "has not answered our deregistration")])
async def test_a_deregistration_whose_answer_came_too_late_is_looked_up_in_the_catalog(
    arrives: bool,
    said: str,
) -> None:
    client = SlowClient("deregister")
    client.arrives = arrives
    registrar = registrar_of(client, OURS)
    await kept(registrar, 1)
    began_s = asyncio.get_running_loop().time()
    await registrar.leave()
    assert asyncio.get_running_loop().time() - began_s <= 2.0
    assert said in registrar.status.last_error
    assert (registrar.status.last_error == "") is arrives
