"""Digests: the same for the same thing, at home and three nodes away."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model import ORIGIN_META_KEY, Json, Offer
from agent.routing.digest import canonical, definition_digest, exported_digest, offer_digest
from agent.routing.table import NAME_MEMBER, RouteKind

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
DEFINITIONS = st.dictionaries(st.text(max_size=8), JSON, max_size=5)
LISTED_KINDS = st.sampled_from(list(NAME_MEMBER))


@given(JSON)
def test_canonical_json_does_not_depend_on_the_order_of_members(value: object) -> None:
    assert canonical(value) == canonical(_reversed(value))


def _reversed(value: object) -> object:
    if isinstance(value, dict):
        return {key: _reversed(inner) for key, inner in reversed(value.items())}
    return [_reversed(inner) for inner in value] if isinstance(value, list) else value


def test_a_float_stays_a_float() -> None:
    assert canonical(1.0) != canonical(1)


@pytest.mark.parametrize("value", [2**70, "\ud800", {1, 2}])
def test_what_has_no_canonical_form_is_a_value_error(value: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        canonical(value)


def test_nesting_without_end_is_a_value_error() -> None:
    deep: list[object] = []
    for _ in range(300):
        deep = [deep]
    with pytest.raises(ValueError, match="ecursion"):
        canonical(deep)


@given(LISTED_KINDS, DEFINITIONS, st.text(max_size=5))
def test_a_definition_keeps_its_digest_under_another_name_and_with_our_origin(
    kind: RouteKind, definition: Json, name: str
) -> None:
    meta = definition.get("_meta")
    renamed = {
        **definition,
        NAME_MEMBER[kind]: name,
        "_meta": {**(meta if isinstance(meta, dict) else {}), ORIGIN_META_KEY: {"node": name}},
    }
    assert definition_digest(kind, renamed) == definition_digest(kind, definition)


def test_a_definition_has_another_digest_when_anything_of_its_own_changes() -> None:
    tool: Json = {"name": "t", "description": "d", "_meta": {"x": 1}}
    variants = [tool, {**tool, "description": "e"}, {**tool, "_meta": {"x": 2}}, {**tool, "uri": "u"}]
    assert len({definition_digest(RouteKind.TOOL, variant) for variant in variants}) == len(variants)


def test_the_display_name_of_a_resource_counts_because_only_its_uri_is_rewritten() -> None:
    one, other = {"uri": "a://b", "name": "one"}, {"uri": "a://b", "name": "other"}
    assert definition_digest(RouteKind.RESOURCE, one) != definition_digest(RouteKind.RESOURCE, other)


@given(st.permutations([{"name": "a"}, {"name": "b"}, {"name": "c", "x": 1.5}]))
def test_an_offer_has_one_digest_in_whatever_order_it_is_listed(tools: list[Json]) -> None:
    expected = offer_digest([{"name": "a"}, {"name": "b"}, {"name": "c", "x": 1.5}], (), (), ())
    assert offer_digest(tools, (), (), ()) == expected


def test_an_offer_has_another_digest_when_an_entry_moves_to_another_kind() -> None:
    entry: Json = {"name": "a"}
    parts = [((entry,), (), (), ()), ((), (entry,), (), ()), ((), (), (entry,), ()), ((), (), (), (entry,)), ((),) * 4]
    assert len({offer_digest(*part) for part in parts}) == len(parts)


def test_an_offer_with_an_unusable_entry_still_has_a_digest_that_shows_changes() -> None:
    assert offer_digest([{"x": 2**70}], (), (), ()) != offer_digest([{"x": 2**71}], (), (), ())


def test_an_offer_nested_beyond_the_stack_has_a_digest_that_a_change_of_it_changes() -> None:
    def deep(inmost: object) -> Json:
        for _ in range(1_020):
            inmost = [inmost]
        return {"name": "a", "x": inmost}

    one, same, other = (offer_digest([deep(inmost)], (), (), ()) for inmost in (1, 1, {"b": 1}))
    assert one == same != other


def test_what_is_no_object_in_an_offer_has_no_origin_and_counts_in_its_digest() -> None:
    odd = ("x", None, 7, {"name": "a"})
    assert exported_digest(Offer(odd)) == exported_digest(Offer())  # type: ignore[arg-type]  # as a hostile server lists
    digests = {offer_digest(odd[:count], (), (), ()) for count in range(len(odd) + 1)}  # type: ignore[arg-type]  # as above
    assert len(digests) == len(odd) + 1
