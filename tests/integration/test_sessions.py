"""Sessions of clients from before 2026-07-28, on the wire: how they begin, are refused, cancelled, left and ended."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from fastmcp import Context, FastMCP
from multidict import CIMultiDict

from agent.model import HttpTarget, Json, ServerScope, ServerSpec
from tests.integration.servers.asking_server import asking_server
from tests.integration.servers.hops import front_before
from tests.integration.servers.nodes import RunningNode, running_node, served
from tests.integration.servers.raw_session import (
    ACCEPT,
    VERSION,
    RawSession,
    call,
    initialize_request,
    messages,
    raw_session,
    request,
)
from tests.ports import free_port


class Kit:
    """A server whose tool waits until it may go on; `ended` says how a call did."""

    def __init__(self) -> None:
        self.waiting, self.release = asyncio.Event(), asyncio.Event()
        self.ended: asyncio.Queue[str] = asyncio.Queue()
        self.server: FastMCP = FastMCP("kit")
        self.server.tool(self.wait)
        self.server.tool(self.add)

    async def wait(self, ctx: Context) -> str:
        await ctx.report_progress(1, 2)
        self.waiting.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.ended.put_nowait("cancelled")
            raise
        self.ended.put_nowait("finished")
        return "released"

    def add(self, a: int, b: int) -> int:
        return a + b


@asynccontextmanager
async def scene(folder: Path) -> AsyncIterator[tuple[RunningNode, Kit]]:
    kit = Kit()
    async with asyncio.timeout(30), served(kit.server) as url:
        spec = ServerSpec("kit", HttpTarget(url), ServerScope.SERVICE)
        async with running_node("one", folder, servers=[spec]) as node:
            await node.connected("kit")
            yield node, kit


async def status(response: Any) -> int:
    async with response as got:
        return int(got.status)


async def error(response: Any) -> tuple[int, int]:
    """Status and JSON-RPC code of a refusal."""
    async with response as got:
        return got.status, (await got.json())["error"]["code"]


@pytest.mark.parametrize(
    ("wanted", "agreed"),
    [
        ("2024-11-05", "2024-11-05"),
        ("2025-03-26", "2025-03-26"),
        ("2025-11-25", "2025-11-25"),
        ("2026-07-28", "2025-11-25"),
        ("2099-01-01", "2025-11-25"),
    ],
)
async def test_the_version_is_the_clients_where_we_know_it_and_our_latest_with_sessions_otherwise(
    wanted: str, agreed: str, tmp_path: Path
) -> None:
    async with running_node("one", tmp_path) as node, aiohttp.ClientSession(headers=ACCEPT) as http:
        async with http.post(node.url, json=initialize_request(wanted)) as response:
            assert (response.status, response.content_type) == (200, "application/json")
            result = (await response.json())["result"]
            session_id = response.headers["Mcp-Session-Id"]
        assert result["protocolVersion"] == agreed
        assert result["serverInfo"]["name"] == "one"
        headers = {"Mcp-Session-Id": session_id, "MCP-Protocol-Version": agreed}
        assert await status(http.post(node.url, json=request("ping"), headers=headers)) == 200


async def test_a_session_is_known_by_its_id_at_its_own_endpoint_until_it_is_deleted(tmp_path: Path) -> None:
    async with running_node("one", tmp_path) as node, raw_session(node.url) as mcp:
        ping = request("ping")
        assert await error(mcp.http.post(node.url, json=ping)) == (400, -32600)
        assert await error(mcp.http.get(node.url)) == (400, -32600)
        assert await error(mcp.post(ping, **{"Mcp-Session-Id": "guessed"})) == (404, -32600)
        assert await error(mcp.http.post(node.local_url, json=ping, headers=mcp.headers)) == (404, -32600)
        assert await error(mcp.post(ping, **{"MCP-Protocol-Version": "2025-11-25"})) == (400, -32600)
        assert await error(mcp.post(initialize_request())) == (400, -32600)
        assert (await mcp.request("ping"))["result"] == {}
        assert await status(mcp.http.delete(node.url, headers=mcp.headers)) == 200
        assert await error(mcp.post(ping)) == (404, -32600)
        assert await error(mcp.listen()) == (404, -32600)
        assert await error(mcp.http.delete(node.url, headers=mcp.headers)) == (404, -32600)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", -32700),
        (b"", -32700),
        (b'"text"', -32600),
        (b"[]", -32600),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', -32600),
        (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":1}', -32600),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":7}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[1]}', -32600),
    ],
)
async def test_what_is_no_message_is_refused_with_the_error_of_json_rpc(body: bytes, code: int, tmp_path: Path) -> None:
    async with running_node("one", tmp_path) as node, raw_session(node.url) as mcp:
        headers = {**mcp.headers, "Content-Type": "application/json"}
        assert await error(mcp.http.post(node.url, data=body, headers=headers)) == (400, code)


async def test_unknown_methods_and_wrong_params_are_errors_of_their_request(tmp_path: Path) -> None:
    async with running_node("one", tmp_path) as node, raw_session(node.url) as mcp:
        for method, params, code in [
            ("no/such", {}, -32601),
            ("server/discover", {}, -32601),
            ("subscriptions/listen", {}, -32601),
            ("logging/setLevel", {"level": "loud"}, -32602),
            ("logging/setLevel", {"level": ["info"]}, -32602),
            ("tools/call", {"name": "no__such"}, -32602),
        ]:
            answer = await mcp.request(method, params, request_id="x-1")
            assert (answer["id"], answer["error"]["code"]) == ("x-1", code), method
        async with mcp.http.post(node.url, json=request("initialize", {})) as response:
            assert (await response.json())["error"]["code"] == -32602
            assert "Mcp-Session-Id" not in response.headers
        pictures = initialize_request()
        pictures["params"]["clientInfo"]["icons"] = [{"src": "data:," + "y" * 20_000}]
        assert await status(mcp.http.post(node.url, json=pictures)) == 200
        pictures["params"]["clientInfo"]["icons"] *= 4
        assert await error(mcp.http.post(node.url, json=pictures)) == (413, -32600)
        assert await error(
            mcp.http.post(node.url, json=initialize_request(experimental={"x": {"y": "z" * 9_000}}))
        ) == (
            413,
            -32600,
        )
        deep = json.loads('{"a":' * 300 + "{}" + "}" * 300)
        assert await error(mcp.http.post(node.url, json=initialize_request(experimental=deep))) == (200, -32602)


async def test_our_own_tools_take_any_number_and_refuse_what_is_too_deep(tmp_path: Path) -> None:
    async with running_node("one", tmp_path) as node, raw_session(node.url) as mcp:
        huge = call("get_mcp_server_functions", server_name=10**30)
        async with mcp.post(huge) as response:
            result = (await response.json())["result"]
        assert result["isError"] is True
        assert str(10**30)[:20] in result["content"][0]["text"]
        deep: Json = {}
        for _ in range(500):
            deep = {"deeper": deep}
        async with mcp.post(call("get_mcp_server_functions", server_name=deep)) as response:
            assert (await response.json())["error"]["code"] == -32602


async def test_other_http_methods_types_and_readers_are_refused(tmp_path: Path) -> None:
    async with running_node("one", tmp_path) as node, raw_session(node.url) as mcp:
        for method in ("PUT", "PATCH", "HEAD"):
            assert await status(mcp.http.request(method, node.url, headers=mcp.headers)) == 405
        ping = request("ping")
        assert await error(mcp.post(ping, **{"Content-Type": "text/plain"})) == (415, -32600)
        assert await error(mcp.post(ping, Accept="application/json")) == (406, -32600)
        headers = {**mcp.headers, "Accept": "application/json"}
        assert await error(mcp.http.get(node.url, headers=headers)) == (406, -32600)


async def test_what_a_client_accepts_may_stand_in_several_lines(tmp_path: Path) -> None:
    async with running_node("one", tmp_path) as node, raw_session(node.url) as mcp, aiohttp.ClientSession() as http:
        types = [("Accept", "application/json"), ("Accept", "text/event-stream")]
        headers = CIMultiDict([*mcp.headers.items(), *types])
        assert await status(http.post(node.url, json=request("ping"), headers=headers)) == 200
        assert await status(http.get(node.url, headers=headers)) == 200


async def test_progress_comes_before_the_answer_and_an_answer_alone_is_plain_json(tmp_path: Path) -> None:
    async with scene(tmp_path) as (node, kit), raw_session(node.url) as mcp:
        async with mcp.post(call("kit__add", a=1, b=2)) as response:
            assert response.content_type == "application/json"
            assert (await response.json())["result"]["structuredContent"] == {"result": 3}
        kit.release.set()
        asked = call("kit__wait")
        asked["params"]["_meta"] = {"progressToken": "mine"}
        async with mcp.post(asked) as response:
            got = [message async for message in messages(response)]
        assert [message.get("method") for message in got] == ["notifications/progress", None]
        assert got[0]["params"]["progressToken"] == "mine"


async def test_a_cancelled_call_ends_on_the_server_and_is_not_answered(tmp_path: Path) -> None:
    async with scene(tmp_path) as (node, kit), raw_session(node.url) as mcp, asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(everything(mcp, call("kit__wait", request_id=5)), name="call")
        await kit.waiting.wait()
        await mcp.note("notifications/cancelled", {"requestId": 6})
        await mcp.note("notifications/cancelled", {"requestId": 5, "reason": "enough"})
        assert await kit.ended.get() == "cancelled"
        assert await waiting == []
        assert repr(node.dispatch) == "<Dispatch in_flight=0>"


async def test_a_cancelled_call_ends_behind_another_node_too(tmp_path: Path) -> None:
    async with (
        scene(tmp_path / "back") as (back, kit),
        front_before(tmp_path, back) as front,
        raw_session(front.url) as mcp,
        asyncio.TaskGroup() as tasks,
    ):
        waiting = tasks.create_task(everything(mcp, call("kit__wait", request_id="x")), name="call")
        await kit.waiting.wait()
        await mcp.note("notifications/cancelled", {"requestId": "x"})
        assert await kit.ended.get() == "cancelled"
        assert await waiting == []


async def everything(mcp: RawSession, message: Json) -> list[Json]:
    async with mcp.post(message) as response:
        assert response.status == 200
        return [got async for got in messages(response)]


async def test_a_dropped_connection_cancels_nothing(tmp_path: Path) -> None:
    async with scene(tmp_path) as (node, kit), raw_session(node.url) as mcp, asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(everything(mcp, call("kit__wait")), name="call")
        await kit.waiting.wait()
        waiting.cancel()
        await asyncio.wait([waiting])
        refused = await mcp.request("tools/call", {"name": "kit__add", "arguments": {"a": 1, "b": 1}}, request_id=9)
        assert refused["error"]["code"] == -32600, "the ID of a call that is still being served"
        assert (await mcp.request("ping", request_id=10))["result"] == {}
        kit.release.set()
        assert await kit.ended.get() == "finished"


async def test_the_end_of_a_session_ends_its_calls_and_its_stream(tmp_path: Path) -> None:
    async with scene(tmp_path) as (node, kit), raw_session(node.url) as mcp, asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(everything(mcp, call("kit__wait")), name="call")
        await kit.waiting.wait()
        async with mcp.listen() as stream:
            assert await status(mcp.http.delete(node.url, headers=mcp.headers)) == 200
            assert [message async for message in messages(stream)] == []
        assert await waiting == []
        assert await kit.ended.get() == "cancelled"


async def test_at_the_nodes_end_streams_end_at_once_and_calls_under_way_are_answered(tmp_path: Path) -> None:
    async with scene(tmp_path) as (node, kit), raw_session(node.url) as mcp, asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(everything(mcp, call("kit__wait")), name="call")
        await kit.waiting.wait()
        async with mcp.listen() as stream:
            await node.endpoints[0].sessions.on_shutdown(web.Application())
            assert [message async for message in messages(stream)] == []
        async with mcp.listen() as another:
            assert [message async for message in messages(another)] == []
        kit.release.set()
        (answer,) = await waiting
        assert answer["result"]["content"][0]["text"] == "released"


async def test_a_call_that_no_client_waits_for_ends_with_the_node(tmp_path: Path) -> None:
    async with asyncio.timeout(30):
        async with scene(tmp_path) as (node, kit), raw_session(node.url) as mcp, asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(everything(mcp, call("kit__wait")), name="call")
            await kit.waiting.wait()
            waiting.cancel()
        assert await kit.ended.get() == "cancelled"


async def test_a_slow_answer_is_kept_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.server.response.PING_EVERY_S", 0.02)
    async with (
        scene(tmp_path) as (node, kit),
        raw_session(node.url) as mcp,
        mcp.post(call("kit__wait")) as response,
    ):
        assert response.content_type == "text/event-stream"
        assert await response.content.readuntil(b"\r\n\r\n") == b": ping\r\n\r\n"
        kit.release.set()
        assert b"released" in await response.read()


async def test_each_stream_hears_of_changed_lists_and_the_newest_takes_over(tmp_path: Path) -> None:
    async with (
        scene(tmp_path) as (node, _),
        raw_session(node.url) as mcp,
        raw_session(node.url) as other,
        mcp.listen() as old,
        other.listen() as theirs,
        mcp.listen() as stream,
    ):
        assert [message async for message in messages(old)] == []
        node.mesh.take_servers([])
        for reader in (messages(stream), messages(theirs)):
            told = await anext(reader)
            assert told == {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}


async def test_a_change_without_a_listener_goes_to_the_next_one_and_once(tmp_path: Path) -> None:
    async with (
        scene(tmp_path) as (node, _),
        raw_session(node.url) as mcp,
        raw_session(node.url) as other,
        other.listen() as theirs,
    ):
        node.mesh.take_servers([])
        change = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
        assert await anext(messages(theirs)) == change
        async with mcp.listen() as stream:
            assert await anext(messages(stream)) == change
        async with mcp.listen() as stream:
            node.endpoints[0].close_streams()
            assert [message async for message in messages(stream)] == []


async def test_a_question_is_put_on_the_calls_stream_and_the_call_can_be_cancelled_meanwhile(tmp_path: Path) -> None:
    async with asyncio.timeout(30), served(asking_server("here")) as url:
        spec = ServerSpec("kit", HttpTarget(url), ServerScope.SERVICE)
        async with (
            running_node("one", tmp_path, servers=[spec]) as node,
            raw_session(node.url, elicitation={}) as mcp,
            raw_session(node.url, elicitation={}) as other,
        ):
            await node.connected("kit")
            async with mcp.post(call("kit__book", request_id=1)) as booking, mcp.post(call("kit__book", 2)) as second:
                first, later = messages(booking), messages(second)
                question, theirs = await anext(first), await anext(later)
                assert question["method"] == "elicitation/create"
                assert question["id"] != theirs["id"]
                answer = {"action": "accept", "content": {"word": "home"}}
                await other.reply(question, result=answer)  # Of another session: answers nothing here.
                await mcp.reply({"id": "no such"}, result=answer)
                await mcp.reply(question, result=answer)
                again = await anext(first)
                assert again["params"]["message"] == "To where?"
                await mcp.note("notifications/cancelled", {"requestId": 1})
                off = await anext(first)
                assert (off["method"], off["params"]["requestId"]) == ("notifications/cancelled", again["id"])
                assert [message async for message in first] == []
                await mcp.reply(theirs, error={"code": -1, "message": "not now"})
                assert (await anext(later))["error"]["code"] == -32001


async def test_a_feature_that_is_declared_as_null_is_none(tmp_path: Path) -> None:
    async with asyncio.timeout(30), served(asking_server("here")) as url:
        spec = ServerSpec("kit", HttpTarget(url), ServerScope.SERVICE)
        async with (
            running_node("one", tmp_path, servers=[spec]) as node,
            raw_session(node.url, roots=None, sampling={}) as mcp,
        ):
            await node.connected("kit")
            declared = await mcp.request("tools/call", {"name": "kit__declared", "arguments": {}})
            assert declared["result"]["content"][0]["text"] == "sampling,tasks"


async def test_a_full_table_makes_room_by_the_session_that_was_idle_longest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_node("one", tmp_path) as node, raw_session(node.url) as old, raw_session(node.url) as new:
        monkeypatch.setattr(node.endpoints[0].sessions, "_sessions_max", 2)
        caplog.set_level(logging.WARNING)
        async with new.listen():
            assert (await old.request("ping"))["result"] == {}
            async with raw_session(node.url) as third:
                assert (await old.request("ping"))["result"] == {}, "adopted, in the room of the third one"
                async with third.listen(), old.http.post(node.url, json=initialize_request(VERSION)) as refused:
                    assert refused.status == 503
                    assert int(refused.headers["Retry-After"]) > 0
    assert "all are in use" in caplog.text


async def test_metrics_count_sessions_and_how_they_end(tmp_path: Path) -> None:
    async with running_node("one", tmp_path) as node, raw_session(node.url) as mcp, raw_session(node.local_url):
        assert await status(mcp.http.delete(node.url, headers=mcp.headers)) == 200
        text = node.metrics.render()[0].decode()
        assert "mesh_sessions 1.0" in text
        assert 'mesh_session_events_total{event="opened"} 2.0' in text
        assert 'mesh_session_events_total{event="by_client"} 1.0' in text


async def test_a_request_whose_session_ends_while_its_body_comes_is_not_served(tmp_path: Path) -> None:
    async with scene(tmp_path) as (node, kit), raw_session(node.url) as session:

        async def body() -> AsyncIterator[bytes]:
            # The node has said that it wants the body: it knows by now which session this is for.
            assert await status(session.http.delete(session.url, headers=session.headers)) == 200
            yield json.dumps(call("kit__wait")).encode()

        headers = {**session.headers, "Content-Type": "application/json"}
        posted = session.http.post(session.url, data=body(), headers=headers, expect100=True)
        assert await error(posted) == (404, -32600)
        assert not kit.waiting.is_set()


async def test_a_number_that_python_does_not_read_is_refused_by_our_own_tools(tmp_path: Path) -> None:
    body = b'{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"list_mcp_servers","arguments":{"n":%s}}}'
    async with running_node("one", tmp_path) as node, raw_session(node.url) as session:
        sent = {**session.headers, "Content-Type": "application/json"}
        refused = session.http.post(session.url, data=body % (b"9" * 5000), headers=sent)
        assert await error(refused) == (200, -32602)


async def test_a_session_goes_on_at_another_node_of_the_mesh_and_hears_once_that_lists_changed(tmp_path: Path) -> None:
    async with (
        running_node("one", tmp_path / "one") as one,
        running_node("two", tmp_path / "two") as two,
        raw_session(one.url, sampling={}) as mcp,
    ):
        assert await status(mcp.http.post(two.url, json=request("ping"), headers=mcp.headers)) == 200
        async with mcp.http.get(two.url, headers={**mcp.headers, "Accept": "text/event-stream"}) as stream:
            notes = messages(stream)
            told = [(await anext(notes))["method"] for _ in range(3)]
        assert told == [f"notifications/{kind}/list_changed" for kind in ("tools", "prompts", "resources")]
        assert 'mesh_session_events_total{event="adopted"} 1.0' in two.metrics.render()[0].decode()
        assert await error(mcp.http.post(two.local_url, json=request("ping"), headers=mcp.headers)) == (404, -32600)


async def test_a_session_that_its_client_ended_is_refused_after_a_restart_and_others_go_on(tmp_path: Path) -> None:
    port = free_port()
    async with (
        running_node("one", tmp_path, port=port) as node,
        raw_session(node.url) as ended,
        raw_session(node.url) as lasting,
    ):
        ids = [ended.headers, lasting.headers]
        assert await status(ended.http.delete(node.url, headers=ended.headers)) == 200
    async with running_node("one", tmp_path, port=port) as node, aiohttp.ClientSession(headers=ACCEPT) as http:
        answers = [await status(http.post(node.url, json=request("ping"), headers=one)) for one in ids]
        assert answers == [404, 200]
        assert [await status(http.delete(node.url, headers=one)) for one in ids] == [404, 200]
