"""What becomes of the first bytes of a connection: a probe without Host, a head in pieces, none at all."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web

from agent.app import first_bytes
from agent.app.admission import caps_of
from agent.app.drain import runner_of
from agent.app.first_bytes import HEAD_BYTES_MAX, HELD_BYTES_MAX, GuardedSite, is_whole_head, with_host
from agent.app.sockets import bound_socket
from agent.config.tls_files import listening_context
from agent.model import TlsFiles
from tests.integration.servers.certificates import Authority
from tests.waiting import PATIENCE_S

PROBES = [
    b"GET /healthz HTTP/1.1\r\n\r\n",
    b"HEAD /readyz?full HTTP/1.1\r\nUser-Agent: check\r\n\r\n",
    b"GET http://node.example:8000/readyz HTTP/1.1\r\nAccept: */*\r\n\r\n",
    b"GET /healthz HTTP/1.1\n\n",
]
OTHERS = [
    b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nAccept: */*\r\nhost : node\r\n\r\n",
    b"GET /healthz HTTP/1.0\r\n\r\n",
    b"GET /healthz/x HTTP/1.1\r\n\r\n",
    b"GET /mcp?/healthz HTTP/1.1\r\n\r\n",
    b"POST /healthz HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01",
    b"GET /healthz HTTP/1.1\r\nX: " + HEAD_BYTES_MAX * b"x",
]


@pytest.mark.parametrize("probe", PROBES)
def test_a_probe_without_host_is_given_one_and_its_connection_ends_after_it(probe: bytes) -> None:
    line, rest = probe[: probe.index(b"\n") + 1], probe[probe.index(b"\n") + 1 :]
    assert with_host(probe) == line + b"Host: localhost\r\nConnection: close\r\n" + rest


@pytest.mark.parametrize("probe", PROBES)
def test_of_a_probe_that_comes_in_pieces_the_whole_head_is_waited_for(probe: bytes) -> None:
    assert {with_host(probe[:length]) for length in range(1, len(probe))} == {None}


@pytest.mark.parametrize("other", OTHERS)
def test_every_other_beginning_reaches_the_parser_as_it_came(other: bytes) -> None:
    assert with_host(other) == other


@pytest.mark.parametrize("cut", [1, 3, 10, 30])
def test_the_parser_gets_a_head_when_it_is_whole(cut: int) -> None:
    head = b"POST /mcp HTTP/1.1\r\nHost: node\r\nContent-Length: 2\r\n\r\n{}"
    received, searched = bytearray(), 0
    for place in range(0, len(head), cut):
        searched = len(received)
        received += head[place : place + cut]
        assert is_whole_head(received, searched) == (b"\r\n\r\n" in received)


@pytest.mark.parametrize("other", [b"\x16\x03\x01", b"post /", b"GET\t/", b"A" * 25, b"GET / " + b"x" * HELD_BYTES_MAX])
def test_what_is_no_head_or_too_long_for_one_is_the_parsers_to_refuse(other: bytes) -> None:
    assert is_whole_head(other)


@dataclass
class Site:
    """A site with few places; `said` is the line that a client gets before it is closed."""

    port: int
    trust: ssl.SSLContext | None = None

    async def connect(self, tls: ssl.SSLContext | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=tls)

    async def said(self, reader: asyncio.StreamReader) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return (await reader.read()).split(b"\r\n")[0]

    async def asks(self) -> bytes:
        """The first line of the answer to a request, on a connection of its own."""
        reader, writer = await self.connect(self.trust)
        writer.write(b"GET /fine HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")
        try:
            return await self.said(reader)
        finally:
            writer.close()


@asynccontextmanager
async def serving(descriptors: int, authority: Authority | None = None) -> AsyncIterator[Site]:
    tls, trust = None, None
    if authority is not None:
        own = authority.issue("127.0.0.1")
        tls = listening_context(TlsFiles(None, str(own.cert), str(own.key)))
        trust = ssl.create_default_context(cafile=str(authority.ca))

    async def fine(_request: web.Request) -> web.Response:
        return web.Response(text="fine")

    app = web.Application()
    app.router.add_get("/fine", fine)
    runner = runner_of(app, fast_path="/mcp")
    await runner.setup()
    with bound_socket("127.0.0.1", 0, explicit=True) as bound:
        try:
            await GuardedSite(runner, bound, descriptors=descriptors, tls=tls).start()
            yield Site(bound.getsockname()[1], trust)
        finally:
            await runner.cleanup()


@pytest.mark.parametrize("sent", [b"", b"GET /fine HTTP/1.1\r\nHost: no", b"\r\n\r\n"])
async def test_a_connection_without_a_whole_request_is_closed(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    usual_s = first_bytes.FIRST_REQUEST_S
    monkeypatch.setattr(first_bytes, "SWEEP_EVERY_S", 0.02)
    monkeypatch.setattr(first_bytes, "FIRST_REQUEST_S", 0.1)
    async with serving(1_024) as site:
        reader, writer = await site.connect()
        writer.write(sent)
        assert await site.said(reader) == b"HTTP/1.1 408 Request Timeout"
        writer.close()
        monkeypatch.setattr(first_bytes, "FIRST_REQUEST_S", usual_s)  # A busy machine takes a moment for a whole one.
        assert await site.asks() == b"HTTP/1.1 200 OK"


async def used(site: Site, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection with one request answered, which may be used again."""
    reader, writer = await site.connect()
    writer.write(request)
    async with asyncio.timeout(PATIENCE_S):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        await reader.readexactly(length)
    return reader, writer


def is_open(reader: asyncio.StreamReader) -> bool:
    return not reader.at_eof()


ON_FAST_PATH = b"POST /mcp HTTP/1.1\r\nHost: node\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
ON_AIOHTTP = b"GET /fine HTTP/1.1\r\nHost: node\r\n\r\n"


@pytest.mark.parametrize("request_", [ON_FAST_PATH, ON_AIOHTTP], ids=["fast path", "aiohttp"])
async def test_connections_that_are_idle_after_a_request_give_way_in_a_crowd_and_only_there(
    request_: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.app.first_bytes.SWEEP_EVERY_S", 0.02)
    monkeypatch.setattr("agent.app.first_bytes.IDLE_GIVES_WAY_S", 0.0)
    caps = caps_of(64)
    async with serving(64) as site:
        held = [await used(site, request_) for _ in range(caps.each - 2)]  # And one that asks is less than a crowd.
        assert await site.asks() == b"HTTP/1.1 200 OK"
        assert all(is_open(reader) for reader, _ in held)
        held += [await used(site, request_) for _ in range(2)]
        async with asyncio.timeout(PATIENCE_S):
            assert await held[0][0].read() == b""
        assert is_open(held[-1][0])
        assert await site.asks() == b"HTTP/1.1 200 OK"
        for _, writer in held:
            writer.close()


async def test_silent_connections_give_way_to_requests_and_further_ones_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    places = caps_of(64).total
    # However long it takes to connect them all, none gives way meanwhile.
    monkeypatch.setattr("agent.app.first_bytes.SILENT_S", 2 * PATIENCE_S)
    async with serving(64) as site:
        silent = [await site.connect() for _ in range(places + 2)]
        assert [await site.said(reader) for reader, _ in silent[places:]] == [b"HTTP/1.1 503 Service Unavailable"] * 2
        monkeypatch.setattr("agent.app.first_bytes.SILENT_S", 0.0)
        assert await site.asks() == b"HTTP/1.1 200 OK"
        assert await site.said(silent[0][0]) == b"HTTP/1.1 408 Request Timeout"
        for _, writer in silent:
            writer.close()


async def test_connections_that_never_begin_tls_are_counted_and_give_way_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    places = caps_of(64).total
    monkeypatch.setattr("agent.app.first_bytes.SILENT_S", 2 * PATIENCE_S)
    async with serving(64, Authority(tmp_path)) as site:
        silent = [await site.connect() for _ in range(places + 2)]
        assert [await site.said(reader) for reader, _ in silent[places:]] == [b"", b""]
        monkeypatch.setattr("agent.app.first_bytes.SILENT_S", 0.0)
        assert await site.asks() == b"HTTP/1.1 200 OK"
        assert await site.said(silent[0][0]) == b""
        assert is_open(silent[-3][0])
        monkeypatch.setattr("agent.app.first_bytes.SWEEP_EVERY_S", 0.02)
        monkeypatch.setattr("agent.app.first_bytes.FIRST_REQUEST_S", 0.1)
        assert await site.said(silent[-3][0]) == b""
        for _, writer in silent:
            writer.close()


async def test_an_address_with_its_share_takes_the_place_of_its_own_silent_connection_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agent.app.admission._is_loopback", lambda _address: False)
    monkeypatch.setattr("agent.app.admission.COUNT_EVERY_S", 0.0)
    monkeypatch.setattr("agent.app.first_bytes.SILENT_S", 0.0)
    async with serving(64) as site:
        other = await asyncio.open_connection("127.0.0.1", site.port, local_addr=("127.0.0.2", 0))
        many = [await site.connect() for _ in range(caps_of(64).each)]
        assert await site.asks() == b"HTTP/1.1 200 OK"
        assert await site.said(many[0][0]) == b"HTTP/1.1 408 Request Timeout"
        assert is_open(other[0])
        for _, writer in (other, *many):
            writer.close()
