"""A call that a worker had begun: made again where that does no harm, else of an unknown outcome, and once."""

import contextvars
from collections.abc import Iterator

import pytest

from agent.dispatch.call import Call, call_of
from agent.dispatch.retry import Fate, fate_of
from agent.errors import CallUnanswered
from agent.routing.table import Replica, Route, RouteKind
from agent.workers.recovered import LOST, Lost, lost_attempt

ONE = Replica("server:kit", "do", "a", ours=True)
OTHER = Replica("peer:b", "kit__do", "b", ours=False)
HARMLESS = {"annotations": {"idempotentHint": True}}


@pytest.fixture(autouse=True)
def lost() -> Iterator[Lost]:
    token = LOST.set(found := Lost())
    yield found
    LOST.reset(token)


def call(*replicas: Replica, harmless: bool = False) -> Call:
    definition = {"name": "kit__do"} | (HARMLESS if harmless else {})
    route = Route(RouteKind.TOOL, "kit__do", definition, "d", replicas, listed=True, owner="service:kit")
    return call_of("tools/call", route, {"name": "kit__do"}, 0.0, present=None, session_id=None)


def test_a_call_that_does_no_harm_has_had_an_attempt_that_cost_nothing(lost: Lost) -> None:
    failed = lost_attempt(call(ONE, OTHER, harmless=True))
    assert failed is not None
    assert failed.failure.nothing_sent
    assert fate_of(failed.failure) is Fate.UNKNOWN
    assert lost.is_known


@pytest.mark.parametrize(
    ("replicas", "harmless", "named"),
    [((ONE,), False, "server:kit"), ((ONE, OTHER), False, None), ((), True, None)],
)
def test_any_other_is_of_unknown_outcome_and_names_a_replica_only_where_there_is_one(
    replicas: tuple[Replica, ...], *, harmless: bool, named: str | None
) -> None:
    with pytest.raises(CallUnanswered) as raised:
        lost_attempt(call(*replicas, harmless=harmless))
    assert raised.value.backend == named


def test_only_the_first_call_was_lost() -> None:
    lost_attempt(call(ONE, harmless=True))
    assert lost_attempt(call(ONE)) is None


def test_no_other_call_was_lost() -> None:
    assert contextvars.Context().run(lost_attempt, call(ONE)) is None
