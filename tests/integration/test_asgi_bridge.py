"""The bridge with a real FastMCP application behind a real aiohttp server on loopback, for stateless requests.

The few facts that FastMCP does not show (duplicate headers, scopes, failing lifespans) come from tiny ASGI
applications written here. Clients are FastMCP's own and a plain aiohttp session for what happens on the wire.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from fastmcp import Client, Context, FastMCP
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ToolsListChanged
from mcp_types import SubscriptionsListenRequestParams

from agent.server.asgi_bridge import AsgiBridge
from agent.server.asgi_lifespan import LifespanFailed

MODERN = "2026-07-28"
ACCEPT = "application/json, text/event-stream"


class Served:
    """A running server: its port, its bridge, and how to stop it before the fixture would."""

    def __init__(self, runner: web.AppRunner, bridge: AsgiBridge, port: int) -> None:
        self.runner, self.bridge, self.port = runner, bridge, port

    def url(self, path: str = "/mcp") -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@asynccontextmanager
async def serve(
    asgi_app: Any, *, path: str = "/mcp", route: str | None = None, drain_s: float = 5.0, **options: Any
) -> AsyncIterator[Served]:
    bridge = AsgiBridge(asgi_app, path=path, **options)
    app = web.Application()
    app.cleanup_ctx.append(bridge.cleanup_ctx)
    app.on_shutdown.append(bridge.on_shutdown)
    app.router.add_route("*", route or path, bridge.handle)
    if route is None:
        app.router.add_route("*", path + "/", bridge.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=drain_s)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield Served(runner, bridge, runner.addresses[0][1])
    finally:
        await runner.cleanup()


class Node:
    """A FastMCP server whose tools tell the test, through events, how far they got."""

    def __init__(self) -> None:
        self.started, self.release = asyncio.Event(), asyncio.Event()
        self.cancelled, self.finished = asyncio.Event(), asyncio.Event()
        self.bus = InMemorySubscriptionBus()
        self.mcp = FastMCP("node")
        server = self.mcp._mcp_server
        server.add_request_handler("subscriptions/listen", SubscriptionsListenRequestParams, ListenHandler(self.bus))
        self.mcp.tool(self.add)
        self.mcp.tool(self.wait)
        self.mcp.tool(self.steps)

    def add(self, a: int, b: int) -> int:
        return a + b

    async def wait(self) -> str:
        self.started.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        self.finished.set()
        return "released"

    async def steps(self, ctx: Context) -> str:
        for done in range(1, 4):
            await ctx.report_progress(done, 3)
        return "walked"

    def app(self, **options: Any) -> Any:
        return self.mcp.http_app(path="/mcp", **options)


def modern_headers(method: str, name: str | None = None) -> dict[str, str]:
    headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": method, "Accept": ACCEPT}
    return headers | ({"Mcp-Name": name} if name else {})


def modern_body(method: str, **params: Any) -> dict[str, Any]:
    prefix = "io.modelcontextprotocol/"
    meta = {
        f"{prefix}protocolVersion": MODERN,
        f"{prefix}clientInfo": {"name": "t", "version": "1"},
        f"{prefix}clientCapabilities": {},
    }
    return {"jsonrpc": "2.0", "id": 7, "method": method, "params": {**params, "_meta": meta}}


@pytest.mark.parametrize("mode", ["auto", MODERN])
@pytest.mark.parametrize("json_response", [False, True])
async def test_fastmcps_client_calls_a_tool(mode: str, json_response: bool) -> None:
    async with serve(Node().app(json_response=json_response)) as served, Client(served.url(), mode=mode) as client:
        result = await client.call_tool("add", {"a": 2, "b": 3})
    assert result.data == 5


async def test_progress_notifications_stream_before_the_answer() -> None:
    seen: list[float] = []

    async def on_progress(progress: float, _total: float | None, _message: str | None) -> None:
        seen.append(progress)

    async with serve(Node().app()) as served, Client(served.url(), mode=MODERN) as client:
        result = await client.call_tool("steps", {}, progress_handler=on_progress)
    assert (result.data, seen) == ("walked", [1, 2, 3])


async def test_a_listening_client_hears_that_the_tools_changed() -> None:
    node = Node()
    listen = modern_body("subscriptions/listen", notifications={"toolsListChanged": True})
    async with (
        serve(node.app()) as served,
        aiohttp.ClientSession() as http,
        http.post(served.url(), json=listen, headers=modern_headers("subscriptions/listen")) as answer,
    ):
        assert answer.content_type == "text/event-stream"
        await until_line(answer, "acknowledged")
        await node.bus.publish(ToolsListChanged())
        assert "notifications/tools/list_changed" in await until_line(answer, "list_changed")


async def until_line(answer: aiohttp.ClientResponse, word: str) -> str:
    async with asyncio.timeout(5):
        async for line in answer.content:
            if word in line.decode():
                return line.decode()
    raise AssertionError(f"the stream ended without {word!r}")


async def test_a_dropped_modern_client_cancels_its_tool() -> None:
    node = Node()
    async with serve(node.app()) as served, asyncio.timeout(10):
        async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as tasks:
            call = modern_body("tools/call", name="wait", arguments={})
            headers = modern_headers("tools/call", "wait")
            posting = tasks.create_task(post(http, served.url(), call, headers), name="post")
            await node.started.wait()
            posting.cancel()
        await node.cancelled.wait()
    assert not node.finished.is_set()


async def post(http: aiohttp.ClientSession, url: str, body: Any, headers: dict[str, str]) -> tuple[int, str]:
    async with http.post(url, json=body, headers=headers) as answer:
        return answer.status, await answer.text()


async def test_shutdown_ends_listen_streams_in_time() -> None:
    node = Node()
    listen = modern_body("subscriptions/listen", notifications={"toolsListChanged": True})
    async with (
        serve(node.app(), drain_s=20) as served,
        aiohttp.ClientSession() as http,
        http.post(served.url(), json=listen, headers=modern_headers("subscriptions/listen")) as listening,
    ):
        await until_line(listening, "acknowledged")
        assert "streams=1" in repr(served.bridge)
        async with asyncio.timeout(5):  # far less than the drain time
            await served.runner.cleanup()
            await listening.read()
    assert "streams=0" in repr(served.bridge)


async def test_a_post_in_flight_drains_at_shutdown() -> None:
    node = Node()
    async with serve(node.app()) as served, aiohttp.ClientSession() as http, asyncio.TaskGroup() as tasks:
        call = modern_body("tools/call", name="wait", arguments={})
        posting = tasks.create_task(post(http, served.url(), call, modern_headers("tools/call", "wait")), name="post")
        await node.started.wait()
        stopping = tasks.create_task(served.runner.cleanup(), name="stop")
        while "closing" not in repr(served.bridge):
            await asyncio.wait([stopping], timeout=0.01)
        node.release.set()
        status, text = await posting
        assert status == 200
        assert "released" in text


async def test_a_call_that_outlives_the_drain_time_does_not_hold_the_node() -> None:
    node = Node()
    async with serve(node.app(), drain_s=0.1) as served, aiohttp.ClientSession() as http, asyncio.timeout(10):
        call = modern_body("tools/call", name="wait", arguments={})
        async with asyncio.TaskGroup() as tasks:
            posting = tasks.create_task(cut_off(http, served.url(), call, "wait"), name="post")
            await node.started.wait()
            await served.runner.cleanup()
            await posting
    assert node.cancelled.is_set()


async def cut_off(http: aiohttp.ClientSession, url: str, body: Any, name: str) -> None:
    with pytest.raises(aiohttp.ClientError):
        await post(http, url, body, modern_headers("tools/call", name))


async def test_an_oversize_body_is_refused_by_its_announced_length() -> None:
    async with serve(Node().app(), max_body_bytes=1000) as served, aiohttp.ClientSession() as http:
        status, text = await post(http, served.url(), "x" * 1000, modern_headers("tools/list"))
        assert (status, json.loads(text)["error"]["code"]) == (413, -32600)
        status, _ = await post(http, served.url(), modern_body("tools/list"), modern_headers("tools/list"))
        assert status == 200


async def test_an_oversize_body_is_refused_while_it_streams() -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 100

    async with (
        serve(Node().app(), max_body_bytes=1000) as served,
        aiohttp.ClientSession() as http,
        http.post(served.url(), data=endless(), headers=modern_headers("tools/list")) as answer,
    ):
        assert answer.status == 413


async def test_a_compressed_bomb_is_measured_unpacked() -> None:
    async with serve(Node().app(), max_body_bytes=1000) as served, aiohttp.ClientSession() as http:
        body = b" " * 100_000
        async with http.post(served.url(), data=body, headers=modern_headers("x"), compress="gzip") as answer:
            assert answer.status == 413


async def test_a_compressed_body_reaches_the_application_unpacked() -> None:
    async with serve(Node().app()) as served, aiohttp.ClientSession() as http:
        headers = modern_headers("tools/list") | {"Content-Type": "application/json"}
        body = json.dumps(modern_body("tools/list")).encode()
        async with http.post(served.url(), data=body, headers=headers, compress="gzip") as answer:
            assert (answer.status, len((await answer.json())["result"]["tools"])) == (200, 3)


async def test_the_trailing_slash_is_the_same_endpoint() -> None:
    async with serve(Node().app()) as served, Client(served.url("/mcp/"), mode=MODERN) as client:
        assert (await client.call_tool("add", {"a": 1, "b": 1})).data == 2


@pytest.mark.parametrize("refusal", ["raises", "says so", "returns"])
async def test_a_lifespan_that_fails_to_start_aborts_the_server(refusal: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        await receive()
        if refusal == "raises":
            raise OSError("no disk")
        if refusal == "says so":
            await send({"type": "lifespan.startup.failed", "message": "no disk"})

    with pytest.raises(LifespanFailed, match="ended by itself" if refusal == "returns" else "no disk"):
        async with serve(app):
            raise AssertionError("the server started")


async def test_a_lifespan_that_never_stops_does_not_hold_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.server.asgi_lifespan.STOP_TIMEOUT_S", 0.05)

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await asyncio.Event().wait()

    async with asyncio.timeout(5), serve(app) as served:
        pass
    assert "closing" in repr(served.bridge)


def with_lifespan(handle: Callable[..., Any]) -> Any:
    """An ASGI application with a lifespan that always works."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await handle(scope, receive, send)
            return
        scope["state"]["from_lifespan"] = True
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    return app


async def show_scope(scope: Any, receive: Any, send: Any) -> None:
    shown = {key: repr(scope[key]) for key in ("path", "raw_path", "query_string", "root_path", "scheme", "state")}
    shown |= {"client": scope["client"], "server": scope["server"], "body": (await receive())["body"].decode()}
    shown["x"] = [value.decode() for name, value in scope["headers"] if name == b"x-twice"]
    headers = [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(shown).encode()})


async def test_duplicate_headers_survive_both_ways() -> None:
    async with (
        serve(with_lifespan(show_scope)) as served,
        aiohttp.ClientSession() as http,
        http.get(served.url(), headers=[("X-Twice", "1"), ("X-Twice", "2")]) as answer,
    ):
        assert answer.headers.getall("Set-Cookie") == ["a=1", "b=2"]
        assert (await answer.json())["x"] == ["1", "2"]


async def test_percent_encoding_reaches_the_application_raw_and_decoded() -> None:
    app = with_lifespan(show_scope)
    async with (
        serve(app, path="/mcp", route="/mcp/{tail:.*}") as served,
        aiohttp.ClientSession() as http,
        http.get(served.url("/mcp/a%20b%C3%A9?q=%2F")) as answer,
    ):
        shown = await answer.json()
    assert shown["path"] == repr("/mcp/a bé")
    assert shown["raw_path"] == repr(b"/mcp/a%20b%C3%A9")
    assert shown["root_path"] == repr("")


async def test_addresses_are_the_sockets_and_never_the_host_headers() -> None:
    async with (
        serve(with_lifespan(show_scope)) as served,
        aiohttp.ClientSession() as http,
        http.get(served.url(), headers={"Host": "evil.example:1"}) as answer,
    ):
        shown = await answer.json()
    assert shown["server"] == ["127.0.0.1", served.port]
    assert shown["client"][0] == "127.0.0.1"


async def test_the_scope_carries_what_middlewares_learned() -> None:
    app = with_lifespan(show_scope)
    async with (
        serve(app, state_of=lambda request: {"mesh": request.method}) as served,
        aiohttp.ClientSession() as http,
        http.get(served.url()) as answer,
    ):
        assert (await answer.json())["state"] == repr({"from_lifespan": True, "mesh": "GET"})


async def test_a_body_that_somebody_in_front_has_read_is_handed_on() -> None:
    bridge = AsgiBridge(with_lifespan(show_scope), path="/mcp")

    async def front(request: web.Request) -> web.StreamResponse:
        assert await request.read() == b"hello"
        return await bridge.handle(request)

    app = web.Application()
    app.cleanup_ctx.append(bridge.cleanup_ctx)
    app.router.add_post("/mcp", front)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/mcp"
        async with aiohttp.ClientSession() as http, http.post(url, data=b"hello") as answer:
            assert (await answer.json())["body"] == "hello"
    finally:
        await runner.cleanup()


async def test_an_answer_that_stops_in_the_middle_is_never_taken_for_the_whole() -> None:
    async def half(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise OSError("broken")

    async with serve(with_lifespan(half)) as served, aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.ClientPayloadError):
            async with http.get(served.url()) as answer:
                await answer.read()


async def test_a_slow_reader_slows_the_application_down() -> None:
    sent, blocked = 0, asyncio.Event()
    chunk = b"x" * 65536

    async def flood(_scope: Any, _receive: Any, send: Any) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(1000):
            try:
                async with asyncio.timeout(0.3):
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            except TimeoutError:
                blocked.set()
                raise
            sent += 1

    async with serve(with_lifespan(flood)) as served, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=1024)
        writer.write(b"GET /mcp HTTP/1.1\r\nHost: a\r\nMCP-Protocol-Version: 2026-07-28\r\n\r\n")
        await blocked.wait()
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
    assert 0 < sent < 1000


async def test_a_reader_that_takes_nothing_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.server.asgi_exchange.WRITE_TIMEOUT_S", 0.2)
    told = asyncio.Event()

    async def flood(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(1000):
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        assert (await receive())["type"] == "http.disconnect"
        told.set()

    async with serve(with_lifespan(flood)) as served, asyncio.timeout(20):
        _reader, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=1024)
        writer.write(b"GET /mcp HTTP/1.1\r\nHost: a\r\n\r\n")
        await told.wait()
        writer.close()
