"""A standing stream with a real client at its end: what is told arrives in order, and who does not read is dropped."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from agent.api.event_stream import EVENTS_MAX, EventStream


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[str, int, asyncio.Queue[EventStream], asyncio.Queue[str]]]:
    """A server of one stream a request: its URL and port, the streams, and how they ended."""
    streams: asyncio.Queue[EventStream] = asyncio.Queue()
    ends: asyncio.Queue[str] = asyncio.Queue()

    async def listen(request: web.Request) -> web.StreamResponse:
        stream = EventStream(request, list, lambda: ends.put_nowait("dropped"))
        streams.put_nowait(stream)
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


async def until_stuck(stream: EventStream) -> None:
    """Tell large messages until one stays in the queue, however often the loop turns."""
    while True:
        stream.tell(b'"' + b"x" * 500_000 + b'"')
        for _ in range(20):
            turn = asyncio.Event()
            asyncio.get_running_loop().call_soon(turn.set)
            await turn.wait()
        if "waiting=0" not in repr(stream):
            return


async def test_what_is_told_before_the_end_arrives_in_order_and_nothing_after_it() -> None:
    async with serving() as (url, _, streams, ends), aiohttp.ClientSession() as http, http.get(url) as response:
        assert response.content_type == "text/event-stream"
        stream = await streams.get()
        for number in range(3):
            stream.tell(b"%d" % number)
        stream.end()
        stream.tell(b"4")
        text = (await response.read()).decode()
        assert [line for line in text.splitlines() if line.startswith("data:")] == ["data: 0", "data: 1", "data: 2"]
        assert await ends.get() == "ended"


async def test_a_silent_stream_is_kept_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.api.event_stream.PING_EVERY_S", 0.02)
    async with serving() as (url, _, streams, _ends), aiohttp.ClientSession() as http, http.get(url) as response:
        stream = await streams.get()
        for _ in range(3):
            assert await response.content.readuntil(b"\r\n\r\n") == b": ping\r\n\r\n"
        stream.end()


async def test_a_client_that_is_too_many_events_behind_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with serving() as (url, _, streams, ends), aiohttp.ClientSession() as http, http.get(url) as response:
        stream = await streams.get()
        for _ in range(EVENTS_MAX):
            stream.tell(b"{}")
        assert not caplog.records
        stream.tell(b"{}")
        assert "too slowly" in caplog.text
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
        assert await ends.get() == "dropped"
        assert await ends.get() in ("cancelled", "ended")


async def test_a_client_that_is_too_many_bytes_behind_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with serving() as (_, port, streams, ends), deaf_client(port):
        stream = await streams.get()
        await until_stuck(stream)
        stream.tell(b"x" * 500_000)
        stream.tell(b"x" * 500_000)
        assert "too slowly" in caplog.text
        assert await ends.get() == "dropped"
        assert await ends.get() in ("cancelled", "ended")
        assert "waiting=0" in repr(stream)


async def test_a_client_that_stopped_reading_is_dropped_though_little_waits(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("agent.api.event_stream.WRITE_TIMEOUT_S", 0.2)
    caplog.set_level(logging.WARNING)
    async with serving() as (_, port, streams, ends), deaf_client(port):
        await until_stuck(await streams.get())
        assert await ends.get() == "dropped"
        assert await ends.get() in ("cancelled", "ended")
        assert "stopped reading" in caplog.text
