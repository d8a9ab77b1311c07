"""Servers with sessions (2025-11-25) that ask while a call runs: behind one node and two, clients of both eras."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mcp_types as types
import pytest
from mcp.client import Client

from agent.client.connect import McpClient
from agent.client.protocol import Request
from agent.errors import RpcError
from agent.model import Era, HttpTarget, Json, ServerScope, ServerSpec, Sessions, StdioTarget
from tests.integration.servers import warm
from tests.integration.servers.answering_client import answering_client
from tests.integration.servers.hops import front_of
from tests.integration.servers.hosting import Front, http_app, serving
from tests.integration.servers.nodes import RunningNode, client
from tests.integration.servers.raw_session import messages, raw_session, request
from tests.integration.servers.session_asking_server import Diary, session_asking_server

pytestmark = pytest.mark.usefixtures("warm_servers")

ROOT = Path(__file__).parents[2]
EVERYTHING: Json = {"elicitation": {}, "sampling": {}, "roots": {}}


@asynccontextmanager
async def children(folder: Path, *, own: bool, hops: int = 1) -> AsyncIterator[RunningNode]:
    """A node that runs the server itself, over stdio, or with two hops one in front of it."""
    target = StdioTarget(
        sys.executable, (*warm.COMMAND, "tests.integration.servers.session_asking_server"), cwd=str(ROOT)
    )
    spec = ServerSpec("kit", target, ServerScope.SERVICE, sessions=Sessions.OWN if own else Sessions.AUTO)
    async with front_of(folder, spec, hops=hops) as node:
        yield node


@asynccontextmanager
async def scene(
    folder: Path,
    hops: int = 1,
    diary: Diary | None = None,
    *,
    own: bool = False,
    shared: bool = False,
    seen: list[dict[str, str]] | None = None,
) -> AsyncIterator[RunningNode]:
    """The node that clients talk to, with a server over HTTP behind it; `seen` takes the heads of its requests."""
    async with AsyncExitStack() as stack:
        app = await stack.enter_async_context(http_app(session_asking_server(diary or Diary())))
        base = await stack.enter_async_context(serving(asked := Front(app, refuse_modern=400)))
        asked.seen = asked.seen if seen is None else seen
        sessions = Sessions.OWN if own else Sessions.SHARED if shared else Sessions.AUTO
        spec = ServerSpec("kit", HttpTarget(f"{base}/mcp"), ServerScope.SERVICE, sessions=sessions)
        yield await stack.enter_async_context(front_of(folder, spec, hops=hops))


@dataclass
class Human:
    """Who answers; `name` is in every answer, so that one that went astray shows."""

    name: str = "human"
    asked: list[str] = field(default_factory=list)
    refuses: bool = False
    thinks: asyncio.Event | None = None

    async def elicited(self, _: Any, params: Any) -> types.ElicitResult | types.ErrorData:
        self.asked.append(params.message)
        if self.refuses:
            return types.ErrorData(code=-1, message="not my business", data={"why": "private"})
        if self.thinks is not None:
            self.thinks.set()
            await asyncio.Event().wait()
        return types.ElicitResult(action="accept", content={"word": f"{self.name}-{len(self.asked)}"})

    async def sampled(self, _: Any, params: Any) -> types.CreateMessageResult:
        text = f"{self.name} on {params.messages[0].content.text}"
        return types.CreateMessageResult(role="assistant", content=types.TextContent(text=text), model="m")

    async def rooted(self, _: Any) -> types.ListRootsResult:
        return types.ListRootsResult(roots=[types.Root(uri=f"file:///{self.name}")])


def words(result: types.CallToolResult) -> str:
    assert isinstance(result.content[0], types.TextContent)
    return result.content[0].text


async def together(*calls: Awaitable[types.CallToolResult]) -> list[types.CallToolResult]:
    """The results of calls that run at once, in order."""
    return list(await asyncio.gather(*calls))


def asking(name: str, features: Json | None = None, **more: Any) -> Json:
    """Params of a call by a raw modern client."""
    meta = {"io.modelcontextprotocol/clientCapabilities": EVERYTHING if features is None else features}
    return {"name": f"kit__{name}", "_meta": meta, **more}


async def call(mcp: McpClient, name: str, **more: Any) -> Json:
    return await mcp.request(Request.within("tools/call", asking(name, **more), timeout_s=15))


def answers(result: Json, *said: str) -> Json:
    """The retry's members for a result that asks."""
    accepted = [{"action": "accept", "content": {"word": word}} for word in said]
    keys = list(result["inputRequests"])
    return {"inputResponses": dict(zip(keys, accepted, strict=False)), "requestState": result["requestState"]}


def text(result: Json) -> str:
    assert result["resultType"] == "complete"
    return str(result["content"][0]["text"])


@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize("era", list(Era))
async def test_everything_that_a_server_asks_gets_to_the_client_and_back(era: Era, hops: int, tmp_path: Path) -> None:
    human = Human()
    async with scene(tmp_path, hops) as front, answering_client(front.url, era, human) as mcp:
        assert words(await mcp.call_tool("kit__declared", {})) == "elicitation,roots,sampling,tasks"
        assert words(await mcp.call_tool("kit__alive", {})) == "alive"
        assert words(await mcp.call_tool("kit__order", {"what": "tea"})) == "tea for human-1 at human-2"
        assert human.asked == ["Who gets tea?", "Where is human-1?"]
        assert words(await mcp.call_tool("kit__compose", {"about": "rain"})) == "m: human on rain"
        assert words(await mcp.call_tool("kit__where", {})) == "file:///human"
        assert sorted(words(await mcp.call_tool("kit__at_once", {})).split()) == ["human-3", "human-4", "human-5"]
        prompt = await mcp.get_prompt("kit__introduce", {})
        assert isinstance(prompt.messages[0].content, types.TextContent)
        assert prompt.messages[0].content.text == "I am human-6"


@pytest.mark.parametrize("era", list(Era))
async def test_answers_of_many_clients_at_once_never_get_mixed_up(era: Era, tmp_path: Path) -> None:
    async with scene(tmp_path) as front, AsyncExitStack() as stack:
        humans = [Human(f"h{n}") for n in range(6)]
        clients = [await stack.enter_async_context(answering_client(front.url, era, human)) for human in humans]
        async with asyncio.TaskGroup() as group:
            orders = [group.create_task(c.call_tool("kit__order", {"what": "tea"}), name="order") for c in clients]
            places = [group.create_task(c.call_tool("kit__where", {}), name="where") for c in clients]
        for human, order, place in zip(humans, orders, places, strict=True):
            assert words(order.result()) == f"tea for {human.name}-1 at {human.name}-2"
            assert words(place.result()) == f"file:///{human.name}"


async def test_a_state_is_good_for_one_retry_and_the_call_runs_once(tmp_path: Path) -> None:
    diary = Diary()
    async with scene(tmp_path, diary=diary) as front, client(front.url, Era.MODERN) as mcp:
        first = await call(mcp, "order", arguments={"what": "tea"})
        (question,) = first["inputRequests"].values()
        assert question["method"] == "elicitation/create"
        assert question["params"]["message"] == "Who gets tea?"
        again = answers(first, "Ada")
        second = await call(mcp, "order", **again)
        for state in (again, {**again, "inputResponses": {}}):
            with pytest.raises(RpcError, match="answered already") as caught:
                await call(mcp, "order", **state)
            assert (caught.value.code, caught.value.data) == (-32602, {"reason": "invalid_request_state"})
        assert text(await call(mcp, "order", **answers(second, "home"))) == "tea for Ada at home"
        assert diary.runs == ["tea"]


async def test_progress_goes_on_in_each_round_under_the_token_of_that_round(tmp_path: Path) -> None:
    heard: list[tuple[object, float]] = []

    async def on_notification(method: str, params: Json) -> None:
        assert method == "notifications/progress"
        heard.append((params["progressToken"], params["progress"]))

    async def round_of(mcp: McpClient, token: str | None, **more: Any) -> Json:
        params = asking("order", **more)
        if token is not None:
            params["_meta"]["progressToken"] = token
        return await mcp.request(Request.within("tools/call", params, timeout_s=15, on_notification=on_notification))

    async with scene(tmp_path, 2) as front, client(front.url, Era.MODERN) as mcp:
        for second in ("two", None):
            asked = await round_of(mcp, "one", arguments={"what": "tea"})
            asked = await round_of(mcp, second, **answers(asked, "Ada"))
            assert text(await round_of(mcp, "three", **answers(asked, "home"))) == "tea for Ada at home"
    assert heard == [("one", 1), ("two", 2), ("three", 3), ("one", 1), ("three", 3)]


async def test_what_was_not_answered_is_asked_again_and_what_is_no_answer_is_refused(tmp_path: Path) -> None:
    async with scene(tmp_path) as front, client(front.url, Era.MODERN) as mcp:
        first = await call(mcp, "order", arguments={"what": "tea"})
        state = first["requestState"]
        with pytest.raises(RpcError, match="must be an object of results"):
            await call(mcp, "order", requestState=state, inputResponses={"question-1": "Ada"})
        same = await call(mcp, "order", requestState=state, inputResponses={"unknown": {"action": "decline"}})
        assert same["inputRequests"] == first["inputRequests"]
        assert same["requestState"] != state
        second = await call(mcp, "order", **answers(same, "Ada"))
        assert text(await call(mcp, "order", **answers(second, "home"))) == "tea for Ada at home"
        with pytest.raises(RpcError, match="without the requestState"):
            await call(mcp, "order", inputResponses={})


async def test_a_question_may_be_as_large_as_an_answer(tmp_path: Path) -> None:
    async with scene(tmp_path) as front, client(front.url, Era.MODERN) as mcp:
        asked = await call(mcp, "compose", arguments={"about": "x" * 1_500_000})
        (question,) = asked["inputRequests"].values()
        assert len(question["params"]["messages"][0]["content"]["text"]) == 1_500_000


async def test_a_server_that_asks_for_what_was_not_declared_hears_so_and_its_answer_passes(tmp_path: Path) -> None:
    async with scene(tmp_path) as front, client(front.url, Era.MODERN) as mcp:
        refused = "-32601 The client did not declare that it can be asked sampling/createMessage"
        assert text(await call(mcp, "bold", features={"elicitation": {}})) == refused
        assert text(await call(mcp, "bold", features={})).startswith("-32601 ")
        by_url = await call(mcp, "careful", features={"elicitation": {"url": {}}})
        assert text(by_url) == "-32602 The client did not declare this mode of elicitation"


async def test_a_client_that_goes_away_cancels_the_call_that_it_waits_for(tmp_path: Path) -> None:
    diary = Diary()
    async with scene(tmp_path, diary=diary) as front, client(front.url, Era.MODERN) as mcp:
        asked = await call(mcp, "patient")
        waiting = asyncio.ensure_future(call(mcp, "patient", **answers(asked, "yes")))
        await diary.asked.wait()
        other = await call(mcp, "order", arguments={"what": "tea"})
        waiting.cancel()
        async with asyncio.timeout(10):
            await diary.cancelled.wait()
        assert "inputRequests" in await call(mcp, "order", **answers(other, "Ada")), "others are left alone"


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_server_with_an_open_call_hears_that_its_client_refused_and_goes_on(hops: int, tmp_path: Path) -> None:
    human = Human(refuses=True)
    async with scene(tmp_path, hops) as front, answering_client(front.url, Era.LEGACY, human) as mcp:
        assert words(await mcp.call_tool("kit__careful", {})) == "-1 not my business {'why': 'private'}"
        human.refuses = False
        assert words(await mcp.call_tool("kit__careful", {})) == "human-2"


async def test_a_server_may_ask_a_client_with_a_session_as_often_as_it_likes(tmp_path: Path) -> None:
    human = Human()
    async with scene(tmp_path) as front, answering_client(front.url, Era.LEGACY, human) as mcp:
        assert words(await mcp.call_tool("kit__insatiable", {"times": 15})) == "human-15"


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_client_that_cancels_while_it_is_asked_cancels_the_servers_call(hops: int, tmp_path: Path) -> None:
    diary, human = Diary(), Human(thinks=asyncio.Event())
    assert human.thinks is not None
    async with scene(tmp_path, hops, diary) as front, answering_client(front.url, Era.LEGACY, human) as mcp:
        waiting = asyncio.ensure_future(mcp.call_tool("kit__patient", {}))
        await human.thinks.wait()
        waiting.cancel()
        async with asyncio.timeout(10):
            await diary.cancelled.wait()


async def test_metrics_count_calls_that_wait_for_their_client(tmp_path: Path) -> None:
    async with scene(tmp_path) as front, client(front.url, Era.MODERN) as mcp:
        asked = await call(mcp, "careful")
        assert "mesh_parked_calls 1.0" in front.metrics.render()[0].decode()
        await call(mcp, "careful", **answers(asked, "yes"))
        shown = front.metrics.render()[0].decode()
    assert "mesh_parked_calls 0.0" in shown
    for event in ("parked", "resumed"):
        assert f'mesh_parked_call_events_total{{event="{event}"}} 1.0' in shown


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_question_of_a_server_that_died_goes_off_the_screen(hops: int, tmp_path: Path) -> None:
    async with (
        asyncio.timeout(30),
        children(tmp_path, own=True, hops=hops) as front,
        raw_session(front.url, elicitation={}) as mcp,
    ):
        pid = await mcp.request("tools/call", {"name": "kit__pid", "arguments": {}})
        async with mcp.post(request("tools/call", {"name": "kit__careful", "arguments": {}})) as response:
            told = messages(response)
            question = await anext(told)
            assert question["method"] == "elicitation/create"
            os.kill(int(pid["result"]["content"][0]["text"]), signal.SIGKILL)
            off = await anext(told)
            assert (off["method"], off["params"]["requestId"]) == ("notifications/cancelled", question["id"])
            assert (await anext(told))["error"]["code"] == -32001
            await mcp.reply(question, result={"action": "accept"})


@pytest.mark.parametrize("era", list(Era))
async def test_what_a_server_remembers_of_one_client_never_reaches_another(era: Era, tmp_path: Path) -> None:
    async with scene(tmp_path) as front:
        for name in ("ada", "ben"):
            async with answering_client(front.url, era, Human(name)) as mcp:
                assert words(await mcp.call_tool("kit__remembered", {})) == f"file:///{name}"


async def test_a_client_with_a_session_keeps_a_session_with_the_server(tmp_path: Path) -> None:
    async with (
        scene(tmp_path) as front,
        answering_client(front.url, Era.LEGACY, Human()) as one,
        answering_client(front.url, Era.LEGACY, Human()) as other,
    ):
        await one.call_tool("kit__note", {"word": "a"})
        await other.call_tool("kit__note", {"word": "b"})
        assert words(await one.call_tool("kit__note", {"word": "c"})) == "a c"
        assert words(await other.call_tool("kit__note", {"word": "d"})) == "b d"


@pytest.mark.parametrize(
    ("sessions", "noted"),
    [({"own": True}, ["a c", "b"]), ({}, ["a c", "b"]), ({"shared": True}, ["a b c", "a b"])],
)
async def test_clients_that_cannot_be_asked_have_sessions_of_their_own_but_where_an_operator_wants_none(
    sessions: dict[str, bool], noted: list[str], tmp_path: Path
) -> None:
    async with (
        scene(tmp_path, 2, **sessions) as front,
        Client(front.url, mode="legacy") as one,
        Client(front.url, mode="legacy") as other,
    ):
        await one.call_tool("kit__note", {"word": "a"})
        second = words(await other.call_tool("kit__note", {"word": "b"}))
        assert [words(await one.call_tool("kit__note", {"word": "c"})), second] == noted


@pytest.mark.parametrize("era", list(Era))
async def test_a_child_of_ones_own_can_ask_and_keeps_what_it_knows_to_itself(era: Era, tmp_path: Path) -> None:
    async with children(tmp_path, own=True) as front:
        async with answering_client(front.url, era, Human("ada")) as mcp:
            assert words(await mcp.call_tool("kit__remembered", {})) == "file:///ada"
        async with answering_client(front.url, era, Human("ben")) as mcp:
            assert words(await mcp.call_tool("kit__order", {"what": "tea"})) == "tea for ben-1 at ben-2"
            assert words(await mcp.call_tool("kit__remembered", {})) == "file:///ben"


async def test_each_client_of_children_of_their_own_has_one_with_its_memory(tmp_path: Path) -> None:
    async with (
        children(tmp_path, own=True) as front,
        Client(front.url, mode="legacy") as one,
        Client(front.url, mode="legacy") as other,
    ):
        first = await together(*(mcp.call_tool("kit__pid", {}) for mcp in (one, other, one)))
        again = await together(*(mcp.call_tool("kit__pid", {}) for mcp in (one, other)))
        assert words(first[0]) == words(first[2]) == words(again[0])
        assert words(first[1]) == words(again[1]) != words(first[0])


async def test_a_child_that_all_share_hears_that_no_client_can_be_asked(tmp_path: Path) -> None:
    async with children(tmp_path, own=False) as front, answering_client(front.url, Era.MODERN, Human()) as mcp:
        assert words(await mcp.call_tool("kit__declared", {})) == "extensions", "it hears that pages are shown"
        assert words(await mcp.call_tool("kit__bold", {})) == "-32601 This client offers no features to servers"


@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize("era", list(Era))
async def test_a_server_asks_as_a_task_of_its_client_whatever_the_client_knows_of_tasks(
    era: Era, hops: int, tmp_path: Path
) -> None:
    human = Human()
    async with scene(tmp_path, hops) as node, answering_client(node.url, era, human) as mcp:
        assert words(await mcp.call_tool("kit__later", {})) == "completed human-1 1 True"
        if era is Era.LEGACY:  # 2026-07-28 has no words for a client's refusal.
            human.refuses = True
            refused = await mcp.call_tool("kit__later", {})
            assert refused.is_error
            assert "not my business" in words(refused)
    assert set(human.asked) == {"When?"}
