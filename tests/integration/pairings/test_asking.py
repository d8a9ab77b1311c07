"""Pairings: what a server asks in the middle of a call comes to the client, and the answers to the server."""

import json
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import mcp_types as types
import pytest
from mcp.client import Client
from mcp.shared.exceptions import MCPError

from agent.errors import RpcError
from agent.model import Era, Json
from tests.integration.pairings.cells import CAPABILITIES_KEY, Cell, Wire, wire
from tests.integration.servers.answering_client import answering_client
from tests.integration.servers.pairing_definitions import QUESTIONS

EVERYTHING: Json = {"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}}
ANSWERS: Json = {
    "form": {"action": "accept", "content": {"word": "Ada"}},
    "url": {"action": "accept"},
    "sampling": {"role": "assistant", "content": {"type": "text", "text": "Hello"}, "model": "m"},
    "roots": {"roots": [{"uri": "file:///home", "name": "home"}]},
}


# What a client has to declare to be asked that.
NEEDED: Json = {
    "form": {"elicitation": {"form": {}}},
    "url": {"elicitation": {"url": {}}},
    "sampling": {"sampling": {}},
}


@dataclass
class Human:
    """Who answers. `asked`: the params of each question, as the client understood them."""

    asked: list[Json] = field(default_factory=list)
    refuses: bool = False

    async def elicited(self, _: Any, params: Any) -> types.ElicitResult | types.ErrorData:
        self._note(params)
        if self.refuses:
            return types.ErrorData(code=-7, message="not my business", data={"n": 1.0})
        return types.ElicitResult(**ANSWERS["url" if params.mode == "url" else "form"])

    async def sampled(self, _: Any, params: Any) -> types.CreateMessageResult:
        self._note(params)
        return types.CreateMessageResult(**ANSWERS["sampling"])

    async def rooted(self, _: Any) -> types.ListRootsResult:
        self.asked.append({})
        return types.ListRootsResult(**ANSWERS["roots"])

    def _note(self, params: Any) -> None:
        self.asked.append(params.model_dump(by_alias=True, mode="json", exclude_none=True))


def connected(cell: Cell, human: Human) -> AbstractAsyncContextManager[Client]:
    """The SDK's client, which can be asked everything."""
    return answering_client(cell.url, cell.front, human)


async def answered(mcp: Client, cell: Cell, *kinds: str) -> list[Json]:
    """What the server was answered when it asked one thing after the other."""
    result = await mcp.call_tool(cell.name("ask"), {"kinds": list(kinds)})
    assert isinstance(result.content[0], types.TextContent)
    answers: list[Json] = json.loads(result.content[0].text)
    return answers


async def check_everything_is_answered(cell: Cell) -> None:
    human = Human()
    async with connected(cell, human) as mcp:
        answers = await answered(mcp, cell, *QUESTIONS)
    assert answers == [ANSWERS[kind] for kind in QUESTIONS]
    for asked, question in zip(human.asked, QUESTIONS.values(), strict=True):
        told = {name: value for name, value in asked.items() if name not in ("mode", "_meta", "elicitationId")}
        assert told == {
            name: value for name, value in question["params"].items() if name not in ("mode", "elicitationId")
        }


async def test_everything_that_a_server_asks_is_answered_by_the_client(cell: Cell) -> None:
    if cell.server != "legacy-stdio":
        await check_everything_is_answered(cell)
        return
    # A child that all share cannot say which client it asks, so it hears that no client can be asked.
    human = Human()
    async with connected(cell, human) as mcp:
        answers = await answered(mcp, cell, *QUESTIONS)
    assert [answer["error"]["code"] for answer in answers] == [-32601] * len(QUESTIONS)
    assert human.asked == []


async def test_what_a_question_links_to_has_the_name_that_lists_show(cell: Cell) -> None:
    if cell.server == "legacy-stdio":
        cell = Cell(cell.front, cell.url, "legacy-own")
    human = Human()
    async with connected(cell, human) as mcp:
        assert await answered(mcp, cell, "linked") == [ANSWERS["sampling"]]
        (message,) = human.asked[0]["messages"]
        (result,) = message["content"]
        embedded, link = result["content"]
        assert embedded["resource"]["uri"] == cell.uri("pair://item/two")
        assert link["uri"] == cell.uri("pair://page/one")
        read = await mcp.read_resource(link["uri"])
    assert str(read.contents[0].uri) == cell.uri("pair://page/one")


async def test_a_child_of_ones_own_asks_everything(own_cell: Cell) -> None:
    await check_everything_is_answered(own_cell)


def params_of(cell: Cell, features: Json, *kinds: str, **more: Any) -> Json:
    """Of a call that asks, by a client with these features."""
    params: Json = {"name": cell.name("ask"), "arguments": {"kinds": list(kinds)}, **more}
    return params if cell.front is Era.LEGACY else {**params, "_meta": {CAPABILITIES_KEY: features}}


@pytest.mark.parametrize("changes", [False, True], ids=["lists stay", "lists change"])
@pytest.mark.parametrize(
    ("features", "kind", "code"),
    [({}, "form", -32601), ({"elicitation": {}}, "url", -32602), ({"elicitation": {}}, "sampling", -32601)],
    ids=["form of a client without forms", "URL of a reader of forms", "model of a reader of forms"],
)
async def test_a_question_that_the_client_did_not_declare_is_refused(
    cell: Cell,
    features: Json,
    kind: str,
    code: int,
    changes: bool,
) -> None:
    async with wire(cell, **features) as mcp:
        if changes:
            await mcp.grow()
        if cell.behind is Era.LEGACY:
            # The server hears the refusal, and its call goes on.
            answers = json.loads((await mcp.ask("tools/call", params_of(cell, features, kind)))["content"][0]["text"])
            shared = cell.server == "legacy-stdio"
            assert [answer["error"]["code"] for answer in answers] == [-32601 if shared else code]
            return
        # Towards the client the node is the server, which must not ask that (MCP 2026-07-28, patterns).
        with pytest.raises(RpcError, match="did not declare") as caught:
            await mcp.ask("tools/call", params_of(cell, features, kind))
        assert (caught.value.code, caught.value.data) == (-32021, {"requiredCapabilities": NEEDED[kind]})


async def test_a_client_that_refuses_is_heard_by_servers_that_can_hear_it(cell: Cell) -> None:
    if cell.server == "legacy-stdio":
        cell = Cell(cell.front, cell.url, "legacy-own")
    async with connected(cell, Human(refuses=True)) as mcp:
        if cell.front is Era.MODERN:
            # It never answers; the SDK's client raises what its callback said.
            with pytest.raises(MCPError, match="not my business"):
                await answered(mcp, cell, "form")
        elif cell.behind is Era.LEGACY:
            error = {"code": -7, "message": "not my business", "data": {"n": 1.0}}
            assert await answered(mcp, cell, "form") == [{"error": error}]
        else:
            with pytest.raises(MCPError, match="not my business") as caught:
                await answered(mcp, cell, "form")
            assert caught.value.error.code == -32001


def stateless(test: Any) -> Any:
    """Only for clients that retry a call themselves."""
    ways = [(Era.MODERN, "own"), (Era.MODERN, "peer")]
    return pytest.mark.parametrize("way", ways, indirect=True, ids=["own", "peer"])(test)


async def asked(mcp: Wire, cell: Cell, *kinds: str, **more: Any) -> Json:
    return await mcp.ask("tools/call", params_of(cell, EVERYTHING, *kinds, **more))


@stateless
async def test_a_question_passes_as_it_was_written_and_so_does_its_answer(cell: Cell) -> None:
    if cell.server == "legacy-stdio":
        cell = Cell(cell.front, cell.url, "legacy-own")
    more = {"action": "accept", "content": {"word": "Ada", "n": 1.0}, "x-future": 1.0}
    async with wire(cell) as mcp:
        first = await asked(mcp, cell, "form", "sampling")
        assert first["resultType"] == "input_required"
        (key,) = first["inputRequests"]
        assert first["inputRequests"][key] == QUESTIONS["form"]
        second = await asked(
            mcp, cell, "form", "sampling", inputResponses={key: more}, requestState=first["requestState"]
        )
        (key,) = second["inputRequests"]
        assert second["inputRequests"][key] == QUESTIONS["sampling"]
        last = await asked(
            mcp,
            cell,
            "form",
            "sampling",
            inputResponses={key: ANSWERS["sampling"]},
            requestState=second["requestState"],
        )
    assert json.loads(last["content"][0]["text"]) == [more, ANSWERS["sampling"]]


@stateless
async def test_a_state_that_was_not_given_for_this_request_is_refused(cell: Cell) -> None:
    if cell.server == "legacy-stdio":
        cell = Cell(cell.front, cell.url, "legacy-own")
    async with wire(cell) as mcp:
        first = await asked(mcp, cell, "form")
        state = first["requestState"]
        half = len(state) // 2
        changed = state[:half] + ("A" if state[half] != "A" else "B") + state[half + 1 :]
        for forged in (changed, "[]", ""):
            with pytest.raises(RpcError) as caught:
                await asked(mcp, cell, "form", inputResponses={"q": ANSWERS["form"]}, requestState=forged)
            assert (caught.value.code, caught.value.data) == (-32602, {"reason": "invalid_request_state"})
        other = {"name": cell.name("echo"), "arguments": {}, "requestState": state}
        with pytest.raises(RpcError) as caught:
            await mcp.ask("tools/call", other)
        assert (caught.value.code, caught.value.data) == (-32602, {"reason": "invalid_request_state"})
