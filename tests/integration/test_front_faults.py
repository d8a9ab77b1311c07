"""What clients get when the server behind a node breaks, hangs, lies, or answers what their era does not have."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.client.protocol import Request
from agent.errors import RpcError
from agent.lossless_json.exact import is_deeper_than
from agent.model import Era, HttpTarget, Json, ServerScope, ServerSpec
from agent.server.written_results import ANSWER_NESTING_MAX
from tests.integration.servers.hosting import Script, Seen, discovered, http, rpc_error, rpc_result, scripted
from tests.integration.servers.nodes import RunningNode, client, running_node

TOOL = {"name": "do", "inputSchema": {"type": "object"}, "x-unknown": {"kept": [1, 2]}}
NOT_EXECUTED, OUTCOME_UNKNOWN = -32000, -32001

Answer = Callable[[Seen], Awaitable[tuple[bytes | None, bool]]]


@asynccontextmanager
async def node_before(call: Answer, folder: Path, **spec: float) -> AsyncIterator[tuple[RunningNode, Script]]:
    """A node with one scripted server; `call` answers tools/call."""

    async def answer(request: Seen) -> tuple[bytes | None, bool]:
        match request.body.get("method"):
            case "server/discover":
                return discovered(request), True
            case "tools/list":
                return rpc_result(request, {"tools": [TOOL]}), True
            case "tools/call":
                return await call(request)
            case _:
                return rpc_error(request, 404, -32601, "Method not found"), True

    async with scripted(answer) as script:
        server = ServerSpec("kit", HttpTarget(script.url), ServerScope.SERVICE, **spec)  # type: ignore[arg-type]  # call_timeout_s alone
        async with running_node("one", folder, servers=[server]) as node:
            await node.connected("kit")
            yield node, script


async def failure_of(node: RunningNode, era: Era) -> RpcError:
    async with client(node.url, era) as mcp:
        with pytest.raises(RpcError) as caught:
            await mcp.request(Request.within("tools/call", {"name": "kit__do", "arguments": {}}, timeout_s=15))
    return caught.value


both_eras = pytest.mark.parametrize("era", list(Era))


@both_eras
async def test_a_request_for_input_goes_to_clients_that_can_give_it(era: Era, tmp_path: Path) -> None:
    asked: Json = {"resultType": "input_required", "inputRequests": {"a": {"method": "elicitation/create"}}}
    able: Json = {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}}

    async def call(request: Seen) -> tuple[bytes, bool]:
        return rpc_result(request, asked), True

    async with node_before(call, tmp_path) as (node, _):
        failure = await failure_of(node, era)
        assert (failure.code, "did not declare" in failure.message) == (-32021, True)
        if era is Era.MODERN:
            async with client(node.url, era) as mcp:
                assert (
                    await mcp.request(Request.within("tools/call", {"name": "kit__do", "_meta": able}, timeout_s=5))
                    == asked
                )


@pytest.mark.parametrize("questions", [{"a": {"method": "dreams/tell", "params": {}}}, {"a": 5}, ["roots/list"]])
async def test_a_question_that_cannot_be_answered_is_no_result_for_a_client_with_a_session(
    questions: object, tmp_path: Path
) -> None:
    async def call(request: Seen) -> tuple[bytes, bool]:
        return rpc_result(request, {"resultType": "input_required", "inputRequests": questions}), True

    async with node_before(call, tmp_path) as (node, script):
        failure = await failure_of(node, Era.LEGACY)
    assert (failure.code, "no client can be asked" in failure.message) == (-32602, True)
    assert [request.body["method"] for request in script.seen].count("tools/call") == 1


@both_eras
async def test_what_is_unknown_passes_unchanged(era: Era, tmp_path: Path) -> None:
    async def call(request: Seen) -> tuple[bytes, bool]:
        return rpc_result(
            request, {"content": [{"type": "hologram", "voxels": 3}], "isError": False, "later": {}}
        ), True

    async with node_before(call, tmp_path) as (node, _), client(node.url, era) as mcp:
        result = await mcp.request(Request.within("tools/call", {"name": "kit__do"}, timeout_s=5))
        assert result["content"] == [{"type": "hologram", "voxels": 3}]
        assert result["later"] == {}
        listed = await mcp.request(Request.within("tools/list", {}, timeout_s=5))
        definition = next(tool for tool in listed["tools"] if tool["name"] == "kit__do")
        assert definition["x-unknown"] == {"kept": [1, 2]}


@both_eras
async def test_a_reset_in_the_middle_says_that_the_outcome_is_unknown(era: Era, tmp_path: Path) -> None:
    calls: list[int] = []

    async def call(_: Seen) -> tuple[None, bool]:
        calls.append(1)
        return None, False

    async with node_before(call, tmp_path) as (node, _):
        failure = await failure_of(node, era)
        assert failure.code == OUTCOME_UNKNOWN
        assert failure.data == {
            "outcome": "unknown",
            "timed_out": False,
            "replica": "server:kit",
            "bytes_sent": True,
        }
        assert "kit__do" in failure.message
        assert calls == [1]


@both_eras
async def test_a_server_that_is_gone_was_not_asked(era: Era, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def call(_: Seen) -> tuple[None, bool]:
        raise AssertionError("no server is there")

    monkeypatch.setattr("agent.links.probe.PROBE_EVERY_S", 3600.0)
    async with node_before(call, tmp_path) as (node, script):
        script.stop()
        failure = await failure_of(node, era)
        assert failure.code == NOT_EXECUTED
        assert failure.data == {"outcome": "not_executed", "replica": "server:kit", "bytes_sent": False}
        # The failed call is reason to look at once; the next probe is not due for an hour.
        await node.when(lambda: not node.is_up("kit"))


@both_eras
async def test_a_server_that_never_answers_times_out_as_unknown(era: Era, tmp_path: Path) -> None:
    over = asyncio.Event()

    async def call(_: Seen) -> tuple[None, bool]:
        await over.wait()
        return None, False

    async with node_before(call, tmp_path, call_timeout_s=0.2) as (node, _):
        failure = await failure_of(node, era)
        over.set()
        assert failure.code == OUTCOME_UNKNOWN
        assert failure.data == {
            "outcome": "unknown",
            "timed_out": True,
            "replica": "server:kit",
            "bytes_sent": True,
        }


@both_eras
async def test_an_answer_that_is_no_answer_is_an_error_and_not_an_empty_success(era: Era, tmp_path: Path) -> None:
    async def call(_: Seen) -> tuple[bytes, bool]:
        return http(200, b"<html>hello</html>", "text/html"), True

    async with node_before(call, tmp_path) as (node, _):
        failure = await failure_of(node, era)
        assert failure.code == -32603
        assert failure.data["outcome"] == "unknown"


@both_eras
async def test_a_refused_token_is_reported_as_not_executed(era: Era, tmp_path: Path) -> None:
    async def call(_: Seen) -> tuple[bytes, bool]:
        return http(401, b"{}"), True

    async with node_before(call, tmp_path) as (node, _):
        assert (await failure_of(node, era)).code == NOT_EXECUTED


async def test_a_call_that_outlives_its_server_in_the_configuration_ends_with_one_clear_error(tmp_path: Path) -> None:
    arrived, over = asyncio.Event(), asyncio.Event()

    async def call(_: Seen) -> tuple[None, bool]:
        arrived.set()
        await over.wait()
        return None, False

    async with node_before(call, tmp_path) as (node, _), asyncio.TaskGroup() as group:
        failed = group.create_task(failure_of(node, Era.MODERN), name="call")
        await arrived.wait()
        node.mesh.take_servers([])
        assert (await failed).code == OUTCOME_UNKNOWN
        over.set()
        assert repr(node.dispatch) == "<Dispatch in_flight=0>"


def _nested(levels: int) -> Json:
    value: Json = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


def _deep_answer(request: Seen, result: Json, levels: int) -> bytes:
    """A result whose member `x` is so deep; put together as text, for nothing here can write it either."""
    head, tail = rpc_result(request, {**result, "x": "deep"}).split(b'"deep"')
    deep = b'{"a":' * (levels - 2) + b"{}" + b"}" * (levels - 2)
    return http(200, head.partition(b"\r\n\r\n")[2] + deep + tail)


@both_eras
@pytest.mark.parametrize("levels", [ANSWER_NESTING_MAX + 6, 1_000])
async def test_a_result_too_deep_to_be_written_anew_is_an_error_with_an_outcome(
    era: Era, levels: int, tmp_path: Path
) -> None:
    # Each has to be written anew: a state gets a layer, and clients of old do not get the hints.
    changed: Json = {
        Era.MODERN: {"resultType": "input_required", "requestState": "s"},
        Era.LEGACY: {"resultType": "complete", "ttlMs": 0, "content": []},
    }[era]

    async def call(request: Seen) -> tuple[bytes, bool]:
        return _deep_answer(request, changed, levels), True

    async with node_before(call, tmp_path) as (node, _):
        failure = await failure_of(node, era)
        assert failure.code == -32603
        assert failure.data == {"outcome": "unknown", "timed_out": False, "replica": "server:kit", "bytes_sent": True}


async def test_a_result_without_anything_to_change_may_be_as_deep_as_can_be_read(tmp_path: Path) -> None:
    async def call(request: Seen) -> tuple[bytes, bool]:
        return _deep_answer(request, {"resultType": "complete", "content": []}, 1_000), True

    async with node_before(call, tmp_path) as (node, _), client(node.url, Era.MODERN) as mcp:
        found = await mcp.request(Request.within("tools/call", {"name": "kit__do"}, timeout_s=5))
        assert is_deeper_than(found, 999)


@both_eras
async def test_a_result_as_deep_as_may_be_passes(era: Era, tmp_path: Path) -> None:
    deep = {"content": [], "x": _nested(ANSWER_NESTING_MAX - 1)}

    async def call(request: Seen) -> tuple[bytes, bool]:
        return rpc_result(request, deep), True

    async with node_before(call, tmp_path) as (node, _), client(node.url, era) as mcp:
        assert (await mcp.request(Request.within("tools/call", {"name": "kit__do"}, timeout_s=5)))["x"] == deep["x"]


@both_eras
async def test_an_error_too_deep_to_be_written_keeps_its_code(era: Era, tmp_path: Path) -> None:
    async def call(request: Seen) -> tuple[bytes, bool]:
        head, tail = rpc_error(request, 200, -32099, "no", "deep").split(b'"deep"')
        body = head.partition(b"\r\n\r\n")[2] + b"[" * 400 + b"]" * 400 + tail
        return http(200, body), True

    async with node_before(call, tmp_path) as (node, _):
        failure = await failure_of(node, era)
        assert (failure.code, failure.data) == (-32099, {"outcome": "unknown"})
