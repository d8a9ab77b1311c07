"""The node's own tools as its lists have them, and its introduction: the same as FastMCP and the SDK make of them."""

import asyncio
import gc
import threading

import pytest
from mcp_types import (
    CompletionsCapability,
    DiscoverResult,
    Implementation,
    InitializeResult,
    LoggingCapability,
    PromptsCapability,
    ResourcesCapability,
    ServerCapabilities,
    ToolsCapability,
)
from mcp_types.methods import serialize_server_result
from pydantic import BaseModel

from agent.late import Late, settle_memory
from agent.mcp_terms import (
    LATEST_HANDSHAKE_VERSION,
    LATEST_MODERN_VERSION,
    MODERN_PROTOCOL_VERSIONS,
    SERVER_INFO_META_KEY,
)
from agent.model import Json, NodeIdentity
from agent.routing.table import RouteTable
from agent.server.introduction import Introduction
from agent.server.node_operations import NodeOperations
from agent.server.own_tools import DEFINITIONS, MANAGEMENT_TOOLS, OwnTools, with_card
from agent.server.search import SEARCH_TOOLS, ToolSearch
from tests.own_definitions import described

IDENTITY = NodeIdentity("node-id", "one")
CAPABILITIES = ServerCapabilities(
    logging=LoggingCapability(),
    prompts=PromptsCapability(list_changed=True),
    resources=ResourcesCapability(subscribe=True, list_changed=True),
    tools=ToolsCapability(list_changed=True),
    completions=CompletionsCapability(),
    extensions={"io.modelcontextprotocol/ui": {}},
)


def own(search: ToolSearch | None = None) -> OwnTools:
    return OwnTools("one", "1.0", NodeOperations, search=search)


async def test_the_committed_definitions_are_what_fastmcp_describes() -> None:
    assert DEFINITIONS.read_bytes() == await described(), "run `make definitions`, and see what has changed"


def test_search_tools_and_those_of_apps_are_listed_apart() -> None:
    own_of = own(ToolSearch(RouteTable)).definitions()
    listed, found = own_of.listed, {tool["name"] for tool in own_of.search_tools}
    assert (len(listed["tools"]), found) == (MANAGEMENT_TOOLS, SEARCH_TOOLS)
    assert [resource["uri"] for resource in listed["resources"]] == ["config://app", "health://system"]
    assert [tool["name"] for tool in own_of.apps["tools"]] == ["show_mesh"]
    assert [resource["uri"] for resource in own_of.apps["resources"]] == ["ui://mesh/overview"]
    without = own().definitions()
    assert (without.listed, without.search_tools, without.apps) == (listed, [], own_of.apps)


def as_the_sdk_writes(method: str, version: str, result: BaseModel) -> Json:
    return serialize_server_result(method, version, result.model_dump(by_alias=True, mode="json", exclude_none=True))


def test_the_introduction_is_what_the_sdk_writes() -> None:
    tools = own()
    servers = Introduction("## Server kit\nBe kind.", {"io.modelcontextprotocol/ui": {}})
    discovery = tools.discovery(IDENTITY, servers)
    assert discovery["instructions"].endswith("\n\n## Server kit\nBe kind.")
    found = DiscoverResult(
        supported_versions=list(MODERN_PROTOCOL_VERSIONS),
        capabilities=CAPABILITIES,
        instructions=discovery["instructions"],
    )
    result = {
        **as_the_sdk_writes("server/discover", LATEST_MODERN_VERSION, found),
        "_meta": {SERVER_INFO_META_KEY: {"name": "one", "version": "1.0"}},
    }
    assert discovery == with_card(result, IDENTITY, "extensions")
    opened = InitializeResult(
        protocol_version=LATEST_HANDSHAKE_VERSION,
        capabilities=CAPABILITIES,
        server_info=Implementation(name="one", version="1.0"),
        instructions=discovery["instructions"],
    )
    written = as_the_sdk_writes("initialize", LATEST_HANDSHAKE_VERSION, opened)
    # The protocol of sessions names no extensions, and clients look for them there all the same (SEP-1865).
    written["capabilities"]["extensions"] = servers.extensions
    assert tools.initialize_result(IDENTITY, servers) == with_card(written, IDENTITY, "experimental")


async def test_what_is_made_late_is_made_once_in_a_thread_however_many_wait() -> None:
    threads: list[threading.Thread] = []

    def make() -> object:
        threads.append(threading.current_thread())
        return object()

    late = Late(make)
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(late.get()) for _ in range(5)]
    assert {id(task.result()) for task in waiting} == {id(await late.get())}
    assert [thread is threading.main_thread() for thread in threads] == [False]


async def test_what_is_made_late_is_kept_from_the_collector_where_the_start_was() -> None:
    thresholds = gc.get_threshold()
    settle_memory()
    try:
        frozen = gc.get_freeze_count()
        made = await Late(lambda: [[number] for number in range(1_000)]).get()
        assert gc.get_freeze_count() >= frozen + len(made)
    finally:
        gc.set_threshold(*thresholds)


async def test_what_could_not_be_made_is_tried_again() -> None:
    outcomes = iter([None, "made"])

    def make() -> str:
        if (outcome := next(outcomes)) is None:
            raise OSError("no")
        return outcome

    late = Late(make)
    with pytest.raises(OSError, match="no"):
        await late.get()
    assert await late.get() == "made"
