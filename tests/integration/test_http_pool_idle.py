"""The pool's idle connections: which are used again, for what, when they are given up, and what is left of them.

The rest of the pool is in `test_http_pool.py`.
"""

import asyncio
import gc
import weakref

import pytest

from agent.client.http import pool as http_pool
from agent.client.http.pool import RequestBody
from agent.errors import CallOutcomeUnknown
from tests.integration.servers.hosting import http, reset, scripted
from tests.integration.servers.raw_http import OK, ask, head_of, ok, pool_of, raw_server, until


async def test_a_stale_connection_is_noticed_before_the_request_is_written() -> None:
    async with scripted(ok) as script, pool_of(script.url) as pool:
        for number in range(1, 4):
            await ask(pool)
            assert script.connections == number
            script.close_connections()  # In this very turn: only the kernel knows.
        assert len(script.seen) == 3


async def test_unread_bytes_on_an_idle_connection_are_noticed_before_the_request_is_written() -> None:
    writers: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while True:
            await head_of(reader)
            await reader.readexactly(2)
            writer.write(OK)

    async with raw_server(handle) as url, pool_of(url) as pool:
        await ask(pool)
        forged = http(200, b'{"forged":1}')
        writers[0].write(forged)  # It is in our kernel in this very turn, as above.
        assert await ask(pool) == b'{"ok":true}'
        assert len(writers) == 2


async def test_an_idle_connection_is_closed_before_servers_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_pool, "KEEPALIVE_S", 0.05)
    monkeypatch.setattr(http_pool, "LAST_KEEPALIVE_S", 0.1)
    ended = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        await reader.readexactly(2)
        writer.write(OK)
        await reader.read()
        ended.set()

    async with raw_server(handle) as url, pool_of(url) as pool:
        await ask(pool)
        assert "1 idle" in repr(pool)
        await ended.wait()
        assert "0 connections" in repr(pool)


async def test_only_what_is_harmless_goes_over_the_last_connection_once_a_server_may_be_giving_it_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with scripted(ok) as script, pool_of(script.url) as pool:
        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(ask(pool), name=f"ask {number}")
        assert "3 idle" in repr(pool)
        monkeypatch.setattr(http_pool, "KEEPALIVE_S", 0.0)
        pool._expire()
        assert "1 idle" in repr(pool)
        for _ in range(3):
            (await pool.post(RequestBody(b"{}", harmless=True), {})).release()
        assert script.connections == 3
        await ask(pool)
        assert script.connections == 4


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_a_stream_is_asked_for_again_when_an_idle_connection_ends_at_that_moment(how: str) -> None:
    asked: list[str] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            asked.append((await head_of(reader)).split()[0].decode())
            if asked[-1] == "POST":
                await reader.readexactly(2)
            elif len(asked) == 2:
                if how == "reset":
                    reset(writer)
                writer.close()
                return
            writer.write(OK)

    async with raw_server(handle) as url, pool_of(url) as pool:
        await ask(pool)
        assert await (await pool.get({})).read() == b'{"ok":true}'
        assert asked == ["POST", "GET", "GET"]


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_what_is_harmless_is_sent_again_when_the_server_gives_up_the_connection_at_that_moment(how: str) -> None:
    requests: list[int] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = len(set(requests))
        while True:
            await head_of(reader)
            await reader.readexactly(2)
            requests.append(connection)
            if len(requests) == 2:
                if how == "reset":
                    reset(writer)
                writer.close()
                return
            writer.write(OK)

    async with raw_server(handle) as url, pool_of(url) as pool:
        await ask(pool)
        body = RequestBody(b"{}", harmless=True)
        assert await (await pool.post(body, {})).read() == b'{"ok":true}'
        assert body.sent
        assert requests == [0, 0, 1]


async def test_what_is_harmless_is_not_sent_again_where_a_new_connection_ends() -> None:
    requests = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        await head_of(reader)
        requests += 1
        writer.close()

    async with raw_server(handle) as url, pool_of(url) as pool:
        with pytest.raises(CallOutcomeUnknown):
            await pool.post(RequestBody(b"{}", harmless=True), {})
    assert requests == 1


async def test_a_name_is_looked_up_again_though_its_old_address_still_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with scripted(ok) as script, pool_of(script.url.replace("127.0.0.1", "localhost")) as pool:
        await ask(pool)
        await ask(pool)
        assert script.connections == 1
        monkeypatch.setattr(http_pool, "NAMED_AGE_MAX_S", 0.0)
        await ask(pool)
        assert "0 connections" in repr(pool)
        await ask(pool)
        assert script.connections == 2


async def test_a_server_that_closes_an_idle_connection_is_noticed_at_once() -> None:
    async with scripted(ok) as script, pool_of(script.url) as pool:
        await ask(pool)
        script.close_connections()
        await until(lambda: "0 connections" in repr(pool))


async def test_a_connection_that_is_over_is_gone_without_the_collector() -> None:
    gc.collect()
    gc.disable()
    try:
        async with scripted(ok) as script, pool_of(script.url) as pool:
            await ask(pool)
            (connection,) = pool._connections
            transport = weakref.ref(connection._transport)
            del connection
            script.close_connections()
            await until(lambda: "0 connections" in repr(pool))
            await until(lambda: transport() is None)
    finally:
        gc.enable()
