"""A name server on loopback that answers as a test tells it to, over UDP and TCP on one port.

The one rule: an answer that does not fit a datagram is cut off there, as servers do, and whole over TCP.
"""

import asyncio
import contextlib
import struct
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

from discovery.dns.source import DnsSource
from tests.ports import free_ports

DATAGRAM_BYTES_MAX = 1232


@dataclass
class NameServer:
    """`records`: (name, kind) -> texts of records; a name without any is NXDOMAIN. `fault` is answered to all.

    `faults`: to questions for one kind of records.
    """

    port: int
    host: str = "127.0.0.1"
    records: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    fault: dns.rcode.Rcode | None = None
    faults: dict[str, dns.rcode.Rcode] = field(default_factory=dict)
    asked_at_s: dict[str, list[float]] = field(default_factory=dict)
    silent: bool = False
    ttl_s: int = 0
    over_tcp: int = 0
    over_udp: int = 0

    @property
    def address(self) -> str:
        """For `MESH_DNS_SERVERS`."""
        return f"{self.host}:{self.port}"

    def answer(self, query: bytes) -> bytes:
        """The whole answer to a query."""
        asked = dns.message.from_wire(query)
        reply = dns.message.make_response(asked)
        question = asked.question[0]
        name, kind = str(question.name).rstrip("."), dns.rdatatype.to_text(question.rdtype)
        found = self.records.get((name, kind), [])
        self.asked_at_s.setdefault(kind, []).append(time.monotonic())
        fault = self.fault if self.fault is not None else self.faults.get(kind)
        if fault is not None:
            reply.set_rcode(fault)
        elif found:
            reply.answer.append(dns.rrset.from_text(question.name, self.ttl_s, "IN", kind, *found))
        elif not any(known == name for known, _ in self.records):
            reply.set_rcode(dns.rcode.NXDOMAIN)
        return reply.to_wire(max_size=65_535)


def over_udp_first(source: DnsSource) -> DnsSource:
    """Ask the servers that were set as if they were the system's own, which are asked over UDP first."""
    source._lookup._made_resolver()
    source._lookup._servers = ()
    return source


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: NameServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if self._server.silent:
            return
        self._server.over_udp += 1
        whole = self._server.answer(data)
        if len(whole) > DATAGRAM_BYTES_MAX:
            cut = dns.message.make_response(dns.message.from_wire(data))
            cut.flags |= dns.flags.TC
            whole = cut.to_wire()
        self._transport.sendto(whole, addr)


@asynccontextmanager
async def name_server(*, over_tcp: bool = True, host: str = "127.0.0.1") -> AsyncIterator[NameServer]:
    """Serve until the end. Without `over_tcp` connections are refused. `host`: another address of loopback."""
    server = NameServer(free_ports(1)[0], host)

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.over_tcp += 1
        with contextlib.suppress(asyncio.IncompleteReadError):
            (size,) = struct.unpack("!H", await reader.readexactly(2))
            whole = server.answer(await reader.readexactly(size))
            if server.silent:
                await reader.read()
            else:
                writer.write(struct.pack("!H", len(whole)) + whole)
                await writer.drain()
        writer.close()

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(server), (host, server.port))
    async with AsyncExitStack() as stack:
        stack.callback(transport.close)
        if over_tcp:
            await stack.enter_async_context(await asyncio.start_server(stream, host, server.port))
        yield server
