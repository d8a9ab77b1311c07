"""Who means no good, where sessions and questions are: others are served, and nothing is left over."""

import asyncio
import contextlib
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest

from agent.client.sessions import pool as session_pool
from agent.errors import RpcError
from agent.model import Era, HttpTarget, Json, ServerScope, ServerSpec
from tests.integration.servers.flooding_server import QUESTIONS, FloodingServer, flooding
from tests.integration.servers.nodes import RunningNode, client, running_node
from tests.integration.servers.raw_session import RawSession, messages, raw_session, request
from tests.integration.servers.session_asking_server import Diary
from tests.integration.test_client_changes import CHANGED, ROOTS, answer_roots, called
from tests.integration.test_session_elicitation import answers, call, scene, text
from tests.waiting import eventually

CAREFUL: Json = {"name": "kit__careful", "arguments": {}}
ACCEPTED: Json = {"action": "accept", "content": {"word": "yes"}}


def left_over(front: RunningNode) -> dict[str, float]:
    """What the node's own metrics say is still open."""
    shown = dict(
        line.rsplit(" ", 1) for line in front.metrics.render()[0].decode().splitlines() if not line.startswith("#")
    )
    return {name: float(shown[name]) for name in ("mesh_sessions", "mesh_parked_calls", "mesh_calls_in_flight")}


async def test_unrequested_answers_and_second_answers_change_nothing(tmp_path: Path) -> None:
    async with asyncio.timeout(30), scene(tmp_path) as front, raw_session(front.url, elicitation={}) as mcp:
        for odd in (1, "1", 0, -1, 1.5, True, None, [1], {"id": 1}, "x" * 10_000):
            async with mcp.post({"jsonrpc": "2.0", "id": odd, "result": ACCEPTED}) as response:
                assert response.status == 202
        async with mcp.post(request("tools/call", CAREFUL)) as response:
            told = messages(response)
            question = await anext(told)
            for other in (question["id"] + 1, f"{question['id']}.0", [question["id"]]):
                await mcp.reply({"id": other}, result={"action": "decline"})
            await mcp.reply(question, result=ACCEPTED)
            await mcp.reply(question, result={"action": "decline"})
            await mcp.reply(question, error={"code": -1, "message": "no"})
            assert (await anext(told))["result"]["content"][0]["text"] == "yes"


async def test_streams_that_are_opened_and_dropped_in_a_loop_leave_nothing(tmp_path: Path) -> None:
    async with asyncio.timeout(60), scene(tmp_path) as front, raw_session(front.url, elicitation={}) as mcp:
        assert await called(mcp, "alive") == "alive"
        before = len(asyncio.all_tasks())
        for number in range(200):
            async with mcp.listen() as stream:
                assert stream.status == 200
                if number % 2:
                    stream.close()
        assert await called(mcp, "alive") == "alive"

        async def as_before() -> bool:
            return len(asyncio.all_tasks()) <= before + 5

        await eventually(as_before)


# A minute and a half on a machine that gives it a fifth of a core; the test's own limit says more then.
@pytest.mark.timeout(150)
@pytest.mark.parametrize("hops", [1, 2])
async def test_a_flood_of_sessions_that_never_answer_costs_no_other_client_anything(
    hops: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_pool, "CONTESTED_PATIENCE_S", 2.0)
    async with asyncio.timeout(120), scene(tmp_path, hops) as front, AsyncExitStack() as stack:
        flood = [await stack.enter_async_context(raw_session(front.url, elicitation={})) for _ in range(100)]
        async with asyncio.TaskGroup() as group:
            for mcp in flood:
                group.create_task(asked_and_left(mcp), name="flood")
            honest = await stack.enter_async_context(raw_session(front.url))
            await eventually(partial(is_served, honest), 60)
            async with client(front.url, Era.MODERN) as modern:

                async def served() -> Json | None:
                    with contextlib.suppress(
                        RpcError
                    ):  # Not executed: no client of the flood has been away for so long yet.
                        return await call(modern, "careful")
                    return None

                asked = await eventually(served, 60)
                assert asked is not None
                assert text(await call(modern, "careful", **answers(asked, "Ada"))) == "Ada"
            for mcp in flood:
                async with mcp.http.delete(mcp.url, headers=mcp.headers) as response:
                    assert response.status == 200

        async def nothing() -> bool:
            return set(left_over(front).values()) <= {0.0, 1.0} and left_over(front)["mesh_parked_calls"] == 0

        await eventually(nothing, 20)


async def is_served(honest: RawSession) -> bool:
    """Whether its call is carried out; until a client of the flood has been away for long enough, it is refused."""
    async with honest.post(request("tools/call", {"name": "kit__alive", "arguments": {}})) as response:
        answer = await anext(messages(response))
    assert "result" in answer or answer["error"]["data"]["outcome"] == "not_executed", answer
    return "result" in answer


async def asked_and_left(mcp: RawSession) -> None:
    """Read until the session ends; never answer."""
    async with mcp.post(request("tools/call", CAREFUL)) as response:
        async for _ in messages(response):
            pass


async def test_a_client_that_says_without_end_that_its_roots_have_changed_is_heard_now_and_then(tmp_path: Path) -> None:
    diary = Diary()
    async with asyncio.timeout(60), scene(tmp_path, 2, diary) as front, raw_session(front.url, **ROOTS) as mcp:
        assert await called(mcp, "where", "one") == "file:///one"
        async with mcp.listen() as stream:
            told = messages(stream)
            for _ in range(200):
                await mcp.note(CHANGED)
            await answer_roots(mcp, told, "early")
            await answer_roots(mcp, told, "late")
            assert [await diary.roots.get() for _ in range(2)] == ["file:///early", "file:///late"]
            assert await called(mcp, "alive") == "alive"
            assert diary.roots.empty()


async def test_a_server_that_asks_without_end_is_refused_what_is_too_much_and_its_call_goes_on(tmp_path: Path) -> None:
    server, asked = FloodingServer(), 0
    async with asyncio.timeout(30), flooding(server) as url:
        spec = ServerSpec("bad", HttpTarget(url), ServerScope.SERVICE)
        async with running_node("one", tmp_path, servers=[spec]) as node:
            await node.connected("bad")
            async with (
                raw_session(node.url, elicitation={}) as mcp,
                mcp.post(request("tools/call", {"name": "bad__flood", "arguments": {}})) as response,
            ):
                async for message in messages(response):
                    if message.get("method") == "elicitation/create":
                        asked += 1
                        await mcp.reply(message, result=ACCEPTED)
                    elif "id" in message:
                        assert message["result"]["content"][0]["text"] == "enough"
            assert left_over(node)["mesh_parked_calls"] == 0
    refused = [answer for answer in server.answers.values() if "error" in answer]
    assert {answer["error"]["code"] for answer in refused} <= {-32600, -32601, -32603}
    of_call = [answer for asked_as, answer in server.answers.items() if asked_as.startswith("call")]
    assert len(of_call) == QUESTIONS
    assert asked > 0
