"""A standing stream with a real client at its end: events come in order, and a client that does not read is dropped."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias

import aiohttp
import pytest
from aiohttp import web

from agent.server.response import EventStream

# A stream, and what it will be given when it asks.
Due: TypeAlias = tuple[EventStream, list[bytes]]


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[str, int, asyncio.Queue[Due], asyncio.Queue[str]]]:
    """A server of one stream a request: its URL and port, the streams, and how they ended."""
    streams: asyncio.Queue[Due] = asyncio.Queue()
    ends: asyncio.Queue[str] = asyncio.Queue()

    async def listen(request: web.Request) -> web.StreamResponse:
        due: list[bytes] = []

        def take() -> list[bytes]:
            taken = list(due)
            due.clear()
            return taken

        stream = EventStream(request, take, lambda: ends.put_nowait("dropped"))
        streams.put_nowait((stream, due))
        try:
            response = await stream.serve()
        except asyncio.CancelledError:
            ends.put_nowait("cancelled")
            raise
        ends.put_nowait("ended")
        return response

    app = web.Application()
    app.router.add_get("/", listen)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    try:
        async with asyncio.timeout(20):
            yield f"http://127.0.0.1:{port}/", port, streams, ends
    finally:
        await runner.cleanup()


@asynccontextmanager
async def deaf_client(port: int) -> AsyncIterator[None]:
    """A client that asks for the stream and reads next to nothing of it."""
    _reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    try:
        yield
    finally:
        writer.close()


async def test_what_is_due_arrives_in_order_and_what_is_due_at_the_end_is_left() -> None:
    async with serving() as (url, _, streams, ends), aiohttp.ClientSession() as http, http.get(url) as response:
        assert response.content_type == "text/event-stream"
        stream, due = await streams.get()
        due += [b"0", b"1"]
        stream.nudge()
        assert await response.content.readuntil(b": ping\r\n\r\n")
        got = await response.content.readuntil(b"data: 1\r\n\r\n")
        assert [line for line in got.decode().splitlines() if line.startswith("data:")] == ["data: 0", "data: 1"]
        due.append(b"2")
        stream.end()
        assert await response.read() == b""
        assert await ends.get() == "ended"
        assert due == [b"2"]


async def test_a_silent_stream_is_kept_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.server.response.PING_EVERY_S", 0.02)
    async with serving() as (url, _, streams, _ends), aiohttp.ClientSession() as http, http.get(url) as response:
        stream, _due = await streams.get()
        for _ in range(3):
            assert await response.content.readuntil(b"\r\n\r\n") == b": ping\r\n\r\n"
        stream.end()


async def test_a_client_that_stops_reading_takes_nothing_more_and_is_dropped(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("agent.server.response.WRITE_TIMEOUT_S", 0.2)
    caplog.set_level(logging.WARNING)
    async with serving() as (_, port, streams, ends), deaf_client(port):
        stream, due = await streams.get()
        while ends.empty():
            due.append(b"x" * 500_000)
            stream.nudge()
            turn = asyncio.Event()
            asyncio.get_running_loop().call_later(0.005, turn.set)
            await turn.wait()
        assert await ends.get() == "dropped"
        assert await ends.get() in ("cancelled", "ended")
        assert due, "what it did not take stays where it is"
        assert "stopped reading" in caplog.text
