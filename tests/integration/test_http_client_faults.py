"""The HTTP clients against servers that misbehave by script: what went wrong, and whether the request was sent."""

import orjson
import pytest

from agent.client.connect import open_client
from agent.client.http.response import retry_after_s
from agent.client.protocol import Request
from agent.errors import (
    AuthRefused,
    CallNotSent,
    CallOutcomeUnknown,
    CallTimedOut,
    DialRefused,
    ProtocolBroken,
    RpcError,
    Unreachable,
)
from agent.model import HttpTarget, Json
from tests.integration.servers.client_scripts import CALL, always, calls, modern, open_and_call
from tests.integration.servers.hosting import (
    Seen,
    discovered,
    http,
    rpc_error,
    rpc_result,
    scripted,
)
from tests.ports import free_port


async def test_a_refused_port_is_unreachable_and_says_so() -> None:
    with pytest.raises(Unreachable, match="refuses the connection"):
        async with open_client(HttpTarget(f"http://127.0.0.1:{free_port()}/mcp")):
            pass


async def test_an_unknown_name_is_unreachable() -> None:
    with pytest.raises(Unreachable, match="cannot be resolved"):
        async with open_client(HttpTarget("http://no-such-host.invalid/mcp")):
            pass


@pytest.mark.parametrize("url", ["http://169.254.169.254/mcp", "http://0x7f.1/mcp", "http://[fe80::1%25lo]/mcp"])
async def test_a_refused_literal_is_not_dialled(url: str) -> None:
    with pytest.raises(DialRefused):
        async with open_client(HttpTarget(url)):
            pass


async def test_a_bad_url_opens_no_client() -> None:
    with pytest.raises(ProtocolBroken, match="user name"):
        async with open_client(HttpTarget("http://a:b@127.0.0.1/mcp")):
            pass


async def test_a_server_that_never_answers_is_unreachable_in_time() -> None:
    async with scripted(always(b"")) as script:
        with pytest.raises(Unreachable, match=r"did not answer within 0\.6 s"):
            await open_and_call(script, connect_timeout_s=0.2, start_timeout_s=0.6)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_token_has_an_error_of_its_own(status: int) -> None:
    async with scripted(always(http(status))) as script:
        with pytest.raises(AuthRefused, match=str(status)):
            await open_and_call(script)
        assert len(script.seen) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed_and_its_target_is_named(status: int) -> None:
    async with scripted(always(http(status, Location="http://169.254.169.254/latest"))) as script:
        with pytest.raises(ProtocolBroken, match=r"http://169\.254\.169\.254/latest"):
            await open_and_call(script)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_a_proxys_outage_page_says_nothing_about_the_era(status: int) -> None:
    async with scripted(always(http(status, b"<html>", kind="text/html"))) as script:
        with pytest.raises(Unreachable, match=str(status)):
            await open_and_call(script)
        assert [one.body["method"] for one in script.seen] == ["server/discover"]


@pytest.mark.parametrize(
    "data",
    [
        http(200, b"<html>hello</html>", kind="text/html"),
        http(200, b"not json"),
        http(200, b"[1]"),
        http(200, b'{"jsonrpc":"2.0","id":0}'),
        http(200, b"", kind="text/event-stream"),
        http(404),
        http(202),
        http(204),
    ],
)
async def test_what_is_not_mcp_opens_no_client(data: bytes) -> None:
    async with scripted(always(data)) as script:
        with pytest.raises((ProtocolBroken, Unreachable)):
            await open_and_call(script)


async def test_a_host_check_that_refuses_us_is_named_to_operators_and_clients() -> None:
    async with scripted(always(http(421, b"Invalid Host header", kind="text/plain"))) as script:
        with pytest.raises(ProtocolBroken, match=r"its Host check does not know .* Invalid Host header") as caught:
            await open_and_call(script)
        assert caught.value.words("it").startswith("it answered HTTP 421, its Host check does not know the name")


async def test_what_is_not_http_opens_no_client() -> None:
    async with scripted(always(b"SSH-2.0-OpenSSH\r\n\r\n", keep=False)) as script:
        with pytest.raises(ProtocolBroken):
            await open_and_call(script)


async def test_a_server_with_versions_unknown_to_us_only_is_refused_with_their_names() -> None:
    async def answer(request: Seen) -> tuple[bytes | None, bool]:
        return rpc_error(request, 400, -32022, "no", {"supported": ["2031-01-01"]}), True

    async with scripted(answer) as script:
        with pytest.raises(ProtocolBroken, match="2031-01-01"):
            await open_and_call(script)


async def test_initialize_refused_in_favour_of_a_modern_version_is_probed_again() -> None:
    discoveries = 0

    async def answer(request: Seen) -> tuple[bytes | None, bool]:
        nonlocal discoveries
        match request.body["method"]:
            case "server/discover":
                discoveries += 1
                return (http(400) if discoveries == 1 else discovered(request)), True
            case "initialize":
                return rpc_error(request, 400, -32022, "modern", {"supported": ["2026-07-28"]}), True
        return rpc_result(request, {"ok": True}), True

    async with scripted(answer) as script:
        assert await open_and_call(script) == {"ok": True}
        assert discoveries == 2


async def test_a_reset_before_the_answer_leaves_the_outcome_unknown_and_nothing_is_sent_twice() -> None:
    async with scripted(modern(lambda _: None)) as script:
        with pytest.raises(CallOutcomeUnknown) as caught:
            await open_and_call(script)
        assert not isinstance(caught.value, CallTimedOut)
        assert caught.value.cut_off
        assert calls(script) == 1


async def test_a_close_without_an_answer_leaves_the_outcome_unknown_and_nothing_is_sent_twice() -> None:
    async with scripted(modern(lambda _: b"", keep=False)) as script:
        with pytest.raises(CallOutcomeUnknown, match="without an answer"):
            await open_and_call(script)
        assert calls(script) == 1


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
async def test_an_answer_cut_off_in_the_middle_is_never_delivered(kind: str) -> None:
    def cut(request: Seen) -> bytes:
        body = orjson.dumps({"jsonrpc": "2.0", "id": request.body["id"], "result": {"paid": True}})
        whole = body if kind == "application/json" else b"data: " + body + b"\n"
        return http(200, whole + b" " * 100, kind=kind)[:-100]

    async with scripted(modern(cut, keep=False)) as script:
        with pytest.raises(CallOutcomeUnknown, match="middle of its answer"):
            await open_and_call(script)


NOTE = b'data: {"jsonrpc":"2.0","method":"notifications/message","params":{}}\n\n'
UNFINISHED = b'data: {"jsonrpc":"2.0","id":%d,"result":{"paid":true}}\n'


@pytest.mark.parametrize("events", [b"", b": a comment\n\n", NOTE, UNFINISHED])
async def test_a_stream_that_ends_in_order_without_an_answer_leaves_the_outcome_unknown(events: bytes) -> None:
    def answer(request: Seen) -> bytes:
        return http(200, events.replace(b"%d", b"%d" % request.body["id"]), kind="text/event-stream")

    async with scripted(modern(answer)) as script:
        with pytest.raises(CallOutcomeUnknown, match="ended its stream without an answer"):
            await open_and_call(script)
        assert calls(script) == 1


async def test_an_answer_to_another_request_is_refused() -> None:
    body = b'{"jsonrpc":"2.0","id":999,"result":{}}'
    async with scripted(modern(lambda _: http(200, body))) as script:
        with pytest.raises(ProtocolBroken, match="another request"):
            await open_and_call(script)


async def test_the_number_of_a_request_may_come_back_as_a_text() -> None:
    async with scripted(
        modern(lambda asked: http(200, b'{"id":"%d","result":{"done":true}}' % asked.body["id"]))
    ) as one:
        assert (await open_and_call(one))["done"] is True


@pytest.mark.parametrize("padded", [b"0%d", b"+%d", b" %d", b"%d.0"])
async def test_a_text_that_is_not_exactly_the_number_answers_another_request(padded: bytes) -> None:
    body = b'{"id":"%b","result":{}}' % padded
    async with scripted(modern(lambda asked: http(200, body % asked.body["id"]))) as script:
        with pytest.raises(ProtocolBroken, match="another request"):
            await open_and_call(script)


async def test_an_answer_that_is_declared_too_large_is_refused_before_it_is_read() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n"
    async with scripted(modern(lambda _: head)) as script:
        with pytest.raises(ProtocolBroken, match="larger than"):
            await open_and_call(script)


async def test_deep_nesting_is_refused_and_not_a_crash() -> None:
    body = b'{"jsonrpc":"2.0","id":1,"result":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    async with scripted(modern(lambda _: http(200, body))) as script:
        with pytest.raises(ProtocolBroken, match="not JSON"):
            await open_and_call(script)


async def test_a_silent_server_times_out_as_sent() -> None:
    async with scripted(modern(lambda _: b"")) as script:
        with pytest.raises(CallTimedOut):
            await open_and_call(script, timeout_s=0.2)
        assert calls(script) == 1


@pytest.mark.parametrize(
    ("status", "failure"),
    [(500, CallOutcomeUnknown), (503, CallOutcomeUnknown), (404, ProtocolBroken), (413, RpcError), (401, AuthRefused)],
)
async def test_a_status_without_a_json_rpc_error_says_what_it_can(status: int, failure: type[Exception]) -> None:
    async with scripted(modern(lambda _: http(status))) as script:
        with pytest.raises(failure):
            await open_and_call(script)


async def test_a_json_rpc_error_at_any_status_comes_as_the_server_said_it() -> None:
    async with scripted(modern(lambda request: rpc_error(request, 400, -32602, "bad", {"x": [1]}))) as script:
        with pytest.raises(RpcError) as caught:
            await open_and_call(script)
    assert (caught.value.code, caught.value.message, caught.value.data) == (-32602, "bad", {"x": [1]})


async def test_a_server_that_went_away_means_that_nothing_was_sent() -> None:
    answer = modern(lambda request: rpc_result(request, {"ok": True}))
    async with scripted(answer) as script, open_client(HttpTarget(script.url)) as client:
        assert await client.request(Request.within("tools/call", CALL, timeout_s=10)) == {"ok": True}
        script.stop()
        with pytest.raises(CallNotSent, match="refuses the connection"):
            await client.request(Request.within("tools/call", CALL, timeout_s=10))
        with pytest.raises(Unreachable):
            await client.probe(5)


async def test_a_pooled_connection_that_the_server_closed_is_replaced_without_the_caller_noticing() -> None:
    async with scripted(modern(lambda request: rpc_result(request, {"ok": True}))) as script:
        async with open_client(HttpTarget(script.url)) as client:
            for _ in range(3):
                assert await client.request(Request.within("tools/call", CALL, timeout_s=10)) == {"ok": True}
                # Closed in this very loop turn: the kernel knows it, our event loop has not read it yet.
                script.close_connections()
        assert calls(script) == 3
        assert script.connections >= 3


async def test_a_token_is_not_sent_twice_when_the_targets_headers_have_one_too() -> None:
    async with scripted(modern(lambda request: rpc_result(request, {}))) as script:
        headers = (("authorization", "Basic old"), ("X-Api-Key", "k"), ("Host", "mcp.example"), ("Accept", "x/y"))
        async with open_client(HttpTarget(script.url, headers=headers, token="t")) as client:
            await client.request(Request.within("ping", timeout_s=10))
        sent = script.seen[-1].headers
        assert sent["authorization"] == "Bearer t"
        assert sent["x-api-key"] == "k"
        assert sent["host"] == "mcp.example"
        assert sent["accept"] == "application/json, text/event-stream"


async def test_modern_requests_carry_the_version_of_the_link_and_the_callers_own_meta() -> None:
    async with scripted(modern(lambda request: rpc_result(request, {}))) as script:
        async with open_client(HttpTarget(script.url)) as client:
            meta = {
                "io.modelcontextprotocol/protocolVersion": "1999-01-01",
                "io.modelcontextprotocol/clientCapabilities": {"sampling": {}},
                "progressToken": 5,
                "baggage": "a=b",
            }
            await client.request(Request.within("tools/call", {"name": "caf\u00e9", "_meta": meta}, timeout_s=10))
        sent = script.seen[-1]
    assert sent.headers["mcp-protocol-version"] == "2026-07-28"
    assert sent.headers["mcp-method"] == "tools/call"
    assert sent.headers["mcp-name"] == "=?base64?Y2Fmw6k=?="
    assert sent.body["params"]["_meta"] == {
        **meta,
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": sent.body["params"]["_meta"]["io.modelcontextprotocol/clientInfo"],
    }


async def test_cookies_of_another_host_are_neither_kept_nor_sent() -> None:
    answer = modern(lambda request: http(200, rpc_body(request, {}), Set_Cookie="sid=1; Domain=other.example"))
    async with scripted(answer) as script, open_client(HttpTarget(script.url)) as client:
        for _ in range(2):
            await client.request(Request.within("tools/call", CALL, timeout_s=10))
        assert all("cookie" not in one.headers for one in script.seen)


def rpc_body(request: Seen, result: Json) -> bytes:
    return orjson.dumps({"jsonrpc": "2.0", "id": request.body["id"], "result": result})


async def test_a_notification_beyond_the_limit_is_dropped_and_the_result_still_comes() -> None:
    def chatty(request: Seen) -> bytes:
        messages: list[Json] = [
            {"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "x" * 1_100_000}},
            {"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "small"}},
            {"jsonrpc": "2.0", "id": request.body["id"], "result": {"ok": True}},
        ]
        return http(200, b"".join(b"data: " + orjson.dumps(m) + b"\n\n" for m in messages), kind="text/event-stream")

    seen: list[Json] = []

    async def on_notification(_: str, params: Json) -> None:
        seen.append(params)

    async with scripted(modern(chatty)) as script, open_client(HttpTarget(script.url)) as client:
        assert await client.request(
            Request.within("tools/call", CALL, timeout_s=10, on_notification=on_notification)
        ) == {"ok": True}
    assert seen == [{"data": "small"}]


@pytest.mark.parametrize(
    ("value", "asks_s"),
    [
        ("7", 7.0),
        (" 120 ", 120.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 40.0),
        ("Sun, 06 Nov 1994 08:48:37 GMT", None),
        ("99999999999", 86_400.0),
        ("soon", None),
        ("-5", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, asks_s: float | None) -> None:
    assert retry_after_s(value, 784_111_737.0) == asks_s


@pytest.mark.parametrize("status", [429, 503])
async def test_a_handshake_that_is_put_off_says_for_how_long(status: int) -> None:
    async with scripted(always(http(status, Retry_After="7"))) as script:
        with pytest.raises(Unreachable, match=str(status)) as put_off:
            await open_and_call(script)
        assert put_off.value.retry_after_s == 7.0


async def test_a_servers_own_error_keeps_its_words_and_gets_the_wait() -> None:
    def busy(request: Seen) -> bytes:
        error = {"jsonrpc": "2.0", "id": request.body["id"], "error": {"code": -32000, "message": "busy"}}
        return http(503, orjson.dumps(error), Retry_After="7")

    async with scripted(modern(busy)) as script:
        with pytest.raises(RpcError, match="busy") as refused:
            await open_and_call(script)
        assert refused.value.data == {"retry_after_s": 7.0}
