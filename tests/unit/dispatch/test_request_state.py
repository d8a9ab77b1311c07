"""The layer around a requestState: what comes back is what went out, for one request, replica, hour and process."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.dispatch.request_state import (
    LAYER_LEN_MAX,
    STATE_LEN_MAX,
    STATE_TTL_S,
    RequestStates,
    StateRefused,
    place_of,
)
from agent.errors import CallNotSent, CallRefused, CallUnanswered, ProtocolBroken
from agent.model import Json
from agent.routing.table import Replica, Route, RouteKind
from tests.unit.control.fleet import OK, Fleet, fleet

CALL = "tools/call"
A = Replica("peer:a", "kit__do", "node-a", ours=False)
B = Replica("peer:b", "kit__do", "node-b", ours=False)
ROUTE = Route(RouteKind.TOOL, "kit__do", {"name": "kit__do"}, "d", (A, B), True, "service:kit")
STATES = RequestStates()


def asking(state: object = "where I was") -> Json:
    return {"resultType": "input_required", "inputRequests": {"q": {"method": "roots/list"}}, "requestState": state}


def token(state: str = "where I was", replica: Replica = A, now_s: float = 0.0) -> str:
    wrapped = STATES.wrapped(CALL, ROUTE, replica, asking(state), now_s)["requestState"]
    assert isinstance(wrapped, str)
    return wrapped


def opened(
    text: object, now_s: float = 1.0, states: RequestStates = STATES, route: Route = ROUTE
) -> tuple[Route, Json]:
    return states.unwrapped(CALL, route, {"name": "kit__do", "requestState": text}, now_s)


@given(state=st.text(st.characters(), max_size=200), of_a=st.booleans(), hops=st.integers(1, 5))
def test_a_state_comes_back_as_it_was_to_the_replica_that_gave_it_through_any_number_of_nodes(
    state: str, of_a: bool, hops: int
) -> None:
    nodes = [RequestStates() for _ in range(hops)]
    result = asking(state)
    for node in nodes:
        result = node.wrapped(CALL, ROUTE, A if of_a else B, result, 5.0)
    params: Json = {"name": "kit__do", "requestState": result["requestState"]}
    for node in reversed(nodes):
        route, params = node.unwrapped(CALL, ROUTE, params, 6.0)
        assert route.replicas == ((A if of_a else B),)
    assert params == {"name": "kit__do", "requestState": state}


def test_a_layer_grows_by_its_own_size_and_not_with_the_state() -> None:
    assert len(token("x" * STATE_LEN_MAX)) < STATE_LEN_MAX + 200
    assert opened(token("x" * STATE_LEN_MAX))[1]["requestState"] == "x" * STATE_LEN_MAX


@given(place=st.integers(min_value=0), letter=st.characters())
def test_no_character_of_a_token_can_be_changed(place: int, letter: str) -> None:
    good = token()
    at = place % len(good)
    bad = good[:at] + letter + good[at + 1 :]
    if bad != good:
        with pytest.raises(StateRefused):
            opened(bad)


# Each process has a key of its own, so a token may not be part of a test's name: side by side, names must agree.
CUT_SHORT = pytest.param(token()[:-1], id="cut short")


@pytest.mark.parametrize("bad", ["", ".", "mesh1", "mesh1...", "....", "x" * 300, 7, {}, [token()], True, CUT_SHORT])
def test_what_this_node_never_gave_is_refused(bad: object) -> None:
    with pytest.raises(StateRefused):
        opened(bad)


def test_more_than_a_node_hands_out_is_not_even_read() -> None:
    with pytest.raises(StateRefused, match="length"):
        opened(token() + "x" * (STATE_LEN_MAX + LAYER_LEN_MAX))


def test_another_nodes_token_is_refused_and_so_is_that_of_the_process_before() -> None:
    with pytest.raises(StateRefused, match="restart"):
        opened(token(), states=RequestStates())
    same_key = RequestStates(b"k" * 32).wrapped(CALL, ROUTE, A, asking(), 0.0)["requestState"]
    assert opened(same_key, states=RequestStates(b"k" * 32))[1]["requestState"] == "where I was"


def test_a_token_is_good_for_its_time_and_no_longer() -> None:
    assert opened(token(now_s=100.0), now_s=99.0 + STATE_TTL_S)[0].replicas == (A,)
    with pytest.raises(StateRefused, match="expired"):
        opened(token(now_s=100.0), now_s=100.0 + STATE_TTL_S)


@pytest.mark.parametrize("other", [replace(ROUTE, public_name="kit__undo"), replace(ROUTE, owner="service:other")])
def test_a_token_is_good_for_its_own_request_only(other: Route) -> None:
    with pytest.raises(StateRefused, match="another"):
        opened(token(), route=other)
    with pytest.raises(StateRefused, match="another"):
        STATES.unwrapped("prompts/get", ROUTE, {"requestState": token()}, 1.0)


def test_a_replica_that_is_gone_is_said_to_be_gone() -> None:
    with pytest.raises(CallNotSent, match="gone"):
        opened(token(), route=replace(ROUTE, replicas=(B,)))


def test_a_replica_is_its_node_and_behind_a_gateway_the_way_to_it() -> None:
    renamed = replace(A, backend_key="peer:new")
    assert opened(token(), route=replace(ROUTE, replicas=(B, renamed)))[0].replicas == (renamed,)
    plain = replace(A, node_id=None)
    behind = [replace(A, hops=2), replace(A, hops=2, backend_key="peer:b")]
    assert len({place_of(one) for one in (A, B, plain, *behind)}) == 5


@pytest.mark.parametrize("params", [{}, {"requestState": None}, {"inputResponses": {"q": {}}}])
def test_without_a_state_nothing_is_changed(params: Json) -> None:
    assert STATES.unwrapped(CALL, ROUTE, params, 1.0) == (ROUTE, params)
    result: Json = {**asking(), "requestState": None}
    assert STATES.wrapped(CALL, ROUTE, A, result, 0.0) is result
    done: Json = {"resultType": "complete", "requestState": "not a question"}
    assert STATES.wrapped(CALL, ROUTE, A, done, 0.0) is done


@pytest.mark.parametrize("state", [7, {}, "x" * (STATE_LEN_MAX + 1)])
def test_a_state_that_is_no_text_or_too_long_is_no_answer(state: object) -> None:
    with pytest.raises(ProtocolBroken, match="requestState"):
        STATES.wrapped(CALL, ROUTE, A, asking(state), 0.0)


def test_nothing_shows_the_key() -> None:
    assert "kkkk" not in repr(RequestStates(b"k" * 32))


async def asked_of(now: Fleet) -> tuple[str, Json]:
    """Who was asked, and its question as the client sees it."""
    before = now.counts()
    question = await now.call()
    (name,) = [name for name, count in now.counts().items() if count > before[name]]
    return name, question


def retry(question: Json) -> Json:
    return {"name": "kit__do", "inputResponses": {"q": {}}, "requestState": question["requestState"]}


async def test_the_retry_of_a_question_goes_to_the_server_that_asked_every_time() -> None:
    now = fleet(**{name: [asking(f"of {name}")] for name in "abcde"})
    for _ in range(20):
        name, question = await asked_of(now)
        assert question["requestState"] != f"of {name}"
        await now.call(retry(question))
        assert now.link(name).asked[-1]["requestState"] == f"of {name}"
        assert now.link(name).asked[-1]["inputResponses"] == {"q": {}}


async def test_a_retry_that_cannot_be_sent_is_done_by_no_other_replica() -> None:
    now = fleet(annotations={"readOnlyHint": True}, **{name: [asking()] for name in "abc"})
    name, question = await asked_of(now)
    now.link(name).answers[:] = [CallNotSent("refused")]
    with pytest.raises(CallRefused, match="not executed") as caught:
        await now.call(retry(question))
    assert caught.value.backend == f"peer:{name}"
    assert sum(now.counts().values()) == 2
    now.links.pop(f"peer:{name}")
    with pytest.raises(CallRefused, match="gone"):
        await now.call(retry(question))


async def test_a_forged_state_reaches_no_replica() -> None:
    now = fleet(a=[OK])
    with pytest.raises(StateRefused):
        await now.call({"name": "kit__do", "requestState": "mesh1.mine.all.mine"})
    assert now.counts() == {"a": 0}


async def test_a_question_with_a_state_beyond_the_limit_is_a_broken_answer() -> None:
    now = fleet(a=[asking("x" * (STATE_LEN_MAX + 1))])
    with pytest.raises(CallUnanswered) as caught:
        await now.call()
    assert caught.value.broken
