"""What the index of tools finds, in which order, that nothing typed into it is syntax, and what a step of it costs."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model import ORIGIN_META_KEY, Json
from agent.server import tool_index
from agent.server.tool_index import COMPLETIONS_MAX, ORDERED_MAX, POSTINGS_MAX, TOOL_WORDS_MAX, WORDS_MAX, ToolIndex

TOOLS: list[Json] = [
    {"name": "weather__get_forecast", "description": "Tell tomorrow's weather for a city."},
    {"name": "git__createBranch", "description": "Create a branch.", "inputSchema": {"properties": {"repo": {}}}},
    {
        "name": "files__read",
        "title": "Read a file",
        "description": "Return a file's text.",
        "inputSchema": {"properties": {"path": {"description": "absolute path of the document"}}},
    },
    {"name": "db__query", "description": "Run a query against the weather database."},
]
# Words that each of ten thousand tools has, and one of its own.
COMMON = [f"common{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(WORDS_MAX)]


@pytest.fixture
def index() -> ToolIndex:
    return ToolIndex(TOOLS)


@pytest.fixture(scope="module")
def large() -> ToolIndex:
    text = " ".join(COMMON)
    return ToolIndex({"name": f"server{n % 50}__tool{n}", "description": f"{text} number {n}"} for n in range(10_000))


@pytest.mark.parametrize(
    ("query", "best"),
    [
        ("forecast", "weather__get_forecast"),
        ("forecasts for cities", "weather__get_forecast"),
        ("create branch", "git__createBranch"),
        ("branch repo", "git__createBranch"),
        ("createBranch", "git__createBranch"),
        ("document", "files__read"),
        ("reading", "files__read"),
        ("weather", "weather__get_forecast"),
        ("datab", "db__query"),
        ("DATABASE", "db__query"),
        ("q", "db__query"),
    ],
)
def test_the_best_tool_for_a_query_comes_first(index: ToolIndex, query: str, best: str) -> None:
    assert index.search(query, 10)[0] == best


def test_a_word_in_the_name_ranks_above_one_in_the_description(index: ToolIndex) -> None:
    assert index.search("weather", 10) == ["weather__get_forecast", "db__query"]


def test_an_empty_query_lists_by_name_up_to_the_limit(index: ToolIndex) -> None:
    assert index.search("  ", 2) == ["db__query", "files__read"]


def test_of_equally_good_tools_the_first_by_name_come_first() -> None:
    index = ToolIndex({"name": name, "description": "The same."} for name in ("c", "b", "d", "a"))
    assert index.search("same", 3) == ["a", "b", "c"]


def test_a_tool_whose_name_had_to_be_changed_is_found_by_the_name_that_its_server_gives_it() -> None:
    listed = "notes__--0b2ea10554"
    index = ToolIndex([*TOOLS, {"name": listed, "_meta": {ORIGIN_META_KEY: {"tool": "天気 予報"}}}])
    assert index.search("予報", 10) == [listed]


@pytest.mark.parametrize(("written", "typed"), [("Zürich", "zurich"), ("zurich", "ZÜRICH"), ("हिन्दी", "हिन्दी")])
def test_accents_and_capitals_make_no_difference(written: str, typed: str) -> None:
    index = ToolIndex([*TOOLS, {"name": "map", "description": f"Show {written}."}])
    assert index.search(typed, 10) == ["map"]


def test_nothing_is_found_for_terms_that_no_tool_has(index: ToolIndex) -> None:
    assert index.search("submarine", 10) == []


def test_a_tool_that_is_put_again_is_found_by_its_new_words_alone(index: ToolIndex) -> None:
    index.put({"name": "db__query", "description": "Ask a ledger."})
    assert index.search("ledger", 10) == ["db__query"]
    assert index.search("database", 10) == []
    assert len(index) == len(TOOLS)


def test_a_tool_that_is_removed_is_found_no_more(index: ToolIndex) -> None:
    index.remove("db__query")
    index.remove("never there")
    assert index.search("weather", 10) == ["weather__get_forecast"]
    assert "db__query" not in index.search("", 10)


def test_an_index_is_worn_when_most_of_it_is_about_tools_that_are_gone(index: ToolIndex) -> None:
    for _ in range(ORDERED_MAX):
        index.put(TOOLS[0])
    assert not index.is_worn
    index.put(TOOLS[0])
    assert index.is_worn
    assert index.search("forecast", 10) == ["weather__get_forecast"]


@given(st.text(max_size=200))
def test_any_query_text_is_words_and_never_an_error(query: str) -> None:
    assert set(ToolIndex(TOOLS).search(query, 5)) <= {tool["name"] for tool in TOOLS}


@given(
    st.dictionaries(st.sampled_from(["name", "title", "description", "inputSchema", "_meta"]), st.text() | st.none())
)
def test_any_text_of_a_tool_can_be_indexed_and_found(tool: dict[str, Any]) -> None:
    index = ToolIndex([{**tool, "name": "odd", "description": f"{tool.get('description')} findable"}])
    assert index.search("findable", 1) == ["odd"]


def test_a_tool_is_indexed_by_so_many_words_and_no_more() -> None:
    index = ToolIndex([{"name": "noisy", "description": " ".join(f"w{n}" for n in range(TOOL_WORDS_MAX + 1))}])
    assert index.search(f"w{TOOL_WORDS_MAX - 2}", 1) == ["noisy"]
    assert index.search(f"w{TOOL_WORDS_MAX}", 1) == []


def test_the_rare_word_among_common_ones_says_which_tool_is_best(large: ToolIndex) -> None:
    assert large.search(f"{' '.join(COMMON[:-1])} 4321", 3)[0] == "server21__tool4321"
    assert large.search("tool 4321", 3)[0] == "server21__tool4321"


def test_common_words_alone_fill_a_result_and_order_it(large: ToolIndex) -> None:
    large.put({"name": "twice", "title": COMMON[-1], "description": " ".join(COMMON)})
    found = large.search(" ".join(COMMON), 10)
    large.remove("twice")
    assert found[0] == "twice"
    assert len(found) == 10


def test_a_rare_word_does_not_keep_the_result_short(large: ToolIndex) -> None:
    assert len(large.search(f"4321 {' '.join(COMMON)}", 10)) == 10


def test_words_beyond_the_postings_that_are_read_only_order_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    tools = [{"name": f"t{n}", "description": "many" if n else "many special"} for n in range(9)]
    index = ToolIndex([*tools, {"name": "best", "description": "rare special"}, {"name": "x", "description": "rare"}])
    monkeypatch.setattr(tool_index, "POSTINGS_MAX", 2)
    assert index.search("rare special many", 1) == ["best"]
    assert set(index.search("rare special many", 2)) == {"best", "x"}


def test_the_beginning_of_more_words_than_are_completed_finds_as_many_tools_as_asked(large: ToolIndex) -> None:
    assert len(large.search("tool", COMPLETIONS_MAX)) == COMPLETIONS_MAX
    assert large.search("tool432", 50)[:2] == ["server32__tool432", "server20__tool4320"]


def test_a_search_takes_a_small_part_of_the_time_of_making_the_index_whatever_its_words(large: ToolIndex) -> None:
    queries = ("tool", "t", "common", " ".join(COMMON), " ".join(COMMON * 1_000), "w" * 1_000_000, "4321", "", "zz")
    made_s = _least_time_s(lambda: ToolIndex({"name": f"x{n}", "description": " ".join(COMMON)} for n in range(1_000)))
    for query in queries:
        assert _least_time_s(partial(large.search, query, 50)) < made_s, query


def test_a_search_of_many_common_words_takes_no_longer_than_one_of_those_that_are_read(large: ToolIndex) -> None:
    read = POSTINGS_MAX // 10_000
    few_s = _least_time_s(lambda: large.search(f"{' '.join(COMMON[:read])} zz", 10))
    many_s = _least_time_s(lambda: large.search(f"{' '.join(COMMON[:-1])} zz", 10))
    assert many_s < 4 * few_s


def _least_time_s(run: Callable[[], object]) -> float:
    """Processor time, the least of some runs."""
    times = []
    for _ in range(5):
        started_s = time.process_time()
        run()
        times.append(time.process_time() - started_s)
    return min(times)
