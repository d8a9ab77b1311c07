"""What the tool search finds, in which order, and that nothing typed into it is syntax."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model import ORIGIN_META_KEY
from agent.server.search import ToolIndex

TOOLS: list[dict[str, Any]] = [
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


@pytest.fixture
def index() -> Any:
    index = ToolIndex(TOOLS)
    yield index
    index.close()


@pytest.mark.parametrize(
    ("query", "best"),
    [
        ("forecast", "weather__get_forecast"),
        ("forecasts for cities", "weather__get_forecast"),
        ("create branch", "git__createBranch"),
        ("branch repo", "git__createBranch"),
        ("document", "files__read"),
        ("reading", "files__read"),
        ("weather", "weather__get_forecast"),
        ("datab", "db__query"),
    ],
)
def test_the_best_tool_for_a_query_comes_first(index: ToolIndex, query: str, best: str) -> None:
    assert index.search(query, 10)[0] == best


def test_a_word_in_the_name_ranks_above_one_in_the_description(index: ToolIndex) -> None:
    assert index.search("weather", 10) == ["weather__get_forecast", "db__query"]


def test_an_empty_query_lists_by_name_up_to_the_limit(index: ToolIndex) -> None:
    assert index.search("  ", 2) == ["db__query", "files__read"]


def test_a_tool_whose_name_had_to_be_changed_is_found_by_the_name_that_its_server_gives_it() -> None:
    listed = "notes__--0b2ea10554"
    index = ToolIndex([*TOOLS, {"name": listed, "_meta": {ORIGIN_META_KEY: {"tool": "天気 予報"}}}])
    try:
        assert index.search("予報", 10) == [listed]
    finally:
        index.close()


def test_nothing_is_found_for_terms_that_no_tool_has(index: ToolIndex) -> None:
    assert index.search("submarine", 10) == []


@given(st.text(max_size=200))
def test_any_query_text_is_words_and_never_an_error(query: str) -> None:
    index = ToolIndex(TOOLS)
    try:
        assert set(index.search(query, 5)) <= {tool["name"] for tool in TOOLS}
    finally:
        index.close()


def test_five_thousand_tools_are_indexed_and_searched() -> None:
    tools = [{"name": f"server{n % 50}__tool_{n}", "description": f"Does thing number {n}"} for n in range(5_000)]
    index = ToolIndex(tools)
    try:
        assert index.search("thing 4321", 3)[0] == "server21__tool_4321"
    finally:
        index.close()
