"""The fast path gives the answers that aiohttp gives by itself, wherever the bytes of a client's requests are cut."""

import asyncio
import random
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import orjson
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from agent import clock
from agent.app.drain import runner_of
from agent.server.fast_path.connection import HELD_BYTES_MAX, IDLE_MAX_S, PARTS_WITHIN_S, Connection
from agent.server.fast_path.heads import HEAD_BYTES_MAX, HEADS_MAX, Heads
from agent.server.request import read_body
from tests.waiting import eventually, one_pass

USUAL = {"Server": "test", "X-Content-Type-Options": "nosniff"}
DATE = re.compile(rb"Date: [^\r]+\r\n")
CUTS = 12
# A shutdown that waits for nothing takes a few passes of the loop.
SHUTDOWN_PASSES = 100


def post(body: bytes = b"{}", *, target: str = "/mcp", version: str = "1.1", lines: str = "") -> bytes:
    head = f"POST {target} HTTP/{version}\r\nHost: x\r\nContent-Type: application/json\r\n{lines}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


LAST = post(b'"last"', lines="Connection: close\r\n")
SEQUENCES = {
    "one": [post()],
    "three at once": [post(b'"a"'), post(b'"b"'), post(b'"c"')],
    "no body": [post(b"")],
    "a body in many parts": [post(b'"' + b"x" * 200_000 + b'"')],
    "as large as is held": [post(b"x" * (HELD_BYTES_MAX - 200)), post()],
    "a stream": [post(b'"stream"'), post()],
    "a large answer": [post(b'"large"'), post()],
    "a refusal": [post(b'"refused"'), post()],
    "nothing": [post(b'"nothing"'), post()],
    "a fault": [post(b'"fault"'), post()],
    "an answer that is the last": [post(b'"farewell"'), post()],
    "an answer with more headers": [post(b'"headers"'), post()],
    "a page of a browser": [post(lines="Origin: http://localhost\r\n"), post()],
    "another target": [post(), post(target="/other"), post()],
    "a query": [post(), post(target="/mcp?a=b"), post()],
    "paths below": [post(target="/mcp/s/one"), post(target="/mcp/s/two"), post(target="/mcp/s/one?a=b")],
    "a path that leads nowhere": [post(target="/mcp/nowhere"), post()],
    "a path that only begins so": [post(target="/mcpx"), post()],
    "a path with dots": [post(target="/mcp/../other"), post(target="/mcp/./s/one"), post()],
    "an escaped path": [post(target="/mcp/s/%6fne"), post(target="/%6dcp"), post()],
    "a fragment": [post(target="/mcp#x"), post()],
    "an absolute target": [post(target="http://x/mcp")],
    "another method": [post(), b"GET /mcp HTTP/1.1\r\nHost: x\r\n\r\n", post()],
    "an older version": [post(), post(version="1.0", lines="Connection: keep-alive\r\n"), post()],
    "kept alive": [post(lines="Connection: keep-alive\r\n"), post(lines="connection: Keep-Alive\r\n")],
    "closed by the client": [post(lines="Connection: close\r\n"), post()],
    "names in lower case": [post().replace(b"Content-Length", b"content-length").replace(b"Host", b"host")],
    "chunks": [
        post(),
        post(b"", lines="Transfer-Encoding: chunked\r\n").replace(b"Content-Length: 0\r\n", b"") + b"0\r\n\r\n",
    ],
    "both lengths": [post(), post(b"0\r\n\r\n", lines="Transfer-Encoding: chunked\r\n"), post()],
    "two lengths": [post(), post(lines="Content-Length: 2\r\n"), post()],
    "two different lengths": [post(), post(lines="Content-Length: 40\r\n"), post()],
    "a length that is none": [post().replace(b"Length: 2", b"Length: +2"), post()],
    "a length with a blank behind": [post().replace(b"Length: 2", b"Length: 2 "), post()],
    "a blank before a colon": [post().replace(b"Host:", b"Host :"), post()],
    "a folded line": [post().replace(b"Host: x\r\n", b"Host: x\r\n y\r\n"), post()],
    "bare line feeds": [post().replace(b"\r\n", b"\n"), post()],
    "a zero byte": [post().replace(b"Host: x", b"Host: x\x00"), post()],
    "an expectation": [post(), post(lines="Expect: 100-continue\r\n"), post()],
    "a compressed body": [post(lines="Content-Encoding: gzip\r\n"), post()],
    "a long head": [post(lines=f"X-Long: {'x' * HEAD_BYTES_MAX}\r\n"), post()],
    "many headers": [post(lines="".join(f"X-{number}: x\r\n" for number in range(150))), post()],
    "no host": [post().replace(b"Host: x\r\n", b""), post()],
    "rubbish behind": [post(), b"\x16\x03\x01\x02\x00", post()],
    "a line end before": [post(), b"\r\n", post()],
}


@dataclass
class Served:
    """A server, and what its handler does: `begun` counts requests, those that wait go on when `go` is set."""

    runner: web.AppRunner
    begun: int = 0
    cancelled: int = 0
    written: int = 0
    go: asyncio.Event = field(default_factory=asyncio.Event)

    @contextmanager
    def client(self) -> Iterator[tuple[socket.socket, socket.socket]]:
        """Both ends of a connection; the first is the client's."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        with ours:  # The other end is its transport's.
            yield ours, theirs

    async def accept(self, theirs: socket.socket) -> asyncio.Transport:
        server = self.runner.server
        assert server is not None
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(server, theirs)
        assert isinstance(transport, asyncio.Transport)
        return transport

    async def wait(self) -> None:
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def write(self) -> None:
        """As a write to the disk, which goes on when it is cancelled."""
        try:
            await self.wait()
        except asyncio.CancelledError:
            await self.go.wait()
            self.written += 1
            raise

    async def answers(self, *parts: bytes) -> bytes:
        """All that comes until the connection ends, when its protocol gets exactly these parts, each by itself."""
        with self.client() as (ours, theirs):
            transport = await self.accept(theirs)
            reading = asyncio.create_task(read_all(ours))
            for part in parts:
                if not transport.is_closing():
                    protocol = transport.get_protocol()
                    assert isinstance(protocol, asyncio.Protocol)
                    protocol.data_received(part)
                    await one_pass()
            async with asyncio.timeout(10):
                whole = await reading
            return DATE.sub(b"", whole)


async def read_all(ours: socket.socket) -> bytes:
    whole = b""
    while part := await asyncio.get_running_loop().sock_recv(ours, 1 << 16):
        whole += part
    return whole


KINDS = {
    b'"large"': lambda: as_json(b"y" * 300_000),
    b'"refused"': lambda: as_json(b"{}", status=404),
    b'"nothing"': lambda: as_json(None, status=202),
    b'"headers"': lambda: web.Response(body=b"{}", headers={"X-More": "1", "Content-Type": "application/json"}),
}


def as_json(body: bytes | None, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json")


async def a_stream(request: web.Request) -> web.StreamResponse:
    stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await stream.prepare(request)
    await stream.write(b"data: x\r\n\r\n")
    return stream


async def add_usual(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(USUAL)


def common(request: web.Request) -> str | None:
    return None if "Origin" in request.headers else "".join(f"{name}: {value}\r\n" for name, value in USUAL.items())


@web.middleware
async def faults_are_answers(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except RuntimeError:
        return as_json(b"{}", status=500)


@asynccontextmanager
async def served(*, fast: bool = True, shutdown_timeout_s: float = 5) -> AsyncIterator[Served]:
    async def answer(request: web.Request) -> web.StreamResponse:
        scene.begun += 1
        body = await read_body(request)
        if isinstance(body, web.Response):
            return body
        match body:
            case b'"stream"':
                return await a_stream(request)
            case b'"fault"':
                raise RuntimeError("a fault")
            case b'"farewell"':
                last = as_json(b"{}")
                last.force_close()
                return last
            case b'"wait"':
                await scene.wait()
            case b'"write"':
                await scene.write()
        if body in KINDS:
            return KINDS[body]()
        # The length among the remembered headers may be another request's: handlers ask for `content_length`.
        names = {name: value for name, value in request.headers.items() if name != "Content-Length"}
        said = {"path": request.path, "headers": names, "body": len(body), "of": request.content_length}
        said |= {"query": dict(request.query), "name": request.match_info.get("name"), "raw": request.rel_url.raw_path}
        return as_json(orjson.dumps(said, option=orjson.OPT_NON_STR_KEYS))

    app = web.Application(middlewares=[faults_are_answers])
    app.on_response_prepare.append(add_usual)
    app.router.add_route("*", "/mcp", answer)
    app.router.add_route("*", "/mcp/s/{name}", answer)
    path = "/mcp" if fast else "/nowhere"
    scene = Served(runner_of(app, fast_path=path, common=common, shutdown_timeout_s=shutdown_timeout_s))
    await scene.runner.setup()
    try:
        yield scene
    finally:
        await scene.runner.cleanup()


def heads_in_order(answers: bytes) -> list[tuple[bytes, list[bytes], bytes]]:
    """Each answer as status line, sorted header lines, and body; the order of headers means nothing."""
    found = []
    for answer in re.split(rb"HTTP/1\.[01] (?=[1-5]\d\d )", answers)[1:]:
        head, _, body = answer.partition(b"\r\n\r\n")
        status, *lines = head.split(b"\r\n")
        # What aiohttp says of bytes that are no HTTP depends on how many of them it has seen.
        found.append((status, [], b"") if b"Bad Request" in status else (status, sorted(lines), body))
    return found


@pytest.mark.parametrize("name", SEQUENCES)
async def test_answers_are_those_of_aiohttp_wherever_the_bytes_are_cut(name: str) -> None:
    messages = [*SEQUENCES[name], LAST]
    whole = b"".join(messages)
    rng = random.Random(name)
    async with served() as fast, served(fast=False) as slow:
        expected = heads_in_order(await slow.answers(*messages))
        ends = [found.end() for found in re.finditer(rb"\r\n\r\n", whole)]
        places = {rng.randrange(1, len(whole)) for _ in range(CUTS)}.union(
            place for end in ends for place in (end - 1, end, end + 1) if 0 < place < len(whole)
        )
        for place in [len(whole), *sorted(places)]:
            parts = whole[:place], whole[place:]
            found = heads_in_order(await fast.answers(*parts))
            # What is no HTTP costs the requests before it their answers where aiohttp gets them together.
            assert found == expected or found == heads_in_order(await slow.answers(*parts)), place


async def test_requests_of_the_usual_kind_never_reach_aiohttps_own_protocol() -> None:
    async with served() as fast:
        with fast.client() as (_, theirs):
            transport = await fast.accept(theirs)
            protocol = transport.get_protocol()
            assert isinstance(protocol, Connection)
            protocol.data_received(post() + post(b'"b"') + post(b'"stream"'))
            await eventually(lambda: _is(fast.begun == 3))
            assert transport.get_protocol() is protocol


async def test_a_client_that_has_gone_cancels_its_request() -> None:
    async with served() as fast:
        with fast.client() as (ours, theirs):
            await fast.accept(theirs)
            await asyncio.get_running_loop().sock_sendall(ours, post(b'"wait"'))
            await eventually(lambda: _is(fast.begun == 1))
        await eventually(lambda: _is(fast.cancelled == 1))


async def test_a_shutdown_answers_what_is_under_way_and_closes_what_is_idle() -> None:
    async with served() as fast:
        with fast.client() as (busy, its_end), fast.client() as (idle, other_end):
            await fast.accept(its_end)
            await fast.accept(other_end)
            await asyncio.get_running_loop().sock_sendall(busy, post(b'"wait"'))
            await eventually(lambda: _is(fast.begun == 1))
            ending = asyncio.create_task(fast.runner.cleanup())
            assert await read_all(idle) == b""
            fast.go.set()
            assert (await read_all(busy)).startswith(b"HTTP/1.1 200 OK")
            await ending
        assert fast.cancelled == 0


async def test_a_shutdown_cuts_off_what_does_not_end_in_its_time() -> None:
    async with served(shutdown_timeout_s=0.05) as fast:
        with fast.client() as (ours, theirs):
            await fast.accept(theirs)
            await asyncio.get_running_loop().sock_sendall(ours, post(b'"wait"'))
            await eventually(lambda: _is(fast.begun == 1))
            await fast.runner.cleanup()
            assert await read_all(ours) == b""
        assert fast.cancelled == 1


async def test_a_shutdown_waits_for_a_request_whose_client_has_gone_and_that_has_something_to_end() -> None:
    async with served() as fast:
        with fast.client() as (ours, theirs):
            await fast.accept(theirs)
            await asyncio.get_running_loop().sock_sendall(ours, post(b'"write"'))
            await eventually(lambda: _is(fast.begun == 1))
        await eventually(lambda: _is(fast.cancelled == 1))
        ending = asyncio.create_task(fast.runner.cleanup())
        for _ in range(SHUTDOWN_PASSES):
            await one_pass()
        assert not ending.done()
        fast.go.set()
        await ending
        assert fast.written == 1


async def test_a_body_that_comes_slowly_is_waited_for_by_aiohttp_within_its_time_limit() -> None:
    async with served() as fast:
        with fast.client() as (ours, theirs):
            transport = await fast.accept(theirs)
            protocol = transport.get_protocol()
            assert isinstance(protocol, Connection)
            protocol.data_received(post(b'"slow"')[:-3])
            protocol.sweep(clock.now_s())
            assert transport.get_protocol() is protocol
            protocol.sweep(clock.now_s() + PARTS_WITHIN_S + 1)
            assert not isinstance(transport.get_protocol(), Connection)
            await asyncio.get_running_loop().sock_sendall(ours, post(b'"slow"')[-3:])
            assert (await asyncio.get_running_loop().sock_recv(ours, 100)).startswith(b"HTTP/1.1 200 OK")


async def test_a_body_that_trickles_is_no_longer_on_the_fast_path_than_one_that_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    began_s = clock.now_s()
    async with served() as fast:
        with fast.client() as (_ours, theirs):
            transport = await fast.accept(theirs)
            protocol = transport.get_protocol()
            assert isinstance(protocol, Connection)
            protocol.data_received(post(b'"slow"')[:-3])
            monkeypatch.setattr(clock, "now_s", lambda: began_s + PARTS_WITHIN_S + 1)
            protocol.data_received(b"o")
            protocol.sweep(clock.now_s() + 1)
            assert not isinstance(transport.get_protocol(), Connection)


async def test_an_idle_connection_is_closed_in_the_end() -> None:
    async with served() as fast:
        with fast.client() as (ours, theirs):
            transport = await fast.accept(theirs)
            protocol = transport.get_protocol()
            assert isinstance(protocol, Connection)
            protocol.sweep(clock.now_s() + IDLE_MAX_S - 1)
            assert not transport.is_closing()
            protocol.sweep(clock.now_s() + IDLE_MAX_S + 1)
            assert await read_all(ours) == b""


async def test_what_a_client_sends_ahead_is_bounded_and_none_of_it_is_lost() -> None:
    ahead = [post(b'"' + b"x" * 50_000 + b'"') for _ in range(8)]
    async with served() as fast:
        with fast.client() as (ours, theirs):
            transport, loop = await fast.accept(theirs), asyncio.get_running_loop()
            reading = asyncio.create_task(read_all(ours))
            sending = asyncio.create_task(loop.sock_sendall(ours, post(b'"wait"') + b"".join(ahead) + LAST))
            await eventually(lambda: _is(fast.begun == 1 and not transport.is_reading()))
            fast.go.set()
            await sending
            assert (await reading).count(b"HTTP/1.1 200 OK") == len(ahead) + 2
        assert fast.begun == len(ahead) + 2


@pytest.mark.parametrize(
    "lines",
    ["Upgrade: h2c\r\nConnection: upgrade\r\n", "Connection: close\r\n", "Expect: 100-continue\r\n", "Trailer: x\r\n"],
)
async def test_a_head_that_asks_for_more_than_an_answer_is_not_served_on_the_fast_path(lines: str) -> None:
    assert Heads("/mcp").read(post()) is not None
    assert Heads("/mcp").read(post(lines=lines)) is None


async def test_heads_are_remembered_by_all_but_their_length_and_bounded() -> None:
    heads = Heads("/mcp")
    first, second = heads.read(post(b"x")), heads.read(post(b"x" * 100))
    assert first is not None
    assert second is not None
    assert first.head is second.head
    assert (first.body_bytes, second.body_bytes) == (1, 100)
    for number in range(HEADS_MAX + 1):
        heads.read(post(lines=f"X-Number: {number}\r\n"))
    assert repr(heads) == "<Heads 2>"


@pytest.mark.parametrize("spare", [0, 8, 264, 265])
async def test_a_head_at_the_bound_is_known_again_only_where_any_other_process_reads_it(spare: int) -> None:
    pad = HEAD_BYTES_MAX - spare - post(lines="X-Pad: \r\n").index(b"\r\n\r\n") - 4
    lines = f"X-Pad: {'a' * pad}\r\n"
    first = Heads("/mcp").read(post(lines=lines))
    assert first is not None
    assert first.head_bytes == HEAD_BYTES_MAX - spare
    longer = post(b"x" * 1234, lines=lines)
    known = None if first.head.same is None else first.head.same.again(longer, first.head)
    read = Heads("/mcp").read(longer)
    assert known is None or (read is not None and read[1:] == known[1:])
    assert (known is None) == (spare < 265)


async def _is(true: bool) -> bool:
    return true


async def test_requests_of_a_node_have_one_head_and_each_its_own_proof() -> None:
    heads = Heads("/mcp")
    shown = [f"kit.{number}.0123abcd" for number in range(3)]
    read = [heads.read(post(lines=f"Mesh-Proof: {proof}\r\n")) for proof in shown]
    assert [one.proof for one in read if one is not None] == shown
    assert len({id(one.head) for one in read if one is not None}) == 1


@pytest.mark.parametrize("line", ["Mesh-Proof: ", "Mesh-Proof: kit 1", "mesh-proof: kit.1.ab", "Mesh-Proof:kit.1.ab"])
async def test_what_a_node_would_not_write_gets_no_proof_of_another_request(line: str) -> None:
    heads = Heads("/mcp")
    known = heads.read(post(lines="Mesh-Proof: kit.1.ab\r\n"))
    other = heads.read(post(lines=f"{line}\r\n"))
    assert known is not None
    assert other is not None
    assert other.proof is None
    assert other.head is not known.head
    assert other.head.by_name["mesh-proof"] == line.partition(":")[2].strip()


async def test_a_head_with_two_proofs_is_not_served_here() -> None:
    assert Heads("/mcp").read(post(lines="Mesh-Proof: kit.1.ab\r\nmesh-proof: kit.2.cd\r\n")) is None
