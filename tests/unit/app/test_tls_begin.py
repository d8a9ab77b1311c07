"""Where TLS begins on a connection, what one costs before that, and what is left of one that is closed."""

import asyncio
import ssl
import struct
import sys
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from agent.app.drain import runner_of
from agent.app.first_bytes import GuardedSite
from agent.app.listener_tls import ListenerTls
from agent.app.sockets import bound_socket
from agent.app.tls_begin import is_whole_hello, quiet_about_names
from agent.model import TlsFiles
from tests.integration.servers.certificates import Authority
from tests.integration.servers.raw_http import until
from tests.waiting import PATIENCE_S

RECORD = b"\x16\x03\x01\x00\x05hello"


@pytest.mark.parametrize("received", [RECORD, RECORD + b"more", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\xff\xff"])
def test_tls_begins_with_a_whole_record_or_with_what_is_none(received: bytes) -> None:
    assert is_whole_hello(received)


@pytest.mark.parametrize("length", range(len(RECORD)))
def test_a_part_of_the_first_record_is_kept_until_the_rest_has_come(length: int) -> None:
    assert not is_whole_hello(RECORD[:length])


@asynccontextmanager
async def listening(folder: Path) -> AsyncIterator[tuple[GuardedSite, int, ssl.SSLContext]]:
    """A site over TLS, its port, and what a client trusts."""
    authority = Authority(folder)
    own = authority.issue("127.0.0.1")
    tls = ListenerTls(TlsFiles(None, str(own.cert), str(own.key)))

    async def length(request: web.Request) -> web.Response:
        return web.Response(text=str(len(await request.read())))

    app = web.Application()
    app.router.add_put("/length", length)
    runner = runner_of(app, fast_path="/mcp")
    await runner.setup()
    with bound_socket("127.0.0.1", 0, explicit=True) as bound:
        try:
            site = GuardedSite(runner, bound, descriptors=256, tls=tls.context)
            await site.start()
            yield site, bound.getsockname()[1], ssl.create_default_context(cafile=str(authority.ca))
        finally:
            await runner.cleanup()


async def test_silent_connections_cost_no_buffers_of_tls(tmp_path: Path) -> None:
    async with listening(tmp_path) as (site, port, _):
        tracemalloc.start()
        try:
            opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(40)]
            for _, writer in opened:
                writer.write(RECORD[:4])
            await until(lambda: len(site) == len(opened))
            # Of both sides; a buffer of TLS alone would be 32 KiB, and 256 KiB with the loop's own.
            assert tracemalloc.get_traced_memory()[0] / len(opened) < 16 << 10
        finally:
            tracemalloc.stop()
        for _, writer in opened:
            writer.close()


@pytest.mark.parametrize("cut", [40, 100_000])
async def test_a_hello_in_pieces_and_a_request_that_comes_with_it_are_served(cut: int, tmp_path: Path) -> None:
    async with listening(tmp_path) as (_, port, trust):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = trust.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        agreed = False
        while not agreed:
            try:
                client.do_handshake()
                agreed = True
                body = b"x" * 200_000
                head = f"PUT /length HTTP/1.1\r\nHost: node\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
                client.write(head.encode() + body)
            except ssl.SSLWantReadError:
                pass
            sent = outgoing.read()
            pieces = cut if len(sent) < 4_096 else len(sent)
            for place in range(0, len(sent), pieces):
                writer.write(sent[place : place + pieces])
                turn = iter((False, True))
                await until(lambda turn=turn: next(turn))  # The server has read it.
            if not agreed:
                incoming.write(await reader.read(65_536))
        async with asyncio.timeout(PATIENCE_S):
            incoming.write(await reader.read())
        assert client.read(65_536).endswith(b"\r\n\r\n200000")
        writer.close()


async def test_a_client_that_says_nothing_after_its_handshake_leaves_no_descriptor_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.app.first_bytes.SWEEP_EVERY_S", 0.02)
    async with listening(tmp_path) as (site, port, trust):
        # Its handshake alone, by hand: a usual client would answer the goodbye.
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = trust.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
        for is_last in (False, True):
            try:
                client.do_handshake()
            except ssl.SSLWantReadError:
                assert not is_last
            writer.write(outgoing.read())
            if not is_last:
                incoming.write(await reader.read(65_536))
        monkeypatch.setattr("agent.app.first_bytes.FIRST_REQUEST_S", 0.2)  # From now on, however long that took.
        async with asyncio.timeout(PATIENCE_S):
            incoming.write(await reader.read())
        assert client.read(65_536).startswith(b"HTTP/1.1 408 ")
        assert len(site) == 0
        writer.close()


def hello(name: bytes) -> bytes:
    """A client's hello (RFC 8446, section 4.1.2) that asks for this name."""
    asked = struct.pack("!HBH", len(name) + 3, 0, len(name)) + name
    groups, algorithms = bytes.fromhex("000a00040002001d"), bytes.fromhex("000d000600040804 0403")
    extensions = struct.pack("!HH", 0, len(asked)) + asked + groups + algorithms
    body = b"\x03\x03" + bytes(32) + b"\x00\x00\x04\xc0\x2f\xc0\x2b\x01\x00"
    body += struct.pack("!H", len(extensions)) + extensions
    message = b"\x01" + struct.pack("!I", len(body))[1:] + body
    return b"\x16\x03\x01" + struct.pack("!H", len(message)) + message


async def test_a_name_that_is_none_is_refused_without_a_word_to_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: reported.append(unraisable.exc_type))
    async with listening(tmp_path) as (_, port, _trust):
        for quiet in (False, True):
            if quiet:
                quiet_about_names()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(hello(b"\xff\xfe"))
            async with asyncio.timeout(PATIENCE_S):
                await reader.read()
            writer.close()
            assert reported == [UnicodeDecodeError], "Python itself says so once, before it is told not to"
