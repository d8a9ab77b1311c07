"""What a client's URL asks for: no notices of changed lists, failures that a model can read, pages; in both eras.

Real nodes in the test's own process, raw requests. The one rule: a client that asks for
nothing gets what it always got.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from fastmcp import FastMCP

from agent.errors import NOT_EXECUTED, OUTCOME_UNKNOWN, MCPError
from agent.model import ERROR_META_KEY, HttpTarget, Json, ServerScope, ServerSpec
from agent.server.preferences import Preferences
from tests.integration.servers.nodes import RunningNode, running_node, served
from tests.integration.servers.raw_session import ACCEPT, call, initialize_request, messages, raw_session
from tests.integration.stateless_requests import headers, request

ERAS = pytest.mark.parametrize("era", ["sessions", "stateless"])


async def never() -> str:
    """A tool that does not answer in time."""
    await asyncio.Event().wait()
    return "unreachable"


@asynccontextmanager
async def slow_node(folder: Path) -> AsyncIterator[RunningNode]:
    """A node whose server's tool outlasts the time of a call."""
    server: FastMCP = FastMCP("kit")
    server.tool(never)
    async with asyncio.timeout(30), served(server) as url:
        spec = ServerSpec("kit", HttpTarget(url), ServerScope.SERVICE, call_timeout_s=0.2)
        async with running_node("one", folder, servers=[spec]) as node:
            await node.connected("kit")
            yield node


async def answered(url: str, era: str, message: Json) -> Json:
    """What a client of that era gets for a `tools/call`."""
    if era == "sessions":
        async with raw_session(url) as mcp, mcp.post(message) as response:
            answer: Json = await response.json()
            return answer
    sent = request("tools/call", message["params"])
    async with (
        aiohttp.ClientSession() as http,
        http.post(url, json=sent, headers=headers("tools/call", message["params"]["name"])) as response,
    ):
        told: Json = await response.json()
    return told


def without_seconds(text: str) -> str:
    """What is left of a call's time differs where the machine took some of it before the call was sent."""
    return re.sub(r"within [\d.]+ s", "in time", text)


@ERAS
async def test_a_call_without_a_known_outcome_is_a_result_for_a_client_that_asks_for_results(
    era: str, tmp_path: Path
) -> None:
    async with slow_node(tmp_path) as node:
        usual = await answered(node.url, era, call("kit__never"))
        assert usual["error"]["code"] == OUTCOME_UNKNOWN
        result = (await answered(f"{node.url}?errors=result", era, call("kit__never")))["result"]
        assert result["isError"] is True
        assert [part["type"] for part in result["content"]] == ["text"]
        assert "did not answer tools/call" in result["content"][0]["text"]
        assert usual["error"]["message"].startswith("kit__never may have been executed: server kit on ")
        said = f"{usual['error']['message']}; look before you make it again."
        assert without_seconds(result["content"][0]["text"]) == without_seconds(said)
        assert result["_meta"][ERROR_META_KEY]["code"] == OUTCOME_UNKNOWN
        unknown = await answered(f"{node.url}?errors=result", era, call("kit__no"))
        assert unknown["error"]["code"] == -32602, "the client's own mistake stays an error"


@pytest.mark.parametrize("code", [NOT_EXECUTED, OUTCOME_UNKNOWN])
def test_only_failures_of_a_call_that_got_no_answer_become_results(code: int) -> None:
    wanted, failure = Preferences(errors_as_results=True), MCPError(code=code, message="server fx on two is away")
    result = wanted.as_result("tools/call", failure)
    assert result is not None
    assert (result["isError"], result["content"][0]["text"]) == (True, "server fx on two is away")
    assert wanted.as_result("prompts/get", failure) is None
    assert wanted.as_result("tools/call", MCPError(code=-32602, message="Unknown tool")) is None
    assert Preferences().as_result("tools/call", failure) is None


@pytest.mark.parametrize(
    ("code", "message", "outcome", "told"),
    [
        (NOT_EXECUTED, "fx is away.", "not_executed", "fx is away. The call was not executed; you may make it again."),
        (-32603, "broken", "unknown", "broken. The call may have been executed; look before you make it again."),
        (
            OUTCOME_UNKNOWN,
            "fx may have been executed: cut",
            "unknown",
            "fx may have been executed: cut; look before you make it again.",
        ),
        (NOT_EXECUTED, "a server's own error", None, "a server's own error"),
    ],
)
def test_a_failure_as_a_result_says_in_words_whether_the_call_was_executed(
    code: int, message: str, outcome: str | None, told: str
) -> None:
    data = None if outcome is None else {"outcome": outcome}
    result = Preferences(errors_as_results=True).as_result("tools/call", MCPError(code, message, data))
    assert result is not None
    assert result["content"][0]["text"] == told


@ERAS
@pytest.mark.parametrize("query", ["errors=results", "notices=", "notices=no", "pages=off"])
async def test_a_word_that_is_not_known_is_refused_with_those_that_are(era: str, query: str, tmp_path: Path) -> None:
    async with running_node("one", tmp_path) as node:
        more = headers("tools/list") if era == "stateless" else []
        async with aiohttp.ClientSession() as http, http.post(f"{node.url}?{query}", json={}, headers=more) as response:
            assert response.status == 400
            assert "one of" in (await response.json())["error"]["message"]


async def test_a_session_without_notices_hears_of_no_changed_list_and_goes_on(tmp_path: Path) -> None:
    async with (
        running_node("one", tmp_path) as node,
        raw_session(f"{node.url}?notices=off") as deaf,
        raw_session(node.url) as usual,
        deaf.listen() as stream,
        usual.listen() as told,
    ):
        server: FastMCP = FastMCP("kit")
        server.tool(never)
        async with served(server) as url:
            node.mesh.take_servers([ServerSpec("kit", HttpTarget(url), ServerScope.SERVICE)])
            await node.connected("kit")
            heard = await anext(messages(told))
            assert heard["method"] == "notifications/tools/list_changed"
            assert (await deaf.request("ping"))["result"] == {}
        assert node.endpoints[0].sessions.find(deaf.headers["Mcp-Session-Id"], notices=False).take_notes() == []
        assert stream.status == 200


async def test_a_stream_without_notices_is_granted_none_of_changed_lists(tmp_path: Path) -> None:
    wanted = {"notifications": {"toolsListChanged": True}}
    for query, granted in (("", {"toolsListChanged": True}), ("?notices=off", {})):
        async with (
            running_node("one", tmp_path) as node,
            aiohttp.ClientSession() as http,
            http.post(
                f"{node.url}{query}",
                json=request("subscriptions/listen", wanted),
                headers=headers("subscriptions/listen"),
            ) as stream,
        ):
            acknowledged = await anext(messages(stream))
            assert acknowledged["params"]["notifications"] == granted


@ERAS
async def test_a_client_without_notices_is_promised_no_list_changes_in_its_capabilities(
    era: str, tmp_path: Path
) -> None:
    async with running_node("one", tmp_path) as node:
        for query, promised in (("", True), ("?notices=off", None)):
            capabilities = await _capabilities(f"{node.url}{query}", era)
            assert [capabilities[kind].get("listChanged") for kind in ("tools", "prompts", "resources")] == [
                promised
            ] * 3
            assert capabilities["resources"]["subscribe"] is True


@ERAS
async def test_a_client_that_shows_pages_without_declaring_it_gets_the_picture_of_the_mesh(
    era: str, tmp_path: Path
) -> None:
    async with running_node("one", tmp_path) as node:
        for query, listed in (("", False), ("?pages=declared", False), ("?pages=on", True)):
            assert ("show_mesh" in await _tools(f"{node.url}{query}", era)) is listed, query


async def _tools(url: str, era: str) -> list[str]:
    if era == "sessions":
        async with raw_session(url) as mcp:
            result = (await mcp.request("tools/list"))["result"]
    else:
        async with (
            aiohttp.ClientSession() as http,
            http.post(url, json=request("tools/list", {}), headers=headers("tools/list")) as response,
        ):
            result = (await response.json())["result"]
    return [tool["name"] for tool in result["tools"]]


async def _capabilities(url: str, era: str) -> Json:
    sessions = era == "sessions"
    message = initialize_request() if sessions else request("server/discover", {})
    more = ACCEPT if sessions else dict(headers("server/discover"))
    async with aiohttp.ClientSession() as http, http.post(url, json=message, headers=more) as response:
        capabilities: Json = (await response.json())["result"]["capabilities"]
    return capabilities
