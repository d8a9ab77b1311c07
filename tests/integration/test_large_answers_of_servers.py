"""Large answers of real servers of either era pass while they come, through one node and two, to clients of either era.

An answer that is passed on while it comes has no length; one that was held has. The one rule: what a client reads is
what the codec makes of the whole.
"""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fastmcp import Context, FastMCP
from fastmcp.exceptions import ToolError
from fastmcp.tools import ToolResult
from mcp_types import EmbeddedResource, ResourceLink, TextContent, TextResourceContents

from agent.client.streaming import HELD_BYTES_MAX
from agent.model import Era, HttpTarget, Json, ServerScope, ServerSpec
from tests.integration.servers.hosting import Front, serving
from tests.integration.servers.nodes import RunningNode, catalog, instance, running_node
from tests.integration.servers.raw_session import RawSession, call, messages, raw_session
from tests.integration.servers.raw_session import request as request_of_session
from tests.integration.servers.session_asking_server import form
from tests.integration.stateless_requests import headers, request
from tests.integration.test_large_results import outcomes, settled

LARGE = 3 * HELD_BYTES_MAX
LINKS = 2000


def large_server() -> FastMCP:
    server: FastMCP = FastMCP("kit")

    @server.tool
    def links() -> ToolResult:
        """A long text, and behind it many links."""
        page = EmbeddedResource(resource=TextResourceContents(uri="notes://page", text="notes://text"))
        named = [ResourceLink(name=f"n{n}", uri=f"notes://{n}") for n in range(LINKS)]
        return ToolResult(content=[TextContent(text="notes://text " * (LARGE // 13)), page, *named])

    @server.tool
    def fail() -> str:
        raise ToolError("no " * (LARGE // 3))

    @server.tool(output_schema=None)
    async def ask(ctx: Context) -> str:
        return f"{await form(ctx, 'Which word?')} " * (LARGE // 5)

    @server.resource("notes://book")
    def book() -> str:
        return "page " * (LARGE // 5)

    @server.prompt
    def story() -> str:
        return "once " * (LARGE // 5)

    return server


@asynccontextmanager
async def node_before(folder: Path, era: Era, hops: int, *, as_json: bool = True) -> AsyncIterator[list[RunningNode]]:
    """The nodes, the one that clients talk to last."""
    async with AsyncExitStack() as stack:
        app = large_server().http_app(json_response=as_json)
        await stack.enter_async_context(app.router.lifespan_context(app))
        front = Front(app, refuse_modern=400 if era is Era.LEGACY else None)
        base = await stack.enter_async_context(serving(front))
        spec = ServerSpec("kit", HttpTarget(f"{base}/mcp"), ServerScope.SERVICE)
        back = await stack.enter_async_context(running_node("back", folder / "back", servers=[spec]))
        await back.connected("kit")
        assert back.view("kit").era is era
        if hops == 1:
            yield [back]
            return
        front_node = await stack.enter_async_context(running_node("front", folder / "front"))
        front_node.mesh.take_catalog(catalog(instance(back)))
        await front_node.when(lambda: "kit__links" in front_node.mesh.routes.tools)
        yield [back, front_node]


@asynccontextmanager
async def asked(node: RunningNode, client: Era, method: str, params: Json) -> AsyncIterator[aiohttp.ClientResponse]:
    """One request of a client of that era, without any feature."""
    name = params.get("name") or params["uri"]
    if client is Era.MODERN:
        sent = {**dict(headers(method, name)), "Content-Type": "application/json"}
        async with (
            aiohttp.ClientSession(headers=sent) as http,
            http.post(node.url, json=request(method, params)) as response,
        ):
            yield response
        return
    async with raw_session(node.url) as mcp, mcp.post(request_of_session(method, params, 1)) as response:
        yield response


async def streamed(response: aiohttp.ClientResponse) -> Json:
    """The result in an answer that was passed on while it came."""
    assert response.headers.get("Transfer-Encoding") == "chunked", "it was held"
    message = json.loads(await response.read())
    assert message["id"] == 1
    result: Json = message["result"]
    return result


eras = pytest.mark.parametrize("era", Era)
clients = pytest.mark.parametrize("client", Era)
hops = pytest.mark.parametrize("hops", [1, 2])


@eras
@clients
@hops
@pytest.mark.parametrize("as_json", [True, False], ids=["json", "events"])
async def test_links_are_named_for_clients_in_the_middle_of_a_stream(
    era: Era, client: Era, hops: int, as_json: bool, tmp_path: Path
) -> None:
    async with node_before(tmp_path, era, hops, as_json=as_json) as nodes:
        params: Json = {"name": "kit__links", "arguments": {}}
        async with asked(nodes[-1], client, "tools/call", params) as response:
            text, page, *named = (result := await streamed(response))["content"]
        assert text["text"] == "notes://text " * (LARGE // 13)
        assert page["resource"] == page["resource"] | {"uri": "notes://kit/page", "text": "notes://text"}
        assert [link["uri"] for link in named] == [f"notes://kit/{n}" for n in range(LINKS)]
        if client is Era.MODERN:
            assert result["resultType"] == "complete"
        for node in nodes:
            await settled(node)
            assert outcomes(node) == {"ok": 1.0}


@eras
@hops
async def test_every_node_on_the_way_finds_that_the_tool_has_failed(
    era: Era, hops: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "agent.mcp")
    async with node_before(tmp_path, era, hops) as nodes:
        async with asked(nodes[-1], Era.MODERN, "tools/call", {"name": "kit__fail", "arguments": {}}) as response:
            assert (await streamed(response))["isError"] is True
        for node in nodes:
            await settled(node)
            assert outcomes(node) == {"tool_error": 1.0}
    told = [record.__dict__.get("outcome") for record in caplog.records if "kit__fail" in str(record.__dict__)]
    assert told == ["tool_error"] * hops


@eras
@clients
async def test_large_resources_and_prompts_pass_as_they_come_with_what_a_client_needs_in_them(
    era: Era, client: Era, tmp_path: Path
) -> None:
    async with node_before(tmp_path, era, 1) as [node]:
        async with asked(node, client, "resources/read", {"uri": "notes://kit/book"}) as response:
            read = await streamed(response)
        async with asked(node, client, "prompts/get", {"name": "kit__story"}) as response:
            prompt = await streamed(response)
    (part,) = read["contents"]
    assert part == part | {"uri": "notes://kit/book", "text": "page " * (LARGE // 5)}
    assert prompt["messages"][0]["content"]["text"] == "once " * (LARGE // 5)
    if client is Era.MODERN:
        assert read["resultType"] == prompt["resultType"] == "complete"
        assert {"ttlMs", "cacheScope"} <= read.keys()


@hops
async def test_a_question_comes_before_a_large_result_of_the_same_call(hops: int, tmp_path: Path) -> None:
    """Of a client with a session: the result follows the question on one stream."""
    async with (
        node_before(tmp_path, Era.LEGACY, hops, as_json=False) as nodes,
        raw_session(nodes[-1].url, elicitation={}) as mcp,
        mcp.post(call("kit__ask", 1)) as response,
    ):
        texts = await _answering(mcp, response)
    assert texts == ["blue " * (LARGE // 5)]


async def _answering(mcp: RawSession, response: aiohttp.ClientResponse) -> list[str]:
    texts = []
    async for message in messages(response, event_bytes_max=2 * LARGE):
        if message.get("method") == "elicitation/create":
            await mcp.reply(message, result={"action": "accept", "content": {"word": "blue"}})
        elif "result" in message:
            texts = [block["text"] for block in message["result"]["content"]]
    return texts


@hops
async def test_a_large_result_of_a_call_that_was_parked_goes_to_the_retry(hops: int, tmp_path: Path) -> None:
    async with node_before(tmp_path, Era.LEGACY, hops, as_json=False) as nodes:
        features = {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}}
        params: dict[str, Any] = {"name": "kit__ask", "arguments": {}, "_meta": features}
        async with asked(nodes[-1], Era.MODERN, "tools/call", params) as response:
            questions = json.loads(await response.read())["result"]
        answers = {key: {"action": "accept", "content": {"word": "blue"}} for key in questions["inputRequests"]}
        retry = {**params, "inputResponses": answers, "requestState": questions["requestState"]}
        async with asked(nodes[-1], Era.MODERN, "tools/call", retry) as response:
            result = await streamed(response)
    assert result["content"][0]["text"] == "blue " * (LARGE // 5)
    assert result["resultType"] == "complete"


async def test_a_client_that_goes_amid_the_result_of_its_own_session_harms_no_other_call(tmp_path: Path) -> None:
    async with node_before(tmp_path, Era.LEGACY, 1, as_json=False) as [node]:
        features = {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}}
        params: Json = {"name": "kit__links", "arguments": {}, "_meta": features}
        async with asked(node, Era.MODERN, "tools/call", params) as response:
            await response.content.readany()
        await settled(node)
        async with asked(node, Era.MODERN, "tools/call", params) as response:
            assert len((await streamed(response))["content"]) == LINKS + 2
