"""Who of several callers holds more than an equal share."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.client.sessions.pool import over_share


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
