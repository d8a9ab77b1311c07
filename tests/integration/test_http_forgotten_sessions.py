"""Sessions that servers forget, said in every way that was seen: renewed, and each request executed at most once."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.client.connect import McpClient, open_client
from agent.client.protocol import Request
from agent.errors import AuthRefused, CallNotSent, CallOutcomeUnknown, RpcError
from agent.model import Era, HttpTarget, Json, ServerScope, ServerSpec, Sessions
from tests.integration.servers.client_scripts import CALL
from tests.integration.servers.hosting import Seen, http, initialized, rpc_error, rpc_result, scripted
from tests.integration.servers.nodes import client as client_of
from tests.integration.servers.nodes import running_node

NOT_EXECUTED = -32000
Refusal = Callable[[Seen], bytes]
SESSION_NOT_FOUND = "Session not found"
TOOL: Json = {"name": "pay", "inputSchema": {"type": "object"}}


def of_text(status: int, text: str, **headers: str) -> Refusal:
    return lambda _: http(status, text.encode(), "text/plain", **headers)


def of_error(status: int, code: int, message: str) -> Refusal:
    return lambda request: rpc_error(request, status, code, message)


FORGOTTEN: dict[str, Refusal] = {
    "TypeScript 1.32 with one transport": of_error(400, -32000, "Bad Request: Server not initialized"),
    "400, words of its own": of_error(400, -32000, "Who are you?"),
    "400, nothing": lambda _: http(400),
    "200, invalid request": of_error(200, -32600, SESSION_NOT_FOUND),
    "200, a server error": of_error(200, -32001, SESSION_NOT_FOUND),
    "404, invalid params": of_error(404, -32602, "Unknown identifier"),
    "410": of_text(410, "Unknown session"),
    "410, nothing": lambda _: http(410),
    "422": of_text(422, "Unknown session"),
    "422, nothing": lambda _: http(422),
    "500": of_text(500, "session does not exist"),
    "401 with a challenge": of_text(401, SESSION_NOT_FOUND, WWW_Authenticate="Bearer"),
    "403": of_text(403, "Session expired"),
}


class ForgetfulServer:
    """Refuses what comes in a session that it forgot, pings too; `executed` are the sessions of the calls it took.

    `to_call`: answers calls in place of a result. `lasting`: whether sessions are remembered after `initialize`.
    """

    def __init__(self, refusal: Refusal, to_call: Refusal | None = None) -> None:
        self._refusal = refusal
        self._to_call = to_call
        self._known: set[str] = set()
        self.lasting = True
        self.sessions = 0
        self.pings = 0
        self.executed: list[str] = []

    def forget(self) -> None:
        self._known.clear()

    async def answer(self, request: Seen) -> tuple[bytes | None, bool]:
        method, session = request.body.get("method"), request.headers.get("mcp-session-id", "")
        self.pings += method == "ping"
        if request.method != "POST" or method == "server/discover":
            return http(405), True
        if method == "initialize":
            self.sessions += 1
            self._known.add(f"s{self.sessions}")
            return initialized(request, Mcp_Session_Id=f"s{self.sessions}"), True
        if method == "notifications/initialized":
            if not self.lasting:
                self.forget()
            return http(202), True
        if session not in self._known:
            return self._refusal(request), True
        if method != "tools/call":
            return rpc_result(request, {"tools": [TOOL]} if method == "tools/list" else {}), True
        self.executed.append(session)
        return (rpc_result(request, {"session": session}) if self._to_call is None else self._to_call(request)), True


async def call(client: McpClient) -> Json:
    return await client.request(Request.within("tools/call", CALL, timeout_s=10, affinity="caller"))


@pytest.mark.parametrize("pooled", [False, True], ids=["shared", "dedicated"])
@pytest.mark.parametrize("refusal", FORGOTTEN.values(), ids=FORGOTTEN.keys())
async def test_a_forgotten_session_is_renewed_and_the_refused_call_executed_once(
    refusal: Refusal, pooled: bool
) -> None:
    server = ForgetfulServer(refusal)
    async with (
        scripted(server.answer) as script,
        open_client(HttpTarget(script.url), sessions=Sessions.OWN if pooled else Sessions.AUTO) as client,
    ):
        before = (await call(client))["session"]
        opened = server.sessions
        server.forget()
        assert (await call(client))["session"] == f"s{opened + 1}"
        assert server.executed == [before, f"s{opened + 1}"]
        assert server.pings <= 1


@pytest.mark.parametrize("refusal", FORGOTTEN.values(), ids=FORGOTTEN.keys())
async def test_calls_refused_together_share_one_ping_and_one_new_session(refusal: Refusal) -> None:
    server = ForgetfulServer(refusal)
    async with scripted(server.answer) as script, open_client(HttpTarget(script.url)) as client:
        server.forget()
        assert await asyncio.gather(*(call(client) for _ in range(5))) == [{"session": "s2"}] * 5
        assert server.executed == ["s2"] * 5
        assert server.pings <= 1


@pytest.mark.parametrize("refusal", FORGOTTEN.values(), ids=FORGOTTEN.keys())
async def test_a_probe_renews_a_forgotten_session_too(refusal: Refusal) -> None:
    server = ForgetfulServer(refusal)
    async with scripted(server.answer) as script, open_client(HttpTarget(script.url)) as client:
        server.forget()
        await client.probe(10)
        assert server.sessions == 2
        assert await call(client) == {"session": "s2"}
        assert not client.lost.is_set()


FORGOTTEN_AGAIN = ("TypeScript 1.32 with one transport", "400, nothing", "200, invalid request", "410", "422")


@pytest.mark.parametrize("pooled", [False, True], ids=["shared", "dedicated"])
@pytest.mark.parametrize("refusal", [of_error(404, -32600, SESSION_NOT_FOUND), *map(FORGOTTEN.get, FORGOTTEN_AGAIN)])
async def test_a_call_whose_new_session_is_forgotten_as_well_was_not_sent(refusal: Refusal, pooled: bool) -> None:
    server = ForgetfulServer(refusal)
    async with (
        scripted(server.answer) as script,
        open_client(HttpTarget(script.url), sessions=Sessions.OWN if pooled else Sessions.AUTO) as client,
    ):
        server.lasting = False
        server.forget()
        with pytest.raises(CallNotSent, match="forgot"):
            await call(client)
        assert server.executed == []
        server.lasting = True
        assert await call(client) == {"session": f"s{server.sessions}"}


@pytest.mark.parametrize("era", list(Era))
async def test_a_client_learns_that_its_call_was_not_executed_when_sessions_do_not_last(
    era: Era, tmp_path: Path
) -> None:
    server = ForgetfulServer(of_error(404, -32600, SESSION_NOT_FOUND))
    async with scripted(server.answer) as script:
        spec = ServerSpec("kit", HttpTarget(script.url), ServerScope.SERVICE)
        async with running_node("one", tmp_path, servers=[spec]) as node:
            await node.connected("kit")
            server.lasting = False
            server.forget()
            async with client_of(node.url, era) as mcp:
                with pytest.raises(RpcError) as caught:
                    await mcp.request(Request.within("tools/call", {"name": "kit__pay", "arguments": {}}, timeout_s=15))
            assert caught.value.code == NOT_EXECUTED
            assert caught.value.data["outcome"] == "not_executed"
            assert server.executed == []


REFUSED_FOR_ITSELF: dict[str, tuple[Refusal, type[Exception]]] = {
    "400, an invalid argument": (of_error(400, -32602, "no browser session is open"), RpcError),
    "200, a session of its own": (of_error(200, -32001, "the browser session is over"), RpcError),
    "404, an unknown resource": (of_error(404, -32002, "no such thing"), RpcError),
    "500, a session of its own": (of_text(500, "the database session broke"), CallOutcomeUnknown),
}


@pytest.mark.parametrize(("refusal", "kind"), REFUSED_FOR_ITSELF.values(), ids=REFUSED_FOR_ITSELF.keys())
async def test_a_call_refused_for_itself_keeps_the_session_and_costs_one_ping_for_many(
    refusal: Refusal, kind: type[Exception]
) -> None:
    server = ForgetfulServer(lambda _: http(404), refusal)
    async with scripted(server.answer) as script, open_client(HttpTarget(script.url)) as client:
        for _ in range(3):
            with pytest.raises(kind):
                await call(client)
        assert (server.sessions, server.pings, server.executed) == (1, 1, ["s1"] * 3)


async def test_a_server_that_refuses_every_ping_is_not_asked_for_a_session_at_each_of_them() -> None:
    opened = 0

    async def answer(request: Seen) -> tuple[bytes | None, bool]:
        nonlocal opened
        match request.body.get("method"):
            case "initialize":
                opened += 1
                return initialized(request, Mcp_Session_Id=f"s{opened}"), True
            case "notifications/initialized":
                return http(202), True
            case "tools/call":
                return rpc_result(request, {"ok": True}), True
            case "ping":
                return rpc_error(request, 400, -32000, "I play no games"), True
        return http(405), True

    async with scripted(answer) as script, open_client(HttpTarget(script.url)) as client:
        for _ in range(4):
            await client.probe(10)
        assert opened == 2
        assert await call(client) == {"ok": True}


async def test_a_token_that_is_refused_in_a_new_session_too_is_said_to_be_refused() -> None:
    server = ForgetfulServer(of_text(403, "Session expired"))
    async with scripted(server.answer) as script, open_client(HttpTarget(script.url)) as client:
        server.lasting = False
        server.forget()
        with pytest.raises(AuthRefused, match="Session expired"):
            await call(client)
