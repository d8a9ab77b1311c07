"""JSON-RPC batches, which sessions of 2025-03-26 may send: by a raw client, and by the TypeScript SDK's."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Context, FastMCP

from agent.model import HttpTarget, Json, ServerScope, ServerSpec
from agent.server.sessions.batch import BATCH_LEN_MAX, VERSION
from tests.conformance.node_tools import node_tools, why_not
from tests.integration.servers.nodes import RunningNode, running_node, served
from tests.integration.servers.raw_session import RawSession, call, messages, raw_session, request

SCRIPT = Path(__file__).parent / "servers" / "batches.mjs"
CLIENT_TIMEOUT_S = 60
LATER = ("2025-06-18", "2025-11-25")
NOTE: Json = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": 1}}
REPLY: Json = {"jsonrpc": "2.0", "id": 77, "result": {}}
PING = request("ping", request_id="p")


class Kit:
    """A server with a tool that answers at once, one that tells of its progress, and one that waits."""

    def __init__(self) -> None:
        self.waiting, self.release = asyncio.Event(), asyncio.Event()
        self.server: FastMCP = FastMCP("kit")
        for tool in (self.add, self.count, self.wait, self.ask):
            self.server.tool(tool)

    def add(self, a: int, b: int) -> int:
        return a + b

    async def count(self, ctx: Context) -> str:
        await ctx.report_progress(1, 2)
        await self.release.wait()
        return "counted"

    async def wait(self) -> str:
        self.waiting.set()
        await self.release.wait()
        return "released"

    async def ask(self, ctx: Context) -> str:
        answer = await ctx.elicit("Who?", response_type=str)
        return f"{answer.action}"


@asynccontextmanager
async def scene(folder: Path) -> AsyncIterator[tuple[RunningNode, Kit]]:
    kit = Kit()
    async with asyncio.timeout(60), served(kit.server) as url:
        spec = ServerSpec("kit", HttpTarget(url), ServerScope.SERVICE)
        async with running_node("one", folder, servers=[spec]) as node:
            await node.connected("kit")
            yield node, kit


def add(request_id: object, a: int) -> Json:
    return call("kit__add", request_id, a=a, b=1)


async def posted(session: RawSession, batch: Any) -> tuple[int, str, Any]:
    """The status, the media type and the body of the answer to a batch."""
    async with session.post(batch) as response:
        body = await response.read()
        return response.status, response.content_type, json.loads(body) if body else None


def by_id(responses: list[Json]) -> dict[object, Json]:
    assert len({response["id"] for response in responses}) == len(responses)
    return {response["id"]: response for response in responses}


def text(response: Json) -> str:
    return str(response["result"]["content"][0]["text"])


async def test_each_request_of_a_batch_gets_one_response_in_one_array(tmp_path: Path) -> None:
    async with scene(tmp_path) as (node, _), raw_session(node.url, VERSION) as session:
        batch = [add(1, 1), NOTE, PING, add("1", 2), request("tools/list", request_id=3), request("no/such", {}, 4)]
        status, kind, body = await posted(session, batch)
        assert (status, kind) == (200, "application/json")
        found = by_id(body)
        assert found.keys() == {1, "p", "1", 3, 4}, "a notification has none"
        assert (text(found[1]), text(found["1"])) == ("2", "3")
        assert found["p"]["result"] == {}
        assert any(tool["name"] == "kit__add" for tool in found[3]["result"]["tools"])
        assert found[4]["error"]["code"] == -32601


async def test_a_batch_of_one_request_is_answered_by_an_array_of_one(tmp_path: Path) -> None:
    async with scene(tmp_path) as (node, _), raw_session(node.url, VERSION) as session:
        status, _, body = await posted(session, [PING])
        assert (status, body) == (200, [{"jsonrpc": "2.0", "id": "p", "result": {}}])


@pytest.mark.parametrize("batch", [[NOTE], [REPLY], [NOTE, REPLY, NOTE]], ids=["note", "response", "both"])
async def test_a_batch_without_requests_is_accepted_without_a_body(batch: list[Json], tmp_path: Path) -> None:
    async with scene(tmp_path) as (node, _), raw_session(node.url, VERSION) as session:
        assert await posted(session, batch) == (202, "application/json", None)


async def test_an_empty_batch_and_a_longer_one_than_allowed_are_invalid_requests(tmp_path: Path) -> None:
    async with scene(tmp_path) as (node, _), raw_session(node.url, VERSION) as session:
        for batch, wanted in (([], 400), ([NOTE] * (BATCH_LEN_MAX + 1), 413)):
            status, _, body = await posted(session, batch)
            assert status == wanted
            assert (body["id"], body["error"]["code"]) == (None, -32600)
            assert body["error"]["message"] == f"A batch has 1 to {BATCH_LEN_MAX} messages"
        status, _, body = await posted(session, [request("ping", request_id=n) for n in range(BATCH_LEN_MAX)])
        assert (status, len(body)) == (200, BATCH_LEN_MAX)


async def test_initialize_in_a_batch_is_refused_and_the_rest_is_served(tmp_path: Path) -> None:
    async with scene(tmp_path) as (node, _), raw_session(node.url, VERSION) as session:
        begin = request("initialize", {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": {}}, 5)
        status, _, body = await posted(session, [begin, PING])
        assert status == 200
        found = by_id(body)
        assert found[5]["error"] == {"code": -32600, "message": "initialize may not be part of a batch"}
        assert found["p"]["result"] == {}


async def test_what_is_no_message_costs_an_error_without_id_and_no_other_member(tmp_path: Path) -> None:
    async with scene(tmp_path) as (node, _), raw_session(node.url, VERSION) as session:
        nonsense: list[Any] = [1, [], {"jsonrpc": "2.0", "id": None, "method": "ping"}, {"foo": "boo"}]
        status, _, body = await posted(session, nonsense)
        assert status == 400, "nothing of it could be accepted"
        assert [(one["id"], one["error"]["code"]) for one in body] == [(None, -32600)] * len(nonsense)
        status, _, body = await posted(session, [*nonsense, PING])
        assert (status, len(body)) == (200, len(nonsense) + 1)
        assert body[-1]["id"] == "p"


async def test_a_request_id_that_a_batch_uses_twice_is_served_once(tmp_path: Path) -> None:
    async with scene(tmp_path) as (node, _), raw_session(node.url, VERSION) as session:
        _, _, body = await posted(session, [add(1, 1), add(1, 2)])
        assert sorted("error" in response for response in body) == [False, True]


async def test_what_precedes_the_responses_makes_them_events_of_a_stream_as_they_come(tmp_path: Path) -> None:
    async with scene(tmp_path) as (node, kit), raw_session(node.url, VERSION) as session:
        counting = call("kit__count", "slow")
        counting["params"]["_meta"] = {"progressToken": "t"}
        async with session.post([counting, PING]) as response:
            assert response.content_type == "text/event-stream"
            events = messages(response)
            told = await anext(events)
            assert (told["method"], told["params"]["progressToken"]) == ("notifications/progress", "t")
            kit.release.set()
            found = by_id([event async for event in events])
        assert found.keys() == {"p", "slow"}
        assert text(found["slow"]) == "counted"


async def test_a_cancelled_request_of_a_batch_has_no_response(tmp_path: Path) -> None:
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "w"}}
    async with scene(tmp_path) as (node, kit), raw_session(node.url, VERSION) as session:
        waiting = asyncio.ensure_future(posted(session, [call("kit__wait", "w"), add(1, 1)]))
        await kit.waiting.wait()
        await session.note("notifications/cancelled", {"requestId": "w"})
        status, _, body = await waiting
        assert (status, [response["id"] for response in body]) == (200, [1])
        status, _, body = await posted(session, [call("kit__wait", "w"), cancel, PING])
        assert (status, [response["id"] for response in body]) == (200, ["p"]), "in the order of the batch"


async def test_a_server_request_of_a_call_in_a_batch_is_answered_by_a_batch(tmp_path: Path) -> None:
    async with (
        scene(tmp_path) as (node, _),
        raw_session(node.url, VERSION, elicitation={}) as session,
        session.post([call("kit__ask", "q")]) as response,
    ):
        events = messages(response)
        asked = await anext(events)
        assert asked["method"] == "elicitation/create"
        reply = {"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "decline"}}
        assert (await posted(session, [reply]))[0] == 202
        assert [text(event) async for event in events] == ["decline"]


@pytest.mark.parametrize("version", LATER)
async def test_later_versions_have_no_batches(version: str, tmp_path: Path) -> None:
    async with scene(tmp_path) as (node, _), raw_session(node.url, version) as session:
        status, _, body = await posted(session, [PING])
        assert (status, body["error"]["message"]) == (400, "The body must be one JSON-RPC 2.0 message")


async def test_the_typescript_clients_batches_are_answered_as_it_reads_them(tmp_path: Path) -> None:
    tools = node_tools()
    if tools is None:
        pytest.skip(f"NO NODE PROGRAMS ({why_not()}); `python -m tests.conformance.node_tools` installs them")
    slow = call("kit__count", "slow")
    slow["params"]["_meta"] = {"progressToken": "t"}
    batches = [
        {"messages": [{"jsonrpc": "2.0", "method": "notifications/initialized"}], "count": 0},
        {"messages": [add(1, 1), PING], "count": 2},
        {"messages": [slow, add(2, 2)], "count": 3},
    ]
    async with scene(tmp_path) as (node, kit):
        kit.release.set()
        command = (str(tools.node), str(SCRIPT), str(tools.modules), node.url, json.dumps(batches))
        program = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        async with asyncio.timeout(CLIENT_TIMEOUT_S):
            out, _ = await program.communicate()
    (begun,), none, plain, streamed = json.loads(out)
    assert begun["result"]["protocolVersion"] == VERSION
    assert none == []
    assert text(by_id(plain)[1]) == "2"
    assert streamed[0]["method"] == "notifications/progress"
    assert {key: text(response) for key, response in by_id(streamed[1:]).items()} == {"slow": "counted", 2: "3"}
