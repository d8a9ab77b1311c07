"""Which tokens and callers hold more than an equal share, and have to give way to others."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.client.sessions.shares import Owner, greedy, over_share, quota, yielding


@pytest.mark.parametrize(
    ("held", "places", "over"),
    [
        ({"flood": 63, "one": 1}, 64, {"flood"}),
        ({"flood": 32, "other flood": 31, "one": 1}, 64, {"flood", "other flood"}),
        ({"a": 1, "b": 1, "c": 1}, 3, {"a", "b", "c"}),
        ({"a": 3}, 3, {"a"}),
        ({}, 3, set()),
    ],
)
def test_a_caller_within_its_share_is_not_named(held: Mapping[str, int], places: int, over: set[str]) -> None:
    assert over_share(held, places) == over


@given(st.lists(st.integers(min_value=1, max_value=20), min_size=1, max_size=30))
def test_when_all_places_are_taken_a_caller_has_more_than_its_share(counts: list[int]) -> None:
    held = dict(enumerate(counts))
    over = over_share(held, sum(counts))
    assert over
    assert all(held[one] >= held[other] for one in over for other in held.keys() - over)


def owners(held: Mapping[tuple[str, str], int]) -> list[Owner]:
    return [Owner(*owner) for owner, count in held.items() for _ in range(count)]


def test_a_token_with_many_callers_is_greedy_however_few_places_each_of_them_holds() -> None:
    held = owners({("flood", str(number)): 1 for number in range(7)} | {("other", "one"): 1})
    assert {owner.token for owner in greedy(held, 8)} == {"flood"}


def test_among_the_callers_of_one_token_those_with_more_than_their_share_are_greedy() -> None:
    assert greedy(owners({("team", "a"): 7, ("team", "b"): 1}), 8) == {Owner("team", "a")}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")), min_size=1, max_size=30))
def test_when_all_places_are_taken_some_owner_is_greedy_and_none_of_a_token_within_its_share(
    held: list[tuple[str, str]],
) -> None:
    over = greedy([Owner(*one) for one in held], len(held))
    assert over
    tokens = {token: sum(one[0] == token for one in held) for token, _ in held}
    assert len(tokens) == 1 or all(tokens[owner.token] * (len(tokens) + 1) > len(held) for owner in over)


@pytest.mark.parametrize(
    ("token", "held", "tokens"),
    [
        ("new", {"flood": 7, "one": 1}, {"flood", "one"}),
        ("one", {"flood": 7, "one": 1}, {"flood", "one"}),
        ("flood", {"flood": 7, "one": 1}, {"flood"}),
        ("a", {"a": 4, "b": 4}, {"a"}),
    ],
)
def test_none_yields_to_one_that_holds_as_many(token: str, held: Mapping[str, int], tokens: set[str]) -> None:
    assert yielding(token, held) == tokens


def test_a_named_token_may_hold_three_of_four_places_and_one_always() -> None:
    assert [quota(places) for places in (1, 2, 8, 64)] == [1, 1, 6, 48]
