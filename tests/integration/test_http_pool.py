"""The pool of HTTP connections against raw TCP servers: what was sent, what is used again, what ends.

Framing and garbage, byte by byte, are in `tests/unit/client/http/test_connection.py`; servers that others wrote, and
TLS, in `test_http_pool_servers.py`.
"""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from agent.client.event import Event, within
from agent.client.http import dial, large_request
from agent.client.http.coding import CODINGS
from agent.client.http.dial import Dialler
from agent.client.http.open_pool import open_pool
from agent.client.http.pool import HttpPool, RequestBody
from agent.errors import CallNotSent, CallOutcomeUnknown, DialRefused, ProtocolBroken, Unreachable
from agent.model import HttpTarget
from tests.integration.servers.hosting import Seen, http, reset, scripted
from tests.integration.servers.raw_http import OK, ask, head_of, ok, pool_of, raw_server, until


async def test_one_after_the_other_share_a_connection_and_many_at_once_have_their_own() -> None:
    async with scripted(ok) as script, pool_of(script.url) as pool:
        for _ in range(5):
            await ask(pool)
        assert script.connections == 1
        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(ask(pool), name=f"ask {number}")
        assert 1 < script.connections <= 20
        assert len(script.seen) == 25
        assert f"{script.connections} connections, {script.connections} idle" in repr(pool)


async def test_a_request_says_what_it_is_and_no_more() -> None:
    async with scripted(ok) as script, pool_of(script.url + "?a=b", token="t") as pool:
        response = await pool.post(RequestBody(b'{"x":1}'), {"Mcp-Method": "ping", "Mcp-Param-X": "caf\u00e9"})
        response.release()
        await ask(pool)
        (await pool.get({"Accept": "text/event-stream"})).close()
        await pool.delete({"Mcp-Session-Id": "s"})
    first, second, get, delete = script.seen
    host = script.url.removeprefix("http://").removesuffix("/mcp")
    assert (first.method, first.path) == ("POST", "/mcp?a=b")
    agent = first.headers.pop("user-agent")
    assert agent.startswith("mcp-mesh-agent/")
    assert first.headers == {
        "host": host,
        "accept": "application/json, text/event-stream",
        "accept-encoding": ", ".join(CODINGS),
        "authorization": "Bearer t",
        "content-type": "application/json",
        "content-length": "7",
        "mcp-method": "ping",
        "mcp-param-x": "caf\u00e9".encode().decode("latin-1"),
    }
    assert second.headers["authorization"] == "Bearer t"
    assert (get.method, get.headers["accept"]) == ("GET", "text/event-stream")
    assert (delete.method, delete.headers["mcp-session-id"]) == ("DELETE", "s")
    assert "content-length" not in get.headers


@pytest.mark.parametrize("name", ["Host", "host"])
async def test_a_configured_host_stands_in_the_place_of_the_urls(name: str) -> None:
    async with scripted(ok) as script:
        target = HttpTarget(script.url, headers=((name, "mcp.example"),))
        with open_pool(target, connect_timeout_s=5) as pool:
            (await pool.post(RequestBody(b"{}"), {})).release()
            assert pool._head("GET", {}, None, pool._route).lower().count(b"\r\nhost:") == 1
    assert script.seen[0].headers["host"] == "mcp.example"


@pytest.mark.parametrize("header", [("X", "a\r\nEvil: 1"), ("X", "a\x00"), ("X\r\nEvil", "1"), ("X Y", "1"), ("", "1")])
async def test_a_header_that_would_become_another_is_not_sent(header: tuple[str, str]) -> None:
    async with scripted(ok) as script, pool_of(script.url) as pool:
        body = RequestBody(b"{}")
        with pytest.raises(CallNotSent, match="HTTP does not allow"):
            await pool.post(body, dict([header]))
        assert not body.sent
        with pytest.raises(ProtocolBroken, match="HTTP does not allow"):
            open_pool(HttpTarget(script.url, headers=(header,)), connect_timeout_s=1)
    assert script.connections == 0


async def test_a_refused_connection_means_that_nothing_was_sent() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with pool_of(f"http://127.0.0.1:{unused.getsockname()[1]}/mcp") as pool:
            body = RequestBody(b"{}")
            with pytest.raises(CallNotSent, match="refuses the connection"):
                await pool.post(body, {})
            assert not body.sent
            with pytest.raises(Unreachable, match="refuses the connection"):
                await pool.get({})
            with pytest.raises(Unreachable, match="refuses the connection"):
                await pool.delete({})


@contextlib.contextmanager
def deaf_server() -> Iterator[str]:
    """A port whose queue of connections is full, so that the kernel answers no dial; gives its URL."""
    with socket.socket() as listener, contextlib.ExitStack() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):  # More than the kernel queues.
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"


async def test_a_server_that_takes_no_connection_in_time_got_nothing() -> None:
    with deaf_server() as url:
        async with pool_of(url, connect_timeout_s=0.1) as pool:
            body = RequestBody(b"{}")
            with pytest.raises(CallNotSent, match="does not accept the connection in time"):
                await pool.post(body, {})
            assert not body.sent


async def test_a_request_cancelled_while_dialling_was_not_sent() -> None:
    with deaf_server() as url:
        async with pool_of(url) as pool:
            body = RequestBody(b"{}")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await pool.post(body, {})
            assert not body.sent
            assert "0 connections" in repr(pool)


@pytest.mark.parametrize("how", ["close", "reset", "half a head"])
async def test_an_end_after_the_request_leaves_its_outcome_unknown(how: str) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        if how == "half a head":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Le")
            await writer.drain()
        if how == "reset":
            reset(writer)
        else:
            writer.close()

    async with raw_server(handle) as url, pool_of(url) as pool:
        body = RequestBody(b"{}")
        with pytest.raises(CallOutcomeUnknown, match=r"without an answer|reset by peer"):
            await pool.post(body, {})
        assert body.sent
        assert "0 connections" in repr(pool)


async def test_a_cancelled_request_was_sent_and_its_connection_is_closed() -> None:
    asked, gone = asyncio.Event(), asyncio.Event()

    async def handle(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await head_of(reader)
        asked.set()
        await reader.read()
        gone.set()

    async with raw_server(handle) as url, pool_of(url) as pool, asyncio.TaskGroup() as group:
        body = RequestBody(b"{}")
        task = group.create_task(pool.post(body, {}), name="post")
        await asked.wait()
        task.cancel()
        await gone.wait()
        assert body.sent
        assert "0 connections" in repr(pool)


async def test_a_server_that_speaks_first_is_no_http_server() -> None:
    async def handle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")

    async with raw_server(handle) as url, pool_of(url) as pool:
        with pytest.raises(ProtocolBroken):
            await ask(pool)


async def test_a_server_that_closes_at_once_answers_no_request() -> None:
    async def handle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with raw_server(handle) as url, pool_of(url) as pool:
        with pytest.raises((CallNotSent, CallOutcomeUnknown)):
            await ask(pool)
        assert "0 connections" in repr(pool)


async def test_a_large_request_arrives_whole_at_a_slow_server() -> None:
    sizes: list[int] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        taken = 0
        while taken < 4 << 20:
            taken += len(await reader.read(1000))
        sizes.append(taken)
        writer.write(OK)

    async with raw_server(handle) as url, pool_of(url) as pool:
        assert await ask(pool, b"x" * (4 << 20)) == b'{"ok":true}'
    assert sizes == [4 << 20]


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="an option of Linux")
async def test_a_large_request_waits_for_a_server_that_is_too_busy_to_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "TCP_USER_TIMEOUT_MS", 300)
    monkeypatch.setattr(large_request, "TCP_USER_TIMEOUT_MS", 300)
    size, busy_s = 8 << 20, 1.5

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        await within(Event(), busy_s)
        await reader.readexactly(size)
        writer.write(OK)
        await reader.read()

    async with raw_server(handle) as url, pool_of(url) as pool:
        assert await ask(pool, b"x" * size) == b'{"ok":true}'
        (connection,) = pool._connections
        assert connection._transport is not None
        sock = connection._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 300, "as before"


async def test_an_answer_before_the_whole_request_is_given_and_the_connection_is_not_used_again() -> None:
    connections: list[int] = []
    enough = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        await head_of(reader)
        writer.write(http(413))
        await enough.wait()

    async with raw_server(handle) as url, pool_of(url) as pool:
        for number in (1, 2):
            response = await pool.post(RequestBody(b"x" * (16 << 20)), {})
            assert (response.status, response.closed) == (413, True)
            assert "0 connections" in repr(pool)
            assert len(connections) == number
        enough.set()


async def test_a_slow_reader_slows_the_server_down() -> None:
    size, piece = 64 << 20, 1 << 16
    written = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await head_of(reader)
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
        while written < size:
            writer.write(b"x" * piece)
            await writer.drain()
            written += piece

    async with raw_server(handle) as url, pool_of(url) as pool:
        response = await pool.post(RequestBody(b""), {})
        (connection,) = pool._connections
        await until(lambda: connection._paused)
        assert response.unread_bytes < 1 << 20
        assert written < size
        got = 0
        while chunk := await response.more():
            got += len(chunk)
        assert got == written == size
        assert "1 idle" in repr(pool)


@pytest.mark.parametrize("status", [200, 500])
async def test_an_answer_in_a_coding_of_its_own_is_refused_unless_its_status_says_enough(status: int) -> None:
    async def answer(_: Seen) -> tuple[bytes | None, bool]:
        return http(status, b"\x1f\x9d", Content_Encoding="compress"), True

    async with scripted(answer) as script, pool_of(script.url) as pool:
        if status == 200:
            with pytest.raises(ProtocolBroken, match="compressed"):
                await ask(pool)
        else:
            assert (await pool.post(RequestBody(b"{}"), {})).status == 500


async def test_a_closed_pool_ends_what_is_under_way() -> None:
    async with scripted(lambda _: _silence()) as script, asyncio.TaskGroup() as group:
        async with pool_of(script.url) as pool:
            task = group.create_task(_failure(pool), name="post")
            await until(lambda: bool(script.seen))
        assert "had not answered when this node ended its link to it" in await task


async def _silence() -> tuple[bytes | None, bool]:
    return b"", True


async def _failure(pool: HttpPool) -> str:
    try:
        return (await ask(pool)).decode()
    except CallOutcomeUnknown as exc:
        return str(exc)


async def test_an_ipv6_literal_is_dialled_and_named() -> None:
    hosts: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hosts.extend(line for line in (await head_of(reader)).split(b"\r\n") if line.lower().startswith(b"host:"))
        writer.write(OK)

    async with raw_server(handle, "::1") as url, pool_of(url) as pool:
        assert await ask(pool) == b'{"ok":true}'
        assert hosts == [f"Host: {url.removeprefix('http://').removesuffix('/mcp')}".encode()]


async def test_a_name_is_dialled_by_all_of_its_permitted_addresses() -> None:
    async with scripted(ok) as script:  # On 127.0.0.1 alone, whatever else the name may lead to.
        url = script.url.replace("127.0.0.1", "localhost")
        async with pool_of(url) as pool:
            assert await ask(pool) == b'{"ok":true}'
            script.close_connections()
            assert await ask(pool) == b'{"ok":true}'
        assert script.seen[0].headers["host"].startswith("localhost:")
        assert len(script.seen) == 2


class MetadataResolver(AbstractResolver):
    """A name server that leads to where a machine's credentials are."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host, host="169.254.169.254", port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST
            )
        ]

    async def close(self) -> None:
        pass


async def test_a_name_that_leads_to_a_forbidden_address_is_not_dialled() -> None:
    dialler = Dialler("peer.example", 80, tls=False, timeout_s=5, resolver=MetadataResolver())
    with (
        closing(HttpPool("http://peer.example/mcp", {}, dialler)) as pool,
        pytest.raises(DialRefused, match="cloud metadata service"),
    ):
        await ask(pool)


async def test_an_unknown_name_is_not_dialled() -> None:
    async with pool_of("http://no-such-host.invalid/mcp") as pool:
        with pytest.raises(CallNotSent, match="cannot be resolved"):
            await ask(pool)


async def test_answers_are_never_mixed_up_under_load() -> None:
    async def echo(request: Seen) -> tuple[bytes | None, bool]:
        number = request.body["n"]
        return http(200, b'{"n":%d}' % number), number % 7 != 0

    async with scripted(echo) as script, pool_of(script.url) as pool:

        async def caller(first: int) -> None:
            for number in range(first, first + 50):
                body = b'{"n":%d}' % number
                assert await ask(pool, body) == body

        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(caller(number * 50), name=f"caller {number}")
        assert len(script.seen) == 400
