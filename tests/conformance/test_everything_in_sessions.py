"""server-everything, which has one `McpServer` for each session, behind one node and behind two.

Its client is one of 2025-11-25 with every feature. The one rule: the server is the published one, over HTTP, and what
it does in the session of its client is all that counts.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from agent.model import HttpTarget, Json, ServerScope, ServerSpec
from tests.conformance.node_tools import NodeTools
from tests.conformance.test_programs import everything_over_http
from tests.integration.servers.hops import front_of
from tests.integration.servers.raw_session import RawSession, call, messages, raw_session, request
from tests.ports import free_port
from tests.waiting import all_of, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

EVERY_FEATURE: Json = {"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}}
TEXT_1 = "demo://every/resource/dynamic/text/1"


@pytest.fixture(scope="module")
def direct_url(tools: NodeTools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server in a process of its own, for all tests of this file."""
    port = free_port()
    process = everything_over_http(tools, port, tmp_path_factory.mktemp("everything"))
    try:
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.kill_and_reap()


@asynccontextmanager
async def scene(direct_url: str, folder: Path, hops: int) -> AsyncIterator[RawSession]:
    """A session with the node before the server, or with one before that."""
    await eventually(lambda: answers(direct_url))
    spec = ServerSpec("every", HttpTarget(direct_url), ServerScope.SERVICE)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(90))
        node = await stack.enter_async_context(front_of(folder, spec, hops=hops))
        yield await stack.enter_async_context(raw_session(node.url, "2025-11-25", **EVERY_FEATURE))


async def answers(url: str) -> bool:
    try:
        async with aiohttp.ClientSession() as http, http.get(url):
            return True
    except aiohttp.ClientError:
        return False


async def result(session: RawSession, message: Json, **answer: object) -> Json:
    """The result of a request whose form is filled in so. The server may ask for roots in any: it waits a minute."""
    async with session.post(message) as response:
        async for one in messages(response):
            if one.get("method") == "elicitation/create":
                await session.reply(one, result={"action": "accept", "content": answer})
            elif one.get("method") == "roots/list":
                await session.reply(one, result={"roots": []})
            elif "method" not in one:
                assert "result" in one, one
                known: Json = one["result"]
                return known
    raise AssertionError("the response ended without an answer")


@pytest.mark.parametrize("hops", [1, 2])
async def test_its_async_tools_are_there_and_ask_by_tasks(direct_url: str, hops: int, tmp_path: Path) -> None:
    async with scene(direct_url, tmp_path, hops) as session:
        listed = (await result(session, request("tools/list", {})))["tools"]
        names = {tool["name"] for tool in listed}
        assert {"every__trigger-elicitation-request-async", "every__trigger-sampling-request-async"} <= names
        asked = await result(session, call("every__trigger-elicitation-request-async"), name="Ada")
        assert asked["content"][0]["text"].startswith("[COMPLETED]")
        assert "Ada" in asked["content"][1]["text"]


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_resource_that_its_tool_made_is_listed_and_read(direct_url: str, hops: int, tmp_path: Path) -> None:
    async with scene(direct_url, tmp_path, hops) as session:
        data = "data:text/plain;base64,aGVsbG8="
        made = await result(session, call("every__gzip-file-as-resource", name="hops.gz", data=data))
        uri = made["content"][0]["uri"]
        listed = (await result(session, request("resources/list", {})))["resources"]
        assert uri in [resource["uri"] for resource in listed]
        read = (await result(session, request("resources/read", {"uri": uri})))["contents"][0]
        assert (read["uri"], read["mimeType"]) == (uri, "application/gzip")


@pytest.mark.parametrize("hops", [1, 2])
async def test_updates_that_its_tool_begins_reach_the_subscriber(direct_url: str, hops: int, tmp_path: Path) -> None:
    async with scene(direct_url, tmp_path, hops) as session, session.listen() as stream:
        assert await result(session, request("resources/subscribe", {"uri": TEXT_1})) == {}
        await result(session, call("every__toggle-subscriber-updates"))
        async for message in messages(stream):
            if message["method"] == "notifications/resources/updated":
                assert message["params"]["uri"] == TEXT_1
                break


async def test_its_task_that_asks_is_answered_and_listed_behind_one_node_and_two(
    direct_url: str, tmp_path: Path
) -> None:
    async def asks(hops: int) -> None:
        async with scene(direct_url, tmp_path / str(hops), hops) as session:
            params: Json = {
                "name": "every__simulate-research-query",
                "arguments": {"topic": "python", "ambiguous": True},
                "task": {"ttl": 600_000},  # A busy machine takes a while for those four seconds.
            }
            task = (await result(session, request("tools/call", params)))["task"]
            ended = await result(session, request("tasks/result", {"taskId": task["taskId"]}), interpretation="snake")
            assert "python (snake)" in ended["content"][0]["text"]
            listed = (await result(session, request("tasks/list", {})))["tasks"]
            assert [(one["taskId"], one["status"]) for one in listed] == [(task["taskId"], "completed")]

    await all_of(asks(hops) for hops in (1, 2))  # At once: the server takes four seconds.
