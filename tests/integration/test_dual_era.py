"""Servers that speak 2026-07-28 and open sessions too (FastMCP 4), directly, behind one node and behind two."""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import mcp_types as types
import pytest
from mcp.client import Client
from mcp.server.mcpserver import Context, MCPServer
from mcp.shared.exceptions import MCPError

from agent.client.protocol import Request
from agent.client.stdio import connect as stdio_connect
from agent.errors import RpcError
from agent.model import (
    AFFINITY_META_KEY,
    IN_SESSION_META_KEY,
    Era,
    HttpTarget,
    ServerScope,
    ServerSpec,
    Sessions,
    StdioTarget,
)
from tests.integration.servers import warm
from tests.integration.servers.answering_client import FEATURES, answering_client
from tests.integration.servers.asking_server import asking, form, word
from tests.integration.servers.both_eras_server import URL, both_eras_server
from tests.integration.servers.hops import front_before, front_of, replicas
from tests.integration.servers.hosting import Asgi, Front, http_app, serving
from tests.integration.servers.nodes import RunningNode, client, running_node
from tests.integration.servers.raw_session import messages, raw_session, request
from tests.waiting import eventually

# Servers of that era ask by these requests, and the SDK says that they are of the past.
pytestmark = [
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
    pytest.mark.usefixtures("warm_servers"),
]

ROOT = Path(__file__).parents[2]
SESSION, STATELESS = "2025-11-25", "2026-07-28"
# A call whose client gets a child of its own waits for that to start.
CHILD_S = 60.0
# More than is read as one object before it is passed on.
LARGE = 2_000_000
# What each tool says when its client was asked and answered.
ANSWERED = {
    "fill": "Ada-1 to Ada-2",
    "sign": "signed: accept",
    "compose": "m: Hello",
    "where": "file:///here",
    "version": f"{SESSION} {','.join(sorted((*FEATURES, 'tasks')))}",
}
ASKED = ["From where?", "To where?", f"Sign {URL}", "A greeting?", "roots"]


@pytest.fixture(autouse=True)
def children_have_time_on_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdio_connect, "OPEN_TIMEOUT_S", CHILD_S)


@dataclass
class Human:
    """The client's user, and the questions."""

    name: str = "Ada"
    asked: list[str] = field(default_factory=list)
    refuses: bool = False

    async def elicited(self, _: Any, params: Any) -> types.ElicitResult:
        if params.mode == "url":
            self.asked.append(f"{params.message} {params.url}")
            assert params.elicitation_id == "paper-1"
            return types.ElicitResult(action="accept")
        self.asked.append(params.message)
        if self.refuses:
            return types.ElicitResult(action="decline")
        key = next(iter(params.requested_schema["properties"]))
        return types.ElicitResult(action="accept", content={key: f"{self.name}-{len(self.asked)}"})

    async def sampled(self, _: Any, params: Any) -> types.CreateMessageResult:
        self.asked.append(params.messages[0].content.text)
        return types.CreateMessageResult(role="assistant", content=types.TextContent(text="Hello"), model="m")

    async def rooted(self, _: Any) -> types.ListRootsResult:
        self.asked.append("roots")
        return types.ListRootsResult(roots=[types.Root(uri="file:///here")])


class Gate(Front):
    """A server whose `initialize` may be answered with a status; `opened` counts the sessions that were asked for."""

    def __init__(self, app: Asgi, no_session: int | None = None) -> None:
        super().__init__(app)
        self.no_session = no_session

    @property
    def opened(self) -> int:
        return sum(_opens(seen) for seen in self.seen)

    @property
    def ended(self) -> int:
        return sum(seen["http-method"] == "DELETE" for seen in self.seen)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        if self.no_session is not None and _opens({"http-method": scope["method"], **headers}):
            self.seen.append({"http-method": scope["method"], **headers})
            await send({"type": "http.response.start", "status": self.no_session, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        await super().__call__(scope, receive, send)


def _opens(seen: dict[str, str]) -> bool:
    return seen["http-method"] == "POST" and "mcp-protocol-version" not in seen


@asynccontextmanager
async def gated(no_session: int | None = None, runs: list[str] | None = None) -> AsyncIterator[tuple[str, Gate]]:
    """The server over HTTP and its gate."""
    async with AsyncExitStack() as stack:
        gate = Gate(await stack.enter_async_context(http_app(both_eras_server(runs))), no_session)
        base = await stack.enter_async_context(serving(gate))
        yield f"{base}/mcp", gate


def over_http(url: str, **more: Any) -> ServerSpec:
    return ServerSpec("kit", HttpTarget(url), ServerScope.SERVICE, **more)


def child(**more: Any) -> ServerSpec:
    target = StdioTarget(sys.executable, (*warm.COMMAND, "tests.integration.servers.both_eras_server"), cwd=str(ROOT))
    return ServerSpec("kit", target, ServerScope.SERVICE, **more)


def counted_child(module: str, starts: Path, starts_max: int | None = None) -> ServerSpec:
    """A module as a child that adds a character to a file at each start, and ends at once beyond so many."""
    code = (
        "import sys; from pathlib import Path; from tests.integration.servers import warm;"
        "module, name, most = sys.argv[1:4]; starts = Path(name);"
        "starts.open('a').write('.'); most and len(starts.read_text()) > int(most) and sys.exit(3);"
        "sys.exit(warm.main([module, 'modern']))"
    )
    args = ("-c", code, module, str(starts), str(starts_max or ""))
    return ServerSpec("kit", StdioTarget(sys.executable, args, cwd=str(ROOT)), ServerScope.SERVICE)


def words(result: types.CallToolResult) -> str:
    assert isinstance(result.content[0], types.TextContent)
    return result.content[0].text


def sdk_server(runs: list[str]) -> MCPServer:
    """The SDK's own server, with tools that ask in rounds: one that reads, and one that may not be called twice."""
    server = MCPServer("kit")

    def add(name: str, *, reads: bool) -> None:
        async def tool(ctx: Context) -> str | types.InputRequiredResult:
            runs.append(name)
            if ctx.request_state is None:
                return asking({"who": form("Who?")}, "asked")
            return f"{name}: {word(ctx, 'who')}"

        hints = types.ToolAnnotations(read_only_hint=reads)
        server.add_tool(tool, name=name, annotations=hints, structured_output=False)

    add("look", reads=True)
    add("book", reads=False)
    return server


async def has_ended_one(gate: Gate) -> bool:
    return gate.ended == 1


async def has_ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def said(mcp: Client, prefix: str = "kit__") -> dict[str, str]:
    """What each tool says."""
    return {tool: words(await mcp.call_tool(prefix + tool, {})) for tool in ANSWERED}


async def test_the_direct_connection_of_a_session_is_asked_everything() -> None:
    human = Human()
    async with gated() as (url, _), answering_client(url, Era.LEGACY, human) as mcp:
        directly = {**ANSWERED, "version": ANSWERED["version"].removesuffix(",tasks")}
        assert await said(mcp, "") == directly, "a node declares more than this client: it keeps tasks of the client's"
    assert human.asked == ASKED


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_client_with_a_session_is_asked_as_on_a_direct_connection(hops: int, tmp_path: Path) -> None:
    human = Human()
    async with gated() as (url, gate), front_of(tmp_path, over_http(url), hops=hops) as front:
        async with answering_client(front.url, Era.LEGACY, human) as mcp:
            assert await said(mcp) == ANSWERED
            assert human.asked == ASKED
            assert gate.opened == 1, "one session for all calls of one client"
            prompt = await mcp.get_prompt("kit__introduce", {})
            assert isinstance(prompt.messages[0].content, types.TextContent)
            assert prompt.messages[0].content.text == "I am Ada-6"
            (read,) = (await mcp.read_resource("kit://kit/secret")).contents
            assert isinstance(read, types.TextResourceContents)
            assert read.text == "told Ada-7"
            human.refuses = True
            assert words(await mcp.call_tool("kit__fill", {})) == "decline to decline"
        async with answering_client(front.url, Era.LEGACY, other := Human("Bob")) as mcp:
            assert words(await mcp.call_tool("kit__fill", {})) == "Bob-1 to Bob-2"
            assert gate.opened == 2
        assert len(other.asked) == 2


@pytest.mark.parametrize("hops", [1, 2])
async def test_what_asks_in_rounds_does_so_for_clients_with_sessions_too(hops: int, tmp_path: Path) -> None:
    runs: list[str] = []
    async with (
        gated(runs=runs) as (url, _),
        front_of(tmp_path, over_http(url), hops=hops) as front,
        answering_client(front.url, Era.LEGACY, Human()) as mcp,
    ):
        assert words(await mcp.call_tool("kit__rounds", {})).startswith("rounds: Ada-")
        assert len(runs) == 3, "once in the session, which said so, and two rounds"
        assert words(await mcp.call_tool("kit__rounds", {})).startswith("rounds: Ada-")
        assert len(runs) == 5, "it is remembered"


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_server_that_does_not_say_why_its_session_failed_is_called_again_for_reads_alone(
    hops: int, tmp_path: Path
) -> None:
    app = sdk_server(runs := []).streamable_http_app(host="127.0.0.1")
    async with (
        app.router.lifespan_context(app),
        serving(app) as base,
        front_of(tmp_path, over_http(f"{base}/mcp"), hops=hops) as front,
        answering_client(front.url, Era.LEGACY, Human()) as mcp,
    ):
        assert words(await mcp.call_tool("kit__look", {})) == "look: Ada-1"
        with pytest.raises(MCPError, match="invalid result"):
            await mcp.call_tool("kit__book", {})
        assert runs == [*["look"] * 3, "book"]
        assert words(await mcp.call_tool("kit__book", {})) == "book: Ada-2"


@pytest.mark.parametrize("hops", [1, 2])
async def test_stateless_clients_and_those_that_declare_nothing_never_open_a_session(hops: int, tmp_path: Path) -> None:
    human = Human()
    async with gated() as (url, gate), front_of(tmp_path, over_http(url), hops=hops) as front:
        async with answering_client(front.url, Era.MODERN, human) as mcp:
            assert words(await mcp.call_tool("kit__version", {})) == f"{STATELESS} {','.join(sorted(FEATURES))}"
            assert words(await mcp.call_tool("kit__rounds", {})).startswith("rounds: Ada-")
            assert "unavailable on 2026-07-28" in words(await mcp.call_tool("kit__fill", {}))
        async with answering_client(front.url, Era.LEGACY, human, ()) as mcp:
            assert words(await mcp.call_tool("kit__version", {})) == STATELESS
        assert human.asked == ["Who?"]
        assert gate.opened == 0


@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize("status", [400, 404, 503])
async def test_a_server_that_opens_no_session_is_called_without_one_and_tried_once(
    status: int, hops: int, tmp_path: Path
) -> None:
    async with gated(status) as (url, gate), front_of(tmp_path, over_http(url), hops=hops) as front:
        for _ in range(2):
            async with answering_client(front.url, Era.LEGACY, Human()) as mcp:
                assert words(await mcp.call_tool("kit__version", {})).startswith(STATELESS)
                assert words(await mcp.call_tool("kit__rounds", {})).startswith("rounds: Ada-")
        assert gate.opened == 1


async def test_a_server_without_session_ids_is_called_the_stateless_way(tmp_path: Path) -> None:
    server = both_eras_server()
    app = server.http_app(stateless_http=True)
    async with (
        app.router.lifespan_context(app),
        serving(gate := Gate(app)) as base,
        front_of(tmp_path, over_http(f"{base}/mcp")) as front,
        answering_client(front.url, Era.LEGACY, Human()) as mcp,
    ):
        assert words(await mcp.call_tool("kit__version", {})).startswith(STATELESS)
        assert words(await mcp.call_tool("kit__rounds", {})).startswith("rounds: Ada-")
    assert gate.opened == 1


async def test_a_forgotten_session_is_opened_anew_and_the_call_answered(tmp_path: Path) -> None:
    async with (
        gated() as (url, gate),
        front_of(tmp_path, over_http(url)) as front,
        answering_client(front.url, Era.LEGACY, Human()) as mcp,
    ):
        assert words(await mcp.call_tool("kit__fill", {})) == "Ada-1 to Ada-2"
        async with http_app(both_eras_server()) as restarted:
            gate.app = restarted
            assert words(await mcp.call_tool("kit__fill", {})) == "Ada-3 to Ada-4"


async def test_a_call_whose_session_cannot_be_opened_goes_to_another_replica(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(gated()) for _ in range(2)]
        nodes: list[RunningNode] = []
        for number, (url, _) in enumerate(servers):
            node = running_node(f"n{number}", tmp_path / f"n{number}", servers=[over_http(url)])
            nodes.append(await stack.enter_async_context(node))
            await nodes[-1].connected("kit")
        front = await stack.enter_async_context(front_before(tmp_path, *nodes))
        assert replicas(front, "kit__fill") == 2
        # Both have opened sessions, so a failure to open another is an outage and no word about their era.
        for node in nodes:
            async with answering_client(node.url, Era.LEGACY, Human()) as mcp:
                assert words(await mcp.call_tool("kit__fill", {})) == "Ada-1 to Ada-2"
        (_, down), (_, up) = servers
        down.no_session = 503
        for _ in range(6):
            async with answering_client(front.url, Era.LEGACY, Human()) as mcp:
                assert words(await mcp.call_tool("kit__fill", {})) == "Ada-1 to Ada-2"
        assert down.opened > 1, "it was tried"
        up.no_session = 503
        async with raw_session(front.url, elicitation={}) as session:
            answer = await session.request("tools/call", {"name": "kit__fill", "arguments": {}})
        assert (answer["error"]["code"], answer["error"]["data"]["outcome"]) == (-32000, "not_executed")


@pytest.mark.parametrize("hops", [1, 2])
async def test_the_session_of_a_client_that_leaves_is_ended_at_the_server(hops: int, tmp_path: Path) -> None:
    async with (
        gated() as (url, gate),
        front_of(tmp_path, over_http(url), hops=hops) as front,
        raw_session(front.url, elicitation={}) as session,
    ):
        await session.request("tools/call", {"name": "kit__version", "arguments": {}})
        assert (gate.opened, gate.ended) == (1, 0)
        async with session.http.delete(front.url, headers=session.headers) as response:
            assert response.status == 200
        await eventually(partial(has_ended_one, gate))


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_large_result_of_a_call_in_a_session_arrives_whole(hops: int, tmp_path: Path) -> None:
    async with gated() as (url, gate), front_of(tmp_path, over_http(url), hops=hops) as front:
        async with raw_session(front.url, elicitation={}) as session:
            params = {"name": "kit__large", "arguments": {"size": LARGE}}
            async with session.post(request("tools/call", params)) as response:
                (answer,) = [message async for message in messages(response, 2 * LARGE)]
        assert answer["result"]["content"][0]["text"] == "x" * LARGE
        assert gate.opened == 1


@pytest.mark.parametrize("hops", [1, 2])
async def test_an_affinity_key_of_a_client_with_a_session_keeps_its_session(hops: int, tmp_path: Path) -> None:
    async with gated() as (url, gate), front_of(tmp_path, over_http(url), hops=hops) as front:
        async with raw_session(front.url, elicitation={}) as session:
            params = {"name": "kit__version", "arguments": {}, "_meta": {AFFINITY_META_KEY: "key"}}
            for _ in range(2):
                answer = await session.request("tools/call", params)
                assert answer["result"]["content"][0]["text"] == f"{SESSION} elicitation,tasks"
        assert gate.opened == 1


@pytest.mark.parametrize("sessions", [Sessions.AUTO, Sessions.OWN])
@pytest.mark.parametrize("hops", [1, 2])
async def test_a_stdio_server_asks_clients_with_sessions_by_children_of_their_own(
    hops: int, sessions: Sessions, tmp_path: Path
) -> None:
    human = Human()
    async with front_of(tmp_path, child(sessions=sessions), hops=hops, call_timeout_s=CHILD_S) as front:
        async with answering_client(front.url, Era.LEGACY, human) as mcp:
            assert await said(mcp) == ANSWERED
            assert words(await mcp.call_tool("kit__rounds", {})).startswith("rounds: Ada-")
            assert human.asked == [*ASKED, "Who?"]
        async with answering_client(front.url, Era.MODERN, human) as mcp:
            assert words(await mcp.call_tool("kit__version", {})).startswith(STATELESS)


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_second_child_starts_for_the_first_client_that_can_be_asked_and_ends_with_it(
    hops: int, tmp_path: Path
) -> None:
    spec = counted_child("tests.integration.servers.both_eras_server", starts := tmp_path / "starts")
    async with front_of(tmp_path, spec, hops=hops, call_timeout_s=CHILD_S) as front:
        async with (
            answering_client(front.url, Era.MODERN, Human()) as stateless,
            answering_client(front.url, Era.LEGACY, Human(), ()) as silent,
        ):
            (shared,) = {words(await mcp.call_tool("kit__process", {})) for mcp in (stateless, silent, silent)}
            assert len(starts.read_text()) == 1
            async with answering_client(front.url, Era.LEGACY, Human()) as mcp:
                (asked,) = {words(await mcp.call_tool("kit__process", {})) for _ in range(2)}
                assert words(await mcp.call_tool("kit__fill", {})) == "Ada-1 to Ada-2"
            await eventually(partial(has_ended, int(asked)))
            assert words(await silent.call_tool("kit__process", {})) == shared != asked
        assert len(starts.read_text()) == 2


@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize("starts_max", [None, 1])
async def test_a_command_whose_second_child_opens_no_session_is_tried_once_and_called_as_before(
    starts_max: int | None, hops: int, tmp_path: Path
) -> None:
    # One refuses `initialize`; the other one's second child fails.
    module = "growing_server" if starts_max is None else "both_eras_server"
    spec = counted_child(f"tests.integration.servers.{module}", starts := tmp_path / "starts", starts_max)
    async with front_of(tmp_path, spec, hops=hops, call_timeout_s=CHILD_S) as front:
        for number in (1, 2):
            async with answering_client(front.url, Era.LEGACY, Human()) as mcp:
                if starts_max is None:
                    assert words(await mcp.call_tool("kit__grow", {})) == str(number)
                else:
                    assert words(await mcp.call_tool("kit__version", {})).startswith(STATELESS)
    assert len(starts.read_text()) == 2


async def test_a_stdio_server_that_is_shared_speaks_what_was_negotiated(tmp_path: Path) -> None:
    spec = child(sessions=Sessions.SHARED)
    async with front_of(tmp_path, spec) as front, answering_client(front.url, Era.LEGACY, Human()) as mcp:
        assert words(await mcp.call_tool("kit__version", {})).startswith(STATELESS)
        assert "unavailable on 2026-07-28" in words(await mcp.call_tool("kit__fill", {}))


@pytest.mark.parametrize("transport", ["http", "stdio"])
@pytest.mark.parametrize("hops", [1, 2])
async def test_mesh_protocol_of_2025_11_25_makes_every_call_one_of_a_session(
    hops: int, transport: str, tmp_path: Path
) -> None:
    async with gated() as (url, _):
        spec = (
            over_http(url, protocol=SESSION) if transport == "http" else child(protocol=SESSION, sessions=Sessions.OWN)
        )
        async with front_of(tmp_path, spec, hops=hops, call_timeout_s=CHILD_S) as front:
            # Each call of a stateless client would start a child, as with every server of that version.
            for era in Era if transport == "http" else (Era.LEGACY,):
                async with answering_client(front.url, era, human := Human()) as mcp:
                    assert words(await mcp.call_tool("kit__version", {})) == ANSWERED["version"]
                    assert words(await mcp.call_tool("kit__fill", {})) == "Ada-1 to Ada-2"
                    assert len(human.asked) == 2


@pytest.mark.parametrize("protocol", ["2025-06-18", STATELESS, None])
@pytest.mark.parametrize("transport", ["http", "stdio"])
async def test_mesh_protocol_is_what_status_shows_and_what_the_server_is_spoken_to(
    transport: str, protocol: str | None, tmp_path: Path
) -> None:
    async with gated() as (url, gate):
        spec = over_http(url, protocol=protocol) if transport == "http" else child(protocol=protocol)
        async with front_of(tmp_path, spec, call_timeout_s=CHILD_S) as front:
            _, answer = await front.rest("GET", "/servers")
            (row,) = [row for row in answer["data"]["servers"] if row["name"] == "kit"]
            spoken = protocol or STATELESS
            assert (row["protocol"], row["protocol_version"]) == (protocol, spoken)
            opened = gate.opened
            async with answering_client(front.url, Era.LEGACY, Human()) as mcp:
                version = words(await mcp.call_tool("kit__version", {})).split()[0]
            assert version == (SESSION if protocol is None else spoken)
            assert gate.opened == opened + (transport == "http" and protocol != STATELESS)


@pytest.mark.parametrize("transport", ["http", "stdio"])
async def test_a_server_that_does_not_speak_the_version_that_is_forced_says_so(transport: str, tmp_path: Path) -> None:
    async with gated(400) as (url, gate):
        gate.refuse_modern = 400
        old = StdioTarget(sys.executable, ("-m", "agent.examples.dice"), cwd=str(ROOT))
        target, wanted = (HttpTarget(url), SESSION) if transport == "http" else (old, STATELESS)
        spec = ServerSpec("kit", target, ServerScope.SERVICE, protocol=wanted)
        async with running_node("front", tmp_path, servers=[spec]) as front:
            await front.when(lambda: front.view("kit").last_error)
            error = front.view("kit").last_error
    assert error.startswith(f"no MCP {wanted} at ")
    assert error.endswith("mesh.protocol allows nothing else, leave it out")


async def test_a_state_of_a_call_that_is_over_is_refused_and_not_sent_to_the_server(tmp_path: Path) -> None:
    runs: list[str] = []
    # As another node calls for its client with a session.
    meta = {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}, IN_SESSION_META_KEY: True}
    params = {"name": "kit__fill", "arguments": {}, "_meta": meta}
    async with gated(runs=runs) as (url, _), front_of(tmp_path, over_http(url)) as front:
        async with client(front.url, Era.MODERN) as mcp:
            asked = await mcp.request(Request.within("tools/call", params, timeout_s=15))
            (key,) = asked["inputRequests"]
            answers = {"requestState": asked["requestState"], "inputResponses": {key: {"action": "decline"}}}
            retry = Request.within("tools/call", {**params, **answers}, timeout_s=15)
            assert (await mcp.request(retry))["resultType"] == "input_required"
            with pytest.raises(RpcError, match="answered already") as caught:
                await mcp.request(retry)
        assert caught.value.data == {"reason": "invalid_request_state"}
        assert runs == ["fill"]
