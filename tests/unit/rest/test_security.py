"""The edge as a client meets it: a real aiohttp server, every route times every token, hostile headers, the brake."""

import asyncio
import json
import logging
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from agent.app.drain import runner_of
from agent.app.first_bytes import GuardedSite
from agent.app.sockets import bound_socket
from agent.identity.association import Association
from agent.identity.handshake import Initiator
from agent.identity.keeper import AssociationKeeper
from agent.identity.node_key import NodeKey
from agent.rest.envelope import envelope_middleware, success
from agent.rest.failure_brake import FAILURES_WAITING_PER_CLIENT_MAX, FailureBrake
from agent.rest.security import (
    EdgePolicy,
    TokenTable,
    security_headers,
    security_middleware,
    usual_header_lines,
)
from agent.server.search import MODE_HEADER
from tests.unit.rest.test_hosts import HOSTILE_HOSTS, HOSTILE_ORIGINS

ROUTES = [
    "/mcp",
    "/mcp/",
    "/mcp/local",
    "/mcp/local/",
    "/mcp/s/kit",
    "/mcp/v/team",
    "/api/v1/mcp/peers",
    "/api/v1/mcp/servers",
    "/healthz",
    "/readyz",
    "/metrics",
]
PAGE_FILES = ["/", "/ui", "/ui/page.js"]  # Open to all; here no handler is behind them.
UNROUTED = [
    *("/uix", "/ui/a/b", "/ui/login/", "/unknown", "/mcp/local/x", "/mcp%2Flocal"),
    *("/healthz/", "/healthz/../mcp", "//healthz", "/metrics/x"),
]
PRESENTED: dict[str, str | None] = {
    "none": None,
    "client": "Bearer client-token",
    "second client": "bearer  second-token",
    "wrong": "Bearer wrong",
    "empty": "Bearer ",
    "basic": "Basic client-token",
    "bare": "client-token",
}


def table() -> TokenTable:
    return TokenTable(["client-token", "second-token"])


SECRET = b"of this mesh"


async def associated(keeper: AssociationKeeper, secret: bytes = SECRET) -> Association:
    """The half of another node, which has shaken hands with the keeper's."""
    initiator = Initiator(NodeKey.new(), secret, "127.0.0.1:8000")
    last, association = initiator.confirm(await keeper.reply(initiator.opening(), strangers=True))
    await keeper.reply(last, strangers=True)
    return association


def keeper_of_one() -> AssociationKeeper:
    return AssociationKeeper(NodeKey.new(), (SECRET,), time.monotonic)


def policy(tokens: TokenTable | None = None, **changes: Any) -> EdgePolicy:
    fields: dict[str, Any] = {
        "host_names": frozenset({"Mesh.example"}),
        "origins": frozenset({"https://app.example"}),
        "tokens": tokens if tokens is not None else TokenTable(),
        "metrics_public": False,
        "failure_delay_s": 0.0,
    }
    return EdgePolicy(**fields | changes)


class Edge:
    """Asks a running edge; `ask` returns status, headers and body."""

    def __init__(self, port: int, http: aiohttp.ClientSession) -> None:
        self.port, self._http = port, http

    async def ask(self, path: str, *, method: str = "GET", **headers: str | None) -> tuple[int, Any, str]:
        from yarl import URL  # noqa: PLC0415 - only here a path must stay exactly as it is written

        sent = {name.replace("_", "-"): value for name, value in headers.items() if value is not None}
        url = URL(f"http://127.0.0.1:{self.port}{path}", encoded=True)
        async with self._http.request(method, url, headers=sent) as answer:
            return answer.status, answer.headers, await answer.text()

    async def raw(self, *lines: bytes) -> bytes:
        """Send header lines as they are; returns the status line."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"\r\n".join(lines) + b"\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer.split(b"\r\n")[0]


@asynccontextmanager
async def serve(with_policy: EdgePolicy) -> AsyncIterator[Edge]:
    async def fine(request: web.Request) -> web.StreamResponse:
        if "stream" in request.query:
            response = web.StreamResponse(headers={"Cache-Control": "no-cache"})
            await response.prepare(request)
            await response.write(b"x")
            return response
        return success(None, "Fine")

    app = web.Application(middlewares=[envelope_middleware, security_middleware(with_policy)])
    app.on_response_prepare.append(security_headers(with_policy))
    for path in ROUTES:
        app.router.add_route("*", path, fine)
    runner = runner_of(app, fast_path="/mcp", common=usual_header_lines)
    await runner.setup()
    with bound_socket("127.0.0.1", 0, explicit=True) as bound:
        try:
            await GuardedSite(runner, bound).start()
            async with aiohttp.ClientSession() as http:
                yield Edge(runner.addresses[0][1], http)
        finally:
            await runner.cleanup()


def expected(path: str, presented: str, *, metrics_public: bool) -> int:
    """The matrix, written down a second time as sentences."""
    if path in ("/healthz", "/readyz") or (path == "/metrics" and metrics_public):
        return 200
    if presented in ("client", "second client"):
        return 200 if path in ROUTES else 404
    if presented == "node":
        return 200 if path in ("/mcp/local", "/mcp/local/") else 403
    return 401


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("metrics_public", [False, True])
async def test_a_node_of_the_mesh_enters_by_its_proof_what_is_for_nodes_alone(
    metrics_public: bool, method: str
) -> None:
    keeper = keeper_of_one()
    member, stranger = await associated(keeper), await associated(keeper, b"")
    wrong = []
    async with serve(policy(table(), metrics_public=metrics_public, associations=keeper)) as edge:
        for path in ROUTES + UNROUTED:
            # Twice, as POSTs of one head are judged by what is remembered of it.
            for kind, association in (("node", member), ("stranger", stranger)) * 2:
                number = association.next_number()
                status, headers, _ = await edge.ask(path, method=method, Mesh_Proof=association.request_proof(number))
                if status != expected(path, kind, metrics_public=metrics_public):
                    wrong.append((path, kind, status))
                if status != 404:  # The router's own, before the checks of the edge.
                    assert association.is_answer(number, headers["Mesh-Proof"]), "refusals are proven too"
    assert wrong == []


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_proof_opens_once_and_none_that_is_not_known_opens_anything(method: str) -> None:
    keeper = keeper_of_one()
    member = await associated(keeper)
    async with serve(policy(table(), associations=keeper)) as edge, serve(policy()) as open_edge:
        number = member.next_number()
        proof = member.request_proof(number)
        assert (await edge.ask("/mcp/local", method=method, Mesh_Proof=proof))[0] == 200
        status, headers, body = await edge.ask("/mcp/local", method=method, Mesh_Proof=proof)
        assert (status, '"code":"replayed"' in body) == (503, True), "what came first may have been executed"
        assert member.is_answer(number, headers["Mesh-Proof"])
        for shown in ("a.1.b", "", proof.rpartition(".")[0] + ".00"):
            for asked in (edge, open_edge):
                status, headers, body = await asked.ask("/mcp/local", method=method, Mesh_Proof=shown)
                assert (status, headers["Mesh-Proof"]) == (401, "unknown")
                assert '"code":"unknown_proof"' in body
        assert (await edge.ask("/mcp", method=method, Mesh_Proof="", Authorization="Bearer client-token"))[0] == 401


async def test_the_files_of_the_page_are_open_for_reading_alone_and_by_our_names() -> None:
    async with serve(policy(table())) as edge:
        for path in PAGE_FILES:
            assert (await edge.ask(path))[0] == 404
            assert (await edge.ask(path, method="POST"))[0] == 401
            assert (await edge.ask(path, Host="evil.example"))[0] == 421


@pytest.mark.parametrize("metrics_public", [False, True])
async def test_every_route_with_every_token(metrics_public: bool) -> None:
    cells, wrong = 0, []
    # More failures in a row than the brake lets wait at once; they come one after the other.
    async with serve(policy(table(), metrics_public=metrics_public)) as edge:
        for path in ROUTES + UNROUTED:
            for presented, header in PRESENTED.items():
                for method in ("GET", "POST"):
                    status, headers, body = await edge.ask(path, method=method, Authorization=header)
                    cells += 1
                    if status != expected(path, presented, metrics_public=metrics_public):
                        wrong.append((method, path, presented, status))
                    if status == 401:
                        assert headers["WWW-Authenticate"].startswith("Bearer ")
                        assert '"code":"unauthorized"' in body
    assert wrong == []
    assert cells == len(ROUTES + UNROUTED) * len(PRESENTED) * 2


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "GZIP, gzip", ""])
@pytest.mark.parametrize("path", ["/mcp", "/api/v1/mcp/peers", "/mcp/local/handshake"])
async def test_a_compressed_body_is_refused_unread_with_and_without_a_token(path: str, coding: str) -> None:
    packed = zlib.compress(bytes(16 * 1024 * 1024), wbits=31)
    async with serve(policy(table())) as edge:
        for token in (b"", b"Authorization: Bearer client-token\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: {coding}\r\n"
            writer.write(head.encode() + token + b"Content-Length: 100000000\r\n\r\n" + packed[:1024])
            answer = await reader.readuntil(b"compressed_body")
            writer.close()
            assert answer.startswith(b"HTTP/1.1 415 ")
            assert b"Connection: close" in answer


async def test_two_authorization_headers_are_refused() -> None:
    async with serve(policy(table())) as edge:
        line = await edge.raw(b"GET /mcp HTTP/1.1", b"Host: localhost", *[b"Authorization: Bearer client-token"] * 2)
    assert b" 401 " in line


async def test_without_client_tokens_every_route_is_open() -> None:
    async with serve(policy(TokenTable())) as edge:
        statuses = {(await edge.ask(path, Authorization=PRESENTED["wrong"]))[0] for path in ROUTES}
    assert statuses == {200}


async def test_a_rotation_takes_effect_on_the_next_request() -> None:
    tokens = table()
    async with serve(policy(tokens)) as edge:
        assert (await edge.ask("/mcp", Authorization="Bearer client-token"))[0] == 200
        tokens.replace(["third-token"])
        assert (await edge.ask("/mcp", Authorization="Bearer client-token"))[0] == 401
        assert (await edge.ask("/mcp", Authorization="Bearer third-token"))[0] == 200


@pytest.mark.parametrize("path", ["/mcp", "/api/v1/mcp/peers", "/unknown"])
async def test_hostile_hosts_are_misdirected_on_every_route(path: str) -> None:
    async with serve(policy()) as edge:
        for host in HOSTILE_HOSTS:
            if not host.isascii() or any(ord(char) < 32 for char in host):
                continue  # No HTTP library sends these; the pure tests cover them.
            line = await edge.raw(f"GET {path} HTTP/1.1".encode(), f"Host: {host}".encode())
            assert b" 421 " in line or b" 400 " in line, host
        assert b" 421 " in await edge.raw(f"GET {path} HTTP/1.0".encode())
        assert b" 421 " in await edge.raw(f"GET http://evil.example{path} HTTP/1.1".encode(), b"Host: localhost")
        doubled = await edge.raw(f"GET {path} HTTP/1.1".encode(), b"Host: localhost", b"Host: evil.example")
        assert b" 421 " in doubled or b" 400 " in doubled
        assert b" 421 " not in await edge.raw(f"GET {path} HTTP/1.1".encode(), b"Host: mesh.example:8000")


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_probes_need_no_host_and_other_requests_do(path: str) -> None:
    async with serve(policy(table())) as edge:
        for target in (path, f"{path}?from=balancer", f"http://health.check.invalid:8000{path}"):
            for lines in (
                [f"GET {target} HTTP/1.0"],
                [f"GET {target} HTTP/1.1"],
                [f"HEAD {target} HTTP/1.1"],
                [f"GET {target} HTTP/1.1", "Host: health.check.invalid"],
            ):
                assert b" 200 " in await edge.raw(*(line.encode() for line in lines)), lines
        # RFC 9112, 3.2: a server must answer 400 to a request of HTTP/1.1 without Host.
        for target in ("/mcp", f"{path}/../mcp", f"/mcp?{path}", "http://127.0.0.1/mcp"):
            assert b" 400 " in await edge.raw(f"GET {target} HTTP/1.1".encode()), target
        assert b" 400 " in await edge.raw(f"POST {path} HTTP/1.1".encode())


async def test_a_target_in_absolute_form_is_judged_by_its_own_host_and_path() -> None:
    async with serve(policy(table())) as edge:
        token = f"Authorization: {PRESENTED['client']}".encode()
        host = b"Host: evil.example"
        assert b" 200 " in await edge.raw(b"GET http://127.0.0.1:8000/mcp HTTP/1.1", host, token)
        assert b" 200 " in await edge.raw(b"GET HTTP://Mesh.example/mcp HTTP/1.1", host, token)
        assert b" 401 " in await edge.raw(b"GET http://127.0.0.1:8000/mcp HTTP/1.1", host)
        assert b" 421 " in await edge.raw(b"GET http://evil.example/mcp HTTP/1.1", b"Host: localhost", token)
        assert b" 421 " in await edge.raw(b"GET http://localhost@evil.example/mcp HTTP/1.1", b"Host: localhost", token)


OAUTH_PATHS = [
    "/.well-known/oauth-protected-resource",
    "/.well-known/oauth-protected-resource/mcp",
    "/.well-known/oauth-authorization-server",
    "/.well-known/oauth-authorization-server/mcp",
    "/.well-known/openid-configuration",
    "/mcp/.well-known/openid-configuration",
    "/mcp/s/my.server/.well-known/openid-configuration",
    "/.well-known/oauth-protected-resource/mcp/v/a%20view",
    "/register",
]


@pytest.mark.parametrize("path", OAUTH_PATHS)
async def test_a_client_that_looks_for_oauth_hears_that_there_is_none(path: str) -> None:
    async with serve(policy(table())) as edge:
        for method in ("GET", "POST"):
            status, _, body = await edge.ask(path, method=method)
            assert status == 404
            assert json.loads(body) == {
                "error": "invalid_request",
                "error_description": "This node has no OAuth. It wants a token of its own: "
                "Authorization: Bearer <MESH_TOKEN>",
            }, "as OAuth's clients read and show it"
        assert (await edge.ask(f"{path}%2f..%2fmcp"))[0] in (401, 404)


@pytest.mark.parametrize("path", ["/mcp", "/mcp/", "/mcp/local", "/mcp/s/kit", "/mcp/v/team"])
async def test_refusals_on_mcp_paths_are_json_rpc_errors_that_say_what_to_do(path: str) -> None:
    refused = {
        401: {},
        403: {"Origin": "https://evil.example"},
        421: {"Host": "evil.example"},
    }
    async with serve(policy(table())) as edge:
        for status, sent in refused.items():
            answered, _, body = await edge.ask(path, **sent)
            message = json.loads(body)
            assert (answered, message["jsonrpc"], message["id"]) == (status, "2.0", None)
            assert message["error"]["code"] == -32600
            assert message["error"]["message"]
        answered, _, body = await edge.ask("/api/v1/mcp/peers")
        assert (answered, json.loads(body)["success"]) == (401, False)


async def test_a_refusal_marks_the_node_so_that_it_knows_itself() -> None:
    async with serve(policy(table(), node_mark="0123456789abcdef")) as edge:
        for presented in (None, PRESENTED["wrong"]):
            _, headers, _ = await edge.ask("/mcp", Authorization=presented)
            assert 'node="0123456789abcdef"' in headers["WWW-Authenticate"]


@pytest.mark.parametrize(
    ("listed", "origin", "status"),
    [
        ("null", "null", 200),
        ("https://app.example", "null", 403),
        ("tauri://localhost", "tauri://localhost", 200),
        ("tauri://localhost", "tauri://other", 403),
        ("vscode-webview://*", "vscode-webview://1ab2c3", 200),
        ("vscode-webview://*", "chrome-extension://1ab2c3", 403),
        ("chrome-extension://abcdef", "chrome-extension://abcdef", 200),
    ],
)
async def test_origins_of_desktop_programs_are_allowed_when_they_are_listed(
    listed: str, origin: str, status: int
) -> None:
    async with serve(policy(origins=frozenset({listed}))) as edge:
        assert (await edge.ask("/mcp", Origin=origin))[0] == status


async def test_hostile_origins_are_forbidden_even_with_a_token() -> None:
    async with serve(policy(table())) as edge:
        for origin in HOSTILE_ORIGINS:
            status, headers, _ = await edge.ask("/mcp", Origin=origin, Authorization=PRESENTED["client"])
            assert (status, "Access-Control-Allow-Origin" in headers) == (403, False), origin


@pytest.mark.parametrize("origin", ["https://app.example", "http://localhost:6274"])
async def test_allowed_pages_may_read_answers_and_streams(origin: str) -> None:
    async with serve(policy(table())) as edge:
        for path in ("/mcp", "/mcp?stream=1"):
            status, headers, _ = await edge.ask(path, Origin=origin, Authorization=PRESENTED["client"])
            assert (status, headers["Access-Control-Allow-Origin"], headers["Vary"]) == (200, origin, "Origin")
            assert "Mcp-Session-Id" in headers["Access-Control-Expose-Headers"]
        status, headers, _ = await edge.ask("/mcp", Origin=origin)
        assert (status, headers["Access-Control-Allow-Origin"]) == (401, origin)


async def test_a_preflight_is_answered_without_a_token() -> None:
    async with serve(policy(table())) as edge:
        asks = {
            "Origin": "https://app.example",
            "Access_Control_Request_Method": "POST",
            "Access_Control_Request_Headers": "authorization,mcp-param-region, x-other",
        }
        status, headers, _ = await edge.ask("/mcp", method="OPTIONS", **asks)
        allowed = headers["Access-Control-Allow-Headers"].lower()
        assert (status, headers["Access-Control-Allow-Origin"]) == (204, "https://app.example")
        assert "authorization" in allowed
        assert MODE_HEADER.lower() in allowed
        assert "mcp-param-region" in allowed
        assert "x-other" not in allowed
        status, _, _ = await edge.ask("/mcp", method="OPTIONS", **asks | {"Origin": "https://evil.example"})
        assert status == 403
        status, _, _ = await edge.ask("/mcp", method="OPTIONS")
        assert status == 401


@pytest.mark.parametrize("path", ["/mcp", "/mcp?stream=1", "/unknown", "/healthz"])
async def test_every_answer_carries_the_security_headers(path: str) -> None:
    async with serve(policy()) as edge:
        _, headers, _ = await edge.ask(path)
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == ("no-cache" if "stream" in path else "no-store")
    assert headers["Server"] == "mcp-mesh-agent"


async def test_failures_are_counted_and_warned_of_once_without_the_token(caplog: pytest.LogCaptureFixture) -> None:
    failures: list[None] = []
    with caplog.at_level(logging.WARNING):
        async with serve(policy(table(), on_auth_failure=lambda: failures.append(None))) as edge:
            for _ in range(3):
                await edge.ask("/mcp", Authorization="Bearer canary-secret")
    assert len(failures) == 3
    assert [record.message for record in caplog.records] == ["MCP access refused"]
    assert "canary" not in str([vars(record) for record in caplog.records])


@pytest.mark.looptime
async def test_the_brake_delays_each_failure_but_never_more_than_a_few_of_one_client() -> None:
    brake, loop = FailureBrake(0.25), asyncio.get_running_loop()
    began_s = loop.time()
    async with asyncio.TaskGroup() as tasks:
        held = [tasks.create_task(brake.hold("one"), name=f"hold {n}") for n in range(20)]
        other = tasks.create_task(brake.hold("other"), name="hold other")
    assert [task.result() for task in held].count(True) == FAILURES_WAITING_PER_CLIENT_MAX
    assert other.result()
    assert loop.time() - began_s == pytest.approx(0.25)
    assert repr(brake) == "<FailureBrake waiting=0 clients=0>"


@pytest.mark.looptime
async def test_the_brake_is_bounded_over_all_clients() -> None:
    brake = FailureBrake(0.25)
    async with asyncio.TaskGroup() as tasks:
        held = [tasks.create_task(brake.hold(f"client {n}"), name=f"hold {n}") for n in range(1000)]
    assert [task.result() for task in held].count(True) == 256


async def test_a_flood_of_failures_is_turned_away_while_a_valid_token_is_served_at_once() -> None:
    async with serve(policy(table(), failure_delay_s=30.0)) as edge, asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        stuck = [tasks.create_task(edge.ask("/mcp"), name=f"stuck {n}") for n in range(FAILURES_WAITING_PER_CLIENT_MAX)]
        while (turned := await edge.ask("/mcp", Authorization=PRESENTED["client"]))[0] == 200:
            waiting = tasks.create_task(edge.ask("/mcp"), name="one more")
            done, _ = await asyncio.wait([waiting], timeout=0.2)
            if done:
                turned = waiting.result()
                break
            stuck.append(waiting)
        assert (turned[0], turned[1]["Retry-After"]) == (429, "1")
        assert (await edge.ask("/mcp", Authorization=PRESENTED["client"]))[0] == 200
        for task in stuck:
            task.cancel()
