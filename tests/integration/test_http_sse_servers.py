"""Servers of the old HTTP+SSE transport (2024-11-05) as backends: FastMCP's own, and streams that misbehave."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp.web import HTTPNotFound
from fastmcp import Context, FastMCP

from agent.client.connect import McpClient, open_client
from agent.client.http import restart, sse_session
from agent.client.http.dial import Dialler
from agent.client.http.restart import RESTART_PAUSE_S, RESTART_S
from agent.client.protocol import Request
from agent.errors import (
    AuthRefused,
    CallFailed,
    CallNotSent,
    CallOutcomeUnknown,
    CallTimedOut,
    LinkFailed,
    ProtocolBroken,
    RpcError,
)
from agent.model import Era, HttpTarget, HttpTransport, Json, ServerScope, ServerSpec
from tests.integration.servers.answering_client import answering_client
from tests.integration.servers.hops import front_of
from tests.integration.servers.hosting import Seen, http, scripted
from tests.integration.servers.nodes import running_node
from tests.integration.servers.session_asking_server import Diary, session_asking_server
from tests.integration.servers.sse_hosting import OldServer, old_server, sse_served
from tests.integration.test_session_elicitation import Human, together, words
from tests.waiting import UNREPAIRED_S, all_of, eventually

CROWD = 50
BY_SSE = HttpTransport.SSE


def kit() -> FastMCP:
    server: FastMCP = FastMCP("kit")

    @server.tool(output_schema=None)
    async def echo(word: str) -> str:
        return word

    @server.tool(output_schema=None)
    async def steps(ctx: Context) -> str:
        for step in range(3):
            await ctx.report_progress(step, 3)
        return "done"

    @server.tool(output_schema=None)
    async def more(ctx: Context) -> str:
        """Adds a tool and says so."""
        server.tool(lambda: "new", name="new", output_schema=None)
        await ctx.session.send_tool_list_changed()
        return "added"

    @server.tool
    async def big(size: int) -> str:
        return "x" * size

    @server.resource("kit://note")
    def note() -> str:
        return "noted"

    return server


def call(name: str, timeout_s: float = 10.0, **arguments: object) -> Request:
    return Request.within("tools/call", {"name": name, "arguments": arguments}, timeout_s=timeout_s)


def said(result: Json) -> str:
    return str(result["content"][0]["text"])


@asynccontextmanager
async def client_of(url: str, transport: HttpTransport = BY_SSE) -> AsyncIterator[McpClient]:
    async with asyncio.timeout(UNREPAIRED_S), open_client(HttpTarget(url, transport=transport)) as client:
        yield client


@pytest.mark.parametrize("transport", [HttpTransport.SSE, HttpTransport.ANY])
async def test_a_server_of_the_old_transport_lists_calls_and_reads(transport: HttpTransport) -> None:
    async with sse_served(kit()) as url, client_of(url, transport) as client:
        assert client.server_info.era is Era.LEGACY
        tools = await client.request(Request.within("tools/list", timeout_s=5))
        assert {tool["name"] for tool in tools["tools"]} == {"echo", "steps", "more", "big"}
        answers = await asyncio.gather(*(client.request(call("echo", word=str(n))) for n in range(50)))
        assert [said(answer) for answer in answers] == [str(n) for n in range(50)]
        read = await client.request(Request.within("resources/read", {"uri": "kit://note"}, timeout_s=5))
        assert read["contents"][0]["text"] == "noted"
        with pytest.raises(RpcError):
            await client.request(Request.within("no/such", timeout_s=5))
        assert len(said(await client.request(call("big", size=3_000_000)))) == 3_000_000
        await client.probe(5)


async def test_a_url_of_streamable_http_alone_is_not_asked_for_a_stream() -> None:
    seen: list[dict[str, str]] = []
    async with sse_served(kit(), seen) as url:
        with pytest.raises(ProtocolBroken, match=r"no MCP at .*: it answered server/discover with HTTP 405"):
            async with client_of(url, HttpTransport.STREAMABLE):
                pass
    assert {request["http-method"] for request in seen} == {"POST"}


async def test_progress_comes_before_the_result_with_the_callers_token() -> None:
    heard: list[tuple[str, object]] = []

    async def on_notification(method: str, params: Json) -> None:
        heard.append((method.rpartition("/")[2], params.get("progressToken")))

    async with sse_served(kit()) as url, client_of(url) as client:
        params = {"name": "steps", "arguments": {}, "_meta": {"progressToken": "mine"}}
        request = Request.within("tools/call", params, timeout_s=10, on_notification=on_notification)
        assert said(await client.request(request)) == "done"
    assert heard == [("progress", "mine")] * 3


async def test_a_change_of_its_lists_reaches_the_listener() -> None:
    changes: asyncio.Queue[str] = asyncio.Queue()
    async with sse_served(kit()) as url, client_of(url) as client, asyncio.TaskGroup() as group:
        listening = group.create_task(client.listen(changes.put_nowait), name="listen")
        assert await changes.get() == "listening"
        assert said(await client.request(call("more"))) == "added"
        assert await changes.get() == "tools"
        listening.cancel()


async def test_a_caller_that_goes_away_cancels_its_call_at_the_server() -> None:
    diary = Diary()
    server = session_asking_server(diary)

    @server.tool(output_schema=None)
    async def forever() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            diary.cancelled.set()
            raise
        return "never"

    async with sse_served(server) as url, client_of(url) as client:
        with pytest.raises(CallTimedOut, match="did not answer tools/call within"):
            await client.request(call("forever", 0.5))
        await asyncio.wait_for(diary.cancelled.wait(), UNREPAIRED_S)
        assert said(await client.request(call("alive"))) == "alive"


@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize("era", list(Era))
async def test_everything_that_it_asks_gets_to_the_client_and_back(era: Era, hops: int, tmp_path: Path) -> None:
    human = Human()
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(sse_served(session_asking_server(Diary())))
        spec = ServerSpec("kit", HttpTarget(url, transport=BY_SSE), ServerScope.SERVICE)
        front = await stack.enter_async_context(front_of(tmp_path, spec, hops=hops))
        mcp = await stack.enter_async_context(answering_client(front.url, era, human))
        assert words(await mcp.call_tool("kit__declared", {})) == "elicitation,roots,sampling,tasks"
        assert words(await mcp.call_tool("kit__order", {"what": "tea"})) == "tea for human-1 at human-2"
        assert words(await mcp.call_tool("kit__compose", {"about": "rain"})) == "m: human on rain"
        assert words(await mcp.call_tool("kit__where", {})) == "file:///human"
        others = [await stack.enter_async_context(answering_client(front.url, era, Human(f"h{n}"))) for n in range(3)]
        orders = await together(*(other.call_tool("kit__order", {"what": "tea"}) for other in others))
        assert [words(order) for order in orders] == [f"tea for h{n}-1 at h{n}-2" for n in range(3)]


async def test_a_node_opens_a_new_session_after_its_stream_has_ended_and_goes_on_listing_its_tools(
    tmp_path: Path,
) -> None:
    async with old_server(OldServer()) as server:
        spec = ServerSpec("kit", HttpTarget(server.url), ServerScope.SERVICE)
        async with running_node("front", tmp_path, servers=[spec]) as node:
            await node.connected("kit")
            states, known = node.view("kit").reconnects, set(server.ended)
            server.end_streams()
            await server.when(lambda: methods_since(server, "initialize") > len(known))
            await node.when(lambda: node.is_up("kit"))
            assert node.view("kit").reconnects == states


async def test_a_server_that_restarts_in_a_moment_keeps_its_link_and_its_tools_stay_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a busy machine a second took 1.3, of 2 that it may take; tests/unit/client/http/test_restart.py has those.
    monkeypatch.setattr(restart, "RESTART_S", UNREPAIRED_S)
    async with AsyncExitStack() as stack:
        async with old_server(OldServer()) as server:
            port = urlsplit(server.url).port or 0
            spec = ServerSpec("kit", HttpTarget(server.url), ServerScope.SERVICE)
            node = await stack.enter_async_context(running_node("front", tmp_path, servers=[spec]))
            await node.connected("kit")
            reconnects = node.view("kit").reconnects
        await eventually(partial(has_lasted, time.monotonic(), RESTART_S / 2))
        assert node.is_up("kit")
        again = await stack.enter_async_context(old_server(OldServer(), port))
        await again.when(lambda: methods_since(again, "initialize") > 0)
        await node.when(lambda: node.is_up("kit"))
        assert node.view("kit").reconnects == reconnects


async def test_one_that_stays_away_is_lost_after_a_moment(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        async with old_server(OldServer()) as server:
            spec = ServerSpec("kit", HttpTarget(server.url), ServerScope.SERVICE)
            node = await stack.enter_async_context(running_node("front", tmp_path, servers=[spec]))
            await node.connected("kit")
        await node.when(lambda: not node.is_up("kit"))


def methods_since(server: OldServer, method: str) -> int:
    return sum(message.get("method") == method for message in server.posted)


# Servers that misbehave


async def test_a_read_in_a_session_that_was_forgotten_is_sent_in_another_one() -> None:
    async with old_server(OldServer()) as server, client_of(server.url) as client:
        assert client.server_info.protocol_version == "2024-11-05"
        server.forget()
        assert await client.request(Request.within("resources/read", {"uri": "kit://note"}, timeout_s=10))
        assert (methods_since(server, "initialize"), methods_since(server, "resources/read")) == (2, 1)
        server.forget()
        assert await client.request(replace(call("any"), repeatable=True)) == {"content": []}
        assert (methods_since(server, "initialize"), methods_since(server, "tools/call")) == (3, 1)


async def test_a_call_whose_post_finds_no_session_when_it_is_done_is_not_executed_twice() -> None:
    """Its answer has no way back by then; what becomes of it is for dispatch to decide."""

    async def forgets(server: OldServer, _: str) -> Json:
        server.forget()
        raise HTTPNotFound

    async with old_server(OldServer(answers={"write": forgets})) as server, client_of(server.url) as client:
        with pytest.raises(CallNotSent, match="forgot our session"):
            await client.request(call("write"))
        assert methods_since(server, "tools/call") == 1
        assert await client.request(call("any")) == {"content": []}, "in another session"


async def test_a_server_that_forgets_every_session_is_asked_for_another_one_once_a_call() -> None:
    async with old_server(OldServer(forgets_calls=True)) as server, client_of(server.url) as client:
        with pytest.raises(CallNotSent, match=r"forgot our session.*Could not find session"):
            await client.request(replace(call("any"), repeatable=True))
        assert methods_since(server, "initialize") == 2


async def test_calls_to_a_server_that_drains_dial_once_each_and_then_one_for_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its port refuses connections, and its stream is still open."""
    dials = 0
    dial = Dialler.dial

    async def counted(self: Dialler, make: Callable[[], Any]) -> Any:
        nonlocal dials
        dials += 1
        return await dial(self, make)

    monkeypatch.setattr(Dialler, "dial", counted)
    async with old_server(OldServer(keeps=False)) as server, client_of(server.url) as client:
        await server.drain()
        dials = 0
        assert await all_of(is_refused(client) for _ in range(CROWD)) == [True] * CROWD
    assert CROWD <= dials <= CROWD + RESTART_S / RESTART_PAUSE_S + 1


async def test_calls_to_a_server_that_drains_are_sent_as_soon_as_its_port_is_back() -> None:
    async with old_server(OldServer(keeps=False)) as server, client_of(server.url) as client:
        await server.drain()
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(client.request(call("any")), name="call") for _ in range(CROWD)]
            await server.listen_again()
        assert [one.result() for one in calls] == [{"content": []}] * CROWD
        assert methods_since(server, "tools/call") == CROWD
        assert methods_since(server, "initialize") == 1


async def test_a_stream_that_ends_during_a_call_leaves_its_outcome_unknown() -> None:
    async def leave(server: OldServer, _: str) -> Json:
        server.end_streams()
        return {}

    async with old_server(OldServer(answers={"leave": leave})) as server, client_of(server.url) as client:
        with pytest.raises(CallOutcomeUnknown, match="ended the stream of its session"):
            await client.request(call("leave"))
        assert not client.lost.is_set()
        assert await client.request(call("any")) == {"content": []}, "in another session, which is open by then"


@pytest.mark.parametrize("returns", ["refuses", "is another one"])
async def test_a_server_whose_stream_ends_and_that_is_not_the_same_then_is_lost(returns: str) -> None:
    async with old_server(OldServer()) as server, client_of(server.url) as client:
        if returns == "refuses":
            server.refuses = True
        else:
            server.name = "new"
        server.end_streams()
        await eventually(partial(is_refused, client))
        assert client.lost.is_set()
        assert ("is another server now" if returns == "is another one" else "HTTP 404") in client.lost_reason


async def test_a_call_while_its_server_restarts_was_not_executed_and_the_client_is_not_lost() -> None:
    async with AsyncExitStack() as stack:
        async with old_server(OldServer()) as server:
            client = await stack.enter_async_context(client_of(server.url))
            port = urlsplit(server.url).port
        assert port is not None
        with pytest.raises(CallNotSent, match="refuses the connection"):
            await client.request(call("any"))
        assert not client.lost.is_set()
        await stack.enter_async_context(old_server(OldServer(), port))
        assert await client.request(call("any")) == {"content": []}


async def test_a_server_that_starts_slowly_and_answers_knocks_is_asked_for_one_session() -> None:
    starts = asyncio.Event()
    async with old_server(OldServer(starts=starts)) as server, asyncio.TaskGroup() as group:

        async def is_knocked_at() -> bool:
            return server.knocks >= 1 and len(server.ended) >= 2  # The latter by a stream, which a gateway may pass on.

        async def open_and_close() -> None:
            async with client_of(server.url):
                pass

        group.create_task(open_and_close(), name="open")
        await eventually(is_knocked_at)
        starts.set()
    assert server.initialized == 1


async def test_calls_that_wait_for_another_session_share_its_failure_and_the_next_one_tries_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sse_session, "RENEW_TIMEOUT_S", 0.5)
    async with old_server(OldServer()) as server, client_of(server.url) as client:
        server.hangs = True
        server.end_streams()
        await eventually(partial(is_refused, client))
        hung = server.hung
        assert await all_of(is_refused(client) for _ in range(10)) == [True] * 10
        assert server.hung == hung + 1
        assert not client.lost.is_set()
        server.hangs = False
        assert await client.request(call("any")) == {"content": []}


async def has_lasted(since_s: float, seconds: float) -> bool:
    return time.monotonic() - since_s >= seconds


async def is_refused(client: McpClient) -> bool:
    with pytest.raises(CallFailed) as failed:
        await client.request(call("any"))
    return isinstance(failed.value, CallNotSent)


async def test_an_answer_counts_though_its_post_is_never_answered() -> None:
    async def answer_and_hang(server: OldServer, session: str) -> Json:
        request_id = server.posted[-1]["id"]
        await server.send(session, {"id": request_id, "result": {"content": [{"type": "text", "text": "here"}]}})
        await server.ended[session].wait()
        return {}

    async with old_server(OldServer(answers={"hang": answer_and_hang})) as server, client_of(server.url) as client:
        assert said(await client.request(call("hang"))) == "here"


async def test_a_server_that_knows_only_the_stream_opened_last_answers_each_request_all_the_same() -> None:
    async def echo(server: OldServer, _: str) -> Json:
        params = server.posted[-1]["params"]
        token = params["_meta"]["progressToken"]
        await server.send(
            list(server.streams)[-1],
            {"method": "notifications/progress", "params": {"progressToken": token, "progress": 1}},
        )
        return {"content": [{"type": "text", "text": params["arguments"]["word"]}]}

    heard: list[object] = []

    async def on_notification(_: str, params: Json) -> None:
        heard.append(params["progressToken"])

    async with (
        old_server(OldServer(knows_one_stream=True, answers={"echo": echo})) as server,
        client_of(server.url) as client,
    ):
        await client.request(Request.within("tools/list", timeout_s=5))
        assert len(server.ended) == 2, "lists are read in a session of their own"
        params = {"name": "echo", "arguments": {"word": "here"}, "_meta": {"progressToken": "mine"}}
        request = Request.within("tools/call", params, timeout_s=10, on_notification=on_notification)
        assert said(await client.request(request)) == "here"
        await client.probe(5)
    assert heard == ["mine"]


async def test_its_pings_are_answered_and_other_requests_refused_where_no_client_can_be_asked() -> None:
    async def ask(server: OldServer, session: str) -> Json:
        await server.send(session, {"id": "p", "method": "ping"})
        await server.send(session, {"id": "r", "method": "roots/list"})
        return {"content": []}

    async with old_server(OldServer(answers={"ask": ask})) as server, client_of(server.url) as client:
        await client.request(call("ask"))
        await server.when(lambda: {"p", "r"} <= {message.get("id") for message in server.posted})
    replies = {message.get("id"): message for message in server.posted}
    assert replies["p"]["result"] == {}
    assert replies["r"]["error"]["code"] == -32601


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://127.0.0.2/messages",
        "https://127.0.0.1/messages",
        "//evil.example/m",
        "http://u:p@127.0.0.1/m",
        "ftp://h/",
    ],
)
async def test_an_endpoint_of_another_origin_is_refused_and_nothing_is_posted(endpoint: str) -> None:
    async with old_server(OldServer(endpoint=endpoint)) as server:
        with pytest.raises(ProtocolBroken, match="names an endpoint for messages that is another origin than http://"):
            async with client_of(server.url):
                pass
    assert not server.posted


async def test_an_absolute_endpoint_of_the_same_origin_is_used() -> None:
    async with old_server(OldServer()) as server:
        server.endpoint = server.url.removesuffix("/sse") + "/messages?session={session}"
        async with client_of(server.url) as client:
            await client.request(call("any"))


async def test_a_url_that_is_no_server_of_either_transport_says_why_streamable_http_failed() -> None:
    async def answer(request: Seen) -> tuple[bytes | None, bool]:
        return (http(200, b"<p>hello", "text/html") if request.method == "GET" else http(404)), True

    async with scripted(answer) as script:
        with pytest.raises(ProtocolBroken, match=r"no MCP at .*initialize failed"):
            async with client_of(script.url, HttpTransport.ANY):
                pass
        with pytest.raises(ProtocolBroken, match="answers GET with 'text/html', not a stream"):
            async with client_of(script.url):
                pass


async def test_a_stream_that_asks_for_a_token_says_so_rather_than_that_it_takes_no_post() -> None:
    async def answer(request: Seen) -> tuple[bytes | None, bool]:
        return (http(401) if request.method == "GET" else http(405)), True

    async with scripted(answer) as script:
        with pytest.raises(AuthRefused, match="the token is missing or wrong"):
            async with client_of(script.url, HttpTransport.ANY):
                pass


async def test_a_silent_stream_is_no_server_of_the_old_transport() -> None:
    async def answer(request: Seen) -> tuple[bytes | None, bool]:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        return (head if request.method == "GET" else http(400)), True

    async with scripted(answer) as script:
        with pytest.raises(LinkFailed, match="no MCP at"):
            async with open_client(HttpTarget(script.url), connect_timeout_s=1.0):
                pass


@pytest.mark.parametrize("transport", [HttpTransport.SSE, HttpTransport.ANY])
async def test_the_only_version_of_an_entry_is_what_a_server_of_http_sse_is_asked_for(transport: HttpTransport) -> None:
    async with old_server(OldServer()) as server, asyncio.timeout(UNREPAIRED_S):
        target = HttpTarget(server.url, transport=transport)
        async with open_client(target, protocol="2025-03-26") as client:
            assert client.server_info.protocol_version == "2024-11-05"  # As it answers, whatever it is asked for.
    (opening,) = [message for message in server.posted if message.get("method") == "initialize"]
    assert opening["params"]["protocolVersion"] == "2025-03-26"


@pytest.mark.parametrize("transport", [HttpTransport.SSE, HttpTransport.ANY])
async def test_a_server_of_http_sse_is_not_linked_where_its_entry_allows_2026_alone(transport: HttpTransport) -> None:
    async with old_server(OldServer()) as server, asyncio.timeout(UNREPAIRED_S):
        target = HttpTarget(server.url, transport=transport)
        with pytest.raises(ProtocolBroken, match=r"no MCP 2026-07-28 at .*mesh\.protocol allows nothing else"):
            async with open_client(target, protocol="2026-07-28"):
                pass
    assert not server.posted
