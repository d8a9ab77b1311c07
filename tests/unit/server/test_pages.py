"""Pages and cursors: what one page holds, and what a cursor says."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.routing.table import Route, RouteKind
from agent.server.pages import Cursor, PageLimits, cut_page, list_digest, read_cursor

DIGEST = "0123456789abcdef"


def route(name: str, digest: str = "d", owner: str = "service:kit") -> Route:
    return Route(RouteKind.TOOL, name, {"name": name}, digest, (), listed=True, owner=owner)


@given(
    sizes=st.lists(st.integers(min_value=0, max_value=40), max_size=30),
    entries_max=st.integers(min_value=1, max_value=10),
    bytes_max=st.integers(min_value=1, max_value=200),
)
def test_pages_hold_every_entry_once_in_order_and_within_limits(
    sizes: list[int], entries_max: int, bytes_max: int
) -> None:
    entries = [{"name": f"{number}", "pad": "x" * size} for number, size in enumerate(sizes)]
    limits = PageLimits(entries_max, bytes_max)
    listed: list[Any] = []
    start = 0
    while start < len(entries):
        page = cut_page(entries, start, limits)
        found = orjson.loads(page.array)
        assert page.end == start + len(found) > start
        assert len(found) <= entries_max
        assert len(found) == 1 or len(page.array) <= bytes_max + 1
        listed += found
        start = page.end
    assert listed == entries


def test_the_page_of_an_empty_list_is_an_empty_array() -> None:
    page = cut_page([], 0, PageLimits())
    assert (page.array, page.end) == (b"[]", 0)


def test_an_entry_larger_than_a_page_is_a_page_of_its_own() -> None:
    entries = [{"name": "a"}, {"name": "b" * 100}, {"name": "c"}]
    limits = PageLimits(bytes_max=50)
    assert [cut_page(entries, start, limits).end for start in range(3)] == [1, 2, 3]


def test_a_cursor_is_read_as_it_was_written() -> None:
    assert read_cursor(str(Cursor(DIGEST, 4000))) == Cursor(DIGEST, 4000)


@pytest.mark.parametrize(
    "text",
    [
        *("", "next", DIGEST, f"{DIGEST}.", f"{DIGEST}.-1", f"{DIGEST}.1\n", f" {DIGEST}.1", f"{DIGEST}.٣"),
        *(f"{DIGEST}.{'9' * 5000}", f"{DIGEST.upper()}.1", 7, None, ["a"], {"cursor": DIGEST}),
    ],
)
def test_what_no_list_gave_is_no_cursor(text: object) -> None:
    with pytest.raises(ValueError, match="not a cursor"):
        read_cursor(text)


def test_the_digest_depends_on_the_listed_definitions_alone() -> None:
    own = [{"name": "status"}]
    same = list_digest("tools", own, [route("a"), route("b")])
    assert same == list_digest("tools", [{"name": "status"}], [route("a"), route("b")])
    others = [
        list_digest("prompts", own, [route("a"), route("b")]),
        list_digest("tools", [], [route("a"), route("b")]),
        list_digest("tools", own, [route("a")]),
        list_digest("tools", own, [route("b"), route("a")]),
        list_digest("tools", own, [route("a"), route("b", digest="e")]),
        list_digest("tools", own, [route("a"), route("b", owner="node:1/kit")]),
    ]
    assert len({same, *others}) == 1 + len(others)
