"""Calls that go out without a task: which do, what is counted of them, and how one goes on."""

from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from agent.client.protocol import Request, ResultTaker
from agent.dispatch.started_call import StartedCall
from agent.errors import CallOutcomeUnknown, CallUnanswered
from agent.lossless_json.raw import RawObject
from agent.model import AFFINITY_META_KEY, DEADLINE_META_KEY, PENDING_META_KEY, Json, LinkState
from agent.routing.table import Replica
from tests.unit.control.fleet import OK, Fleet, ScriptedLink, alike, fleet

pytestmark = pytest.mark.looptime(start=1000.0)
CALL: Json = {"name": "kit__do", "arguments": {}}


@dataclass
class GoneOut:
    """A request that has gone out over a link."""

    link: "StartingLink"
    taker: ResultTaker
    changes: int = 0
    go_on: Callable[[Request], Coroutine[Any, Any, Json]] | None = None

    def wait(self) -> None:
        self.taker.wait()


class StartingLink(ScriptedLink):
    """A link that sends without waiting, unless it `refuses`; what has gone out is in `out`."""

    refuses = False

    def __init__(self, link: ScriptedLink) -> None:
        super().__init__(link.spec, link.answers)
        self.out: list[GoneOut] = []

    def start(self, request: Request, taker: ResultTaker) -> bool:
        if self.refuses:
            return False
        self.out.append(gone_out := GoneOut(self, taker))
        request.started, gone_out.go_on = gone_out, self.request
        self.asked.append(request.params or {})
        return True

    async def request(self, request: Request) -> Json:
        if request.started is not None:
            self.asked.pop()  # It is the one that has gone out.
        return await super().request(request)


@dataclass
class Caller:
    """Who started a call. `refuses`: it takes nothing."""

    refuses: bool = False
    taken: list[tuple[Json, str]] = field(default_factory=list)
    waits: int = 0

    def take(self, result: RawObject, replica: Replica) -> bool:
        if not self.refuses:
            self.taken.append((result, replica.backend_key))
        return not self.refuses

    def wait(self) -> None:
        self.waits += 1


class Scene:
    """A fleet whose links send without waiting."""

    def __init__(self, it: Fleet) -> None:
        self.fleet = it
        for key, link in it.links.items():
            it.links[key] = StartingLink(link)
        self.caller = Caller()

    def start(self, params: Json | None = None, **more: Any) -> StartedCall | None:
        present = lambda: self.fleet.route  # noqa: E731 - as short as it is
        return self.fleet.dispatch.start(
            "tools/call", self.fleet.route, params or CALL, self.caller, present=present, **more
        )

    def started(self, **more: Any) -> StartedCall:
        call = self.start(**more)
        assert call is not None
        return call

    def link(self, name: str) -> StartingLink:
        link = self.fleet.link(name)
        assert isinstance(link, StartingLink)
        return link

    async def goes_on(self, call: StartedCall) -> Json:
        heard: list[str] = []
        more: Any = {"on_delivered": lambda _: None, "on_trace": lambda _: None, "sink": None}
        found = await self.fleet.dispatch.go_on(call, None, on_attempt=heard.append, **more)
        assert heard, "its caller is told of each attempt"
        return found.result

    def counted(self) -> dict[str, float]:
        series = self.fleet.series()
        calls = {name: value for name, value in series.items() if name.startswith("mesh_calls_total")}
        counts = Counter[str]()
        for name, value in calls.items():
            counts[name.partition('outcome="')[2].partition('"')[0]] += int(value)
        return dict(counts) | {"in flight": series["mesh_calls_in_flight"]}


def raw(result: Json) -> RawObject:
    return RawObject(result, b"{}")


async def test_a_result_that_is_no_more_than_that_goes_to_the_caller_and_is_counted_once() -> None:
    it = Scene(fleet(a=[OK]))
    it.started()
    assert it.counted() == {"in flight": 1}
    assert it.link("a").out[0].taker.take(raw(OK))
    assert [backend for _, backend in it.caller.taken] == ["peer:a"]
    assert it.counted() == {"ok": 1, "in flight": 0}
    assert (it.caller.waits, it.fleet.dispatch.in_flight()) == (0, {})


@pytest.mark.parametrize(
    "result",
    [
        OK,  # Without its bytes.
        raw({**OK, "isError": True}),
        raw({**OK, "resultType": "input_required", "requestState": "x"}),
        raw({**OK, "resultType": "task"}),
        raw({**OK, "_meta": {PENDING_META_KEY: True}, "resultType": "input_required"}),
    ],
)
async def test_any_other_result_is_not_taken_and_still_under_way(result: Json) -> None:
    it = Scene(fleet(a=[OK]))
    it.started()
    assert not it.link("a").out[0].taker.take(result)
    assert it.caller.taken == []
    assert it.counted() == {"in flight": 1}


async def test_a_result_that_its_caller_does_not_take_is_still_under_way_until_it_was_waited_for() -> None:
    it = Scene(fleet(a=[OK]))
    it.caller.refuses = True
    call = it.started()
    assert not it.link("a").out[0].taker.take(raw(OK))
    it.link("a").out[0].wait()
    assert (it.caller.waits, it.counted()) == (1, {"in flight": 1})
    assert await it.goes_on(call) == OK
    assert it.counted() == {"ok": 1, "in flight": 0}
    assert it.fleet.counts() == {"a": 1}


async def test_leaving_tells_its_caller_to_wait() -> None:
    it = Scene(fleet(a=[OK]))
    it.started().leave()
    assert it.caller.waits == 1


async def test_what_went_out_is_its_first_attempt_and_only_a_harmless_one_has_a_second() -> None:
    broken = CallOutcomeUnknown("reset")
    for annotations, sent in ((None, 1), ({"readOnlyHint": True}, 2)):
        it = Scene(fleet(annotations=annotations, a=[broken], b=[broken]))
        call = it.started()
        with pytest.raises(CallUnanswered):
            await it.goes_on(call)
        assert sum(it.fleet.counts().values()) == sent
        assert it.counted() == {"unknown": sent, "in flight": 0}


async def test_a_reading_call_that_broke_is_answered_by_another_replica() -> None:
    it = Scene(fleet(annotations={"readOnlyHint": True}, **alike("ab", OK)))
    call = it.started()
    it.link(call.replica.backend_key.removeprefix("peer:")).answers = [CallOutcomeUnknown("reset")]
    assert await it.goes_on(call) == OK
    assert it.fleet.counts() == {"a": 1, "b": 1}


@pytest.mark.parametrize("left_s", [0.3, 1.0, 1.9])
async def test_a_call_with_little_time_is_not_started(left_s: float) -> None:
    it = Scene(fleet(call_timeout_s=left_s, a=[OK]))
    assert it.start() is None
    it = Scene(fleet(call_timeout_s=60.0, a=[OK]))
    assert it.start({**CALL, "_meta": {DEADLINE_META_KEY: int(left_s * 1000)}}) is None
    assert it.fleet.counts() == {"a": 0}
    assert it.counted() == {"in flight": 0}


async def test_a_call_is_not_started_where_its_one_replica_is_down_or_gone_or_its_link_cannot() -> None:
    for change in ("down", "gone", "cannot"):
        it = Scene(fleet(a=[OK]))
        match change:
            case "down":
                it.link("a").state = LinkState.BACKOFF
            case "gone":
                it.fleet.links.clear()
            case _:
                it.link("a").refuses = True
        assert it.start() is None
        assert it.counted() == {"in flight": 0}


async def test_an_answer_to_a_question_is_not_started() -> None:
    it = Scene(fleet(a=[OK]))
    assert it.start({**CALL, "requestState": "x"}) is None


async def test_a_session_keeps_its_replica_which_hears_of_it() -> None:
    it = Scene(fleet(sticky=True, **alike("abc", OK)))
    for _ in range(5):
        it.started(session_id="one")
    assert sorted(it.fleet.counts().values()) == [0, 0, 5]
    (asked,) = (link.asked for link in it.fleet.links.values() if link.asked)
    assert {request["_meta"][AFFINITY_META_KEY] for request in asked} == {asked[0]["_meta"][AFFINITY_META_KEY]}


async def test_a_backend_that_is_forgotten_meanwhile_counts_nothing_below_zero() -> None:
    it = Scene(fleet(a=[OK]))
    it.started()
    it.fleet.dispatch.forget("peer:a")
    assert it.link("a").out[0].taker.take(raw(OK))
    assert it.counted() == {"ok": 1, "in flight": 0}
    assert it.fleet.dispatch.in_flight() == {}
