"""Sending again: the rule as a table, the budget for any sequence, the deadline from hop to hop."""

from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.dispatch.retry import (
    ATTEMPTS_MAX,
    BUDGET_RESERVE,
    BUDGET_SHARE,
    WINDOW_S,
    Budget,
    Fate,
    Step,
    deadline_ms_to_tell,
    fate_of,
    is_repeatable,
    next_step,
    received_deadline_s,
)
from agent.errors import (
    AuthRefused,
    CallNotSent,
    CallOutcomeUnknown,
    CallTimedOut,
    MeshError,
    ProtocolBroken,
    RefusedElsewhere,
)
from agent.model import DEADLINE_META_KEY
from agent.routing.table import Replica, Route, RouteKind

OURS = Replica("server:kit", "do", "me", ours=True, hops=0)
NODE = Replica("peer:two", "kit__do", "two", ours=False)
PLAIN = Replica("peer:plain", "do", None, ours=False)
# A plain peer behind a gateway carries the gateway's node ID.
PLAIN_BEHIND = Replica("peer:gateway", "plain__do", "gateway", ours=False, hops=1)


def route(replica: Replica, owner: str, annotations: Any = None, kind: RouteKind = RouteKind.TOOL) -> Route:
    definition = {} if annotations is None else {"annotations": annotations}
    return Route(kind, "kit__do", definition, "d", (replica,), listed=True, owner=owner)


@pytest.mark.parametrize(
    ("failure", "fate"),
    [
        (CallNotSent("x"), Fate.NOT_EXECUTED),
        (AuthRefused("x"), Fate.NOT_EXECUTED),
        (RefusedElsewhere("x"), Fate.NOT_EXECUTED),
        (CallOutcomeUnknown("x"), Fate.UNKNOWN),
        (CallTimedOut("x"), Fate.UNKNOWN),
        (ProtocolBroken("x"), Fate.UNKNOWN),
        (MeshError("an unforeseen error"), Fate.UNKNOWN),
    ],
)
def test_only_what_is_certain_counts_as_not_executed(failure: MeshError, fate: Fate) -> None:
    assert fate_of(failure) is fate


@pytest.mark.parametrize(
    ("fate", "repeatable", "attempts", "remaining_s", "step"),
    [
        (Fate.NOT_EXECUTED, False, 1, 1.0, Step.AGAIN),
        (Fate.NOT_EXECUTED, False, ATTEMPTS_MAX - 1, 1.0, Step.AGAIN),
        (Fate.NOT_EXECUTED, False, ATTEMPTS_MAX, 1.0, Step.ENOUGH),
        (Fate.NOT_EXECUTED, False, 1, 0.0, Step.LATE),
        (Fate.UNKNOWN, True, 1, 1.0, Step.AGAIN),
        (Fate.UNKNOWN, True, ATTEMPTS_MAX, 1.0, Step.ENOUGH),
        (Fate.UNKNOWN, True, 1, -1.0, Step.LATE),
        (Fate.UNKNOWN, False, 1, 1.0, Step.UNSAFE),
    ],
)
def test_the_rule_of_repetition(fate: Fate, attempts: int, remaining_s: float, step: Step, *, repeatable: bool) -> None:
    failure = RefusedElsewhere("gone") if fate is Fate.NOT_EXECUTED else CallOutcomeUnknown("reset")
    found = next_step(
        failure, repeatable=repeatable, attempts=attempts, remaining_s=remaining_s, budget=Budget(), now_s=5.0
    )
    assert found is step


def test_a_spent_budget_forbids_even_what_is_safe_but_not_what_burdened_no_one() -> None:
    budget = Budget()
    for _ in range(BUDGET_RESERVE):
        assert budget.left(5.0)
        budget = budget.repeated(5.0)
    rule = partial(next_step, repeatable=True, attempts=1, remaining_s=1.0, budget=budget, now_s=5.0)
    assert rule(RefusedElsewhere("gone")) is rule(CallOutcomeUnknown("reset")) is Step.SPENT
    assert rule(CallNotSent("503 to initialize")) is Step.SPENT
    assert rule(CallNotSent("refused").with_nothing_sent()) is Step.AGAIN
    assert budget.left(5.0 + WINDOW_S), "it fills again"


@given(st.lists(st.tuples(st.floats(0, 4), st.integers(0, 3), st.integers(0, 6)), max_size=60))
def test_the_budget_holds_for_any_sequence(steps: list[tuple[float, int, int]]) -> None:
    budget, now_s = Budget(), 1000.0
    calls, repeated = list[float](), list[float]()
    for pause_s, called, wanted in steps:
        now_s += pause_s
        for _ in range(called):
            budget = budget.called(now_s)
            calls.append(now_s)
        for _ in range(wanted):
            if budget.left(now_s):
                budget = budget.repeated(now_s)
                repeated.append(now_s)
                # Kept by whole seconds: the last nine are in it for certain, and nothing older than ten.
                recent = sum(at_s > now_s - (WINDOW_S - 1) for at_s in repeated)
                earned = sum(at_s > now_s - WINDOW_S for at_s in calls)
                assert recent <= BUDGET_RESERVE + BUDGET_SHARE * earned
        assert len(budget.seconds) <= WINDOW_S


@given(st.integers(0, 200))
def test_a_fifth_of_the_calls_and_three_may_be_sent_again(calls: int) -> None:
    budget = Budget()
    for _ in range(calls):
        budget = budget.called(7.5)
    granted = 0
    while budget.left(7.5):
        budget, granted = budget.repeated(7.5), granted + 1
    assert granted == int(BUDGET_RESERVE + BUDGET_SHARE * calls)


@pytest.mark.parametrize(
    ("annotations", "safe"),
    [
        ({"readOnlyHint": True}, True),
        ({"idempotentHint": True}, True),
        ({"readOnlyHint": False, "idempotentHint": True}, True),
        ({"readOnlyHint": "true"}, False),
        ({"idempotentHint": 1}, False),
        ({"destructiveHint": False}, False),
        ({}, False),
        (["readOnlyHint"], False),
        (None, False),
    ],
)
def test_a_tool_may_be_called_twice_when_it_says_so_itself(annotations: Any, *, safe: bool) -> None:
    for replica in (OURS, NODE):
        assert is_repeatable("tools/call", route(replica, "service:kit", annotations), replica) is safe


@pytest.mark.parametrize(
    ("replica", "owner", "believed"),
    [
        (OURS, "service:kit", True),
        (NODE, "node:two/kit", True),
        (PLAIN, "plain:plain", False),
        (PLAIN_BEHIND, "plain:plain@gateway", False),
    ],
)
def test_the_hints_of_plain_peers_are_not_believed(replica: Replica, owner: str, *, believed: bool) -> None:
    assert is_repeatable("tools/call", route(replica, owner, {"readOnlyHint": True}), replica) is believed
    read = route(replica, owner, kind=RouteKind.RESOURCE)
    assert is_repeatable("resources/read", read, replica) is believed


@pytest.mark.parametrize("method", ["resources/read", "prompts/get", "completion/complete"])
def test_reads_may_be_repeated_and_other_methods_never_by_themselves(method: str) -> None:
    read = route(OURS, "service:kit", kind=RouteKind.RESOURCE)
    assert is_repeatable(method, read, OURS)
    assert not is_repeatable("tools/call", read, OURS)


@pytest.mark.parametrize(
    ("told", "seconds"),
    [(1500, 1.5), (0, 0.0), (0.5, 0.0005), (-1, None), (True, None), ("5", None), (None, None), (1e300, None)],
)
def test_a_deadline_is_taken_only_where_it_makes_sense(told: Any, seconds: float | None) -> None:
    assert received_deadline_s({"_meta": {DEADLINE_META_KEY: told}}) == seconds


def test_a_request_without_meta_has_no_deadline() -> None:
    assert received_deadline_s({}) is None
    assert received_deadline_s({"_meta": {}}) is None
    assert received_deadline_s({"_meta": {DEADLINE_META_KEY: float("nan")}}) is None


@given(st.floats(0.002, 86_000))
def test_the_next_hop_gets_a_little_less_than_we_have(remaining_s: float) -> None:
    told = deadline_ms_to_tell(remaining_s)
    assert 1 <= told < remaining_s * 1000
    assert told >= (remaining_s - 0.05) * 1000 - 1
    assert received_deadline_s({"_meta": {DEADLINE_META_KEY: told}}) == told / 1000
