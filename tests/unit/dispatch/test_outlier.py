"""Outlier ejection: what ejects, for how long, how one comes back, and when a group is used whole."""

import random

import pytest

from agent.dispatch.outlier import (
    CHANCE_MIN,
    EJECT_JITTER,
    EJECT_MAX_S,
    EJECT_S,
    FAILURES_IN_ROW_MAX,
    HEALTHY,
    RATE_CALLS_MIN,
    RATE_WINDOW_S,
    SLOW_START_S,
    Cause,
    Health,
    Verdict,
    chance,
    ejected_of,
    judge,
    outcome_of,
    readmit,
    verdict_of,
)
from agent.errors import (
    AuthRefused,
    CallNotSent,
    CallOutcomeUnknown,
    CallTimedOut,
    MeshError,
    NoLongerOffered,
    ProtocolBroken,
    RefusedElsewhere,
    RpcError,
    Unreachable,
)
from tests.unit.control.fleet import fleet

ANSWERED, FAILED, REFUSED = Verdict.ANSWERED, Verdict.FAILED, Verdict.REFUSED


class Group:
    """A group of replicas under one clock; `see` tells of a call that began and ended now."""

    def __init__(self, *keys: str) -> None:
        self.healths = dict.fromkeys(keys, HEALTHY)
        self.now_s = 100.0
        self.rng = random.Random(3)

    def see(self, key: str, *verdicts: Verdict, started_s: float | None = None) -> Health:
        for verdict in verdicts:
            self.healths[key] = judge(
                key,
                verdict,
                self.healths,
                started_s=self.now_s if started_s is None else started_s,
                now_s=self.now_s,
                rng=self.rng,
            )
        return self.healths[key]

    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.healths = {key: readmit(health, self.now_s) for key, health in self.healths.items()}

    def ejected(self) -> set[str]:
        return {key for key, health in self.healths.items() if health.is_ejected}


def test_a_refused_connection_ejects_at_once() -> None:
    group = Group("a", "b")
    assert group.see("a", REFUSED).cause is Cause.REFUSED
    assert group.ejected() == {"a"}


def test_five_failures_in_a_row_eject_and_four_do_not() -> None:
    group = Group("a", "b")
    assert not group.see("a", *[FAILED] * (FAILURES_IN_ROW_MAX - 1)).is_ejected
    assert group.see("a", FAILED).cause is Cause.FAILURES


def test_an_answer_begins_the_row_anew() -> None:
    group = Group("a", "b")
    group.see("a", *[FAILED] * 4, ANSWERED, *[FAILED] * 4)
    assert not group.ejected()


def test_fewer_than_half_of_twenty_calls_answered_ejects_without_a_row() -> None:
    group = Group("a", "b")
    pattern = [FAILED, FAILED, ANSWERED] * 7
    assert not group.see("a", *pattern[: RATE_CALLS_MIN - 1]).is_ejected
    assert group.see("a", FAILED).cause is Cause.RATE


def test_half_of_the_calls_answered_is_enough_to_stay() -> None:
    group = Group("a", "b")
    assert not group.see("a", *[ANSWERED, FAILED] * 100).is_ejected


def test_old_failures_do_not_count_towards_the_rate() -> None:
    group = Group("a", "b")
    group.see("a", *[FAILED, FAILED, ANSWERED] * 6)
    group.wait(RATE_WINDOW_S)
    assert not group.see("a", ANSWERED, FAILED, FAILED).is_ejected


def test_a_replica_that_is_alone_is_never_ejected() -> None:
    group = Group("a")
    group.see("a", REFUSED, *[FAILED] * 50)
    assert not group.ejected()


def test_at_most_half_of_a_group_is_ejected_and_the_next_one_waits_its_turn() -> None:
    group = Group("a", "b", "c")
    group.see("a", REFUSED)
    group.see("b", REFUSED)
    assert group.ejected() == {"a"}
    group.wait(EJECT_S)
    group.see("b", REFUSED)
    assert group.ejected() == {"b"}


def test_ejections_grow_longer_up_to_a_limit_and_differ_from_each_other() -> None:
    group, lengths = Group("a", "b"), list[float]()
    for _ in range(15):
        health = group.see("a", REFUSED)
        assert health.ejected_until_s is not None
        lengths.append(health.ejected_until_s - group.now_s)
        group.wait(health.ejected_until_s - group.now_s)
    for n, lasts_s in enumerate(lengths, start=1):
        longest_s = min(EJECT_MAX_S, n * EJECT_S)
        assert longest_s * (1 - EJECT_JITTER) <= lasts_s <= longest_s
    assert len(set(lengths)) == len(lengths)


def test_health_between_ejections_is_forgiven() -> None:
    group = Group("a", "b")
    for _ in range(3):
        group.see("a", REFUSED)
        group.wait(EJECT_MAX_S)
    assert group.see("a", REFUSED).ejections == 1


def test_an_ejection_ends_when_its_time_is_over_and_not_before() -> None:
    health = Group("a", "b").see("a", REFUSED)
    assert health.ejected_until_s is not None
    assert readmit(health, health.ejected_until_s - 0.001) is health
    assert not readmit(health, health.ejected_until_s).is_ejected


@pytest.mark.parametrize(
    ("verdicts", "up_since_s", "back"),
    [
        ([REFUSED], 101.0, True),  # the link came up after the refusal
        ([REFUSED], 99.0, False),  # it was up all the time
        ([REFUSED], None, False),
        ([FAILED] * 5, 101.0, False),  # a new connection says nothing of failing calls
    ],
)
def test_a_new_connection_disproves_a_refused_one(
    verdicts: list[Verdict], up_since_s: float | None, *, back: bool
) -> None:
    health = Group("a", "b").see("a", *verdicts)
    assert health.is_ejected
    assert readmit(health, 102.0, up_since_s).is_ejected is not back


def test_calls_that_began_before_the_readmission_say_nothing_new() -> None:
    group = Group("a", "b")
    group.see("a", REFUSED)
    assert group.see("a", *[FAILED] * 9).ejections == 1
    group.wait(EJECT_S)
    group.see("a", *[FAILED] * 9, started_s=100.5)
    assert not group.ejected()
    group.see("a", *[FAILED] * 5)
    assert group.ejected() == {"a"}


def test_slow_start_grows_from_a_tenth_to_all() -> None:
    group = Group("a", "b")
    assert chance(group.healths["a"], group.now_s) == 1.0
    until_s = group.see("a", REFUSED).ejected_until_s
    assert until_s is not None
    back = readmit(group.healths["a"], until_s + 1)
    after = [chance(back, until_s + s) for s in (0.0, SLOW_START_S / 2, SLOW_START_S, 1e6)]
    assert after == [CHANCE_MIN, pytest.approx(0.5), 1.0, 1.0]


def test_the_ejected_are_barred_until_fewer_than_half_are_left() -> None:
    group = Group("a", "b", "c", "d")
    group.see("a", REFUSED)
    group.see("b", REFUSED)
    assert ejected_of("abcd", group.healths) == {"a", "b"}
    assert ejected_of("abc", group.healths) == frozenset(), "one of three left: panic"
    assert ejected_of("ab", group.healths) == frozenset()
    assert ejected_of("acd", group.healths) == {"a"}
    assert ejected_of("xyz", group.healths) == frozenset()


# Ours: there was no descriptor for a connection.
SHORT = CallNotSent("x")
SHORT.short = True


@pytest.mark.parametrize(
    ("failure", "word", "verdict"),
    [
        (RpcError(-32602, "no"), "rpc_error", ANSWERED),
        (CallNotSent("x"), "not_sent", REFUSED),
        (RefusedElsewhere("x"), "refused", REFUSED),
        (CallTimedOut("x"), "timeout", FAILED),
        (NoLongerOffered("x"), "gone", Verdict.ABSENT),
        (SHORT, "short", Verdict.ABSENT),
        (CallOutcomeUnknown("x"), "unknown", FAILED),
        (AuthRefused("x"), "auth", FAILED),
        (ProtocolBroken("x"), "protocol", FAILED),
        (Unreachable("x"), "protocol", FAILED),
        (ValueError("a bug of ours"), "failed", None),
    ],
)
def test_every_failure_has_a_word_and_the_word_a_verdict(
    failure: Exception, word: str, verdict: Verdict | None
) -> None:
    assert outcome_of(failure) == word
    assert verdict_of(word, took_s=1.0, timeout_s=60.0, own_timeout_s=60.0) is verdict


async def test_a_caller_that_has_gone_before_it_is_cancelled_counts_as_cancelled() -> None:
    now = fleet(a=[ConnectionResetError("the client has gone")])
    with pytest.raises(ConnectionResetError):
        await now.call()
    assert now.series()['mesh_calls_total{backend="peer:a",outcome="cancelled",tool="kit__do"}'] == 1


def test_a_tools_own_error_is_an_answer_and_a_caller_that_left_soon_says_nothing() -> None:
    assert verdict_of("tool_error", took_s=40.0, timeout_s=60.0, own_timeout_s=60.0) is ANSWERED
    assert verdict_of("cancelled", took_s=29.0, timeout_s=60.0, own_timeout_s=60.0) is None
    assert isinstance(AuthRefused("x"), MeshError)


@pytest.mark.parametrize(
    ("outcome", "timeout_s", "own_timeout_s", "verdict"),
    [
        ("timeout", 0.001, 60.0, None),
        ("timeout", 30.0, 60.0, FAILED),
        ("timeout", 0.2, 0.2, FAILED),
        ("not_sent", 0.001, 60.0, None),
        ("refused", 0.001, 60.0, None),
        ("not_sent", 5.0, 600.0, REFUSED),
        ("not_sent", 0.2, 0.2, REFUSED),
        ("unknown", 0.001, 60.0, FAILED),
        ("cancelled", 1.0, 60.0, None),
        ("cancelled", 30.0, 60.0, FAILED),
    ],
)
def test_an_impatient_caller_ejects_no_replica(
    outcome: str, timeout_s: float, own_timeout_s: float, verdict: Verdict | None
) -> None:
    assert verdict_of(outcome, took_s=timeout_s, timeout_s=timeout_s, own_timeout_s=own_timeout_s) is verdict
