"""Streams that end before their answer: servers with an event store close them on purpose, proxies break them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Context, FastMCP
from fastmcp.server.event_store import EventStore

from agent.client.connect import McpClient, open_client
from agent.client.http import resumption
from agent.client.outbound import DIRECT, Outbound
from agent.client.protocol import Request
from agent.errors import CallNotSent, CallOutcomeUnknown, CallTimedOut, Unreachable
from agent.model import Era, HttpTarget, Json, ServerScope, ServerSpec
from tests.integration.servers.answering_client import answering_client
from tests.integration.servers.hops import front_of
from tests.integration.servers.hosting import Front, Seen, http, initialized, rpc_result, scripted, serving
from tests.integration.test_http_sse_servers import call, said
from tests.integration.test_session_elicitation import Human, words
from tests.waiting import UNREPAIRED_S

RETRY_MS = 60


def polled_server(runs: list[str], taken_up: asyncio.Event) -> FastMCP:
    """`taken_up`: set whenever a stream is."""
    server: FastMCP = FastMCP("kit")

    @server.tool(output_schema=None)
    async def long(times: int, ctx: Context) -> str:
        """Works on without a connection, again and again."""
        runs.append("long")
        for step in range(times):
            await ctx.report_progress(step, times)
            taken_up.clear()
            await ctx.close_sse_stream()
            await taken_up.wait()
        return "done"

    @server.tool(output_schema=None)
    async def change(ctx: Context) -> str:
        await ctx.session.send_tool_list_changed()
        return "changed"

    return server


@asynccontextmanager
async def scene(runs: list[str]) -> AsyncIterator[tuple[str, Front]]:
    taken_up = asyncio.Event()
    app = polled_server(runs, taken_up).http_app(event_store=EventStore(), retry_interval=RETRY_MS)

    async def noting(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        takes_up = any(name == b"last-event-id" for name, _ in scope["headers"])

        async def send_and_note(message: MutableMapping[str, Any]) -> None:
            await send(message)
            if takes_up and message.get("body"):
                taken_up.set()  # Its first event shows that it hears what comes from now on.

        await app(scope, receive, send_and_note)

    async with app.router.lifespan_context(app):
        front = Front(noting, refuse_modern=400)
        async with serving(front) as base:
            yield f"{base}/mcp", front


def resumed(front: Front) -> list[str]:
    """The IDs behind which a stream was taken up."""
    return [one["last-event-id"] for one in front.seen if "last-event-id" in one]


async def test_a_call_whose_server_closes_its_stream_is_taken_up_and_answered_once() -> None:
    runs: list[str] = []
    heard: list[object] = []

    async def on_notification(_: str, params: Json) -> None:
        heard.append(params["progress"])

    async with asyncio.timeout(UNREPAIRED_S), scene(runs) as (url, front), open_client(HttpTarget(url)) as client:
        assert client.server_info.era is Era.LEGACY
        params = {"name": "long", "arguments": {"times": 4}, "_meta": {"progressToken": "t"}}
        request = Request.within("tools/call", params, timeout_s=15, on_notification=on_notification)
        assert said(await client.request(request)) == "done"
    assert runs == ["long"]
    assert heard == [0, 1, 2, 3]
    assert len(set(resumed(front))) >= 2
    assert [one["http-method"] for one in front.seen if "last-event-id" in one] == ["GET"] * len(resumed(front))


@pytest.mark.parametrize("era", list(Era))
async def test_such_a_call_passes_a_node_as_any_other(era: Era, tmp_path: Path) -> None:
    runs: list[str] = []
    async with scene(runs) as (url, front):
        spec = ServerSpec("kit", HttpTarget(url), ServerScope.SERVICE)
        async with front_of(tmp_path, spec) as node, answering_client(node.url, era, Human()) as mcp:
            assert words(await mcp.call_tool("kit__long", {"times": 2})) == "done"
    assert runs == ["long"]
    assert resumed(front)


async def test_the_deadline_of_the_call_bounds_its_reconnections() -> None:
    async with scene([]) as (url, front), open_client(HttpTarget(url)) as client:
        with pytest.raises(CallTimedOut, match="did not answer tools/call within"):
            await client.request(call("long", 0.7, times=20))
        assert resumed(front)


# A server by hand, for what stores and proxies do


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


class Store:
    """Answers a call with a stream that ends after one event; `replies` are its answers to the GETs that follow."""

    def __init__(self, first: bytes, *replies: bytes) -> None:
        self.first = first
        self.replies = list(replies)
        self.asked: list[str] = []
        self.called = 0
        self.call_id: object = None

    async def answer(self, request: Seen) -> tuple[bytes | None, bool]:
        match request.body.get("method"):
            case "server/discover":
                return http(400), True
            case "initialize":
                return initialized(request, Mcp_Session_Id="s"), True
            case "tools/call":
                self.called += 1
                self.call_id = request.body["id"]
                return STREAM + self.first, False
            case None if request.method == "GET":
                self.asked.append(request.headers.get("last-event-id", ""))
                assert request.headers["mcp-session-id"] == "s"
                reply = self.replies.pop(0) if self.replies else http(404)
                return reply.replace(b"ID", str(self.call_id).encode()), False
            case "ping":
                return rpc_result(request, {}), True
        return http(202), True


@asynccontextmanager
async def client_of(store: Store, outbound: Outbound = DIRECT) -> AsyncIterator[McpClient]:
    async with (
        asyncio.timeout(UNREPAIRED_S),
        scripted(store.answer) as script,
        open_client(HttpTarget(script.url), outbound=outbound) as client,
    ):
        yield client


PRIMING = b"retry: 50\nid: 1\ndata:\n\n"
RESULT = (
    STREAM + b'id: 9\ndata: {"jsonrpc": "2.0", "id": ID, "result": {"content": [{"type": "text", "text": "done"}]}}\n\n'
)


@pytest.mark.parametrize(
    ("first", "replies", "asked"),
    [
        (PRIMING, [RESULT], ["1"]),
        (PRIMING + b'id: 2\ndata: {"jsonrpc": "2.0", "method": "x"}\n\nid: 3\ndata: {half', [RESULT], ["2"]),
        (PRIMING, [http(503), http(409), RESULT], ["1", "1", "1"]),
        (PRIMING, [STREAM + b"id: 5\ndata:\n\n", STREAM + b"id: 6\ndata:\n\n", RESULT], ["1", "5", "6"]),
        (PRIMING, [STREAM + b"id: 5\n", RESULT], ["1", "1"]),
    ],
    ids=["closed", "broken in an event", "not at once", "again and again", "an event that never ended"],
)
async def test_a_stream_is_taken_up_behind_its_last_whole_event(
    first: bytes, replies: list[bytes], asked: list[str]
) -> None:
    store = Store(first, *replies)
    async with client_of(store) as client:
        assert said(await client.request(call("any"))) == "done"
    assert store.asked == asked
    assert store.called == 1


@pytest.mark.parametrize(
    ("first", "replies", "attempts"),
    [
        (b'data: {"jsonrpc": "2.0", "method": "x"}\n\n', [], 0),
        (PRIMING, [http(404)], 1),
        (PRIMING, [http(405)], 1),
        (PRIMING, [http(200, b"{}")], 1),
        (PRIMING, [http(307, Location="http://127.0.0.2/")], 1),
        (PRIMING, [STREAM] * 9, resumption.FRUITLESS_MAX),
        (PRIMING, [http(500)] * 9, resumption.FRUITLESS_MAX),
        (b"id: 1\x012\nretry: 50\ndata:\n\n", [], 0),
        (b"retry: 50\nid: " + b"x" * 5000 + b"\ndata:\n\n", [], 0),
    ],
    ids=["no id", "forgotten", "no stream", "json", "elsewhere", "fruitless", "failing", "bad id", "long id"],
)
async def test_a_stream_that_cannot_be_taken_up_leaves_the_outcome_unknown(
    first: bytes, replies: list[bytes], attempts: int
) -> None:
    store = Store(first, *replies)
    async with client_of(store) as client:
        with pytest.raises(CallOutcomeUnknown, match="ended its stream without an answer"):
            await client.request(call("any"))
        await client.probe(5)
    assert len(store.asked) == attempts
    assert store.called == 1


class Issuer:
    """Whose token ends with the first call, and who cannot be reached for another one so many times then."""

    def __init__(self, store: Store, away: int) -> None:
        self.store, self.away = store, away
        self.has_token = True

    async def token(self) -> str | None:
        if self.store.called and self.away:
            self.away -= 1
            raise CallNotSent("the issuer cannot be reached for a token")
        return "token"

    async def renewed(self, stale: str | None, challenge: str) -> str | None:
        raise AssertionError((stale, challenge))

    widened = renewed


async def test_a_call_whose_stream_waits_for_another_token_is_answered_once() -> None:
    store = Store(PRIMING, RESULT)
    issuer = Issuer(store, away=2)
    async with client_of(store, Outbound(authorizer=issuer)) as client:
        assert said(await client.request(call("any"))) == "done"
    assert (store.asked, store.called, issuer.away) == (["1"], 1, 0)


async def test_a_call_whose_stream_gets_no_other_token_is_none_that_was_not_sent() -> None:
    """It was executed, so that a write may not be made again, and its session ends in silence."""
    store = Store(PRIMING, RESULT)
    async with client_of(store, Outbound(authorizer=Issuer(store, away=1000))) as client:
        with pytest.raises(CallOutcomeUnknown, match="ended its stream without an answer"):
            await client.request(call("any"))
    assert (store.asked, store.called) == ([], 1)


async def test_a_sessions_own_stream_is_taken_up_without_listing_anew() -> None:
    changed = b'id: %d\ndata: {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}\n\n'
    store = Store(b"", STREAM + b"retry: 50\n" + changed % 1, STREAM + changed % 2, http(404))
    changes: list[str] = []
    async with client_of(store) as client:
        with contextlib.suppress(Unreachable):
            await client.listen(changes.append)
    assert changes == ["listening", "tools", "tools"]
    assert store.asked == ["", "1", "2"]
