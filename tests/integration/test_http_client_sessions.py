"""The HTTP clients when what is behind the URL becomes another, and with servers that keep sessions or ask."""

import asyncio
from collections.abc import Callable

import orjson
import pytest

from agent.client.connect import ListenNotSupported, McpClient, open_client
from agent.client.protocol import Request
from agent.errors import AuthRefused, CallNotSent, ProtocolBroken, RpcError, Unreachable
from agent.model import MESH_EXTENSION, Era, HttpTarget, Json
from tests.integration.servers.client_scripts import CALL, legacy, modern, open_and_call
from tests.integration.servers.hosting import (
    Seen,
    discovered,
    http,
    initialized,
    rpc_error,
    rpc_result,
    scripted,
)

# A busy machine takes some tenths of a second to connect; these tests wait for the end of it in vain.
CONNECT_TIMEOUT_S = 1.0


async def test_a_modern_server_replaced_by_a_legacy_one_makes_the_client_lost() -> None:
    async def older(request: Seen) -> tuple[bytes | None, bool]:
        return rpc_error(request, 200, -32601, "Method not found"), True

    answer = modern(lambda request: rpc_result(request, {}))
    async with scripted(answer) as script, open_client(HttpTarget(script.url)) as client:
        script.answer = older
        with pytest.raises(Unreachable, match="no longer speaks 2026-07-28"):
            await client.probe(5)
        assert client.lost.is_set()
        assert client.lost_reason


async def test_another_node_behind_the_same_url_makes_the_client_lost() -> None:
    node_id = "one"

    async def answer(request: Seen) -> tuple[bytes | None, bool]:
        card = {"node_id": node_id, "name": "n"}
        capabilities = {"extensions": {MESH_EXTENSION: card}}
        return rpc_result(request, {"supportedVersions": ["2026-07-28"], "capabilities": capabilities}), True

    async with scripted(answer) as script, open_client(HttpTarget(script.url)) as client:
        assert client.server_info.mesh == {"node_id": "one", "name": "n"}
        await client.probe(5)
        node_id = "two"
        with pytest.raises(Unreachable, match="another node"):
            await client.probe(5)
        assert client.lost.is_set()


async def test_a_stream_of_list_changes_ends_when_its_session_is_opened_anew() -> None:
    sessions = 0

    async def answer(request: Seen) -> tuple[bytes | None, bool]:
        nonlocal sessions
        if request.method == "GET":
            return b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n", True
        match request.body.get("method"):
            case "initialize":
                sessions += 1
                return initialized(request, Mcp_Session_Id=f"s{sessions}"), True
            case "server/discover":
                return http(404), True
            case "tools/call" if request.headers["mcp-session-id"] == "s1":
                return http(404), True
            case "tools/call":
                return rpc_result(request, {"ok": True}), True
        return http(202), True

    changes: asyncio.Queue[str] = asyncio.Queue()
    async with scripted(answer) as script, open_client(HttpTarget(script.url)) as client, asyncio.timeout(20):
        async with asyncio.TaskGroup() as group:
            listener = group.create_task(_listen_failure(client, changes.put_nowait), name="listen")
            assert await changes.get() == "listening"
            assert await client.request(Request.within("tools/call", CALL, timeout_s=10)) == {"ok": True}
        assert isinstance(listener.result(), Unreachable)


async def _listen_failure(client: McpClient, on_change: Callable[[str], None]) -> Exception:
    try:
        await client.listen(on_change)
    except Unreachable as exc:
        return exc
    raise AssertionError("unreachable")


async def test_a_legacy_server_without_session_ids_works_too() -> None:
    async with scripted(legacy(lambda request: rpc_result(request, {"ok": True}))) as script:
        async with open_client(HttpTarget(script.url)) as client:
            assert client.server_info.era is Era.LEGACY
            assert await client.request(Request.within("tools/call", CALL, timeout_s=10)) == {"ok": True}
            with pytest.raises(ListenNotSupported):
                await client.listen(lambda _: None)
        assert "mcp-session-id" not in script.seen[-1].headers
        assert script.seen[-1].method == "GET"


def _error(request_id: object, code: int, message: str) -> bytes:
    return orjson.dumps({"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": message}})


FORGOTTEN: dict[str, Callable[[Seen], bytes]] = {
    "python-sdk 1.30: 404, an ID of its own": lambda _: http(404, _error("server-error", -32600, "Session not found")),
    "404, no ID": lambda _: http(404, _error(None, -32001, "Session not found")),
    "404, the ID of the request": lambda r: http(404, _error(r.body["id"], -32000, "unknown")),
    "404, the ID of the request, invalid session": lambda r: http(404, _error(r.body["id"], -32602, "Bad session")),
    "404, text": lambda _: http(404, b"Session not found", "text/plain"),
    "404, nothing": lambda _: http(404),
    "TypeScript: 400, no ID": lambda _: http(400, _error(None, -32000, "Bad Request: No valid session ID provided")),
    "400, the ID of the request": lambda r: http(400, _error(r.body["id"], -32600, "Unknown session")),
    "python-sdk 1.9, mcp-go: 400, text": lambda _: http(400, b"Bad Request: No valid session ID", "text/plain"),
    "rmcp: 401, text": lambda _: http(401, b"Unauthorized: Session not found", "text/plain; charset=utf-8"),
}


class RefusingServer:
    """Refuses every call of its first session in one way, and answers those of the next; `sessions` were opened."""

    def __init__(self, refusal: Callable[[Seen], bytes]) -> None:
        self._refusal = refusal
        self.sessions = 0

    async def answer(self, request: Seen) -> tuple[bytes | None, bool]:
        match request.body.get("method"):
            case "server/discover":
                return http(405), True
            case "initialize":
                self.sessions += 1
                return initialized(request, Mcp_Session_Id=f"s{self.sessions}"), True
            case "tools/call" if request.headers["mcp-session-id"] == "s1":
                return self._refusal(request), True
            case "tools/call":
                return rpc_result(request, {"session": request.headers["mcp-session-id"]}), True
        return http(202), True


@pytest.mark.parametrize("refusal", FORGOTTEN.values(), ids=FORGOTTEN.keys())
async def test_a_session_that_was_forgotten_is_opened_anew_however_the_server_says_it(
    refusal: Callable[[Seen], bytes],
) -> None:
    async with scripted(RefusingServer(refusal).answer) as script:
        assert await open_and_call(script) == {"session": "s2"}


OTHER_REFUSALS: dict[str, tuple[Callable[[Seen], bytes], type[Exception], str]] = {
    "404, an unknown method": (
        lambda r: http(404, _error(r.body["id"], -32601, "Method not found")),
        RpcError,
        "not found",
    ),
    "400, an invalid request": (lambda r: http(400, _error(r.body["id"], -32602, "no such tool")), RpcError, "no such"),
    "401 with a challenge": (
        lambda _: http(401, b"the token expired", "text/plain", **{"WWW-Authenticate": "Bearer"}),
        AuthRefused,
        "the token expired",
    ),
    "401, text": (lambda _: http(401, b"the key is unknown", "text/plain"), AuthRefused, "the key is unknown"),
    "403, text": (
        lambda _: http(403, b"Access is only allowed at localhost:8931", "text/plain"),
        AuthRefused,
        "only allowed at localhost:8931",
    ),
    "421": (lambda _: http(421, b"Invalid Host header", "text/plain"), ProtocolBroken, "Host check"),
}


@pytest.mark.parametrize(("refusal", "kind", "text"), OTHER_REFUSALS.values(), ids=OTHER_REFUSALS.keys())
async def test_another_refusal_keeps_the_session_and_says_what_the_server_said(
    refusal: Callable[[Seen], bytes], kind: type[Exception], text: str
) -> None:
    server = RefusingServer(refusal)
    async with scripted(server.answer) as script:
        with pytest.raises(kind, match=text):
            await open_and_call(script)
        assert server.sessions == 1


async def test_a_session_that_is_refused_for_good_makes_the_client_lost_and_the_call_not_sent() -> None:
    async def answer(request: Seen) -> tuple[bytes | None, bool]:
        match request.body.get("method"):
            case "initialize" if len(script.seen) < 4:
                return initialized(request, Mcp_Session_Id="s"), True
            case "notifications/initialized":
                return http(202), True
        return http(404), True

    async with scripted(answer) as script, open_client(HttpTarget(script.url)) as client:
        with pytest.raises(CallNotSent, match="forgot our session"):
            await client.request(Request.within("tools/call", CALL, timeout_s=10))
        assert client.lost.is_set()


async def test_a_server_that_never_answers_discover_is_asked_to_initialize() -> None:
    async def answer(request: Seen) -> tuple[bytes | None, bool]:
        match request.body.get("method"):
            case "server/discover":
                return b"", True
            case "initialize":
                return initialized(request), True
            case "tools/call":
                return rpc_result(request, {"ok": True}), True
        return http(202), True

    async with (
        scripted(answer) as script,
        open_client(HttpTarget(script.url), connect_timeout_s=CONNECT_TIMEOUT_S) as client,
    ):
        assert client.server_info.era is Era.LEGACY
        assert await client.request(Request.within("tools/call", CALL, timeout_s=10)) == {"ok": True}


async def test_a_server_may_take_longer_to_initialize_than_to_connect() -> None:
    started = asyncio.Event()

    async def answer(request: Seen) -> tuple[bytes | None, bool]:
        match request.body.get("method"):
            case "server/discover":
                return b"", True
            case "initialize":
                asyncio.get_running_loop().call_later(1.5 * CONNECT_TIMEOUT_S, started.set)
                await started.wait()
                return initialized(request), True
            case "tools/call":
                return rpc_result(request, {"ok": True}), True
        return http(202), True

    async with scripted(answer) as script:
        assert await open_and_call(script, connect_timeout_s=CONNECT_TIMEOUT_S, start_timeout_s=30) == {"ok": True}


async def test_a_modern_server_that_was_starting_when_it_was_asked_is_asked_again() -> None:
    async def answer(request: Seen) -> tuple[bytes | None, bool]:
        match request.body.get("method"):
            case "server/discover" if len(script.seen) == 1:
                return b"", True
            case "server/discover":
                return discovered(request), True
            case "initialize":
                return rpc_error(request, 400, -32601, "unknown"), True
        return rpc_result(request, {"ok": True}), True

    async with scripted(answer) as script:
        assert await open_and_call(script, connect_timeout_s=CONNECT_TIMEOUT_S) == {"ok": True}


async def test_initialize_is_tried_once_with_a_version_that_its_refusal_names() -> None:
    async def answer(request: Seen) -> tuple[bytes | None, bool]:
        match request.body.get("method"):
            case "server/discover":
                return http(400), True
            case "initialize" if request.body["params"]["protocolVersion"] == "2025-03-26":
                return initialized(request, "2025-03-26"), True
            case "initialize":
                supported = {"supported": ["2024-11-05", "2025-03-26"]}
                return rpc_error(request, 400, -32602, "Unsupported protocol version", supported), True
            case "tools/call":
                return rpc_result(request, {"ok": True}), True
        return http(202), True

    async with scripted(answer) as script:
        assert await open_and_call(script) == {"ok": True}


async def test_a_discovery_that_names_only_older_versions_leads_to_a_session() -> None:
    async def answer(request: Seen) -> tuple[bytes | None, bool]:
        match request.body.get("method"):
            case "server/discover":
                return rpc_result(
                    request, {"supportedVersions": ["2025-11-25", "2025-06-18"], "capabilities": {}}
                ), True
            case "initialize":
                return initialized(request), True
            case "tools/call":
                return rpc_result(request, {"ok": True}), True
        return http(202), True

    async with scripted(answer) as script, open_client(HttpTarget(script.url)) as client:
        assert client.server_info.era is Era.LEGACY
        assert await client.request(Request.within("tools/call", CALL, timeout_s=10)) == {"ok": True}


async def test_a_legacy_servers_own_requests_are_answered_without_any_feature() -> None:
    def ask_first(request: Seen) -> bytes:
        messages: list[Json] = [
            {"jsonrpc": "2.0", "id": "p", "method": "ping"},
            {"jsonrpc": "2.0", "id": "s", "method": "sampling/createMessage", "params": {}},
            {"jsonrpc": "2.0", "id": request.body["id"], "result": {"ok": True}},
        ]
        return http(200, b"".join(b"data: " + orjson.dumps(m) + b"\n\n" for m in messages), kind="text/event-stream")

    async with scripted(legacy(ask_first, Mcp_Session_Id="s")) as script:
        assert await open_and_call(script) == {"ok": True}
        replies = {one.body["id"]: one.body for one in script.seen if "method" not in one.body and one.body}
    assert replies["p"]["result"] == {}
    assert replies["s"]["error"]["code"] == -32601
