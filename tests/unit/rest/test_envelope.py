"""The envelope: its exact shapes, and failures that name the field and the fix but never a secret."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from pydantic import BaseModel, ConfigDict, SecretStr
from yarl import URL

from agent import errors
from agent.rest import envelope
from tests.waiting import PATIENCE_S

SECRET = "canary-7f3a"


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")
    peer_name: str
    auth_token: SecretStr | None = None
    depth: int = 0


async def echo(request: web.Request) -> web.Response:
    body = Body.model_validate(await envelope.read_json(request))
    return envelope.success({"peer_name": body.peer_name}, "Fine")


@asynccontextmanager
async def server(handler: Any = echo) -> AsyncIterator[str]:
    app = web.Application(middlewares=[envelope.envelope_middleware])
    app.router.add_post("/api/echo", handler)
    app.router.add_get("/api/only-get", handler)
    app.router.add_get("/mcp/only-get", handler)
    runner = web.AppRunner(app, handler_cancellation=True)  # as the node runs it
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def ask(url: str | URL, data: Any = None, *, method: str = "POST") -> tuple[int, dict[str, Any]]:
    async with aiohttp.ClientSession() as http, http.request(method, url, data=data) as answer:
        assert answer.content_type == "application/json"
        return answer.status, await answer.json()


async def test_a_client_that_goes_while_it_is_written_to_is_no_fault_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    ended = asyncio.Event()

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        assert request.transport is not None
        request.transport.abort()
        try:
            await response.write(b"nobody reads this")
        finally:
            ended.set()
        return response

    async with server(stream) as url:
        with pytest.raises(aiohttp.ClientError):
            async with aiohttp.ClientSession() as http, http.post(f"{url}/api/echo") as answer:
                await answer.read()
        await ended.wait()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_success_has_exactly_the_contracts_fields() -> None:
    async with server() as url:
        status, body = await ask(f"{url}/api/echo", b'{"peer_name": "n"}')
    assert (status, body) == (200, {"success": True, "data": {"peer_name": "n"}, "message": "Fine"})


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"", 400, "invalid_json"),
        (b"{", 400, "invalid_json"),
        (b'{"peer_name": NaN}', 400, "invalid_json"),
        (b"\xff\xfe", 400, "invalid_json"),
        (b"[" * 100_000, 413, "body_too_large"),
        (b"[" * 2_000 + b"]" * 2_000, 400, "invalid_json"),
        (b'{"peer_name": ' + b"[" * 64 + b"]" * 64 + b"}", 400, "invalid_json"),
        (b'{"peer_name": "' + b"n" * 70_000 + b'"}', 413, "body_too_large"),
        (b"{}", 422, "invalid_input"),
        (b"[]", 422, "invalid_input"),
        (b"null", 422, "invalid_input"),
        (b'{"peer_name": "n", "command": "sh"}', 422, "invalid_input"),
    ],
)
async def test_bad_bodies_get_the_status_and_code_of_their_fault(sent: bytes, status: int, code: str) -> None:
    async with server() as url:
        got, body = await ask(f"{url}/api/echo", sent)
    assert (got, body["success"], body["error"]["code"]) == (status, False, code)
    assert body.keys() == {"success", "message", "error"}
    assert body["error"].keys() == {"code", "detail"}


async def test_a_body_that_streams_past_the_limit_is_refused() -> None:
    async def stream() -> AsyncIterator[bytes]:
        for _ in range(80):
            yield b" " * 1024

    async with server() as url:
        status, _ = await ask(f"{url}/api/echo", stream())
    assert status == 413


def test_the_depth_limit_is_exact() -> None:
    for value, levels, deeper in [
        ([], 1, False),
        ([[]], 1, True),
        ([[1]], 2, False),
        ({"a": [{}]}, 2, True),
        (5, 0, False),
    ]:
        assert envelope.is_deeper_than(value, levels) is deeper


async def test_invalid_input_names_every_field_and_its_fix_but_never_its_value() -> None:
    sent = orjson.dumps({"auth_token": [SECRET], "depth": SECRET, SECRET + "x" * 200: 1})
    async with server() as url:
        status, body = await ask(f"{url}/api/echo", sent)
    faults = {fault["field"]: fault["problem"] for fault in body["error"]["detail"]}
    assert status == 422
    assert faults["peer_name"] == "Field required (add it)"
    assert {"auth_token", "depth"} < faults.keys()
    assert SECRET not in "".join(faults.values())
    assert all(len(field) <= envelope.FIELD_CHARS_MAX for field in faults)
    assert "peer_name: Field required (add it)" in body["message"]


@pytest.mark.parametrize(
    ("raised", "status", "code", "message"),
    [
        (errors.OverrideRefused(409, "name_taken", "taken"), 409, "name_taken", "taken"),
        (envelope.RequestRefused(400, "odd", "no"), 400, "odd", "no"),
        (errors.DialRefused("link-local"), 403, "address_refused", "link-local"),
        (errors.Unreachable("refused"), 502, "peer_unreachable", "refused"),
        (errors.ConfigRefused("line 3"), 422, "config_refused", "line 3"),
        (web.HTTPServiceUnavailable(), 503, "unavailable", "Service Unavailable"),
    ],
)
async def test_each_failure_of_ours_has_its_answer(raised: Exception, status: int, code: str, message: str) -> None:
    async def fail(_request: web.Request) -> web.Response:
        raise raised

    async with server(fail) as url:
        got, body = await ask(f"{url}/api/echo", b"{}")
    assert (got, body["error"]["code"], body["message"]) == (status, code, message)


@pytest.mark.parametrize("raised", [ValueError(SECRET), errors.MeshError(SECRET), KeyError(SECRET)])
async def test_an_unexpected_failure_is_logged_with_its_trace_and_hidden_from_the_client(
    raised: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_request: web.Request) -> web.Response:
        raise raised

    with caplog.at_level(logging.ERROR):
        async with server(fail) as url:
            status, body = await ask(f"{url}/api/echo", b"{}")
    assert (status, body["error"]) == (500, {"code": "internal_error", "detail": None})
    assert SECRET not in str(body)
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [raised]


async def test_unknown_paths_and_methods_are_refused_in_the_envelope() -> None:
    async with server() as url:
        assert (await ask(f"{url}/api/nothing"))[1]["error"]["code"] == "not_found"
        async with aiohttp.ClientSession() as http, http.post(f"{url}/api/only-get") as answer:
            body = await answer.json()
            assert (answer.status, answer.headers["Allow"], body["error"]["code"]) == (
                405,
                "GET,HEAD",
                "method_not_allowed",
            )
            assert body["message"] == "POST is not allowed here; use GET,HEAD"


async def test_a_redirect_is_an_answer_and_passes() -> None:
    async def move(_request: web.Request) -> web.Response:
        raise web.HTTPFound("/elsewhere")

    async with (
        server(move) as url,
        aiohttp.ClientSession() as http,
        http.post(f"{url}/api/echo", allow_redirects=False) as answer,
    ):
        assert (answer.status, answer.headers["Location"]) == (302, "/elsewhere")


async def test_a_failure_after_the_answer_began_cuts_the_connection() -> None:
    async def half(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"half")
        raise ValueError("broken")

    async with server(half) as url, aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.ClientPayloadError):
            async with http.post(f"{url}/api/echo") as answer:
                await answer.read()


async def test_a_body_that_never_comes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envelope, "REST_BODY_TIMEOUT_S", 0.05)
    async with server() as url, asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"POST /api/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n{")
        assert (await reader.readline()).startswith(b"HTTP/1.1 408")
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("method", "path", "status", "rpc_code", "code"),
    [
        ("POST", "/mcp/none", 404, -32600, "not_found"),
        ("GET", "/%6dcp/local/none", 404, -32600, "not_found"),
        ("POST", "/mcp/only-get", 405, -32600, "method_not_allowed"),
        ("GET", "/mcp/only-get", 500, -32603, "internal_error"),
    ],
)
async def test_failures_below_mcp_are_json_rpc_errors_that_name_no_id(
    method: str, path: str, status: int, rpc_code: int, code: str
) -> None:
    async def fails(_: web.Request) -> web.Response:
        raise KeyError(SECRET)

    async with server(fails) as base:
        found, body = await ask(URL(base + path, encoded=True), method=method)
    assert (found, body["jsonrpc"], body["id"]) == (status, "2.0", None)
    assert (body["error"]["code"], body["error"]["data"]) == (rpc_code, {"code": code})
    assert body["error"]["message"]
    assert SECRET not in str(body)


async def test_a_path_that_only_begins_like_mcps_is_answered_in_the_envelope() -> None:
    async with server() as base:
        assert (await ask(f"{base}/mcpx/none"))[1]["error"] == {"code": "not_found", "detail": None}
