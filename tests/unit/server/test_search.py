"""The search over what is routed: which table it answers from, and that a large one holds no request up."""

import asyncio
from dataclasses import replace

import pytest

from agent.errors import MCPError
from agent.model import Json, NodeIdentity, Offer, ServerScope
from agent.routing.build import build_routes
from agent.routing.table import Contribution, ContributionKind, RouteTable
from agent.server import search, tool_index
from agent.server.lists import Definitions, ListIndex
from agent.server.search import ToolSearch, unwrapped, wants_search
from agent.server.tool_index import ToolIndex

OWN = NodeIdentity("id-own", "own")


def table_of(*names: str, previous: RouteTable | None = None, aside: int = 0) -> RouteTable:
    """A table with these tools of one server, and `aside` resources, which no search is about."""
    tools = tuple({"name": name, "description": f"It can {name}.", "inputSchema": {"type": "object"}} for name in names)
    resources = tuple({"uri": f"a://{n}", "name": "aside"} for n in range(aside))
    offer = Offer(tools=tools, resources=resources, digest=f"{names} {aside}")
    kit = Contribution("server:kit", ContributionKind.SERVER, "kit", None, ServerScope.SERVICE, offer)
    return build_routes([kit], OWN, previous)


async def turn_of_loop(after_s: float) -> None:
    turn = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(after_s, turn.set_result, None)
    await turn


async def names_of(found: ToolSearch, query: str) -> list[str]:
    return [tool["name"] for tool in (await found.search(query, 10))["tools"]]


async def test_the_search_knows_what_is_routed_now() -> None:
    tables = [table_of("roll")]
    tools = ToolSearch(lambda: tables[-1])
    assert await names_of(tools, "roll") == ["kit__roll"]
    tables.append(table_of("read", "roll"))
    assert await names_of(tools, "read") == ["kit__read"]
    tables.append(table_of("read"))
    assert await names_of(tools, "roll") == []


async def test_only_tools_that_changed_are_indexed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    put: list[str] = []

    class Counted(ToolIndex):
        def put(self, tool: Json) -> None:
            put.append(tool["name"])
            super().put(tool)

    monkeypatch.setattr(search, "ToolIndex", Counted)
    shared = table_of("roll", "read")
    beside = build_routes([part.source for part in shared.parts.values()], NodeIdentity("id-own", "own"), shared)
    definition = {"name": "roll", "description": "It can rock.", "inputSchema": {"type": "object"}}
    read = shared.tools["kit__read"]
    changed = RouteTable(
        tools={"kit__read": read, "kit__roll": replace(read, definition=definition | {"name": "kit__roll"})}
    )
    tables = [shared, beside, changed]
    tools = ToolSearch(lambda: tables[0])
    for expected in (["kit__read", "kit__roll"], ["kit__read", "kit__roll"], ["kit__read", "kit__roll", "kit__roll"]):
        await tools.search("roll", 1)
        assert sorted(put) == expected
        del tables[0]


async def test_a_list_that_changes_for_ever_leaves_no_old_tools_in_the_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool_index, "ORDERED_MAX", 4)
    made: list[ToolIndex] = []

    class Kept(ToolIndex):
        def __init__(self) -> None:
            made.append(self)
            super().__init__()

    monkeypatch.setattr(search, "ToolIndex", Kept)
    tables = [table_of("roll")]
    tools = ToolSearch(lambda: tables[-1])
    for number in range(20):
        tables.append(table_of("roll", f"other{number}"))
        assert await names_of(tools, "other") == [f"kit__other{number}"]
        assert not made[-1].is_worn
    assert len(made) > 2


async def test_the_loop_has_a_turn_after_each_tool_that_is_indexed_and_each_step_of_a_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search, "SLICE_S", 0.0)
    table = table_of(*(f"tool_{n}" for n in range(500)))
    tools = ToolSearch(lambda: table)
    for words, expected in (("tool 432", 500), ("it can tool kit", 3)):
        turns = 0
        async with asyncio.TaskGroup() as group:
            found = group.create_task(tools.search(words, 1), name="search")
            while not found.done():
                turns += 1
                await turn_of_loop(0)
        assert found.result()["count"] == 1
        assert turns >= expected


async def test_a_search_that_is_given_up_while_the_list_changes_leaves_the_next_one_whole() -> None:
    tables = [table_of("roll")]
    tools = ToolSearch(lambda: tables[-1])
    await tools.search("roll", 1)
    for names in (("read",), ("roll",), ("read", "roll")):
        tables.append(table_of(*names))
        async with asyncio.TaskGroup() as group:
            dropped = group.create_task(tools.search("roll", 1), name="dropped")
            for _ in range(len(tables)):
                await turn_of_loop(0)
            dropped.cancel()
    assert await names_of(tools, "read") == ["kit__read"]


@pytest.mark.parametrize("arguments", [[], "text", 0, False])
def test_call_tool_passes_on_no_arguments_that_are_no_object(arguments: object) -> None:
    table = table_of("roll")
    inner = unwrapped("tools/call", {"name": "call_tool", "arguments": {"name": "kit__roll", "arguments": arguments}})
    assert inner is not None
    with pytest.raises(MCPError, match="arguments: an object is required"):
        ListIndex(lambda: table, Definitions()).route("tools/call", inner)


@pytest.mark.parametrize("given", [{}, {"arguments": None}, {"arguments": {}}])
def test_call_tool_without_arguments_calls_with_none(given: Json) -> None:
    asked = {"name": "kit__roll", **given}
    assert unwrapped("tools/call", {"name": "call_tool", "arguments": asked}) == {"name": "kit__roll", "arguments": {}}


@pytest.mark.parametrize(
    ("query", "header", "default", "wanted"),
    [
        (None, None, False, False),
        (None, None, True, True),
        ("search", None, False, True),
        ("full", None, True, False),
        (None, "search", False, True),
        (None, "full", True, False),
        ("full", "search", True, False),
        ("search", "full", False, True),
        ("else", None, True, True),
        (None, "else", False, False),
    ],
)
def test_the_url_decides_before_the_header_and_that_before_the_setting(
    query: str | None, header: str | None, default: bool, wanted: bool
) -> None:
    asked = {} if query is None else {"tools": query}
    told = {} if header is None else {"Mesh-Tools": header}
    assert wants_search(asked, told, default=default) is wanted
