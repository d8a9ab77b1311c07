"""The HTTP clients against FastMCP under uvicorn, in both eras: the same promises whatever the era."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from agent.client.connect import ListenNotSupported, McpClient, open_client
from agent.client.protocol import Request
from agent.dispatch.param_headers import received_headers
from agent.errors import CallFailed, CallTimedOut, RpcError
from agent.model import Era, HttpTarget, Json
from tests.integration.servers.fastmcp_server import Diary, make_server
from tests.integration.servers.hosting import Front, Seen, http, http_app, initialized, rpc_result, scripted, serving


@dataclass
class Running:
    """A server and the client to it."""

    client: McpClient
    diary: Diary
    front: Front
    url: str


@contextlib.asynccontextmanager
async def running(era: Era, *, listen: bool = True, refusal: int = 400, reason: bytes = b"") -> AsyncIterator[Running]:
    diary = Diary()
    async with http_app(make_server(diary, listen=listen)) as app:
        front = Front(app, None if era is Era.MODERN else refusal, reason)
        async with serving(front) as base, open_client(HttpTarget(f"{base}/mcp", token="secret")) as client:
            yield Running(client, diary, front, f"{base}/mcp")


def in_both_eras(test: Callable[[Running], Awaitable[None]]) -> Callable[[Era], Awaitable[None]]:
    """Run the test once per era. No fixture: the server's cancel scopes must be left in the task that entered them."""

    @pytest.mark.parametrize("era", [Era.MODERN, Era.LEGACY])
    async def both(era: Era) -> None:
        async with running(era) as mcp:
            assert mcp.client.server_info.era is era
            await test(mcp)

    both.__name__ = test.__name__
    return both


def call(tool: str, **arguments: object) -> Json:
    return {"name": tool, "arguments": arguments}


@in_both_eras
async def test_hello_says_what_the_server_said(mcp: Running) -> None:
    server_info = mcp.client.server_info
    assert server_info.server_info["name"] == "fixture"
    assert server_info.instructions == "Be kind."
    assert "tools" in server_info.capabilities
    assert server_info.mesh is None
    assert not mcp.client.lost.is_set()


@in_both_eras
async def test_a_call_returns_the_raw_result_and_leaves_the_params_alone(mcp: Running) -> None:
    params = {**call("echo", text="h\u00f6\U0001f600"), "_meta": {"progressToken": "t", "traceparent": "00-1-2-03"}}
    before = repr(params)
    result = await mcp.client.request(Request.within("tools/call", params, timeout_s=10))
    assert result["content"] == [{"type": "text", "text": "h\u00f6\U0001f600"}]
    assert repr(params) == before


@in_both_eras
async def test_a_modern_callers_envelope_does_not_confuse_either_era(mcp: Running) -> None:
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2099-01-01",
        "io.modelcontextprotocol/clientInfo": {"name": "somebody", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
    }
    result = await mcp.client.request(
        Request.within("tools/call", {**call("echo", text="x"), "_meta": meta}, timeout_s=10)
    )
    assert result["content"][0]["text"] == "x"


@in_both_eras
async def test_a_servers_error_comes_as_it_was_said(mcp: Running) -> None:
    with pytest.raises(RpcError) as caught:
        await mcp.client.request(Request.within("no/such/method", timeout_s=10))
    assert caught.value.code == -32601


@in_both_eras
async def test_fifty_calls_at_once_get_their_own_answers(mcp: Running) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(
                mcp.client.request(Request.within("tools/call", call("echo", text=str(n)), timeout_s=30)),
                name=f"call {n}",
            )
            for n in range(50)
        ]
    assert [task.result()["content"][0]["text"] for task in tasks] == [str(n) for n in range(50)]


@in_both_eras
async def test_calls_after_each_other_share_one_connection(mcp: Running) -> None:
    for _ in range(5):
        await mcp.client.request(Request.within("tools/call", call("echo", text="x"), timeout_s=10))
    assert len({one.get("mcp-session-id") for one in mcp.front.seen[3:]}) == 1


@in_both_eras
async def test_notifications_come_in_order_with_the_callers_own_token_and_before_the_result(mcp: Running) -> None:
    seen: list[Json] = []

    async def on_notification(method: str, params: Json) -> None:
        assert method == "notifications/progress"
        seen.append(params)

    params = {**call("count", to=30), "_meta": {"progressToken": "mine"}}
    result = await mcp.client.request(
        Request.within("tools/call", params, timeout_s=20, on_notification=on_notification)
    )
    assert result["content"][0]["text"] == "counted"
    assert [one["progress"] for one in seen] == list(range(30))
    assert {one["progressToken"] for one in seen} == {"mine"}


@in_both_eras
async def test_two_callers_with_one_progress_token_get_their_own_progress(mcp: Running) -> None:
    async def progress_of(to: int) -> list[float]:
        seen: list[float] = []

        async def on_notification(_: str, params: Json) -> None:
            assert params["progressToken"] == 1
            seen.append(params["progress"])

        params = {**call("count", to=to), "_meta": {"progressToken": 1}}
        await mcp.client.request(Request.within("tools/call", params, timeout_s=20, on_notification=on_notification))
        return seen

    async with asyncio.TaskGroup() as group:
        short, long = group.create_task(progress_of(3), name="short"), group.create_task(progress_of(20), name="long")
    assert (short.result(), long.result()) == (list(range(3)), list(range(20)))


@in_both_eras
async def test_a_huge_result_comes_whole(mcp: Running) -> None:
    result = await mcp.client.request(Request.within("tools/call", call("fill", size=9_000_000), timeout_s=40))
    assert len(result["content"][0]["text"]) == 9_000_000


@in_both_eras
async def test_parameters_larger_than_a_megabyte_go_out_whole(mcp: Running) -> None:
    text = "y" * 2_000_000
    result = await mcp.client.request(Request.within("tools/call", call("echo", text=text), timeout_s=40))
    assert result["content"][0]["text"] == text


@in_both_eras
async def test_a_cancelled_call_is_cancelled_on_the_server_too(mcp: Running) -> None:
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        task = group.create_task(
            mcp.client.request(Request.within("tools/call", call("wait"), timeout_s=60)), name="call"
        )
        await mcp.diary.waiting.wait()
        task.cancel()
        await mcp.diary.cancelled.wait()
    assert task.cancelled()


@in_both_eras
async def test_a_call_whose_answer_has_begun_is_cancelled_on_the_server_too(mcp: Running) -> None:
    begun = asyncio.Event()

    async def on_notification(_method: str, _params: Json) -> None:
        begun.set()

    params = {**call("wait"), "_meta": {"progressToken": "tok"}}
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        request = mcp.client.request(
            Request.within("tools/call", params, timeout_s=60, on_notification=on_notification)
        )
        task = group.create_task(request, name="call")
        await begun.wait()
        await mcp.diary.waiting.wait()
        task.cancel()
        await mcp.diary.cancelled.wait()
    assert task.cancelled()


@in_both_eras
async def test_a_call_that_takes_too_long_times_out_and_is_cancelled_on_the_server(mcp: Running) -> None:
    with pytest.raises(CallTimedOut, match=r"tools/call within 0\.\d+ s"):
        await mcp.client.request(Request.within("tools/call", call("wait"), timeout_s=0.3))
    async with asyncio.timeout(20):
        await mcp.diary.cancelled.wait()
    assert (await mcp.client.request(Request.within("tools/call", call("echo", text="on"), timeout_s=10)))["content"][
        0
    ]["text"] == "on"


@in_both_eras
async def test_listening_tells_of_changes_after_it_said_that_it_listens(mcp: Running) -> None:
    changes: asyncio.Queue[str] = asyncio.Queue()
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        listener = group.create_task(mcp.client.listen(changes.put_nowait), name="listen")
        assert await changes.get() == "listening"
        await mcp.client.request(Request.within("tools/call", call("announce"), timeout_s=10))
        assert await changes.get() == "tools"
        listener.cancel()


@in_both_eras
async def test_a_probe_passes(mcp: Running) -> None:
    await mcp.client.probe(10)


@in_both_eras
async def test_the_token_is_sent_and_stays_out_of_every_repr(mcp: Running) -> None:
    assert all(one["authorization"] == "Bearer secret" for one in mcp.front.seen)
    assert "secret" not in repr(mcp.client)


@in_both_eras
async def test_only_mcp_param_headers_of_a_caller_go_out(mcp: Running) -> None:
    headers = {"Mcp-Param-Region": "eu", "Authorization": "Bearer callers", "Cookie": "a=b"}
    headers = received_headers(headers.items())
    with contextlib.suppress(RpcError, CallFailed):
        await mcp.client.request(Request.within("tools/call", call("echo", text="x"), timeout_s=10, headers=headers))
    sent = mcp.front.seen[-1]
    assert sent["mcp-param-region"] == "eu"
    assert sent["authorization"] == "Bearer secret"
    assert "cookie" not in sent


async def test_a_modern_server_without_subscriptions_says_so() -> None:
    async with running(Era.MODERN, listen=False) as mcp:
        with pytest.raises(ListenNotSupported):
            await mcp.client.listen(lambda _: None)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (400, b""),
        (404, b""),
        (405, b""),
        (406, b""),
        (500, b""),
        (400, b'{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"Unsupported protocol version"}}'),
        (404, b'{"jsonrpc":"2.0","id":0,"error":{"code":-32601,"message":"Method not found"}}'),
        (200, b'{"jsonrpc":"2.0","id":0,"error":{"code":-32602,"message":"Invalid request parameters"}}'),
        (
            400,
            b'{"jsonrpc":"2.0","id":0,"error":{"code":-32022,"message":"no","data":{"supported":["2025-11-25"]}}}',
        ),
    ],
)
async def test_every_way_of_not_knowing_discover_leads_to_a_session(status: int, reason: bytes) -> None:
    async with running(Era.LEGACY, refusal=status, reason=reason) as mcp:
        assert mcp.client.server_info.protocol_version == "2025-11-25"
        result = await mcp.client.request(Request.within("tools/call", call("echo", text="old"), timeout_s=10))
        assert result["content"][0]["text"] == "old"


async def test_leaving_the_client_ends_the_session() -> None:
    async with running(Era.LEGACY) as mcp:
        front = mcp.front
    assert front.seen[-1]["http-method"] == "DELETE"


async def test_a_session_that_the_server_forgot_is_opened_anew_once_for_all_callers() -> None:
    async with running(Era.LEGACY) as mcp, http_app(make_server(Diary(), listen=True)) as restarted:
        changes: asyncio.Queue[str] = asyncio.Queue()
        await mcp.client.request(Request.within("tools/call", call("echo", text="before"), timeout_s=10))
        mcp.front.app = restarted
        seen_before = len(mcp.front.seen)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(
                    mcp.client.request(Request.within("tools/call", call("echo", text="x"), timeout_s=20)),
                    name=f"call {n}",
                )
                for n in range(10)
            ]
        assert all(task.result()["content"][0]["text"] == "x" for task in tasks)
        opened = [one for one in mcp.front.seen[seen_before:] if "mcp-session-id" not in one]
        assert len(opened) == 1
        assert changes.empty()
        assert not mcp.client.lost.is_set()


async def test_a_server_that_restarts_again_while_a_session_is_opened_anew_is_given_another() -> None:
    async def answer(request: Seen) -> tuple[bytes | None, bool]:
        sessions = sum(one.body.get("method") == "initialize" for one in script.seen)
        match request.body.get("method"):
            case "initialize":
                return initialized(request, Mcp_Session_Id=f"s{sessions}"), True
            case "notifications/initialized" if sessions != 2:  # The second one is forgotten at once.
                return http(202), True
            case "tools/call" if sessions > 2:
                return rpc_result(request, {"ok": True}), True
        return http(404), True

    async with scripted(answer) as script, open_client(HttpTarget(script.url)) as client:
        assert await client.request(Request.within("tools/call", {"name": "echo"}, timeout_s=10)) == {"ok": True}
