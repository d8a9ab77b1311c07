"""One call over scripted links: which replica is tried next, which is not, what the client gets."""

import asyncio
import contextlib
from collections.abc import Awaitable

import pytest

from agent.dispatch.outlier import FAILURES_IN_ROW_MAX
from agent.dispatch.retry import BUDGET_RESERVE
from agent.errors import (
    NOT_EXECUTED,
    OUTCOME_UNKNOWN,
    AuthRefused,
    CallNotSent,
    CallOutcomeUnknown,
    CallRefused,
    CallTimedOut,
    CallUnanswered,
    MeshError,
    ProtocolBroken,
    RpcError,
)
from agent.model import AFFINITY_META_KEY, DEADLINE_META_KEY, OWN_ERROR_KEY, PATH_META_KEY, Json, PeerScope, ServerSpec
from tests.unit.control.fleet import OK, Answer, after, alike, fleet, own_server

READ_ONLY: Json = {"readOnlyHint": True}
SAID_NO = RpcError(NOT_EXECUTED, "kit__do was not executed: gone", {"outcome": "not_executed", OWN_ERROR_KEY: True})
SAID_PERHAPS = RpcError(
    OUTCOME_UNKNOWN, "kit__do: lost", {"outcome": "unknown", "timed_out": True, OWN_ERROR_KEY: True}
)
SAID_GONE = RpcError(-32602, "Unknown tool: 'kit__do'", {"name": "kit__do", OWN_ERROR_KEY: True})
SAID_GARBAGE = RpcError(-32603, "kit__do: html", {"outcome": "unknown", "timed_out": False, OWN_ERROR_KEY: True})

pytestmark = pytest.mark.looptime(start=1000.0)


@pytest.mark.parametrize("failure", [CallNotSent("refused"), AuthRefused("401"), SAID_NO, SAID_GONE])
async def test_what_was_certainly_not_executed_is_done_by_another_replica(failure: Exception) -> None:
    fleets = [fleet(a=[failure], b=[OK]), fleet(a=[OK], b=[failure])]
    assert [await one.call() for one in fleets] == [OK, OK]
    assert sorted(sum(one.counts().values()) for one in fleets) == [1, 2], "one of them had to try twice"


@pytest.mark.parametrize(
    "failure", [CallOutcomeUnknown("reset"), CallTimedOut("late"), ProtocolBroken("html"), SAID_PERHAPS, SAID_GARBAGE]
)
@pytest.mark.parametrize("annotations", [None, READ_ONLY, {"idempotentHint": True}])
async def test_an_unknown_outcome_is_tried_again_only_where_that_does_no_harm(
    failure: Exception, annotations: Json | None
) -> None:
    now = fleet(annotations=annotations, a=[failure], b=[failure])
    with pytest.raises(CallUnanswered):
        await now.call()
    assert sum(now.counts().values()) == (1 if annotations is None else 2)


async def test_a_plain_peers_hint_is_not_believed() -> None:
    failure = CallOutcomeUnknown("reset")
    now = fleet(annotations=READ_ONLY, owner="plain:x", a=[failure], b=[failure])
    with pytest.raises(CallUnanswered):
        await now.call()
    assert sum(now.counts().values()) == 1


async def test_a_plain_peers_error_is_its_own_whatever_it_claims() -> None:
    now = fleet(owner="plain:x", a=[SAID_NO], b=[SAID_NO])
    with pytest.raises(RpcError) as caught:
        await now.call()
    assert caught.value is SAID_NO
    assert sum(now.counts().values()) == 1


@pytest.mark.parametrize(
    "error",
    [
        RpcError(-32602, "no such thing"),
        RpcError(NOT_EXECUTED, "mine", {"why": 1}),
        RpcError(OUTCOME_UNKNOWN, "mine", None),
        RpcError(-32603, "mine", {"outcome": "not_executed", OWN_ERROR_KEY: True}),
        RpcError(NOT_EXECUTED, "my server's", {"outcome": "not_executed"}),
        RpcError(OUTCOME_UNKNOWN, "my server's", {"outcome": "unknown", OWN_ERROR_KEY: "true"}),
    ],
)
async def test_an_ordinary_error_passes_as_it_came_and_is_no_failure(error: RpcError) -> None:
    now = fleet(annotations=READ_ONLY, a=[error], b=[error])
    for _ in range(20):
        with pytest.raises(RpcError) as caught:
            await now.call()
        assert caught.value is error
    assert sum(now.counts().values()) == 20
    assert not now.dispatch.balance().ejected


async def test_a_tools_own_error_is_an_answer() -> None:
    result: Json = {"isError": True, "content": []}
    now = fleet(a=[result], b=[result])
    assert [await now.call() for _ in range(20)] == [result] * 20
    assert not now.dispatch.balance().ejected


async def test_a_node_whose_server_answers_garbage_is_no_better_than_the_server() -> None:
    now = fleet(a=[SAID_GARBAGE], b=[after(0.005, OK)])
    for _ in range(20):
        await _ignoring(now.call())
    assert now.counts()["a"] == 1
    alone = fleet(a=[SAID_GARBAGE])
    with pytest.raises(CallUnanswered, match=r"^html$") as caught:
        await alone.call()
    assert caught.value.broken


async def test_a_node_that_no_longer_offers_it_is_asked_less_and_nothing_is_held_against_it() -> None:
    now = fleet(a=[SAID_GONE], b=[after(0.005, OK)])
    for _ in range(40):
        assert await now.call() == OK
        await asyncio.sleep(0.1)
    assert now.counts()["a"] == 1
    assert now.series()['mesh_calls_total{backend="peer:a",outcome="gone",tool="kit__do"}'] == 1
    crowd = fleet(a=[after(0.1, SAID_GONE)], b=[after(0.1, OK)])
    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(_ignoring(crowd.call()), name="call")
    assert crowd.counts()["a"] > FAILURES_IN_ROW_MAX
    assert not crowd.dispatch.balance().ejected


async def test_when_the_only_node_no_longer_offers_it_the_client_may_try_again() -> None:
    now = fleet(a=[SAID_GONE])
    with pytest.raises(CallRefused, match=r"^kit__do was not executed: server kit on a no longer offers it$") as caught:
        await now.call()
    assert caught.value.bytes_sent


async def test_no_replica_is_asked_twice_and_no_more_than_three() -> None:
    now = fleet(**alike("abcde", CallNotSent("refused")))
    with pytest.raises(
        CallRefused, match="kit__do was not executed: server kit on a could not be sent the request"
    ) as caught:
        await now.call()
    assert sorted(now.counts().values()) == [0, 0, 1, 1, 1]
    assert caught.value.backend in now.links
    assert caught.value.bytes_sent is False


async def test_a_later_refusal_does_not_hide_that_the_first_attempt_may_have_been_executed() -> None:
    for first, second in (("a", "b"), ("b", "a")):
        now = fleet(annotations=READ_ONLY, **{first: [CallTimedOut("late")], second: [CallNotSent("refused")]})
        with pytest.raises(CallUnanswered) as caught:
            await now.call()
        ended = caught.value
        assert (ended.backend, ended.timed_out, ended.bytes_sent) == (f"peer:{first}", True, True)
        assert sum(now.counts().values()) == 2


async def test_the_server_that_may_have_executed_it_is_named() -> None:
    now = fleet(a=[ProtocolBroken("html")])
    with pytest.raises(CallUnanswered) as caught:
        await now.call()
    assert (caught.value.backend, caught.value.broken, caught.value.timed_out) == ("peer:a", True, False)
    now = fleet(a=[AuthRefused("401")])
    with pytest.raises(CallRefused) as refused:
        await now.call()
    assert (refused.value.backend, refused.value.bytes_sent) == ("peer:a", True)
    now = fleet(a=[SAID_NO])
    with pytest.raises(CallRefused, match=r"^kit__do was not executed: gone$"):
        await now.call()


async def test_a_spent_budget_ends_a_call_though_another_replica_is_there() -> None:
    now = fleet(annotations=READ_ONLY, **alike("ab", CallOutcomeUnknown("reset")))
    for _ in range(4):
        with pytest.raises(CallUnanswered):
            await now.call()
    with pytest.raises(CallUnanswered):
        await now.call()
    found = now.series()
    retried = sum(value for name, value in found.items() if name.startswith("mesh_retries_total"))
    assert retried <= BUDGET_RESERVE + 0.2 * 5
    assert found["mesh_retries_refused_total"] == 5 - retried


async def test_a_fifth_of_the_calls_may_be_sent_again_beside_the_reserve() -> None:
    now = fleet(annotations=READ_ONLY, **alike("ab", OK))
    assert now.dispatch.balance().retries_left == BUDGET_RESERVE
    for _ in range(50):
        await now.call()
    assert now.dispatch.balance().retries_left == BUDGET_RESERVE + 10
    for link in now.links.values():
        link.answers[:] = [CallOutcomeUnknown("reset")]
    for _ in range(30):
        await _ignoring(now.call())
    retried = sum(value for name, value in now.series().items() if name.startswith("mesh_retries_total"))
    assert retried == BUDGET_RESERVE + (50 + 30) / 5
    assert now.dispatch.balance().retries_left == 0


async def test_a_refused_replica_gets_no_more_calls_until_its_time_is_over() -> None:
    now = fleet(a=[CallNotSent("refused"), OK], b=[OK])
    loop = asyncio.get_running_loop()
    while not now.dispatch.balance().ejected:
        await now.call()
    (group,) = now.dispatch.groups()
    assert [(one.backend, one.out_until_s is not None) for one in group.members] == [
        ("peer:a", True),
        ("peer:b", False),
    ]
    asked = now.counts()["a"]
    for _ in range(50):
        await now.call()
    assert now.counts()["a"] == asked == 1
    assert now.series()['mesh_ejections_total{backend="peer:a",reason="refused"}'] == 1
    ends_s = loop.time() + 90
    while loop.time() < ends_s:
        await now.call()
        await asyncio.sleep(0.1)
    assert now.counts()["a"] > 50
    assert not now.dispatch.balance().ejected
    (group,) = now.dispatch.groups()
    assert [one.out_until_s for one in group.members] == [None, None]
    assert sum(one.share or 0.0 for one in group.members) == pytest.approx(1.0)


async def test_a_replica_that_was_readmitted_starts_slowly() -> None:
    now = fleet(**alike("abcd", OK))
    now.link("a").answers[:] = [CallNotSent("refused"), OK]
    while not now.dispatch.balance().ejected:
        await now.call()
    await asyncio.sleep(31)
    before = now.counts()["a"]
    for _ in range(100):
        await now.call()
    assert 0 < now.counts()["a"] - before < 15, "a tenth at first"
    await asyncio.sleep(30)
    before = now.counts()["a"]
    for _ in range(100):
        await now.call()
    assert now.counts()["a"] - before > 15, "its part in the end"


async def test_failures_that_are_not_in_a_row_eject_no_replica() -> None:
    broken: list[Exception | Json | Answer] = [CallOutcomeUnknown("reset"), OK, OK] * 30
    now = fleet(annotations=READ_ONLY, a=broken, b=list(broken))
    for _ in range(60):
        await _ignoring(now.call())
        await asyncio.sleep(1)
    assert not now.dispatch.balance().ejected
    assert not [name for name in now.series() if name.startswith("mesh_ejections_total")]


async def test_a_replica_that_fails_at_once_gets_few_calls_though_none_answers_faster() -> None:
    now = fleet(a=[CallOutcomeUnknown("reset")], b=[after(0.005, OK)])
    for _ in range(20):
        await _ignoring(now.call())
    assert now.counts()["a"] == 1


@pytest.mark.parametrize("ours", [None, own_server("a")])
@pytest.mark.parametrize("patience_s", [0.2, 5.0])
async def test_a_replica_that_hangs_is_left_alone_by_callers_that_give_up(
    ours: ServerSpec | None, patience_s: float
) -> None:
    now = fleet(ours=ours, a=[after(3600, OK)], b=[after(0.005, OK)])
    given_up = 0
    for _ in range(40):
        try:
            async with asyncio.timeout(patience_s):
                await now.call()
        except TimeoutError:
            given_up += 1
    assert now.counts()["a"] == given_up <= 2
    assert not now.dispatch.balance().ejected


async def test_a_sticky_session_leaves_a_replica_that_hangs_though_its_client_gives_up_before_we_do() -> None:
    now = fleet(sticky=True, **alike("abcd", OK))
    await now.call(session_id="s1")
    (home,) = [link for link in now.links.values() if link.asked]
    home.answers[:] = [after(3600, OK)]
    given_up = 0
    for _ in range(10):
        try:
            async with asyncio.timeout(45):
                await now.call(session_id="s1")
        except TimeoutError:
            given_up += 1
    assert given_up == FAILURES_IN_ROW_MAX


async def test_a_link_that_came_back_is_asked_before_its_time_is_over() -> None:
    now = fleet(a=[CallNotSent("refused"), OK], b=[OK])
    while not now.dispatch.balance().ejected:
        await now.call()
    await asyncio.sleep(2)
    now.link("a").up_since_s = asyncio.get_running_loop().time()
    for _ in range(100):
        await now.call()
        await asyncio.sleep(0.1)
    assert now.counts()["a"] > 5


@pytest.mark.parametrize("sticky", [False, True])
async def test_an_ejected_replica_is_asked_before_a_call_is_given_up(sticky: bool) -> None:
    now = fleet(annotations=READ_ONLY, sticky=sticky, a=[CallNotSent("crashed"), {"content": ["back"]}], b=[OK])
    while not now.dispatch.balance().ejected:
        await now.call({"name": "kit__do", "arguments": {}, "_meta": {AFFINITY_META_KEY: str(now.counts())}})
    now.link("b").answers = [CallOutcomeUnknown("crashed, too")]
    assert await now.call() == {"content": ["back"]}


async def test_ejection_in_one_group_bars_nothing_of_another() -> None:
    now = fleet(a=[CallNotSent("refused")], b=[OK])
    while not now.dispatch.balance().ejected:
        await now.call()
    other = fleet(owner="service:other", a=[OK], b=[OK]).route
    asked = now.counts()["a"]
    now.link("a").answers[:] = [OK]
    for _ in range(40):
        await now.dispatch.forward("tools/call", other, {"name": "kit__do"})
    assert now.counts()["a"] > asked


async def test_a_group_of_one_is_asked_whatever_happened() -> None:
    now = fleet(a=[CallNotSent("refused")])
    for _ in range(10):
        with pytest.raises(CallRefused):
            await now.call()
    assert now.counts()["a"] == 10


async def test_one_deadline_counts_for_all_attempts() -> None:
    slow = after(6.0, CallOutcomeUnknown("reset"))
    now = fleet(annotations=READ_ONLY, call_timeout_s=10.0, a=[slow], b=[slow])
    with pytest.raises(CallUnanswered):
        await now.call()
    limits_s = sorted(limit for link in now.links.values() for limit in link.time_limits_s)
    assert limits_s == [pytest.approx(4.0), pytest.approx(10.0)]


async def test_after_the_deadline_no_other_replica_is_asked() -> None:
    slow = after(11.0, CallOutcomeUnknown("reset"))
    now = fleet(annotations=READ_ONLY, call_timeout_s=10.0, a=[slow], b=[slow])
    with pytest.raises(CallUnanswered, match="deadline"):
        await now.call()
    assert sum(now.counts().values()) == 1


async def test_the_sooner_of_the_callers_deadline_and_ours_counts_and_is_sent_to_mesh_nodes() -> None:
    for received_ms, limit_s in ((2000, 2.0), (99_000, 10.0)):
        now = fleet(call_timeout_s=10.0, a=[OK])
        await now.call({"name": "kit__do", "_meta": {DEADLINE_META_KEY: received_ms, "theirs": 1}})
        (link,) = now.links.values()
        assert link.time_limits_s == [pytest.approx(limit_s)]
        meta = link.asked[0]["_meta"]
        assert meta["theirs"] == 1
        assert (limit_s - 0.1) * 1000 < meta[DEADLINE_META_KEY] < limit_s * 1000


async def test_a_call_whose_deadline_is_over_is_not_sent() -> None:
    now = fleet(a=[OK], b=[OK])
    with pytest.raises(CallRefused, match="deadline"):
        await now.call({"name": "kit__do", "_meta": {DEADLINE_META_KEY: 0}})
    assert now.counts() == {"a": 0, "b": 0}


async def test_hurried_callers_eject_no_replica() -> None:
    now = fleet(a=[CallTimedOut("late")], b=[CallTimedOut("late")])
    for _ in range(30):
        with pytest.raises(CallUnanswered):
            await now.call({"name": "kit__do", "_meta": {DEADLINE_META_KEY: 5}})
    assert not now.dispatch.balance().ejected


async def test_a_servers_own_time_limit_counts_for_it() -> None:
    now = fleet(ours=own_server(call_timeout_s=3.0), kit=[CallNotSent("down")], b=[OK])
    await now.call()
    assert [link.time_limits_s for link in now.links.values()] == [[pytest.approx(3.0)], [pytest.approx(60.0)]]


@pytest.mark.parametrize("owner", ["plain:x", "service:kit"])
async def test_our_own_words_go_to_mesh_nodes_only(owner: str) -> None:
    now = fleet(owner=owner, a=[OK])
    await now.call({"name": "kit__do", "_meta": {DEADLINE_META_KEY: 50, PATH_META_KEY: ["x"], AFFINITY_META_KEY: "k"}})
    (link,) = now.links.values()
    told = {DEADLINE_META_KEY, AFFINITY_META_KEY} if owner == "service:kit" else set()
    assert set(link.asked[0]["_meta"]) == told
    assert link.affinities == ["k"]


async def test_a_gateway_hears_the_path_and_the_affinity_of_a_session() -> None:
    now = fleet(sticky=True, scope=PeerScope.MESH, a=[OK])
    await now.call(session_id="secret-session")
    meta = now.link("a").asked[0]["_meta"]
    assert meta[PATH_META_KEY] == ["me"]
    assert meta[AFFINITY_META_KEY].startswith("session:")
    assert "secret" not in meta[AFFINITY_META_KEY]


async def test_a_session_is_distinct_on_the_next_node_too_whatever_the_route() -> None:
    now = fleet(a=[OK])
    await now.call(session_id="secret-session")
    await now.call(session_id="another")
    link = now.link("a")
    assert [asked["_meta"][AFFINITY_META_KEY] for asked in link.asked] == link.affinities
    assert len({*link.affinities, None}) == 3


async def test_a_sticky_route_keeps_a_session_and_a_key_on_one_replica() -> None:
    for more in ({"session_id": "s1"}, {"params": {"name": "kit__do", "_meta": {AFFINITY_META_KEY: "k"}}}):
        now = fleet(sticky=True, **alike("abcd", OK))
        for _ in range(40):
            await now.call(**more)
        assert sorted(now.counts().values()) == [0, 0, 0, 40]


async def test_other_calls_are_spread_even_of_one_session() -> None:
    for sticky, session_id in ((False, "s1"), (True, None)):
        now = fleet(sticky=sticky, **alike("abcd", OK))
        for _ in range(80):
            await now.call(session_id=session_id)
        assert min(now.counts().values()) > 5


async def test_a_session_moves_when_its_replica_is_ejected_and_all_others_stay() -> None:
    now = fleet(sticky=True, **alike("abcd", OK))
    await now.call(session_id="s1")
    (home,) = [link for link in now.links.values() if link.asked]
    home.answers[:] = [CallNotSent("refused")]
    await now.call(session_id="s1")
    assert now.dispatch.balance().ejected == {home.spec.key}
    before = now.counts()
    for _ in range(10):
        await now.call(session_id="s1")
    moved = [name for name, count in now.counts().items() if count > before[name]]
    assert len(moved) == 1
    assert moved != [home.spec.name]


async def test_a_backend_that_went_while_it_was_asked_leaves_nothing_behind() -> None:
    now = fleet(a=[after(1.0, CallOutcomeUnknown("gone"))], b=[after(1.0, OK)])
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(_ignoring(now.call()), name="call") for _ in range(4)]
        await asyncio.sleep(0.5)
        assert repr(now.dispatch) == "<Dispatch in_flight=4>"
        for key in list(now.links):
            now.dispatch.forget(key)
        assert repr(now.dispatch) == "<Dispatch in_flight=0>"
        await asyncio.wait(calls)
    assert repr(now.dispatch) == "<Dispatch in_flight=0>"
    assert now.series()["mesh_calls_in_flight"] == 0


async def test_a_backend_that_went_while_it_was_ejected_begins_anew_when_it_is_back() -> None:
    now = fleet(sticky=True, **alike("abcd", OK))
    await now.call(session_id="s1")
    (home,) = [link for link in now.links.values() if link.asked]
    home.answers[:] = [CallNotSent("refused"), OK]
    await now.call(session_id="s1")
    assert now.dispatch.balance().ejected == {home.spec.key}
    now.dispatch.forget(home.spec.key)
    before = now.counts()[home.spec.name]
    await now.call(session_id="s1")
    assert now.counts()[home.spec.name] == before + 1


async def test_no_replica_to_ask_is_reported_as_not_executed() -> None:
    now = fleet(a=[OK])
    now.links.clear()
    with pytest.raises(CallRefused, match="server kit on a is gone") as caught:
        await now.call()
    assert caught.value.bytes_sent is False


async def test_shares_are_those_of_the_last_whole_window() -> None:
    now = fleet(ours=own_server(), kit=[OK], b=[OK])
    await now.call()
    assert now.dispatch.balance().shares == {}
    await asyncio.sleep(10)
    await now.call()
    assert now.dispatch.balance().shares == {"server:kit": 1.0, "peer:b": 0.0}
    await asyncio.sleep(30)
    assert now.dispatch.balance().shares == {}


async def test_a_group_of_one_has_no_shares() -> None:
    now = fleet(a=[OK])
    for _ in range(2):
        await now.call()
        await asyncio.sleep(10)
    assert now.dispatch.balance().shares == {}


async def _ignoring(call: Awaitable[Json]) -> None:
    with contextlib.suppress(MeshError):
        await call
