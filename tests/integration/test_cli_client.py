"""The client commands against an HTTP server that answers as a node does, over real sockets.

REST answers are written here, so that hostile and odd ones can be tried; tools come from a real FastMCP server.
"""

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from fastmcp import FastMCP
from fastmcp.exceptions import ToolError

from agent.cli.parser import main
from tests.integration.servers.nodes import served

TOKEN = "token-0123456789-abcdef"
STATUS = {
    "self": {
        "name": "node-1",
        "node_id": "id-1",
        "version": "0.1.0",
        "state": "ready",
        "url": "http://127.0.0.1:8000/mcp",
        "uptime_s": 75.0,
        "discovery": {
            "mode": "consul",
            "up": True,
            "registered": True,
            "instances": 2,
            "catalog_age_s": 1.5,
            "backend": "streaming",
            "confirmed_s": 20.0,
        },
        "tools": 70,
        "function_count": 7,
        "servers": [
            {
                "name": "clock",
                "status": "connected",
                "failed_lists": [{"list": "resources/list", "reason": "error -32603: no disk"}],
                "hints": ["all clients share one session"],
            }
        ],
    },
    "peers": [
        {
            "name": "node-2",
            "url": "http://10.0.0.7:8000/mcp",
            "state": "backoff",
            "source": "discovery",
            "function_count": 0,
            "last_error": "refused\x1b[31m\nnode-3 ready",
            "next_attempt_s": 4.2,
            "latency_ms": None,
        }
    ],
    "conflicts": [{"name": "pay", "holder": "peer:a", "others": ["peer:b"], "reason": "differs"}],
    "left_out": [{"backend": "server:clock", "kind": "tool", "name": "tick", "why": "inputSchema is no schema, but 1"}],
}

Served = Callable[..., Awaitable[tuple[int, str, str]]]


class Requests:
    """What the server was sent."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, Any, str | None]] = []


def build_tools() -> FastMCP:
    server: FastMCP = FastMCP("node")

    @server.tool
    def add(a: int, b: int = 1) -> int:
        """Add two numbers."""
        return a + b

    @server.tool
    def fail() -> str:
        raise ToolError("no\x1b[31m luck")

    @server.resource("notes://one", mime_type="text/plain")
    def one() -> str:
        return "first\x1b[31m\nsecond"

    @server.resource("notes://picture", mime_type="image/png")
    def picture() -> bytes:
        return b"\x89PNG\x00"

    @server.resource("notes://{number}/page")
    def page(number: str) -> str:
        return number

    @server.prompt
    def greet(name: str, tone: str = "kind") -> str:
        """Greet a person."""
        return f"Say hello to {name}, {tone}"

    @server.tool
    def reload_mcp_server(server_name: str) -> dict[str, Any]:
        return {"server_name": server_name, "success": server_name != "bad", "message": f"reloaded {server_name}"}

    @server.tool
    async def reload_all_mcp_servers() -> dict[str, Any]:
        return {"servers": [reload_mcp_server("clock"), reload_mcp_server("bad")], "count": 2}

    return server


@asynccontextmanager
async def serve(requests: Requests, answer: Callable[[web.Request], web.Response]) -> AsyncIterator[str]:
    @web.middleware
    async def note(request: web.Request, handler: Any) -> web.StreamResponse:
        body = await request.json() if request.can_read_body and request.path.startswith("/api") else None
        requests.seen.append((request.method, request.raw_path, body, request.headers.get("Authorization")))
        if request.headers.get("Authorization") not in (None, f"Bearer {TOKEN}"):
            return web.json_response({"success": False, "message": "no", "error": {"code": "unauthorized"}}, status=401)
        return await handler(request)  # type: ignore[no-any-return]  # aiohttp's handlers are untyped here

    async def rest(request: web.Request) -> web.Response:
        return answer(request)

    async with served(build_tools()) as tools, aiohttp.ClientSession() as http:

        async def mcp(request: web.Request) -> web.Response:
            sent = {name: value for name, value in request.headers.items() if name not in ("Host", "Content-Length")}
            async with http.post(tools, data=await request.read(), headers=sent) as told:
                kept = {name: told.headers[name] for name in ("Content-Type", "Mcp-Session-Id") if name in told.headers}
                return web.Response(status=told.status, body=await told.read(), headers=kept)

        app = web.Application(middlewares=[note])
        app.router.add_post("/mcp", mcp)
        app.router.add_route("*", "/api/{rest:.*}", rest)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


def good(data: Any, message: str = "done") -> Callable[[web.Request], web.Response]:
    return lambda _: web.json_response({"success": True, "data": data, "message": message})


def bad(status: int, code: str, message: str) -> Callable[[web.Request], web.Response]:
    error = {"success": False, "message": message, "error": {"code": code, "detail": None}}
    return lambda _: web.json_response(error, status=status)


async def run(url: str, *argv: str) -> int:
    # The command has an event loop of its own, as on the command line.
    return await asyncio.to_thread(main, [*argv, "--url", url])


async def test_status_shows_self_first_then_peers_then_conflicts(capsys: pytest.CaptureFixture[str]) -> None:
    async with serve(Requests(), good(STATUS)) as url:
        assert await run(url, "status") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "node-1 is ready, up 1 min 15 s, version 0.1.0, node ID id-1"
    assert lines[1] == (
        "discovery: consul, up, registered, 2 instances, catalog 1.5 s old by the cache of its agent, "
        "confirmed 20 s ago"
    )
    assert lines[2] == "tools of servers, on all nodes: 70"
    assert lines[3] == "servers: clock (connected)"
    assert lines[4] == "  clock: all clients share one session"
    assert lines[6].split() == ["NAME", "STATE", "SOURCE", "TOOLS", "NEXT", "TRY", "URL", "LAST", "ERROR"]
    assert lines[7].split()[:6] == ["node-1", "(this", "node)", "ready", "self", "7"]
    assert lines[8].startswith("node-2              backoff  discovery  0      in 4.2 s  http://10.0.0.7:8000/mcp")
    assert lines[8].endswith("refused node-3 ready")
    assert "pay   peer:a  peer:b  differs" in lines
    assert "clock  resources/list  error -32603: no disk" in lines
    assert "server:clock  tool  tick  inputSchema is no schema, but 1" in lines


async def test_status_tells_when_a_server_that_is_down_is_tried_again_and_why_it_is_down(
    capsys: pytest.CaptureFixture[str],
) -> None:
    down = {"connected": False, "next_attempt_s": 125.0, "last_error": "files exited with code 1"}
    servers = [
        {"name": "clock", "status": "connected", "state": "ready", "connected": True, "last_error": "old"},
        {"name": "files", "status": "parked", "state": "parked", **down},
        {"name": "web", "status": "dialing", "state": "dialing", **down, "last_error": ""},
    ]
    async with serve(
        Requests(), good({**STATUS, "self": {"name": "n", "servers": servers}, "servers": servers})
    ) as url:
        assert await run(url, "status") == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[3] == "servers: clock (connected), files (parked, next try in 2 min 5 s), web (dialing)"
        assert lines[4] == "  files: files exited with code 1"
        assert lines[5] == ""
        assert await run(url, "servers", "ls") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "NEXT TRY" in lines[0]
    assert "in 2 min 5 s" in lines[2]
    assert "in 2 min 5 s" not in lines[3]


async def test_status_as_json_is_the_nodes_own_with_a_schema_number(capsys: pytest.CaptureFixture[str]) -> None:
    async with serve(Requests(), good(STATUS)) as url:
        assert await run(url, "status", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"schema": 1, **STATUS}


@pytest.mark.parametrize("data", [None, {}, [], {"self": None, "peers": None}, {"peers": [None, {}]}])
async def test_status_of_an_odd_node_is_dashes_and_no_traceback(data: Any) -> None:
    async with serve(Requests(), good(data)) as url:
        assert await run(url, "status") == 0


async def test_peers_are_listed_added_and_removed(capsys: pytest.CaptureFixture[str]) -> None:
    requests = Requests()
    said = {"peers": STATUS["peers"], "message": "Peer node 'b c' done", "note": "It is\x1b[31m known"}
    async with serve(requests, good(said)) as url:
        assert await run(url, "peers", "ls") == 0
        assert await run(url, "peers", "add", "node-3", "http://10.0.0.8:8000/mcp", "--scope", "mesh") == 0
        assert await run(url, "peers", "rm", "../b c") == 0
        assert await run(url, "peers", "reset", "b") == 0
    out = capsys.readouterr().out
    assert "node-2" in out
    assert out.count("Peer node 'b c' done\nIt is known\n") == 3
    body = {"peer_name": "node-3", "peer_url": "http://10.0.0.8:8000/mcp", "scope": "mesh"}
    assert requests.seen == [
        ("GET", "/api/v1/mcp/peers", None, None),
        ("POST", "/api/v1/mcp/peers", body, None),
        ("DELETE", "/api/v1/mcp/peers/..%2Fb%20c", None, None),
        ("DELETE", "/api/v1/mcp/peers/b?forget=1", None, None),
    ]


@pytest.mark.parametrize("command", [["peers", "ls"], ["status"]])
async def test_suppressed_peers_are_named_once_with_the_way_to_lift_it(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    data = {**STATUS, "suppressed": ["node-9", "odd\x1b[31m\nname", "node-9"]}
    async with serve(Requests(), good(data)) as url:
        assert await run(url, *command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == [
        "Removed, and kept away although discovery may find them: node-9, odd name",
        "To lift that: mesh-agent peers reset NAME",
    ]


async def test_peers_that_went_are_shown_with_how_and_since_when(capsys: pytest.CaptureFixture[str]) -> None:
    gone = {"name": "node-7", "state": "failed", "since_s": 90.0, "url": "http://h/mcp", "last_error": "refused\x1b[0m"}
    async with serve(Requests(), good({**STATUS, "departed": [gone]})) as url:
        assert await run(url, "status") == 0
    out = capsys.readouterr().out
    assert "Peers that went in the last hour:" in out
    assert re.search(r"node-7 +failed +1 min 30 s +http://h/mcp +refused\n", out), out


async def test_suppressed_peers_are_part_of_the_listing_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    async with serve(Requests(), good({"peers": [], "suppressed": ["node-9"]})) as url:
        assert await run(url, "peers", "ls", "--json") == 0
        assert json.loads(capsys.readouterr().out) == {"schema": 1, "peers": [], "suppressed": ["node-9"]}
        assert await run(url, "peers", "ls") == 0
    assert capsys.readouterr().out.startswith("no peers\n\nRemoved")


async def test_token_of_a_peer_comes_from_a_file_or_from_stdin(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    requests, file = Requests(), tmp_path / "peer"
    file.write_text("peer-token-from-file\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("peer-token-from-stdin\n"))
    async with serve(requests, good({})) as url:
        assert await run(url, "peers", "add", "a", "http://h/mcp", "--auth-token-file", str(file)) == 0
        assert await run(url, "peers", "add", "a", "http://h/mcp", "--auth-token", "-") == 0
    assert [body["auth_token"] for _, _, body, _ in requests.seen] == ["peer-token-from-file", "peer-token-from-stdin"]


async def test_servers_are_listed_with_the_number_of_their_functions(capsys: pytest.CaptureFixture[str]) -> None:
    servers = [{"name": "clock", "status": "connected", "functions": [{"name": "now"}, {"name": "convert"}]}]
    async with serve(Requests(), good({"servers": servers})) as url:
        assert await run(url, "servers", "ls") == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["clock", "connected", "2"]


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (bad(401, "unauthorized", "x"), 3, "wants a token"),
        (bad(403, "forbidden", "x"), 3, "wants a token"),
        (bad(403, "address_refused", "peer_url: metadata address"), 1, "metadata address (403 address_refused)"),
        (bad(409, "name_taken", "taken"), 1, "taken (409 name_taken)"),
        (bad(503, "unavailable", "stopping"), 4, "stopping"),
        (lambda _: web.Response(text="<html>", status=200), 4, "not like a mesh node"),
        (lambda _: web.Response(text="<html>", status=401), 3, "401"),
        (lambda _: web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}), 4, "302"),
    ],
)
async def test_failure_of_a_request_has_its_exit_code_and_its_words(
    answer: Callable[[web.Request], web.Response], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serve(Requests(), answer) as url:
        assert await run(url, "peers", "add", "a", "http://h/mcp") == code
    assert words in capsys.readouterr().err


async def test_token_is_sent_and_a_wrong_one_is_exit_code_three(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    requests = Requests()
    async with serve(requests, good(STATUS)) as url:
        monkeypatch.setenv("MESH_TOKEN", TOKEN)
        assert await run(url, "status") == 0
        assert await run(f"{url}/mcp", "tools", "ls") == 0
        for command in (["status"], ["tools", "ls"], ["tools", "call", "add", "a=1"]):
            assert await run(url, *command, "--token", "wrong-token") == 3
    assert requests.seen[0][3] == f"Bearer {TOKEN}"
    err = capsys.readouterr().err
    assert err.count("the token is wrong") == 3
    assert "wrong-token" not in err


async def test_tools_are_listed_and_called(capsys: pytest.CaptureFixture[str]) -> None:
    async with serve(Requests(), good({})) as url:
        assert await run(url, "tools", "ls") == 0
        assert "add                     a, b?        Add two numbers." in capsys.readouterr().out.splitlines()
        assert await run(url, "tools", "call", "add", "a=2", "b=3") == 0
        assert capsys.readouterr().out == "5\n"
        assert await run(url, "tools", "call", "add", "--args", '{"a": 2}', "--json") == 0
        printed = json.loads(capsys.readouterr().out)
        assert (printed["schema"], printed["result"]["structuredContent"]) == (1, {"result": 3})
        assert await run(url, "servers", "reload", "clock") == 0
        assert capsys.readouterr().out == "reloaded clock\n"
        assert await run(url, "servers", "reload", "bad") == 5
        assert await run(url, "servers", "reload") == 5
        assert capsys.readouterr().out == "reloaded bad\nreloaded clock\nreloaded bad\n"
    servers = [{"name": "bad", "last_error": "exited with code 3; its last words: locked"}, {"name": "clock"}, 7]
    async with serve(Requests(), good({"servers": servers})) as url:
        assert await run(url, "servers", "reload") == 5
        told = "reloaded clock\nreloaded bad\n  exited with code 3; its last words: locked\n"
        assert capsys.readouterr().out == told, "an operator reads the whole reason"


async def test_tool_is_described_with_its_arguments_and_how_to_call_it(capsys: pytest.CaptureFixture[str]) -> None:
    async with serve(Requests(), good({})) as url:
        assert await run(url, "tools", "describe", "add") == 0
        out = capsys.readouterr().out
        assert "Add two numbers." in out
        assert "  a (integer, required)\n  b (integer, default 1)\n" in out
        assert out.endswith("Call it: mesh-agent tools call add a=…\n")
        assert await run(url, "tools", "describe", "add", "--json") == 0
        assert json.loads(capsys.readouterr().out)["tool"]["inputSchema"]["required"] == ["a"]
        assert await run(url, "tools", "describe", "ad") == 5
        assert "Unknown tool: 'ad'; did you mean add?" in capsys.readouterr().err
        assert await run(url, "tools", "ls", "-o", "name") == 0
        assert "add" in capsys.readouterr().out.splitlines()


async def test_resources_are_listed_and_read_text_made_harmless_and_bytes_as_they_are(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    async with serve(Requests(), good({})) as url:
        assert await run(url, "resources", "ls", "-o", "name") == 0
        assert capfdbinary.readouterr().out.split() == [b"notes://one", b"notes://picture", b"notes://{number}/page"]
        assert await run(url, "resources", "read", "notes://one") == 0
        assert capfdbinary.readouterr().out == b"first\nsecond\n"
        assert await run(url, "resources", "read", "notes://picture") == 0
        assert capfdbinary.readouterr().out == b"\x89PNG\x00"
        assert await run(url, "resources", "read", "notes://none") == 5


async def test_prompts_are_listed_and_made_of_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    async with serve(Requests(), good({})) as url:
        assert await run(url, "prompts", "ls") == 0
        assert capsys.readouterr().out.splitlines()[1].split() == ["greet", "name,", "tone?", "Greet", "a", "person."]
        assert await run(url, "prompts", "get", "greet", "name=Ada", "tone=loud") == 0
        assert capsys.readouterr().out == "user: Say hello to Ada, loud\n"
        assert await run(url, "prompts", "get", "greet", "Ada") == 1


async def test_peer_that_is_not_there_is_answered_with_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    def answer(request: web.Request) -> web.Response:
        unknown = bad(404, "unknown_peer", "There is no peer named 'node-22'.")
        return (good(STATUS) if request.method == "GET" else unknown)(request)

    async with serve(Requests(), answer) as url:
        assert await run(url, "peers", "rm", "node-22") == 1
    assert "did you mean node-2?" in capsys.readouterr().err


async def test_a_reset_that_finds_no_order_suggests_neither_what_was_written_nor_a_peer_without_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    peers = [{"name": "two", "source": "discovery"}, {"name": "twos", "source": "override"}]

    def answer(request: web.Request) -> web.Response:
        unknown = bad(404, "unknown_peer", "No operator has added, changed or removed a peer named 'two'.")
        return (good({"peers": peers, "suppressed": ["tow"]}) if request.method == "GET" else unknown)(request)

    async with serve(Requests(), answer) as url:
        assert await run(url, "peers", "reset", "two") == 1
        said = capsys.readouterr().err
        assert "did you mean twos or tow?" in said
        assert await run(url, "peers", "rm", "two") == 1
        assert "did you mean twos?" in capsys.readouterr().err


async def test_ping_shows_each_way_and_fails_where_none_was_answered(capsys: pytest.CaptureFixture[str]) -> None:
    way = {"replica": "peer:b", "way": ["a", "b\x1b[31m"], "ms": 1.26, "error": None}
    silent = {"replica": "peer:c", "way": ["a", "c"], "ms": None, "error": "it refuses the connection"}
    requests = Requests()
    async with serve(requests, good({"name": "dice", "kind": "server", "ways": [way, silent]})) as url:
        assert await run(url, "ping", "dice roll", "-c", "2") == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[:3] == lines[3:]
        assert lines[1].split() == ["a", "->", "b", "1.3", "ms", "-"]
        assert lines[2].endswith("it refuses the connection")
        assert await run(url, "ping", "dice", "--json") == 0
        assert json.loads(capsys.readouterr().out)["rounds"][0]["ways"] == [way, silent]
    assert requests.seen[0][1] == "/api/v1/mcp/ping?name=dice%20roll"
    async with serve(Requests(), good({"name": "dice", "ways": [silent]})) as url:
        assert await run(url, "ping", "dice") == 4
    async with serve(Requests(), good({"name": "dice", "ways": []})) as url:
        assert await run(url, "ping", "dice") == 4
        assert await run(url, "ping", "dice", "-c", "0") == 1


async def test_log_of_a_node_is_shown_as_text_and_as_it_came(capsys: pytest.CaptureFixture[str]) -> None:
    line = {"time": "T", "level": "error", "logger": "agent.x", "event": "it\x1b[31m broke", "peer": "b", "why": "a b"}
    traced = {**line, "traceback": "first\nsecond", "count": None}
    events = "".join(f"data: {json.dumps(one)}\n\n" for one in (line, traced))
    requests = Requests()
    async with serve(requests, lambda _: web.Response(text=events, content_type="text/event-stream")) as url:
        assert await run(url, "logs", "--level", "warning") == 0
        assert capsys.readouterr().out.splitlines() == [
            'T ERROR   agent.x: it broke  peer=b why="a b"',
            'T ERROR   agent.x: it broke  peer=b why="a b" count=-',
            "  | first",
            "  | second",
        ]
        assert await run(url, "logs", "--follow", "--json") == 0
        assert [json.loads(one) for one in capsys.readouterr().out.splitlines()] == [line, traced]
    assert [seen[1] for seen in requests.seen] == [
        f"/api/v1/mcp/logs?level={end}" for end in ("warning", "info&follow=1")
    ]


async def test_bundle_names_what_it_could_not_get_and_is_never_written_over(
    tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(request: web.Request) -> web.Response:
        wrong = bad(403, "insufficient_scope", "Token 'a' has the scopes read; this wants admin")
        return (wrong if request.path.endswith(("debug", "logs")) else good(STATUS))(request)

    path = tmp_path / "bundle.tar.gz"
    async with serve(Requests(), answer) as url:
        assert await run(url, "debug", "--file", str(path), "--json") == 0
        assert path.stat().st_mode & 0o077 == 0
        told = json.loads(capsys.readouterr().out)
        assert told["parts"] == ["about.json", "peers.json", "servers.json", "status.json"]
        assert "wants admin" in told["missing"]["process.json"]
        assert await run(url, "debug", "--file", str(path)) == 1
        assert "File exists" in capsys.readouterr().err
    assert await run("http://127.0.0.1:9", "debug", "--file", str(tmp_path / "other")) == 4
    assert list(tmp_path.iterdir()) == [path]


async def test_failure_of_a_tool_is_exit_code_five_and_its_text_is_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    async with serve(Requests(), good({})) as url:
        assert await run(url, "tools", "call", "fail") == 5
        assert "no luck" in capsys.readouterr().out
        assert await run(url, "tools", "call", "add", "a=x") == 5
        assert await run(url, "tools", "call", "unknown") == 5
