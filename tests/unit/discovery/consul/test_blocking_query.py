"""The rules of blocking queries and of trust, as a table and as properties."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.consul.blocking_query import (
    ASK_AGAIN,
    ASK_YOUNG_OUTAGE,
    FORGOTTEN,
    HIDDEN,
    UPDATE_SPACING_S,
    Trust,
    Verdict,
    backoff_of,
    next_index,
    pause_s,
    proves_absence,
    request_timeout_s,
    weigh,
)
from discovery.model import Catalog, Health, Instance, InstanceKey


def key(service_id: str) -> InstanceKey:
    return InstanceKey("dc1", "n1", service_id)


def catalog(*service_ids: str, port: int = 8000) -> Catalog:
    return Catalog(tuple(Instance(key(one), "127.0.0.1", port) for one in sorted(service_ids)))


def judged(
    shown: Catalog | None, answer: Catalog, canary: str | None = None, *, settling: bool = False,
    suspects: frozenset[InstanceKey] = frozenset(), confirming: bool = False,
) -> Verdict:  # fmt: skip
    return weigh(shown, answer, canary=canary, settling=settling, suspects=suspects, confirming=confirming)


def test_a_lower_index_starts_again_and_zero_never_turns_the_wait_off() -> None:
    assert next_index(0, 7) == 7
    assert next_index(7, 9) == 9
    assert next_index(9, 9) == 9
    assert next_index(9, 3) == 0
    assert next_index(9, 0) == 0
    assert next_index(0, 0) == 1


def test_the_time_out_covers_consuls_own_jitter() -> None:
    assert request_timeout_s(0) == 5.0
    assert request_timeout_s(32.0) == 32.0 + 2.0 + 5.0


def test_a_catalog_that_lost_no_node_is_believed() -> None:
    assert judged(None, catalog()) == Verdict(Trust.BELIEVED, catalog())
    assert judged(catalog("a"), catalog("a", "b")) == Verdict(Trust.BELIEVED, catalog("a", "b"))


def test_a_lone_departure_is_believed_at_once() -> None:
    assert judged(catalog("a", "b", "c"), catalog("a", "b")).trust is Trust.BELIEVED
    assert judged(catalog("own", "a", "b"), catalog("own", "a"), "own").trust is Trust.BELIEVED


@pytest.mark.parametrize(
    ("shown", "answer"),
    [
        (("a",), ()),
        (("a", "b", "c"), ("a",)),
        (("a", "b"), ()),
        (("a", "b"), ("x", "y", "z")),
        (("own", "a"), ("own",)),
        (("own", "a", "b", "c"), ("own", "c")),
    ],
)
def test_a_mass_departure_is_held_until_a_confirming_read_agrees(
    shown: tuple[str, ...], answer: tuple[str, ...]
) -> None:
    canary = "own" if "own" in shown else None
    first = judged(catalog(*shown), catalog(*answer), canary)
    assert first.trust is Trust.CONFIRM
    assert first.catalog == catalog(*{*shown, *answer})
    assert first.suspects == {key(one) for one in {*shown} - {*answer}}
    unasked = judged(first.catalog, catalog(*answer), canary, suspects=first.suspects)
    assert unasked.trust is Trust.CONFIRM
    second = judged(first.catalog, catalog(*answer), canary, suspects=first.suspects, confirming=True)
    assert second == Verdict(Trust.BELIEVED, catalog(*answer))


def test_a_confirming_read_that_lacks_even_more_is_not_the_same_answer() -> None:
    suspects = frozenset({key("b"), key("c")})
    verdict = judged(catalog("a", "b", "c"), catalog(), suspects=suspects, confirming=True)
    assert verdict.trust is Trust.CONFIRM


def test_while_the_state_settles_newcomers_are_shown_and_no_node_is_removed() -> None:
    verdict = judged(catalog("a", "b", "c"), catalog("a", "d"), settling=True)
    assert verdict.trust is Trust.SETTLING
    assert verdict.catalog == catalog("a", "b", "c", "d")
    assert verdict.suspects == {key("b"), key("c")}


def test_a_node_missing_after_the_index_went_back_is_kept_as_critical_once_the_leader_lacks_it_too() -> None:
    shown, answer, gone = catalog("a", "b", "c", "d"), catalog("a", "b", "e"), frozenset({key("c"), key("d")})

    def seen(shown: Catalog | None, answer: Catalog, *, suspects: frozenset[InstanceKey], confirming: bool) -> Verdict:
        return weigh(
            shown, answer, canary=None, settling=False, suspects=suspects, confirming=confirming, restored=True,
            linked=gone,
        )  # fmt: skip

    first = seen(shown, answer, suspects=gone, confirming=False)  # They were missing while the state settled, too.
    everybody = catalog("a", "b", "c", "d", "e")
    assert first == Verdict(Trust.CONFIRM, everybody, gone)
    second = seen(first.catalog, answer, suspects=gone, confirming=True)
    assert (second.trust, second.suspects) == (Trust.DOUBTED, gone)
    assert second.catalog is not None
    assert {one.key for one in second.catalog.instances if one.health is Health.CRITICAL} == gone
    assert {one.key for one in second.catalog.instances if one.trouble == FORGOTTEN} == gone
    # The leader is not read again for each answer that lacks the same ones, but for one that lacks another one.
    assert seen(second.catalog, answer, suspects=gone, confirming=False) == second
    assert seen(second.catalog, catalog("a", "b"), suspects=gone, confirming=False).trust is Trust.CONFIRM
    for confirming in (False, True):
        assert seen(second.catalog, everybody, suspects=gone, confirming=confirming) == Verdict(
            Trust.BELIEVED, everybody
        )


def test_what_the_leader_lacks_after_the_index_went_back_and_has_no_link_goes_at_once() -> None:
    shown, answer, linked = catalog("a", "b", "c"), catalog("a"), frozenset({key("b")})

    def seen(shown: Catalog | None, *, linked: frozenset[InstanceKey], confirming: bool) -> Verdict:
        return weigh(
            shown, answer, canary=None, settling=False, suspects=frozenset(), confirming=confirming, restored=True,
            linked=linked,
        )  # fmt: skip

    first = seen(shown, linked=linked, confirming=False)
    assert (first.trust, first.catalog) == (Trust.CONFIRM, shown)
    second = seen(first.catalog, linked=linked, confirming=True)
    assert (second.trust, second.suspects) == (Trust.DOUBTED, linked)
    assert second.catalog is not None
    assert {one.key for one in second.catalog.instances} == {key("a"), key("b")}
    # Its link has ended since.
    assert seen(second.catalog, linked=frozenset(), confirming=False) == Verdict(Trust.BELIEVED, answer)
    assert seen(shown, linked=frozenset(), confirming=True) == Verdict(Trust.BELIEVED, answer)


def test_an_entry_of_our_own_that_an_operator_took_out_is_gone_at_once_also_while_the_state_is_young() -> None:
    ours, left = (Instance(InstanceKey("dc1", node, "own"), "10.0.0.1", 8000) for node in ("n", "old-agent"))
    shown, answer = Catalog((ours, left)), Catalog((ours,))
    taken_out = weigh(
        shown, answer, canary="own", holder="n", settling=False, suspects=frozenset(), confirming=False, restored=True
    )
    assert taken_out == Verdict(Trust.BELIEVED, answer)


def test_an_older_answer_of_a_server_that_is_behind_takes_no_node_away() -> None:
    shown, behind = catalog("a", "b", "c"), catalog("a", "b")
    first = weigh(shown, behind, canary=None, settling=False, suspects=frozenset(), confirming=False, restored=True)
    assert first == Verdict(Trust.CONFIRM, shown, frozenset({key("c")}))
    leader = weigh(
        first.catalog, shown, canary=None, settling=False, suspects=first.suspects, confirming=True, restored=True
    )
    assert leader == Verdict(Trust.BELIEVED, shown)


def test_those_that_answer_and_may_be_hidden_stay_as_critical_and_the_others_are_believed_to_have_left() -> None:
    shown, answer, answering = catalog("a", "b", "c", "d"), catalog("a"), frozenset({key("b")})

    def seen(shown: Catalog | None, suspects: frozenset[InstanceKey], *, confirming: bool) -> Verdict:
        return weigh(
            shown, answer, canary=None, settling=False, suspects=suspects, confirming=confirming, answering=answering
        )

    first = seen(shown, frozenset(), confirming=False)
    assert (first.trust, first.catalog) == (Trust.CONFIRM, shown)
    second = seen(first.catalog, first.suspects, confirming=True)
    assert (second.trust, second.suspects) == (Trust.HIDDEN, answering)
    assert second.catalog is not None
    assert [(one.key, one.health, one.trouble) for one in second.catalog.instances] == [
        (key("a"), Health.PASSING, ""),
        (key("b"), Health.CRITICAL, HIDDEN),
    ]
    assert judged(second.catalog, answer, suspects=answering, confirming=True) == Verdict(Trust.BELIEVED, answer)


def test_an_answer_that_lacks_most_is_read_again_also_where_what_it_lacks_answers_but_for_what_was_lost_before() -> (
    None
):
    known = catalog("own", "a", "b", "c")
    answering = frozenset({key("a"), key("b")})
    told = {"canary": "own", "settling": False, "forgotten": answering}
    first = weigh(known, catalog("own", "c"), suspects=frozenset(), confirming=False, **told)
    assert first == Verdict(Trust.CONFIRM, known, answering)
    second = weigh(known, catalog("own", "c"), suspects=answering, confirming=True, **told)
    assert (second.trust, second.suspects) == (Trust.DOUBTED, answering)
    again = weigh(second.catalog, catalog("own", "c"), suspects=answering, confirming=False, **told)
    assert again == second


def test_a_forgotten_node_stays_as_critical_and_does_not_make_others_that_leave_wait() -> None:
    def seen(shown: Catalog | None, *answer: str, suspects: frozenset[InstanceKey], confirming: bool) -> Verdict:
        return weigh(
            shown, catalog(*answer), canary=None, settling=False, suspects=suspects, confirming=confirming,
            forgotten=frozenset({key("b")}),
        )  # fmt: skip

    first = seen(catalog("a", "b", "c", "d"), "a", "d", suspects=frozenset(), confirming=False)
    assert (first.trust, first.suspects) == (Trust.DOUBTED, {key("b")})
    assert first.catalog is not None
    assert [(one.key, one.health, one.trouble) for one in first.catalog.instances] == [
        (key("a"), Health.PASSING, ""),
        (key("b"), Health.CRITICAL, FORGOTTEN),
        (key("d"), Health.PASSING, ""),
    ]
    again = seen(first.catalog, "a", "d", suspects=first.suspects, confirming=True)
    assert (again.trust, again.catalog) == (Trust.DOUBTED, first.catalog)
    # One that was held and is so no more needs a confirming read.
    over = judged(first.catalog, catalog("a", "d"), suspects=first.suspects)
    assert over.trust is Trust.CONFIRM
    assert judged(over.catalog, catalog("a", "d"), suspects=over.suspects, confirming=True) == Verdict(
        Trust.BELIEVED, catalog("a", "d")
    )


@pytest.mark.parametrize(
    ("filtered", "tells", "waited", "canary", "answer", "proves"),
    [
        (True, True, False, "own", ("own", "a"), False),
        (False, True, False, None, (), True),
        (False, True, True, "own", ("own", "a"), False),  # The agent's cache does not say what was left out.
        (False, False, True, None, ("a",), True),
        (False, False, False, None, (), False),
        (False, False, False, "own", ("own",), True),
    ],
)
def test_an_answer_proves_that_nothing_is_hidden_by_what_consul_says_or_by_what_it_shows(
    *, filtered: bool, tells: bool, waited: bool, canary: str | None, answer: tuple[str, ...], proves: bool
) -> None:
    found = proves_absence(catalog(*answer), canary=canary, filtered=filtered, tells=tells, waited=waited)
    assert found is proves


def test_an_answer_without_our_own_registration_counts_for_nothing() -> None:
    verdict = judged(catalog("own", "a"), catalog("a", "b"), "own")
    assert verdict == Verdict(Trust.DISTRUSTED, catalog("own", "a"))
    assert judged(None, catalog("a"), "own") == Verdict(Trust.DISTRUSTED, None)


def test_an_entry_of_ours_that_another_consul_node_left_behind_proves_nothing() -> None:
    def trust(holder: str) -> Trust:
        return weigh(
            catalog("own", "a"), catalog("own", "a"), canary="own", settling=False, suspects=frozenset(),
            confirming=False, holder=holder,
        ).trust  # fmt: skip

    assert [trust("n1"), trust(""), trust("renamed")] == [Trust.BELIEVED, Trust.BELIEVED, Trust.DISTRUSTED]


def test_a_change_of_a_node_that_stays_is_shown_while_others_are_held() -> None:
    verdict = judged(catalog("a", "b", "c"), catalog("a", port=9000))
    assert verdict.catalog is not None
    assert [(one.key.service_id, one.port) for one in verdict.catalog.instances] == [
        ("a", 9000),
        ("b", 8000),
        ("c", 8000),
    ]


names = st.frozensets(st.sampled_from("abcdefgh"), max_size=8)


@given(shown=names, answer=names, settling=st.booleans(), confirming=st.booleans(), held=names, canary=st.booleans())
def test_a_node_that_answers_is_shown_and_one_that_vanishes_unconfirmed_is_kept(
    *,
    shown: frozenset[str],
    answer: frozenset[str],
    settling: bool,
    confirming: bool,
    held: frozenset[str],
    canary: bool,
) -> None:
    suspects = frozenset(key(one) for one in held)
    verdict = judged(
        catalog(*shown), catalog(*answer), "a" if canary else None,
        settling=settling, suspects=suspects, confirming=confirming,
    )  # fmt: skip
    assert verdict.catalog is not None
    result = {one.key.service_id for one in verdict.catalog.instances}
    if verdict.trust is Trust.DISTRUSTED:
        assert result == shown
        return
    assert answer <= result <= answer | shown
    gone = shown - result
    if gone and 2 * len(gone) > len(shown - ({"a"} if canary else set())):
        assert confirming
        assert {key(one) for one in gone} <= suspects
    if settling:
        assert not gone
    assert list(verdict.catalog.instances) == sorted(verdict.catalog.instances, key=lambda one: one.key)


def test_the_first_update_is_never_delayed_and_the_next_keeps_its_distance() -> None:
    assert pause_s(now_s=5.0, last_update_at_s=None, idle_returns=0) == 0.0
    assert pause_s(now_s=5.0, last_update_at_s=4.0, idle_returns=0) == 0.0
    assert pause_s(now_s=5.0, last_update_at_s=5.0, idle_returns=0) == pytest.approx(UPDATE_SPACING_S)


def test_answers_without_news_are_slowed_to_one_a_second() -> None:
    pauses = [pause_s(now_s=9.0, last_update_at_s=None, idle_returns=count) for count in range(12)]
    assert pauses[:4] == [0.0, 0.0, 0.0, 0.0]
    assert pauses[4:8] == [0.1, 0.2, 0.4, 0.8]
    assert set(pauses[8:]) == {1.0}


def test_back_off_doubles_from_a_quarter_second_to_half_a_minute() -> None:
    assert [ASK_AGAIN.step_s(n) for n in (1, 2, 3, 7, 8, 1000)] == [0.25, 0.5, 1.0, 16.0, 30.0, 30.0]


def test_only_a_young_outage_of_an_unreachable_agent_keeps_short_steps() -> None:
    assert backoff_of(unreachable=True, outage_s=3.0) == ASK_YOUNG_OUTAGE
    assert backoff_of(unreachable=True, outage_s=300.0) == ASK_AGAIN
    assert backoff_of(unreachable=False, outage_s=3.0) == ASK_AGAIN
    assert [ASK_YOUNG_OUTAGE.step_s(n) for n in range(1, 6)] == [0.25, 0.5, 1.0, 2.0, 2.0]
