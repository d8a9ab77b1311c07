"""The watch and the registration in loop time, against a scripted client: long outages in no time."""

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import orjson
import pytest

from discovery.consul.blocking_query import CONFIRM_EVERY_S
from discovery.consul.client import Answer, ConsulClient
from discovery.consul.environment import WAIT_S
from discovery.consul.registration import ConsulRegistrar, agrees, register_payload
from discovery.consul.rows import RowReader
from discovery.consul.watch import ConsulWatch
from discovery.model import (
    AccessRefused,
    AgentUnreachable,
    Catalog,
    CatalogUnavailable,
    Registration,
    RegistrationLost,
)

pytestmark = pytest.mark.looptime

OURS = Registration("own", "mcp-node", 8000, meta={"epoch": "1"})


def now_s() -> float:
    return asyncio.get_running_loop().time()


class ScriptedClient:
    """Plays the Consul client: `health_script` answers the n-th query, `agent_script` may fail agent calls."""

    def __init__(self, health_script: Callable[[int, dict[str, Any]], Answer | Exception | None]) -> None:
        self.health_script = health_script
        self.agent_script: Callable[[str], Exception | None] = lambda _call: None
        self.last_rows: Sequence[bytes] = ()
        self.asked_at_s: list[float] = []
        self.queries: list[dict[str, Any]] = []
        self.calls: list[tuple[float, str]] = []
        self.held: dict[str, Any] = {}
        self.payloads: list[Mapping[str, Any]] = []
        self.token: str | None = None
        self.token_rotates = self.is_embedded = False
        self.member = True

    async def health(self, _name: str, **query: Any) -> Answer:
        self.asked_at_s.append(now_s())
        self.queries.append(query)
        result = self.health_script(len(self.queries), query)
        if result is None:  # A wait without news.
            await asyncio.sleep(query["wait_s"])
            return Answer(query["index"], self.last_rows)
        if isinstance(result, Exception):
            raise result
        self.last_rows = result.rows
        return result

    async def register(self, payload: Mapping[str, Any]) -> None:
        self._call("register")
        self.payloads.append(payload)
        self.held[payload["ID"]] = {"Service": payload["Name"], **payload}

    async def pass_check(self, check_id: str) -> None:
        self._call("beat")
        if check_id.removeprefix("service:") not in self.held:
            raise RegistrationLost(check_id)

    async def agent_services(self) -> Mapping[str, Any]:
        self._call("list")
        return self.held

    async def held_check(self, check_id: str) -> Mapping[str, Any] | None:
        self._call("check")
        return dict(self.held.get(check_id.removeprefix("service:"), {}).get("Check", {}), Node="n")

    async def held_checks(self) -> Mapping[str, Any] | None:
        self._call("check")
        return {f"service:{one}": {**held.get("Check", {}), "Node": "n"} for one, held in self.held.items()}

    async def is_member(self, _check_id: str) -> bool:
        self._call("member")
        return self.member

    async def is_leaving(self, node: str) -> bool:
        self._call("leaving")
        return node == "n" and not self.member

    async def holders(self, _service_name: str, service_id: str) -> tuple[str, ...]:
        return ("n",) if service_id in self.held else ()

    async def deregister(self, service_id: str) -> None:
        self._call("deregister")
        self.held.pop(service_id, None)

    def _call(self, call: str) -> None:
        self.calls.append((now_s(), call))
        failure = self.agent_script(call)
        if failure is not None:
            raise failure

    def count(self, call: str) -> int:
        return sum(1 for _, made in self.calls if made == call)


def watch_of(client: ScriptedClient, name: str, **options: Any) -> ConsulWatch:
    return ConsulWatch(cast("ConsulClient", client), name, **options)


def registrar_of(client: ScriptedClient, registration: Registration) -> ConsulRegistrar:
    return ConsulRegistrar(cast("ConsulClient", client), registration)


def rows(*service_ids: str, created: int = 1) -> list[bytes]:
    node = {"Node": "n", "Address": "127.0.0.1"}
    services = ({"ID": one, "Port": 8000, "CreateIndex": created} for one in service_ids)
    return [orjson.dumps({"Node": node, "Service": service}) for service in services]


async def watched(watch: ConsulWatch, seconds: float) -> list[Catalog]:
    """Follow for some loop time; return what was shown."""
    shown: list[Catalog] = []
    try:
        async with asyncio.timeout(seconds):
            async for catalog in watch.watch():
                shown.append(catalog)  # noqa: PERF401 - the loop is cut by the time-out
    except TimeoutError:
        pass
    return shown


async def kept(registrar: ConsulRegistrar, seconds: float) -> None:
    """Keep the registration for some loop time."""
    try:
        async with asyncio.timeout(seconds):
            await registrar.keep()
    except TimeoutError:
        pass


async def test_no_leader_for_long_costs_at_most_one_request_a_step() -> None:
    client = ScriptedClient(lambda _number, _query: CatalogUnavailable("500 No cluster leader"))
    watch = watch_of(client, "mcp-node")
    assert await watched(watch, 600) == []
    gaps = [later - earlier for earlier, later in itertools.pairwise(client.asked_at_s)]
    steps = [min(30.0, 0.25 * 2**number) for number in range(len(gaps))]
    assert all(gap <= step + 0.001 for gap, step in zip(gaps, steps, strict=True))
    assert len(client.asked_at_s) < 120  # 600 s at a mean of 15 s, with room for luck
    assert (watch.status.up, watch.status.last_error) == (False, "500 No cluster leader")


async def test_an_agent_that_is_back_after_seconds_is_asked_within_two() -> None:
    for _ in range(20):
        back_at_s = now_s() + 10.0

        def script(_number: int, query: dict[str, Any], back_at_s: float = back_at_s) -> Answer | Exception | None:
            if now_s() < back_at_s:
                return AgentUnreachable("refused")
            return None if query["index"] else Answer(5, rows("a"))

        client = ScriptedClient(script)
        watch = watch_of(client, "mcp-node")
        assert len(await watched(watch, 12.1)) == 1


async def test_another_kind_of_failure_starts_the_steps_anew() -> None:
    def script(number: int, _query: dict[str, Any]) -> Exception:
        return AgentUnreachable("refused") if number <= 8 else CatalogUnavailable("no leader")

    client = ScriptedClient(script)
    await watched(watch_of(client, "mcp-node"), 60)
    after = client.asked_at_s[8:11]
    assert after[1] - after[0] <= 0.251
    assert after[2] - after[1] <= 0.501


async def test_an_index_of_zero_or_one_that_jumps_never_makes_a_busy_loop() -> None:
    for indexes in ([0], [9, 3], [5, 6, 7]):
        turn = itertools.cycle(indexes)
        client = ScriptedClient(lambda _number, _query, turn=turn: Answer(next(turn), rows("a", "b")))
        shown = await watched(watch_of(client, "mcp-node"), 60)
        assert len(shown) == 1
        assert len(client.queries) <= 70


async def test_answers_to_waits_alone_prove_nothing_and_a_read_without_an_index_tells_that_the_servers_are_gone() -> (
    None
):
    def script(number: int, query: dict[str, Any]) -> Answer | Exception | None:
        if number == 1:
            return Answer(7, rows("one", "two"))
        return None if query["index"] else CatalogUnavailable("500 No known Consul servers")

    client = ScriptedClient(script)
    watch = watch_of(client, "mcp-node")
    shown = await watched(watch, CONFIRM_EVERY_S + WAIT_S)
    assert [{one.key.service_id for one in catalog.instances} for catalog in shown] == [{"one", "two"}]
    assert (watch.status.up, watch.status.last_error) == (False, "500 No known Consul servers")


async def test_a_wait_without_news_is_asked_again_with_the_same_index() -> None:
    client = ScriptedClient(lambda _number, query: None if query["index"] else Answer(5, []))
    await watched(watch_of(client, "mcp-node"), 100)
    # Every other wait is followed by a read without an index, which no cache answers.
    assert [query["index"] for query in client.queries] == [0, 5, 5, 0, 5, 5]


async def test_changes_that_keep_coming_are_shown_ten_times_a_second_and_a_lone_one_at_once() -> None:
    client = ScriptedClient(lambda number, _query: Answer(number, rows(*(f"n{one}" for one in range(number)))))
    shown = await watched(watch_of(client, "mcp-node"), 2.05)
    assert 20 <= len(shown) <= 22
    assert client.asked_at_s[0] == 0.0


async def test_after_an_outage_removals_wait_until_the_state_has_settled_and_newcomers_do_not() -> None:
    def script(number: int, query: dict[str, Any]) -> Answer | Exception | None:
        match number:
            case 1:
                return Answer(50, rows("a", "b"))
            case 2:
                return AgentUnreachable("reset")
            case 3:
                return Answer(9, rows("c"))
        return None if query["index"] else Answer(9, rows("c"))

    client = ScriptedClient(script)
    watch = watch_of(client, "mcp-node", settle_s=5.0, answers=lambda _one: True)
    shown = await watched(watch, 200)
    # Its index went back as well: for three minutes those that answer keep their links, which critical ones may.
    assert [_ids(catalog) for catalog in shown] == ["ab", "abc", "abc", "c"]
    assert [one.health.value for one in shown[2].instances] == ["critical", "critical", "passing"]
    assert client.queries[3]["wait_s"] <= 5.0
    assert any(query["consistent"] for query in client.queries)
    assert not watch.status.holding_removals


async def test_an_outage_alone_holds_removals_as_long_as_it_takes_to_settle() -> None:
    def script(number: int, query: dict[str, Any]) -> Answer | Exception | None:
        match number:
            case 1:
                return Answer(9, rows("a", "b"))
            case 2:
                return AgentUnreachable("reset")
        return None if query["index"] else Answer(50, rows("c"))

    client = ScriptedClient(script)
    shown = await watched(watch_of(client, "mcp-node", settle_s=5.0), 20)
    assert [_ids(catalog) for catalog in shown] == ["ab", "abc", "c"]
    asked = zip(client.queries, client.asked_at_s, strict=True)
    confirmed_at_s = next(at_s for query, at_s in asked if query["consistent"])
    assert confirmed_at_s - client.asked_at_s[2] >= 5.0


async def test_an_entry_of_ours_that_was_made_anew_keeps_the_others_that_are_not_back_yet() -> None:
    def script(number: int, query: dict[str, Any]) -> Answer | Exception | None:
        everybody = [*rows("own", created=5), *rows("a", "b")]
        again = rows("own", created=40)
        return Answer(30, everybody) if number == 1 else None if number > 2 and query["index"] else Answer(41, again)

    client = ScriptedClient(script)
    registrar = registrar_of(client, OURS)
    watch = watch_of(client, "mcp-node", own=registrar, answers=lambda _one: True)
    shown = await watched(watch, 200)
    assert [_ids(catalog) for catalog in shown] == ["abown", "abown", "own"]
    assert {one.health.value for one in shown[1].instances if one.key.service_id != "own"} == {"critical"}


async def test_a_catalog_that_lacks_us_for_good_is_repaired_at_once_and_then_ever_more_seldom() -> None:
    client = ScriptedClient(lambda number, query: None if query["index"] and number > 4 else Answer(7, rows("a")))
    registrar = registrar_of(client, OURS)
    watch = watch_of(client, "mcp-node", own=registrar)
    async with asyncio.TaskGroup() as group:
        group.create_task(kept(registrar, 3600), name="keep")
        group.create_task(_when_registered(registrar, watch, 3590), name="watch")
    sent_at_s = [at_s for at_s, call in client.calls if call == "register"]
    assert sent_at_s[1] - sent_at_s[0] < 2.0
    assert 3 <= len(sent_at_s) <= 15
    notes = [payload["Check"].get("Notes") for payload in client.payloads]
    assert len(set(notes)) == len(notes)


async def test_nothing_is_registered_again_while_consuls_agent_leaves_its_cluster() -> None:
    client = ScriptedClient(lambda number, query: None if query["index"] and number > 4 else Answer(7, rows("a")))
    client.member = False
    registrar = registrar_of(client, OURS)
    watch = watch_of(client, "mcp-node", own=registrar)
    async with asyncio.TaskGroup() as group:
        group.create_task(kept(registrar, 60), name="keep")
        group.create_task(_when_registered(registrar, watch, 50), name="watch")
    assert client.count("member") >= 2
    assert client.count("register") == 1


@pytest.mark.parametrize("what", ["changed contents", "a rotated token"])
async def test_no_change_is_registered_until_consuls_agent_is_back_in_its_cluster(what: str) -> None:
    client = ScriptedClient(lambda _number, _query: None)
    client.token_rotates, client.token = True, "old"
    registrar = registrar_of(client, OURS)
    await kept(registrar, 1)
    client.member = False
    if what == "changed contents":
        registrar.change(Registration("own", "mcp-node", 8000, meta={"epoch": "1", "digest": "b"}))
    else:
        client.token = "new"
    await kept(registrar, 20)
    assert client.count("register") == 1
    assert "leaving its cluster" in registrar.status.last_error
    client.member = True
    await kept(registrar, 6)
    assert client.count("register") == 2
    assert registrar.status.last_error == ""


async def _when_registered(registrar: ConsulRegistrar, watch: ConsulWatch, seconds: float) -> None:
    await asyncio.sleep(0.1)  # Loop time: its first turn is over.
    assert registrar.status.registered
    assert await watched(watch, seconds) == []


async def test_a_known_catalog_is_shown_first_and_outlives_a_consul_that_is_away() -> None:
    known, _ = RowReader().read(rows("a", "b"))
    client = ScriptedClient(lambda _number, _query: AgentUnreachable("refused"))
    watch = watch_of(client, "mcp-node", known=known)
    assert await watched(watch, 120) == [known]
    assert not watch.status.up


async def test_a_programming_error_in_a_turn_does_not_end_the_watch() -> None:
    def script(number: int, query: dict[str, Any]) -> Answer | Exception | None:
        if number == 1:
            return RuntimeError("ours")
        return None if query["index"] else Answer(5, rows("a"))

    shown = await watched(watch_of(ScriptedClient(script), "mcp-node"), 5)
    assert [_ids(catalog) for catalog in shown] == ["a"]


async def test_a_refused_read_waits_long_unless_the_token_is_rotated() -> None:
    client = ScriptedClient(lambda _number, _query: AccessRefused("403"))
    await watched(watch_of(client, "mcp-node"), 300)
    assert len(client.queries) < 60
    client = ScriptedClient(lambda _number, _query: AccessRefused("403"))
    client.token_rotates, client.token = True, "old"
    watch = watch_of(client, "mcp-node")

    def rotate() -> None:
        client.token = "new"
        client.health_script = lambda _number, query: None if query["index"] else Answer(5, rows("a"))

    asyncio.get_running_loop().call_later(30.0, rotate)
    assert len(await watched(watch, 31.1)) == 1


async def test_heartbeats_come_in_time_and_the_list_is_compared_every_half_minute() -> None:
    client = ScriptedClient(lambda _number, _query: None)
    await kept(registrar_of(client, OURS), 61)
    beats = [at_s for at_s, call in client.calls if call == "beat"]
    assert client.count("register") == 1
    assert client.count("list") == 2
    assert all(later - earlier <= 5.0 for earlier, later in itertools.pairwise([0.0, *beats]))
    assert len(beats) < 20


async def test_an_outage_is_retried_at_a_heartbeats_pace_at_most_and_keeps_the_canary() -> None:
    client = ScriptedClient(lambda _number, _query: None)
    registrar = registrar_of(client, OURS)
    await kept(registrar, 6)
    client.agent_script = lambda _call: AgentUnreachable("refused")
    await kept(registrar, 600)
    assert registrar.status.registered
    assert registrar.status.presence_expected
    assert registrar.status.last_error == "refused"
    calls = len(client.calls)
    assert calls > 600 / 5
    client.agent_script = lambda _call: None
    client.held.clear()
    await kept(registrar, 6)
    assert registrar.status.registrations_total == 2
    assert registrar.status.last_error == ""


async def test_a_refused_registration_expects_no_node_to_see_us() -> None:
    client = ScriptedClient(lambda _number, _query: None)
    registrar = registrar_of(client, OURS)
    await kept(registrar, 6)
    client.agent_script = lambda _call: AccessRefused("403")
    await kept(registrar, 60)
    assert not registrar.status.registered
    assert not registrar.status.presence_expected
    assert client.count("beat") + client.count("register") < 40


async def test_a_change_in_the_middle_of_a_wait_is_sent_at_once() -> None:
    client = ScriptedClient(lambda _number, _query: None)
    registrar = registrar_of(client, OURS)
    changed = Registration("own", "mcp-node", 8000, meta={"epoch": "1", "digest": "b"})
    asyncio.get_running_loop().call_later(2.0, registrar.change, changed)
    await kept(registrar, 3)
    assert [at_s for at_s, call in client.calls if call == "register"] == pytest.approx([0.0, 2.0])


async def test_changes_that_keep_coming_are_sent_four_times_a_second() -> None:
    client = ScriptedClient(lambda _number, _query: None)
    registrar = registrar_of(client, OURS)
    for number in range(200):
        changed = Registration("own", "mcp-node", 8000, meta={"digest": str(number)})
        asyncio.get_running_loop().call_later(1.0 + number * 0.01, registrar.change, changed)
    await kept(registrar, 5)
    assert 8 <= client.count("register") - 1 <= 10
    assert client.held["own"]["Meta"] == {"digest": "199"}


async def test_leaving_sends_one_deregistration_and_a_failure_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    client = ScriptedClient(lambda _number, _query: None)
    registrar = registrar_of(client, OURS)
    await registrar.leave()
    assert client.calls == []  # never registered, nothing to take back
    await kept(registrar, 1)
    client.agent_script = lambda _call: AgentUnreachable("refused")
    await registrar.leave()
    assert client.count("deregister") == 1
    assert "deregistering failed" in caplog.text
    assert not registrar.status.presence_expected


def test_the_comparison_sees_every_field_that_we_send() -> None:
    sent = Registration("own", "mcp-node", 8000, "10.0.0.1", {"a": "1"}, ("x", "y"))
    held = {"Service": "mcp-node", "Port": 8000, "Address": "10.0.0.1", "Meta": {"a": "1"}, "Tags": ["y", "x"]}
    assert agrees(held, sent)
    for name, other in [("Service", "x"), ("Port", 1), ("Address", ""), ("Meta", {}), ("Tags", None)]:
        assert not agrees(held | {name: other}, sent)
    assert not agrees(None, sent)


def test_a_registration_carries_one_check_of_the_kind_that_was_asked_for() -> None:
    ttl = register_payload(OURS)["Check"]
    assert (ttl["TTL"], ttl["Status"], ttl["DeregisterCriticalServiceAfter"]) == ("15s", "passing", "600s")
    assert "HTTP" not in ttl
    http = register_payload(Registration("own", "mcp-node", 8000, http_check_url="http://127.0.0.1:8000/healthz"))
    assert http["Check"]["HTTP"] == "http://127.0.0.1:8000/healthz"
    assert "TTL" not in http["Check"]


def _ids(catalog: Catalog) -> str:
    return "".join(instance.key.service_id for instance in catalog.instances)


async def test_a_token_that_is_rotated_while_the_agent_is_away_is_registered_with_as_soon_as_it_is_back() -> None:
    client = ScriptedClient(lambda _n, _query: None)
    client.token_rotates, client.token = True, "old"
    registrar = registrar_of(client, OURS)
    async with asyncio.TaskGroup() as group:
        keeping = group.create_task(registrar.keep())
        await asyncio.sleep(10.0)
        client.agent_script = lambda _call: AgentUnreachable("refused")
        client.token = "new"
        await asyncio.sleep(10.0)
        client.agent_script = lambda _call: None
        await asyncio.sleep(10.0)
        keeping.cancel()
    assert "Notes" not in client.payloads[0]["Check"]
    assert client.payloads[-1]["Check"]["Notes"].startswith("sent again")
    assert registrar.status.registrations_total == 2


@pytest.mark.parametrize(("count", "in_loop"), [(10, True), (2000, False)])
async def test_the_event_loop_does_not_wait_while_a_long_answer_is_read(count: int, *, in_loop: bool) -> None:
    read_by: set[int] = set()

    class Rows(list[bytes]):
        def __iter__(self) -> Iterator[bytes]:
            read_by.add(threading.get_ident())
            return super().__iter__()

    answer = Answer(7, Rows(rows(*(f"node-{number}" for number in range(count)))))
    catalogs = watch_of(ScriptedClient(lambda _number, _query: answer), "mcp-node").watch()
    assert len((await anext(catalogs)).instances) == count
    await catalogs.aclose()
    assert (read_by == {threading.get_ident()}) is in_loop
