"""What a client does beside its calls reaches servers that keep a session for it, over one node and two."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest

from agent.client.protocol import Request
from agent.errors import RpcError
from agent.model import AFFINITY_META_KEY, CLIENT_METHOD, Era, Json
from tests.integration.servers.nodes import client
from tests.integration.servers.raw_session import RawSession, messages, raw_session, request
from tests.integration.servers.session_asking_server import Diary
from tests.integration.test_session_elicitation import call, scene
from tests.waiting import eventually

ROOTS: Json = {"roots": {"listChanged": True}}
CHANGED = "notifications/roots/list_changed"


def roots(name: str) -> Json:
    return {"roots": [{"uri": f"file:///{name}"}]}


def ids(heads: Iterable[dict[str, str]]) -> set[str]:
    """The sessions that requests to the server were of."""
    return {head["mcp-session-id"] for head in heads if "mcp-session-id" in head}


async def answer_roots(mcp: RawSession, told: AsyncIterator[Json], name: str) -> Json:
    """Answer the next question, which must be about roots; returns it."""
    question = await anext(told)
    assert question["method"] == "roots/list"
    await mcp.reply(question, result=roots(name))
    return question


async def called(mcp: RawSession, tool: str, *answers: str) -> str:
    """The text of a tool that asks for roots so many times."""
    arguments = {"word": "word"} if tool == "note" else {}
    async with mcp.post(request("tools/call", {"name": f"kit__{tool}", "arguments": arguments})) as response:
        told = messages(response)
        for name in answers:
            await answer_roots(mcp, told, name)
        return str((await anext(told))["result"]["content"][0]["text"])


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_server_that_keeps_a_session_hears_of_other_roots_and_asks_for_them_at_once(
    hops: int, tmp_path: Path
) -> None:
    diary = Diary()
    async with asyncio.timeout(30), scene(tmp_path, hops, diary) as front, raw_session(front.url, **ROOTS) as mcp:
        assert await called(mcp, "where", "one") == "file:///one"
        async with mcp.listen() as stream:
            told = messages(stream)
            for name in ("two", "three"):
                await mcp.note(CHANGED)
                await answer_roots(mcp, told, name)
                assert await diary.roots.get() == f"file:///{name}"


@pytest.mark.parametrize("hops", [1, 2])
async def test_what_a_server_asks_of_a_client_that_does_not_listen_waits_for_its_next_call(
    hops: int, tmp_path: Path
) -> None:
    diary = Diary()
    async with asyncio.timeout(30), scene(tmp_path, hops, diary) as front, raw_session(front.url, **ROOTS) as mcp:
        assert await called(mcp, "where", "one") == "file:///one"
        await mcp.note(CHANGED)

        async def heard_with_a_call() -> bool:
            async with mcp.post(request("tools/call", {"name": "kit__alive", "arguments": {}})) as response:
                async for message in messages(response):
                    if message.get("method") == "roots/list":
                        await mcp.reply(message, result=roots("two"))
            return not diary.roots.empty()

        await eventually(heard_with_a_call)
        assert diary.roots.get_nowait() == "file:///two"


@pytest.mark.parametrize("hops", [1, 2])
async def test_what_a_server_keeps_for_a_client_ends_with_the_clients_session(hops: int, tmp_path: Path) -> None:
    diary, seen = Diary(), list[dict[str, str]]()
    async with (
        asyncio.timeout(30),
        scene(tmp_path, hops, diary, seen=seen) as front,
        raw_session(front.url, elicitation={}) as one,
        raw_session(front.url, elicitation={}) as other,
    ):
        before = ids(seen)
        assert await called(one, "alive") == "alive"
        kept = ids(seen) - before
        assert await called(other, "note") == "word"
        async with one.post(request("tools/call", {"name": "kit__patient", "arguments": {}})) as response:
            assert (await anext(messages(response)))["method"] == "elicitation/create"
            async with one.http.delete(one.url, headers=one.headers) as ended:
                assert ended.status == 200
            await diary.cancelled.wait()

        async def told() -> set[str]:
            return ids(head for head in seen if head["http-method"] == "DELETE")

        assert await eventually(told) == kept
        assert await called(other, "note") == "word word"


async def test_no_node_ends_what_is_kept_for_a_client_whose_key_it_does_not_know(tmp_path: Path) -> None:
    async with scene(tmp_path) as front, client(front.url, Era.MODERN) as mcp:
        for affinity, server in (("session:guessed", "kit"), ("mine", "kit"), (None, "kit"), ("session:x", ["kit"])):
            told: Json = {"event": "ended", "server": server, "_meta": {AFFINITY_META_KEY: affinity}}
            with contextlib.suppress(RpcError):  # Where it is no key at all.
                assert await mcp.request(Request.within(CLIENT_METHOD, told, timeout_s=5)) == {"resultType": "complete"}
        assert "inputRequests" in await call(mcp, "careful")
