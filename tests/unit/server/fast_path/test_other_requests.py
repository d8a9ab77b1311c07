"""What a stranger sends that is no request: it is not repeated, names no versions, and is no fault in the log."""

import asyncio
import logging
from contextlib import suppress

import pytest
from aiohttp import web

from agent.app.drain import runner_of
from agent.app.first_bytes import GuardedSite
from agent.app.sockets import bound_socket
from agent.server.request import read_body

UNREADABLE = [
    b"GET / HTTP/1.1\r\nHost: a\r\nX: canary\x00\r\n\r\n",
    b"GET / HTTP/9.canary\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3canary\r\n\r\n",
    b"canary nonsense\r\n\r\n",
    b"POST /mcp HTTP/1.1\r\nHost: a\r\nX-canary" + 200_000 * b"a" + b": 1\r\n\r\n",
]


async def answer_to(port: int, sent: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


async def test_what_cannot_be_read_is_refused_without_its_words_or_versions_and_is_no_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken(_request: web.Request) -> web.Response:
        raise ZeroDivisionError

    app = web.Application()
    app.router.add_get("/broken", broken)
    runner = runner_of(app, fast_path="/mcp")
    await runner.setup()
    with bound_socket("127.0.0.1", 0, explicit=True) as bound, caplog.at_level(logging.INFO):
        try:
            await GuardedSite(runner, bound).start()
            port = bound.getsockname()[1]
            answers = [await answer_to(port, sent) for sent in UNREADABLE]
            assert [record.levelname for record in caplog.records] == []
            failed = await answer_to(port, b"GET /broken HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        finally:
            await runner.cleanup()
    for answer in answers:
        assert b" 400 " in answer.splitlines()[0], answer
        assert b'"code":"bad_request"' in answer
    assert b" 500 " in failed.splitlines()[0]
    assert "ZeroDivisionError" in caplog.text
    for answer in (*answers, failed):
        assert b"Server: mcp-mesh-agent\r\n" in answer
        for word in (b"canary", b"aiohttp", b"Python", b"ZeroDivision"):
            assert word not in answer, answer


BEGUN = [
    b"GET /fine HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /mcp HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
]


@pytest.mark.parametrize("first", BEGUN, ids=["aiohttp", "fast path"])
async def test_the_head_of_a_later_request_has_a_time_limit_and_an_idle_connection_none(
    first: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.server.fast_path.other_requests.LATER_HEAD_S", 0.05)

    async def fine(request: web.Request) -> web.Response:
        await read_body(request)
        return web.Response(text="fine")

    app = web.Application()
    app.router.add_get("/fine", fine)
    app.router.add_post("/mcp", fine)
    runner = runner_of(app, fast_path="/mcp")
    await runner.setup()
    with bound_socket("127.0.0.1", 0, explicit=True) as bound:
        try:
            await GuardedSite(runner, bound).start()
            reader, writer = await asyncio.open_connection("127.0.0.1", bound.getsockname()[1])
            async with asyncio.timeout(10):
                for request in (first, first[:-20], first[-20:] + b"\r\n"):  # A head in parts is fine.
                    writer.write(request)
                    if request != first[:-20]:
                        await reader.readuntil(b"\r\n\r\nfine")
                with suppress(TimeoutError):  # Longer than a head may take.
                    assert await asyncio.wait_for(reader.read(1), 0.15) == b"never"
                writer.write(b"GET /fine HTTP/1.1\r\nX: ")
                assert await reader.readline() == b"HTTP/1.1 408 Request Timeout\r\n"
                await reader.read()
            writer.close()
        finally:
            await runner.cleanup()
