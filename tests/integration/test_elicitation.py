"""Servers of 2026-07-28 that ask back, behind one node and behind two, asked by clients of both eras."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mcp_types as types
import pytest
from mcp.client import Client
from mcp.shared.exceptions import MCPError

from agent.client.connect import McpClient
from agent.client.protocol import Request
from agent.errors import NOT_EXECUTED, OUTCOME_UNKNOWN, RpcError
from agent.model import Era, HttpTarget, Json, ServerScope, ServerSpec
from tests.integration.servers.answering_client import answering_client
from tests.integration.servers.asking_server import asking_server
from tests.integration.servers.hops import front_of, replicas
from tests.integration.servers.nodes import RunningNode, client, served

CAPABILITIES = {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}}


@asynccontextmanager
async def scene(folder: Path, hops: int) -> AsyncIterator[RunningNode]:
    """The front node; with two hops there are two replicas, each on a node of its own."""
    async with AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(served(asking_server(place))) for place in ("east", "west")[:hops]]
        specs = [ServerSpec("kit", HttpTarget(url), ServerScope.SERVICE) for url in urls]
        yield await stack.enter_async_context(front_of(folder, *specs, hops=hops))


def _keys(node: RunningNode) -> set[str]:
    return {replica.backend_key for replica in node.mesh.routes.tools["kit__book"].replicas}


async def ask(mcp: McpClient, name: str, **more: Any) -> Json:
    return await mcp.request(
        Request.within("tools/call", {"name": f"kit__{name}", "_meta": CAPABILITIES, **more}, timeout_s=15)
    )


def filled_in(key: str, word: str) -> Json:
    return {"inputResponses": {key: {"action": "accept", "content": {"word": word}}}}


def text(result: Json) -> str:
    said = result["content"][0]["text"]
    assert isinstance(said, str)
    return said


@pytest.mark.parametrize("hops", [1, 2])
async def test_each_round_of_a_modern_client_comes_to_the_replica_that_asked(hops: int, tmp_path: Path) -> None:
    async with scene(tmp_path, hops) as front, client(front.url, Era.MODERN) as mcp:
        places = set()
        for _ in range(8):
            first = await ask(mcp, "book")
            second = await ask(mcp, "book", **filled_in("first", "here"), requestState=first["requestState"])
            assert second["inputRequests"].keys() == {"second"}
            last = await ask(mcp, "book", **filled_in("second", "there"), requestState=second["requestState"])
            place, _, said = text(last).partition(": ")
            assert said == "from here to there"
            places.add(place)
        assert len(places) == hops, "every replica asked the user"


async def test_a_state_that_was_changed_or_belongs_elsewhere_is_refused_and_asks_no_server(tmp_path: Path) -> None:
    async with scene(tmp_path, 1) as front, client(front.url, Era.MODERN) as mcp:
        state = (await ask(mcp, "book"))["requestState"]
        for name, bad in {"book": state[:-1] + "~", "insatiable": state, "patient": "forged"}.items():
            with pytest.raises(RpcError, match="requestState") as caught:
                await ask(mcp, name, requestState=bad)
            assert (caught.value.code, caught.value.data) == (-32602, {"reason": "invalid_request_state"})


async def test_a_retry_whose_replica_is_gone_is_executed_by_no_other(tmp_path: Path) -> None:
    async with scene(tmp_path, 2) as front, client(front.url, Era.MODERN) as mcp:
        states = [(await ask(mcp, "book"))["requestState"] for _ in range(12)]
        east = next(view.spec for view in front.mesh.views() if view.spec.name == "n0")
        await front.rest("DELETE", f"/peers/{east.name}")
        await front.when(lambda: replicas(front, "kit__book") == 1)
        ends = {await how_it_ends(mcp, state) for state in states}
        assert ends == {"input_required", (NOT_EXECUTED, "not_executed")}


async def how_it_ends(mcp: McpClient, state: str) -> object:
    """The kind of result of the second round, or its error."""
    try:
        return (await ask(mcp, "book", **filled_in("first", "here"), requestState=state))["resultType"]
    except RpcError as exc:
        return exc.code, exc.data["outcome"]


@dataclass
class Human:
    """The user of a legacy client, and the questions."""

    asked: list[Any] = field(default_factory=list)
    refuses: bool = False
    meanwhile: Callable[[], Awaitable[None]] | None = None

    async def elicited(self, _: Any, params: Any) -> types.ElicitResult | types.ErrorData:
        self.asked.append(params)
        if self.meanwhile is not None:
            await self.meanwhile()
        if self.refuses:
            return types.ErrorData(code=-1, message="not my business")
        if params.mode == "url":
            return types.ElicitResult(action="accept")
        return types.ElicitResult(action="accept", content={"word": f"answer {len(self.asked)}"})

    async def sampled(self, _: Any, params: Any) -> types.CreateMessageResult:
        self.asked.append(params)
        return types.CreateMessageResult(role="assistant", content=types.TextContent(text="Hello"), model="m")

    async def rooted(self, _: Any) -> types.ListRootsResult:
        return types.ListRootsResult(roots=[types.Root(uri="file:///here")])


def session(front: RunningNode, human: Human, *features: str) -> AbstractAsyncContextManager[Client]:
    """A legacy client of the SDK that declares some features."""
    return answering_client(front.url, Era.LEGACY, human, features)


def words(result: types.CallToolResult) -> str:
    assert isinstance(result.content[0], types.TextContent)
    return result.content[0].text


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_client_with_a_session_sees_one_call_however_often_it_is_asked(hops: int, tmp_path: Path) -> None:
    human = Human()
    async with scene(tmp_path, hops) as front, session(front, human, "elicitation", "sampling", "roots") as mcp:
        assert words(await mcp.call_tool("kit__declared", {})) == "elicitation,roots,sampling,tasks"
        said = words(await mcp.call_tool("kit__book", {}))
        assert said.partition(": ")[2] == "from answer 1 to answer 2"
        assert [params.message for params in human.asked] == ["From where?", "To where?"]
        assert words(await mcp.call_tool("kit__greet", {})) == "Hello answer 3 at file:///here"
        assert words(await mcp.call_tool("kit__patient", {})).endswith("after 2")
        prompt = await mcp.get_prompt("kit__introduce", {})
        assert isinstance(prompt.messages[0].content, types.TextContent)
        assert prompt.messages[0].content.text == "I am answer 5"


async def test_a_question_at_a_url_gets_the_number_that_older_clients_want(tmp_path: Path) -> None:
    human = Human()
    async with scene(tmp_path, 1) as front, session(front, human, "elicitation") as mcp:
        assert words(await mcp.call_tool("kit__sign", {})) == "signed: accept"
        assert human.asked[0].elicitation_id


async def test_a_client_is_asked_for_nothing_that_it_did_not_declare(tmp_path: Path) -> None:
    human = Human()
    async with scene(tmp_path, 1) as front, session(front, human, "sampling") as mcp:
        assert words(await mcp.call_tool("kit__declared", {})) == "sampling,tasks"
        for name in ("kit__book", "kit__greet", "kit__sign"):
            with pytest.raises(MCPError, match="did not declare") as caught:
                await mcp.call_tool(name, {})
            assert caught.value.error.code == -32021
        assert human.asked == [], "not even what it did declare, when the rest is missing"


async def test_a_server_that_never_has_enough_ends_in_an_error(tmp_path: Path) -> None:
    human = Human()
    async with scene(tmp_path, 1) as front, session(front, human, "elicitation") as mcp:
        with pytest.raises(MCPError, match="still asked after 10 rounds") as caught:
            await mcp.call_tool("kit__insatiable", {})
        assert caught.value.error.code == OUTCOME_UNKNOWN
        assert len(human.asked) == 10


async def test_a_client_that_refuses_to_be_asked_hears_that_its_call_was_not_completed(tmp_path: Path) -> None:
    human = Human(refuses=True)
    async with scene(tmp_path, 1) as front, session(front, human, "elicitation") as mcp:
        with pytest.raises(MCPError, match="refused elicitation/create: not my business") as caught:
            await mcp.call_tool("kit__book", {})
        assert caught.value.error.data["outcome"] == "unknown"
        assert caught.value.error.data["replica"] == "server:kit"


async def test_a_user_may_think_while_the_links_get_other_names(tmp_path: Path) -> None:
    human = Human()
    async with scene(tmp_path, 2) as front, session(front, human, "elicitation") as mcp:

        async def rename() -> None:
            human.meanwhile = None
            targets = {view.spec.name: view.spec.target for view in front.mesh.views()}
            for name, target in targets.items():
                assert isinstance(target, HttpTarget)
                status, _ = await front.add_peer(f"new-{name}", target.url.removesuffix("/local"))
                assert status == 201
            await front.when(lambda: _keys(front) == {"peer:new-n0", "peer:new-n1"})

        human.meanwhile = rename
        assert _keys(front).isdisjoint({"peer:new-n0", "peer:new-n1"})
        assert words(await mcp.call_tool("kit__book", {})).endswith("from answer 1 to answer 2")


async def test_a_user_who_thinks_until_the_replica_is_gone_hears_that_no_other_went_on(tmp_path: Path) -> None:
    human = Human()
    async with scene(tmp_path, 2) as front, session(front, human, "elicitation") as mcp:

        async def remove() -> None:
            for view in front.mesh.views():
                await front.rest("DELETE", f"/peers/{view.spec.name}")
            await front.when(lambda: replicas(front, "kit__book") == 0)

        human.meanwhile = remove
        with pytest.raises(MCPError, match="not executed") as caught:
            await mcp.call_tool("kit__book", {})
        assert caught.value.error.code == NOT_EXECUTED
