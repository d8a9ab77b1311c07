"""Nodes before a scripted server that holds its answers until a test lets them go, and a client that speaks bare HTTP.

Used by the tests of started calls. The one rule: the test alone decides when an answer comes, in which pieces, and what
the client sends meanwhile.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from agent.client.http.sse import SseParser
from agent.config.tokens_file import check_tokens
from agent.links import probe
from agent.links.offer_keeper import OfferKeeper
from agent.model import HttpTarget, Json, ServerScope, ServerSpec
from agent.rest.tokens import TokenTable
from agent.server import started
from agent.server.fast_path.connection import FastRequest
from tests.attacks.clients import entry, token_of
from tests.integration.servers.hops import front_before
from tests.integration.servers.hosting import Script, Seen, discovered, rpc_error, rpc_result, scripted
from tests.integration.servers.nodes import RunningNode, running_node
from tests.integration.stateless_requests import BOTH, ENVELOPE, VERSION
from tests.waiting import eventually

STATELESS: Final = "stateless"
SESSION: Final = "session"
SESSION_VERSION: Final = "2025-11-25"
DONE: Final[Json] = {"content": [{"type": "text", "text": "done"}], "resultType": "complete"}
TOOLS: Final[list[Json]] = [
    {"name": "look", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}},
    {"name": "write", "inputSchema": {"type": "object"}},
]
LINE_FIELDS: Final = ("method", "mcp_name", "caller", "backend", "outcome", "request_id", "reason")
PATIENCE_S: Final = 20.0
# What a test waits for that is about a call that takes longer.
WAITED_FOR_S: Final = started.WAITED_FOR_S


def let_no_slow_moment_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give calls no task because this machine held them up, or because a probe had the connection just then."""
    monkeypatch.setattr(started, "WAITED_FOR_S", 600.0)
    monkeypatch.setattr(probe, "PROBE_EVERY_S", 600.0)


@dataclass
class HeldCall:
    """A call that has come to the server. `writer`: its connection, for answers in pieces."""

    request: Seen
    writer: asyncio.StreamWriter
    let_go: asyncio.Future[tuple[bytes | None, bool]]

    def answer(self, data: bytes | None = None, *, keep: bool = True) -> None:
        """Answer with these bytes, or as usual."""
        self.let_go.set_result((self.done() if data is None else data, keep))

    def done(self, result: Json = DONE) -> bytes:
        return rpc_result(self.request, result)

    def reset(self) -> None:
        self.let_go.set_result((None, False))


@dataclass
class Holding:
    """A server whose calls wait, once it `holds`; before, it answers at once."""

    script: Script | None = None
    holds: bool = False
    lists_held: asyncio.Event | None = None
    lists: int = 0
    calls: list[HeldCall] = field(default_factory=list)
    came: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def of_server(self) -> Script:
        assert self.script is not None
        return self.script

    async def next(self, count: int = 1) -> HeldCall:
        """The last of so many calls, when it has come."""
        async with asyncio.timeout(PATIENCE_S), self.came:
            await self.came.wait_for(lambda: len(self.calls) >= count)
        return self.calls[count - 1]

    def let_all_go(self) -> None:
        if self.lists_held is not None:
            self.lists_held.set()
        for call in self.calls:
            if not call.let_go.done():
                call.reset()

    async def answered(self, request: Seen) -> tuple[bytes | None, bool]:
        match request.body.get("method"):
            case "server/discover":
                return discovered(request), True
            case "tools/list":
                self.lists += 1
                if self.lists_held is not None:
                    await self.lists_held.wait()
                return rpc_result(request, {"tools": TOOLS}), True
            case "tools/call" if self.holds:
                writer = self.of_server.writers[request.connection - 1]
                call = HeldCall(request, writer, asyncio.get_running_loop().create_future())
                async with self.came:
                    self.calls.append(call)
                    self.came.notify_all()
                return await call.let_go
            case "tools/call":
                return rpc_result(request, DONE), True
            case _:
                return rpc_error(request, 404, -32601, "Method not found"), True


def events(*messages: Json) -> bytes:
    """A stream of events as one whole piece, in the chunks that end it."""
    text = b"".join(b"event: message\r\ndata: " + orjson.dumps(message) + b"\r\n\r\n" for message in messages)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"%x\r\n" % len(text) + text + b"\r\n0\r\n\r\n"


@dataclass
class Got:
    """What a client got."""

    status: int
    headers: dict[str, str]
    messages: list[Json]


@dataclass
class RawCaller:
    """A client over one connection. `headers`: of each request, for its era."""

    era: str
    path: str
    headers: dict[str, str]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def call(self, request_id: object = 7, tool: str = "kit__write", arguments: Any = None) -> bytes:
        params: Json = {"name": tool, "arguments": arguments or {}}
        more = {}
        if self.era == STATELESS:
            params["_meta"] = ENVELOPE
            more = {"MCP-Protocol-Version": VERSION, "Mcp-Method": "tools/call", "Mcp-Name": tool}
        return self.post({"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}, **more)

    def post(self, message: Json, **more: str) -> bytes:
        body = orjson.dumps(message)
        lines = {"Host": "127.0.0.1", "Content-Type": "application/json", "Accept": BOTH, **self.headers, **more}
        text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"POST {self.path} HTTP/1.1\r\n{text}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def got(self) -> Got:
        """The next answer, whole."""
        async with asyncio.timeout(PATIENCE_S):
            first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = await self._body(headers)
        if not body:
            return Got(int(first.split(" ")[1]), headers, [])
        is_stream = headers.get("content-type", "").startswith("text/event-stream")
        texts = SseParser(1 << 20).feed(body) if is_stream else [body]
        return Got(int(first.split(" ")[1]), headers, [orjson.loads(text) for text in texts])

    async def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            return await self.reader.readexactly(int(headers.get("content-length", "0")))
        body = b""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            body += (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readuntil(b"\r\n")
        return body

    async def asked(self, request: bytes) -> Got:
        self.send(request)
        return await self.got()

    async def ended(self) -> bool:
        """Whether the node closes the connection."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.read() == b""

    def close(self) -> None:
        self.writer.transport.abort()


@asynccontextmanager
async def raw_caller(
    node: RunningNode, era: str, token: str | None = None, path: str = "/mcp"
) -> AsyncIterator[RawCaller]:
    """A client of that era."""
    host, _, port = node.base.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    headers = {} if token is None else {"Authorization": f"Bearer {token_of(token)}"}
    caller = RawCaller(era, path, headers, reader, writer)
    try:
        if era == SESSION:
            said = {"protocolVersion": SESSION_VERSION, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
            opened = await caller.asked(
                caller.post({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": said})
            )
            headers["Mcp-Session-Id"] = opened.headers["mcp-session-id"]
        yield caller
    finally:
        caller.close()


@dataclass
class HeldScene:
    """`node`: which clients talk to; `nodes`: all on the way to the server."""

    node: RunningNode
    nodes: list[RunningNode]
    server: Holding
    caplog: pytest.LogCaptureFixture

    def waits(self) -> int:
        """How many calls nodes serve in tasks."""
        return sum(map(_is_of_call, asyncio.all_tasks()))

    def keepers(self) -> list[OfferKeeper]:
        """What reads the lists of each link."""
        links = [link for node in self.nodes for link in node.supervisor.links()]
        return [link._session._offer for link in links if link._session is not None]

    async def reads_no_lists(self) -> bool:
        """Else a call has a task. Nodes hear of each other's changes up to two seconds later."""
        return not any(keeper._is_reading for keeper in self.keepers())

    @asynccontextmanager
    async def caller(self, era: str, token: str | None = None) -> AsyncIterator[RawCaller]:
        """A client whose next call is started: all on its way know its head and theirs."""
        async with raw_caller(self.node, era, token) as caller:
            for tool in ("kit__write", "kit__look") * 2:
                held, self.server.holds = self.server.holds, False
                assert (await caller.asked(caller.call(tool=tool))).messages[0]["result"]
                self.server.holds = held
            self.server.holds = True
            self.caplog.clear()
            yield caller

    def figures(self, node: RunningNode | None = None) -> dict[str, float]:
        """What is counted of calls at a node: the one that clients talk to."""
        lines = (node or self.node).metrics.render()[0].decode().splitlines()
        shown = (
            line.rpartition(" ") for line in lines if line.startswith(("mesh_calls_total", "mesh_calls_in_flight"))
        )
        return {name: float(value) for name, _, value in shown}

    def outcomes(self, before: dict[str, float]) -> dict[str, float]:
        """The outcomes that were counted since."""
        now = self.figures()
        counted = {
            name: value - before.get(name, 0) for name, value in now.items() if name.startswith("mesh_calls_total")
        }
        return {name.partition('outcome="')[2].partition('"')[0]: value for name, value in counted.items() if value}

    def lines(self) -> list[dict[str, Any]]:
        """The lines of requests since the callers were ready, of the node that clients talk to."""
        written = [vars(record) for record in self.caplog.records if record.name == "agent.mcp"]
        of_client = [one for one in written if not str(one.get("caller")).startswith("node")]
        return [{name: one[name] for name in LINE_FIELDS if one.get(name) is not None} for one in of_client]

    async def is_over(self) -> None:
        """Wait until no node has a call under way, anywhere, and look at what would be left of one."""

        async def over() -> bool:
            in_flight = [self.figures(node)["mesh_calls_in_flight"] for node in self.nodes]
            links = [
                link._session._in_flight for node in self.nodes for link in node.supervisor.links() if link._session
            ]
            return not any(in_flight) and not any(links) and not any(node.dispatch.in_flight() for node in self.nodes)

        await eventually(over, PATIENCE_S)
        for node in self.nodes:
            for endpoint in node.endpoints:
                assert not endpoint.stateless.started_calls.since_s
                assert not endpoint.legacy.started_calls.since_s
                assert not any(session.unwaited for session in endpoint.sessions._sessions.values())


@contextlib.contextmanager
def tasks_of_calls() -> Iterator[list[asyncio.Task[Any]]]:
    """The tasks that nodes make for calls in the block."""
    loop, made = asyncio.get_running_loop(), list[asyncio.Task[Any]]()

    def make(loop: asyncio.AbstractEventLoop, work: Any, **more: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **more)
        if _is_of_call(task):
            made.append(task)
        return task

    loop.set_task_factory(make)
    try:
        yield made
    finally:
        loop.set_task_factory(None)


def _is_of_call(task: asyncio.Task[Any]) -> bool:
    """Whether it serves an HTTP request with a call: a session's call has one as well."""
    frame = getattr(task.get_coro(), "cr_frame", None)
    request = None if frame is None else frame.f_locals.get("request")
    return isinstance(request, FastRequest) and b'"tools/call"' in request.whole_body


@asynccontextmanager
async def held_scene(
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    *,
    hops: int = 1,
    call_timeout_s: float = 10.0,
    tokens: TokenTable | None = None,
) -> AsyncIterator[HeldScene]:
    """A node with the server, with two hops behind another node."""
    caplog.set_level(logging.INFO, "agent.mcp")
    server = Holding()
    async with AsyncExitStack() as stack:
        server.script = await stack.enter_async_context(scripted(server.answered))
        spec = ServerSpec("kit", HttpTarget(server.script.url), ServerScope.SERVICE)
        one = await stack.enter_async_context(
            running_node("one", folder / "one", servers=[spec], call_timeout_s=call_timeout_s, tokens=tokens)
        )
        await one.connected("kit")
        nodes = [one]
        if hops > 1:
            before = front_before(folder, one, call_timeout_s=call_timeout_s)
            nodes = [await stack.enter_async_context(before), one]
        stack.callback(server.let_all_go)
        yield HeldScene(nodes[0], nodes, server, caplog)


def named(*names: str) -> TokenTable:
    """A token for each of these names."""
    entries = {name: entry(name, "mcp", "read", "admin") for name in names}
    return TokenTable((), check_tokens(orjson.dumps({"tokens": entries}).decode(), Path("tokens.json")), closed=True)
