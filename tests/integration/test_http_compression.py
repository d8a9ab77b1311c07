"""Compressed answers of real servers: bodies and streams in every coding that is announced, bombs and lies."""

import asyncio
import functools
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
from aiohttp import web
from starlette.middleware.gzip import GZipMiddleware

from agent.client.connect import open_client
from agent.client.http.coding import CODINGS
from agent.client.http.pool import RequestBody
from agent.client.protocol import Request
from agent.errors import CallOutcomeUnknown, MeshError, ProtocolBroken
from agent.model import Era, HttpTarget, HttpTransport, Json, ServerScope, ServerSpec
from tests.integration.servers.answering_client import answering_client
from tests.integration.servers.client_scripts import modern, open_and_call
from tests.integration.servers.hops import front_of
from tests.integration.servers.hosting import Front, Seen, http, scripted, serving
from tests.integration.servers.packing import PACKED, packing
from tests.integration.servers.raw_http import pool_of
from tests.integration.servers.sse_hosting import sse_served
from tests.integration.test_http_sse_servers import call, kit, said
from tests.integration.test_large_answers_of_servers import LARGE, large_server
from tests.integration.test_session_elicitation import Human, words
from tests.waiting import UNREPAIRED_S

MIB = 1 << 20


def gzipped(*parts: bytes) -> bytes:
    packer = zlib.compressobj(zlib.Z_BEST_SPEED, wbits=31)
    return b"".join(map(packer.compress, parts)) + packer.flush()


@pytest.mark.parametrize("coding", PACKED)
@pytest.mark.parametrize("era", list(Era))
async def test_a_server_whose_answers_are_all_compressed_works_as_any(era: Era, coding: str) -> None:
    app = kit().http_app()
    heard: list[object] = []

    async def on_notification(_: str, params: Json) -> None:
        heard.append(params["progress"])

    async with app.router.lifespan_context(app), asyncio.timeout(UNREPAIRED_S):
        front = Front(packing(app, coding), None if era is Era.MODERN else 400)
        async with serving(front) as base, open_client(HttpTarget(f"{base}/mcp")) as client:
            assert client.server_info.era is era
            assert said(await client.request(call("echo", word="x" * 300_000))) == "x" * 300_000
            params = {"name": "steps", "arguments": {}, "_meta": {"progressToken": 1}}
            steps = Request.within("tools/call", params, timeout_s=10, on_notification=on_notification)
            assert said(await client.request(steps)) == "done"
            assert heard == [0, 1, 2]
            if era is Era.MODERN:
                return  # FastMCP has no stream of changes there.
            changes: asyncio.Queue[str] = asyncio.Queue()
            async with asyncio.TaskGroup() as group:
                listening = group.create_task(client.listen(changes.put_nowait), name="listen")
                assert await changes.get() == "listening"
                assert said(await client.request(call("more"))) == "added"
                assert await changes.get() == "tools"
                listening.cancel()


async def test_what_is_announced_is_what_starlettes_own_middleware_then_sends() -> None:
    app = kit().http_app()
    async with app.router.lifespan_context(app):
        front = Front(GZipMiddleware(app, minimum_size=100))
        async with serving(front) as base, open_client(HttpTarget(f"{base}/mcp")) as client:
            assert {tool["name"] for tool in (await client.request(Request.within("tools/list", timeout_s=5)))["tools"]}
    assert {one["accept-encoding"] for one in front.seen} == {", ".join(CODINGS)}
    assert {"gzip", "deflate"} <= set(CODINGS)


@pytest.mark.parametrize("era", list(Era))
async def test_a_large_compressed_answer_passes_a_node_while_it_comes(era: Era, tmp_path: Path) -> None:
    app = large_server().http_app()
    async with app.router.lifespan_context(app):
        front = Front(packing(app, "gzip"), None if era is Era.MODERN else 400)
        async with serving(front) as base:
            spec = ServerSpec("kit", HttpTarget(f"{base}/mcp"), ServerScope.SERVICE)
            async with front_of(tmp_path, spec) as node, answering_client(node.url, era, Human(), ()) as mcp:
                assert words(await mcp.call_tool("kit__links", {})).count("text") == LARGE // 13


@asynccontextmanager
async def answering(body: bytes, kind: str, status: int = 200, coding: str = "gzip") -> AsyncIterator[str]:
    """An aiohttp server whose calls are answered with a body that is packed already."""

    async def answer(request: web.Request) -> web.Response:
        message = await request.json()
        if message["method"] == "server/discover":
            return web.json_response(
                {
                    "jsonrpc": "2.0",
                    "id": message["id"],
                    "result": {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}},
                }
            )
        headers = {"Content-Type": kind, "Content-Encoding": coding}
        return web.Response(status=status, body=body, headers=headers)

    app = web.Application()
    app.router.add_post("/mcp", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/mcp"
    finally:
        await runner.cleanup()


async def failure(url: str) -> MeshError:
    with pytest.raises(MeshError) as caught:
        async with open_client(HttpTarget(url)) as client:
            await client.request(call("any"))
    return caught.value


@functools.cache
def bomb(head: bytes, tail: bytes) -> bytes:
    """200 MiB in less than one. Made when it is wanted: it takes a second, and every worker imports this file."""
    return gzipped(head, *[b"x" * MIB] * 200, tail)


BODY_OF_A_BOMB = (b'{"jsonrpc": "2.0", "id": 1, "result": {"content": "', b'"}}')
STREAM_OF_A_BOMB = (b"data: ", b"")


@pytest.mark.parametrize(
    ("ends", "kind", "words_"),
    [
        (BODY_OF_A_BOMB, "application/json", "gave an answer larger than 67108864 bytes"),
        (STREAM_OF_A_BOMB, "text/event-stream", "one server-sent event is larger than"),
    ],
    ids=["body", "stream"],
)
async def test_a_bomb_is_measured_unpacked_and_ends_its_call(ends: tuple[bytes, bytes], kind: str, words_: str) -> None:
    body = bomb(*ends)
    assert len(body) < MIB
    async with answering(body, kind) as url:
        fault = await failure(url)
    assert isinstance(fault, ProtocolBroken)
    assert words_ in str(fault)


async def test_a_bomb_in_the_body_of_a_refusal_is_left_and_the_status_counts() -> None:
    async with answering(bomb(*BODY_OF_A_BOMB), "application/json", 503) as url:
        assert str(await failure(url)).endswith("answered HTTP 503")


@pytest.mark.parametrize(
    "body", [b"no gzip", gzipped(b'{"jsonrpc": "2.0"}' * 5)[:-30], gzipped(b"{}")[:12] + b"junk" * 9]
)
async def test_a_body_that_is_not_what_it_says_ends_its_call_and_its_connection(body: bytes) -> None:
    async with answering(body, "application/json") as url:
        fault = await failure(url)
    assert isinstance(fault, CallOutcomeUnknown | ProtocolBroken)


async def test_an_error_in_a_compressed_refusal_is_the_servers_own() -> None:
    error = orjson.dumps({"jsonrpc": "2.0", "id": 1, "error": {"code": -32602, "message": "not so"}})
    async with answering(gzipped(error), "application/json", 400) as url:
        assert str(await failure(url)) == "not so"


async def test_a_connection_is_used_again_after_a_compressed_answer() -> None:
    async def answer(_: Seen) -> tuple[bytes | None, bool]:
        return http(200, gzipped(b"hello" * 1000), Content_Encoding="gzip"), True

    async with scripted(answer) as script, pool_of(script.url) as pool:
        for _ in range(3):
            response = await pool.post(RequestBody(b"{}"), {})
            assert response.content_length is None
            assert await response.read() == b"hello" * 1000
        assert script.connections == 1


async def test_a_stream_of_the_old_transport_may_be_compressed_too() -> None:
    async with (
        sse_served(kit(), wrap=lambda app: packing(app, "gzip")) as url,
        open_client(HttpTarget(url, transport=HttpTransport.SSE)) as client,
    ):
        assert said(await client.request(call("echo", word="here"))) == "here"


async def test_a_coding_that_was_not_offered_is_refused_by_name() -> None:
    async with scripted(modern(lambda _: http(200, b"..", Content_Encoding="gzip, compress"))) as script:
        with pytest.raises(ProtocolBroken, match=r"compressed in a way that it was not offered \('gzip, compress'\)"):
            await open_and_call(script)
