"""The client commands and what a node may answer: in any size, in parts, cut off, in either era, or never."""

import asyncio
import contextlib
import json
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from agent.cli import client
from agent.cli.output import Exit
from agent.cli.parser import main
from agent.mcp_terms import LATEST_HANDSHAKE_VERSION, LATEST_MODERN_VERSION
from agent.rpc_codes import HEADER_MISMATCH, METHOD_NOT_FOUND

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
SERVERS = [{"name": f"server-{number}", "last_error": "because " * 100} for number in range(3000)]
LONG = "a line\n" * 100_000
LEGACY, MODERN = "legacy", "modern"


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class Node:
    """An MCP endpoint of one era; `answers` are results by method, or what makes them of a request."""

    def __init__(self, era: str, **answers: Any) -> None:
        self.era = era
        self.answers = answers
        self.seen: list[Any] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.method != "POST":
            return web.Response(status=405)
        message = await request.json()
        method = message["method"]
        self.seen.append(message)
        if "id" not in message:
            return web.Response(status=202)
        answer = self.answers.get(method.replace("/", "_")) or self._greeting(method)
        if callable(answer):
            answer = await answer(request, message)
        if isinstance(answer, web.StreamResponse):
            return answer
        return web.json_response({"jsonrpc": "2.0", "id": message["id"], **answer})

    def _greeting(self, method: str) -> dict[str, Any]:
        if method == "server/discover" and self.era == MODERN:
            versions = {"supportedVersions": [LATEST_MODERN_VERSION], "capabilities": {"tools": {}}}
            return {"result": {"resultType": "complete", **versions}}
        if method == "initialize":
            known = {"protocolVersion": LATEST_HANDSHAKE_VERSION, "capabilities": {"tools": {}}}
            return {"result": {**known, "serverInfo": {"name": "old", "version": "1"}}}
        return {"error": {"code": METHOD_NOT_FOUND, "message": f"Unknown method {method}"}}


def text(said: str) -> dict[str, Any]:
    return {"result": {"content": [{"type": "text", "text": said, "annotations": None}], "_meta": None}}


async def run(url: str, *argv: str) -> int:
    return await asyncio.to_thread(main, [*argv, "--url", url])


@pytest.mark.parametrize("in_parts", [False, True])
async def test_list_of_two_megabytes_is_read_whole_in_one_piece_or_in_parts(
    in_parts: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    body = json.dumps({"success": True, "data": {"servers": SERVERS}, "message": ""}).encode()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        if in_parts:
            response.enable_chunked_encoding()
        else:
            response.content_length = len(body)
        await response.prepare(request)
        for start in range(0, len(body), 70_001):
            await response.write(body[start : start + 70_001])
        return response

    async with serving(answer) as url:
        assert await run(url, "servers", "ls", "--json") == 0
    assert json.loads(capsys.readouterr().out)["servers"] == SERVERS


async def test_the_audit_of_a_node_without_a_file_here_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.path_qs)
        record = {"seq": 7, "time": "T", "act": "peer.add", "who": "ops", "peer": "b\x1b[31m"}
        return web.json_response({"success": True, "data": {"records": [record]}, "message": ""})

    monkeypatch.setenv("MESH_STATE_DIR", str(tmp_path))
    assert await asyncio.to_thread(main, ["audit", "tail"]) == Exit.CONFIG
    assert "MESH_URL" in capsys.readouterr().err
    async with serving(answer) as url:
        monkeypatch.setenv("MESH_URL", url)
        assert await asyncio.to_thread(main, ["audit", "tail", "-n", "5"]) == Exit.OK
        assert await asyncio.to_thread(main, ["audit", "verify"]) == Exit.CONFIG
    assert capsys.readouterr().out == "7 T peer.add ops peer=b\n"
    assert asked == ["/api/v1/mcp/audit?count=5"]


async def test_answer_that_breaks_off_or_never_comes_is_a_node_that_cannot_be_reached(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b'{"success": true')
        assert request.transport is not None
        request.transport.close()
        return response

    async def trickle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await asyncio.Event().wait()

    async with serving(cut) as url:
        assert await run(url, "status") == 4
    assert "it broke off in the middle of its answer" in capsys.readouterr().err
    monkeypatch.setattr(client, "REQUEST_TIMEOUT_S", 0.3)
    async with serving(trickle) as url:
        assert await run(url, "status") == 4
    assert "it did not answer within 0.3 s" in capsys.readouterr().err


@pytest.mark.parametrize("era", [LEGACY, MODERN])
async def test_tools_of_either_era_are_listed_page_by_page_and_called(
    era: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def listed(_request: web.Request, message: Any) -> Any:
        at = int(message["params"].get("cursor", "0"))
        tools = [{"name": f"tool-{at}", "inputSchema": {"type": "object"}, "title": None}]
        return {"result": {"tools": tools, **({"nextCursor": str(at + 1)} if at < 2 else {})}}

    node = Node(era, tools_list=listed, tools_call=text(LONG))
    async with serving(node.answer) as url:
        assert await run(url, "tools", "ls", "--json") == 0
        schema = {"type": "object"}
        tools = [{"name": f"tool-{at}", "inputSchema": schema} for at in range(3)]
        assert json.loads(capsys.readouterr().out) == {"schema": 1, "tools": tools}
        assert await run(url, "tools", "call", "tool-0", "a=1") == 0
        assert capsys.readouterr().out == LONG
        assert await run(url, "tools", "call", "tool-0", "--json") == 0
    result = {"content": [{"type": "text", "text": LONG}], "isError": False, "resultType": "complete"}
    assert json.loads(capsys.readouterr().out)["result"] == result


async def test_numbers_and_texts_that_few_readers_hold_are_printed_as_they_came(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def odd(_request: web.Request, message: Any) -> web.Response:
        words = (
            '{"content": [{"type": "text", "text": "half \\ud800"}], "structuredContent": {"n": 123456789012345678901}}'
        )
        return web.Response(
            text=f'{{"jsonrpc": "2.0", "id": {message["id"]}, "result": {words}}}', content_type="application/json"
        )

    async with serving(Node(MODERN, tools_call=odd).answer) as url:
        assert await run(url, "tools", "call", "x", "--json") == 0
        assert json.loads(capsys.readouterr().out)["result"]["structuredContent"] == {"n": 123456789012345678901}
        assert await run(url, "tools", "call", "x") == 0
    assert capsys.readouterr().out == "half \n"


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (web.Response, 4, "answered HTTP 502"),
        ({"error": {"code": -32603, "message": "no luck"}}, 5, "mesh-agent: no luck\n"),
        ({"error": {"code": -32603, "message": ""}}, 5, "an error that has no message"),
        ({"result": {"resultType": "input_required", "inputRequests": {}}}, 5, "cannot go on with 'input_required'"),
        ({"result": {"content": "odd", "structuredContent": [1]}}, 0, ""),
        ({"result": {"content": [1, {}, {"type": "image", "data": "x"}], "isError": 1}}, 0, ""),
    ],
)
async def test_odd_answers_to_a_call_have_their_exit_codes_and_no_traceback(
    answer: Any, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def answered(_request: web.Request, _message: Any) -> Any:
        return answer(status=502) if answer is web.Response else answer

    async with serving(Node(MODERN, tools_call=answered).answer) as url:
        assert await run(url, "tools", "call", "x") == code
        assert words in capsys.readouterr().err
        reload = await run(url, "servers", "reload")
        assert reload == code


async def test_token_that_allows_too_little_differs_from_a_wrong_one(capsys: pytest.CaptureFixture[str]) -> None:
    async def forbidden(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=403)

    async with serving(forbidden) as url:
        assert await run(url, "tools", "ls", "--token", "token-0123456789") == 3
    assert re.search("answered 403: the token does not allow this", capsys.readouterr().err)


async def test_call_is_made_again_with_the_headers_that_the_tools_schema_wants() -> None:
    schema = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}

    async def called(request: web.Request, message: Any) -> Any:
        if request.headers.get("Mcp-Param-Region") == "eu":
            return text("done")
        error = {"code": HEADER_MISMATCH, "message": "Mcp-Param-Region header is missing"}
        return web.json_response({"jsonrpc": "2.0", "id": message["id"], "error": error}, status=400)

    tools = {"result": {"tools": [{"name": "x", "inputSchema": schema}]}}
    node = Node(MODERN, tools_list=tools, tools_call=called)
    async with serving(node.answer) as url:
        assert await run(url, "tools", "call", "x", "region=eu") == 0
    assert [message["method"] for message in node.seen[1:]] == ["tools/call", "tools/list", "tools/call"]


@pytest.mark.parametrize("era", [LEGACY, MODERN])
async def test_call_ends_at_its_time_limit_and_at_an_interrupt_and_the_node_hears_of_it(
    era: str, capsys: pytest.CaptureFixture[str]
) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def endless(_request: web.Request, _message: Any) -> Any:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with serving(Node(era, tools_call=endless).answer) as url:
        assert await run(url, "tools", "call", "x", "--timeout", "1") == 5
        assert "Request 'tools/call' timed out" in capsys.readouterr().err
        await ended.wait()
        begun.clear()
        ended.clear()
        command = [sys.executable, "-m", "agent", "tools", "call", "x", "--url", url]
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        await begun.wait()
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
        await ended.wait()
    assert (process.returncode, err) == (130, b"")


async def test_command_that_waits_for_rest_ends_at_an_interrupt() -> None:
    begun = asyncio.Event()

    async def endless(_request: web.Request) -> web.StreamResponse:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with serving(endless) as url:
        command = [sys.executable, "-m", "agent", "status", "--url", url]
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        await begun.wait()
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    assert (process.returncode, err) == (130, b"")


@pytest.mark.parametrize("command", [["status"], ["tools", "ls"]])
@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("[::1]:9", "refuses the connection"),
        ("name.invalid", "host name that cannot be resolved"),
    ],
)
async def test_address_that_leads_nowhere_is_reported_alike_by_rest_and_mcp_commands(
    place: str, words: str, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run(f"http://{place}", *command) == 4
    assert re.search(f"no node answers at .*: it .*{words}", capsys.readouterr().err)


@pytest.mark.parametrize("command", [["status"], ["tools", "ls"]])
async def test_a_host_that_no_dns_can_hold_is_refused_alike_by_rest_and_mcp_commands(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run(f"http://{'x' * 80}", *command) == 1
    assert "--url or MESH_URL must name a host whose parts have at most 63 characters" in capsys.readouterr().err
