"""Entries of the registry and pages of them: whatever servers say, strict clients read what comes out."""

import re
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from agent.model import Json
from agent.registry.card import CARD_SCHEMA, CARD_TYPE, catalog, llms_text, server_card
from agent.registry.entries import (
    OFFICIAL_META_KEY,
    PAGE_DEFAULT,
    PAGE_MAX,
    WHOLE_NAME,
    PageRefused,
    clean_version,
    namespace_of,
    page_of,
    server_entries,
    version_of,
)
from agent.routing.about import ABOUT_META_KEY, read_about
from agent.routing.table import Replica, Route, RouteKind, RouteTable
from tests.registry_schemas import SERVER_CARD, SERVER_LIST, SERVER_RESPONSE

SINCE = "2026-11-29T00:00:00Z"
HEADERS = ({"name": "Authorization", "isRequired": True, "isSecret": True},)


def route(kind: RouteKind, name: str, about: Json | None = None, *, listed: bool = True, owner: str = "") -> Route:
    meta = {"_meta": {ABOUT_META_KEY: about or {}}} if kind is RouteKind.SERVER else {}
    replica = Replica("server:x", name.rpartition("__")[2], None, ours=True)
    return Route(kind, name, meta, "digest", (replica,), listed, owner or f"service:{name}")


def table_of(servers: dict[str, Json], tools: dict[str, str] | None = None) -> RouteTable:
    found = {name: route(RouteKind.SERVER, name, about) for name, about in servers.items()}
    listed = {name: route(RouteKind.TOOL, name, owner=f"service:{owner}") for name, owner in (tools or {}).items()}
    return RouteTable(servers=MappingProxyType(found), tools=MappingProxyType(listed))


def entries_of(servers: dict[str, Json], tools: dict[str, str] | None = None, **more: Any) -> list[Json]:
    whole = {"description": "2 MCP servers behind one endpoint", "version": "1.2.3"}
    known: dict[str, Any] = {"base": "https://m.example.com", "namespace": "com.example.m", "headers": HEADERS}
    return server_entries(table_of(servers, tools), **known, whole=whole, since=SINCE, **more)


def test_each_server_is_an_entry_with_its_endpoint_and_so_is_the_mesh() -> None:
    found = entries_of({"weather": {"version": "2.0.1", "title": "Weather", "description": "Forecasts"}})
    whole, weather = found
    assert whole["server"]["name"] == f"com.example.m/{WHOLE_NAME}"
    assert whole["server"]["remotes"][0]["url"] == "https://m.example.com/mcp"
    assert weather["server"] == {
        "$schema": "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json",
        "name": "com.example.m/weather",
        "title": "Weather",
        "description": "Forecasts",
        "version": "2.0.1",
        "remotes": [{"type": "streamable-http", "url": "https://m.example.com/mcp/s/weather", "headers": [*HEADERS]}],
    }
    assert weather["_meta"][OFFICIAL_META_KEY] == {
        "status": "active",
        "publishedAt": SINCE,
        "updatedAt": SINCE,
        "isLatest": True,
    }


def test_a_server_without_a_description_is_described_by_its_instructions_or_its_tools() -> None:
    tools = {"a__one": "a", "a__two": "a", "a__three": "a", "a__four": "a"}
    found = entries_of({"a": {}, "b": {"instructions": "\n  Ask me first.\nMore."}, "c": {}}, tools)
    said = {entry["server"]["name"]: entry["server"]["description"] for entry in found}
    assert said["com.example.m/a"] == "4 tools of a: four, one, three, ..."
    assert said["com.example.m/b"] == "Ask me first."
    assert said["com.example.m/c"] == "The server c"


def test_what_is_not_listed_away_or_hidden_is_no_entry() -> None:
    servers = {
        "shown": route(RouteKind.SERVER, "shown"),
        "alias": route(RouteKind.SERVER, "alias", listed=False),
        "private": route(RouteKind.SERVER, "private", owner="node:1/private"),
    }
    table = RouteTable(servers=MappingProxyType(servers))
    whole = {"description": "x", "version": "1"}
    found = server_entries(
        table,
        base="http://h",
        namespace="n",
        headers=(),
        whole=whole,
        since=SINCE,
        hidden=frozenset({"node:1/private"}),
    )
    assert [entry["server"]["name"] for entry in found] == [f"n/{WHOLE_NAME}", "n/shown"]
    assert "headers" not in found[0]["server"]["remotes"][0]


@pytest.mark.parametrize(
    ("url", "namespace"),
    [
        ("https://mesh.example.com/tools", "com.example.mesh"),
        ("https://mesh.example.com:8443", "com.example.mesh"),
        (None, "local.mcp-node"),
        ("http://127.0.0.1:8000", "local.mcp-node"),
        ("http://[::1]:8000", "local.mcp-node"),
        ("http://localhost:8000", "local.mcp-node"),
    ],
)
def test_names_begin_with_the_host_in_reverse_or_with_one_that_no_dns_has(url: str | None, namespace: str) -> None:
    assert namespace_of(url, "mcp-node") == namespace


@pytest.mark.parametrize("text", ["", "latest", "^1.2.3", "~1.2", ">=1.0", "1.x", "1.*", "1 || 2", "1.0 - 2.0"])
def test_a_version_that_a_registry_refuses_becomes_none(text: str) -> None:
    assert clean_version(text) == "0.0.0"


@pytest.mark.parametrize("text", ["1.2.3", "2.0.0-beta.1", "1.0.0+build.7", "2026-11-29", "v3", "linux-1.0"])
def test_a_version_of_any_other_form_stays(text: str) -> None:
    assert clean_version(text) == text


def test_pages_go_on_by_the_cursor_alone_and_keep_what_was_searched_for() -> None:
    found = entries_of(
        {f"s{number:03}": {"description": "even" if number % 2 == 0 else "odd"} for number in range(200)}
    )
    names, query = [], {"search": "EVEN", "limit": "40"}
    while True:
        page = page_of(found, query)
        Draft202012Validator(SERVER_LIST).validate(page)
        names += [entry["server"]["name"] for entry in page["servers"]]
        assert page["metadata"]["count"] == len(page["servers"])
        if "nextCursor" not in page["metadata"]:
            break
        query = {"cursor": page["metadata"]["nextCursor"], "limit": "40"}
    assert names == [f"com.example.m/s{number:03}" for number in range(0, 200, 2)]


def test_a_page_has_as_many_as_asked_for_and_never_more_than_the_limit() -> None:
    found = entries_of({f"s{number:03}": {} for number in range(200)})
    assert len(page_of(found, {})["servers"]) == PAGE_DEFAULT
    assert len(page_of(found, {"limit": "5"})["servers"]) == 5
    assert len(page_of(found, {"limit": "999999999"})["servers"]) == PAGE_MAX


def test_a_version_selects_those_that_have_it_and_latest_selects_all() -> None:
    found = entries_of({"a": {"version": "1.0"}, "b": {"version": "2.0"}})
    assert [entry["server"]["name"] for entry in page_of(found, {"version": "2.0"})["servers"]] == ["com.example.m/b"]
    assert len(page_of(found, {"version": "latest"})["servers"]) == 3
    assert version_of(found, "com.example.m/a", "latest") == version_of(found, "com.example.m/a", "1.0")
    assert version_of(found, "com.example.m/a", "9") is None
    assert version_of(found, "com.example.m/none", "latest") is None


@pytest.mark.parametrize("limit", ["", "0", "-1", "many", "1.5", "٣", " 1", "9" * 30])
def test_a_limit_that_is_none_is_refused(limit: str) -> None:
    with pytest.raises(PageRefused, match="limit"):
        page_of([], {"limit": limit})


@given(st.text(max_size=80) | st.binary(max_size=60).map(lambda raw: raw.hex()))
def test_a_cursor_that_was_not_given_is_refused_and_never_fails_otherwise(cursor: str) -> None:
    try:
        page = page_of(entries_of({"a": {}}), {"cursor": cursor})
    except PageRefused:
        return
    assert page["servers"] or cursor


WORDS = st.text(max_size=300) | st.sampled_from(["latest", "^1", "\x1b[31m", "\u202e", " ", "\n\n"])
JSON = st.recursive(st.none() | st.booleans() | st.integers() | WORDS, lambda inner: st.lists(inner, max_size=3))
ICONS = st.lists(
    st.fixed_dictionaries(
        {"src": st.sampled_from(["https://e.example/i.png", "data:image/png;base64,AA", "http://e.example/i"])},
        optional={"mimeType": st.sampled_from(["image/png", "x"]), "sizes": JSON, "theme": JSON},
    ),
    max_size=3,
)
ABOUTS = st.dictionaries(
    st.sampled_from(["title", "version", "description", "websiteUrl", "instructions"]), WORDS, max_size=5
)


@given(ABOUTS, ICONS)
def test_whatever_a_server_says_its_entry_and_the_card_are_valid(about: Json, icons: list[Json]) -> None:
    said = read_about({**about, "icons": icons})
    found = entries_of({"node-1__my_server": said, "b": {}})
    for entry in found:
        Draft202012Validator(SERVER_RESPONSE).validate(entry)
        assert not re.search(r"[\x00-\x1f\u202e]", entry["server"]["description"])
    card = server_card(found)
    Draft202012Validator(SERVER_CARD).validate(card)
    assert card["$schema"] == CARD_SCHEMA
    for listed in catalog(found)["entries"]:
        assert listed["type"] == CARD_TYPE
        Draft202012Validator(SERVER_CARD).validate(listed["data"])
    assert [listed["identifier"] for listed in catalog(found)["entries"]] == [
        f"urn:air:m.example.com:mcp:{name}" for name in (WHOLE_NAME, "b", "node-1__my_server")
    ]
    assert llms_text("http://h", found, node="n", version="1").count("\n- [") == 5
