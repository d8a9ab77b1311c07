"""Calls that nodes answer without a task, and all that makes one wait for its answer in a task after all.

Each thing happens when the call has gone out and nothing waits for it. The one rule: its client, its server, the log
and the figures see what they see of any call, and nothing of it is left.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from agent.errors import OUTCOME_UNKNOWN
from agent.server.fast_path import serving
from tests.integration.servers.holding import (
    DONE,
    SESSION,
    STATELESS,
    Got,
    HeldCall,
    HeldScene,
    RawCaller,
    events,
    held_scene,
    let_no_slow_moment_count,
    named,
    tasks_of_calls,
)
from tests.integration.servers.hosting import http, rpc_error
from tests.integration.test_nothing_for_the_collector import left_for_the_collector
from tests.waiting import eventually

ERAS_AND_HOPS = [(STATELESS, 1), (SESSION, 1), (STATELESS, 2), (SESSION, 2)]
of_all_ways = pytest.mark.parametrize(("era", "hops"), ERAS_AND_HOPS)
of_both_eras = pytest.mark.parametrize("era", [STATELESS, SESSION])
# What is in the head of each answer of a node, by whichever way.
HEADERS = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "server": "mcp-mesh-agent"}
# So many are looked at, a few at a time; a few in which something else was under way do not count.
CALLS, CALLS_IN_A_ROUND, ROUNDS_MAX = 50, 5, 50


@pytest.fixture(autouse=True)
def no_slow_moment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    let_no_slow_moment_count(monkeypatch)


async def gone_out(now: HeldScene, caller: RawCaller, request: bytes | None = None) -> HeldCall:
    """Send a call; it has come to the server, and no node on its way has a task for it."""
    await eventually(now.reads_no_lists)
    caller.send(caller.call() if request is None else request)
    call = await now.server.next(len(now.server.calls) + 1)
    assert not now.waits()
    assert now.figures()["mesh_calls_in_flight"] == 1
    return call


def text_of(got: Got) -> str:
    text = got.messages[-1]["result"]["content"][0]["text"]
    assert isinstance(text, str)
    return text


@of_all_ways
async def test_a_usual_call_needs_no_task_at_any_node(
    era: str, hops: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with held_scene(tmp_path, caplog, hops=hops) as now, now.caller(era) as caller:
        before = now.figures()
        with tasks_of_calls() as tasks:
            for request_id in (7, "seven"):
                call = await gone_out(now, caller, caller.call(request_id))
                call.answer()
                got = await caller.got()
                assert (got.status, got.headers["content-type"], text_of(got)) == (200, "application/json", "done")
                assert got.messages[0]["id"] == request_id
                assert HEADERS.items() <= got.headers.items()
        assert tasks == []
        await now.is_over()
        assert now.outcomes(before) == {"ok": 2}
        backend = now.node.mesh.views()[0].key
        line = {"method": "tools/call", "mcp_name": "kit__write", "caller": "anonymous", "backend": backend}
        assert now.lines() == [line | {"outcome": "ok", "request_id": one} for one in (7, "seven")]


@of_all_ways
async def test_a_usual_call_leaves_nothing_for_the_garbage_collector(
    era: str, hops: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with held_scene(tmp_path, caplog, hops=hops) as now, now.caller(era) as caller:
        now.server.holds = False
        await caller.asked(caller.call())
        found, usual = Counter[str](), 0
        # A call has a task, too, where a list has changed, as just after the start, or a moment was slow.
        for _ in range(ROUNDS_MAX):
            await eventually(now.reads_no_lists)
            changes = changes_of(now)
            with left_for_the_collector() as left, tasks_of_calls() as tasks:
                for _ in range(CALLS_IN_A_ROUND):
                    await caller.asked(caller.call())
            if not tasks and changes == changes_of(now):
                found, usual = found + left, usual + CALLS_IN_A_ROUND
            if usual == CALLS:
                break
        assert usual == CALLS, tasks
        # Else large answers would stay until it runs. What else a node does meanwhile may leave a little.
        assert {kind: count for kind, count in found.items() if count >= CALLS // 2} == {}


def changes_of(now: HeldScene) -> int:
    """How many changes of lists all nodes have heard of."""
    return sum(keeper.changes for keeper in now.keepers())


def _in_two_pieces(call: HeldCall) -> list[bytes]:
    whole = call.done()
    return [whole[:40], whole[40:]]


def _body_later(call: HeldCall) -> list[bytes]:
    head, _, body = call.done().partition(b"\r\n\r\n")
    return [head + b"\r\n\r\n", body]


def _as_events(call: HeldCall) -> list[bytes]:
    return [events({"jsonrpc": "2.0", "id": call.request.body["id"], "result": DONE})]


def _written_otherwise(call: HeldCall) -> list[bytes]:
    return [http(200, b' { "id": %d, "result": %b, "jsonrpc": "2.0"} ' % (call.request.body["id"], orjson.dumps(DONE)))]


def _with_another_head(call: HeldCall) -> list[bytes]:
    return [call.done().replace(b"Some Reason", b"Reason " + str(call.request.body["id"]).encode())]


def _of_another_length(call: HeldCall) -> list[bytes]:
    return [call.done({**DONE, "structuredContent": {"text": "x" * 40}})]


def _large(call: HeldCall) -> list[bytes]:
    return [call.done({"content": [{"type": "text", "text": "done"}, {"type": "text", "text": "x" * 500_000}]})]


def _with_a_uri(call: HeldCall) -> list[bytes]:
    return [call.done({"content": [{"type": "text", "text": "done"}], "_meta": {"uri": "x"}})]


WELL: dict[str, Callable[[HeldCall], list[bytes]]] = {
    "in two pieces": _in_two_pieces,
    "its body later": _body_later,
    "as events": _as_events,
    "written otherwise": _written_otherwise,
    "with a head that is new": _with_another_head,
    "of another length": _of_another_length,
    "large": _large,
    "with more of itself": _with_a_uri,
}


@of_all_ways
@pytest.mark.parametrize("how", WELL)
async def test_an_answer_of_any_kind_is_what_the_client_gets(
    how: str, era: str, hops: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with held_scene(tmp_path, caplog, hops=hops) as now, now.caller(era) as caller:
        before = now.figures()
        call = await gone_out(now, caller)
        *first, last = WELL[how](call)
        for piece in first:
            call.writer.write(piece)
            await call.writer.drain()
            assert now.figures()["mesh_calls_in_flight"] == 1
        call.answer(last)
        got = await caller.got()
        assert (got.status, text_of(got)) == (200, "done")
        assert HEADERS.items() <= got.headers.items()
        assert len(got.messages) == 1
        await now.is_over()
        assert (len(now.server.calls), now.outcomes(before)) == (1, {"ok": 1})
        assert [line["outcome"] for line in now.lines()] == ["ok"]


@of_all_ways
async def test_a_notification_that_comes_in_one_piece_with_the_answer_is_passed_on_with_all_headers(
    era: str, hops: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with held_scene(tmp_path, caplog, hops=hops) as now, now.caller(era) as caller:
        call = await gone_out(now, caller)
        note = {
            "jsonrpc": "2.0",
            "method": "notifications/progress",
            "params": {"progressToken": 1, "progress": 1},
        }
        call.answer(events(note, {"jsonrpc": "2.0", "id": call.request.body["id"], "result": DONE}))
        got = await caller.got()
        assert got.headers["content-type"].startswith("text/event-stream")
        assert [message.get("method") for message in got.messages] == ["notifications/progress", None]
        assert HEADERS.items() <= got.headers.items()
        await now.is_over()


def _tool_error(call: HeldCall) -> bytes:
    return call.done({"content": [{"type": "text", "text": "no"}], "isError": True})


def _own_error(call: HeldCall) -> bytes:
    return rpc_error(call.request, 200, -32050, "mine")


def _wrong_id(call: HeldCall) -> bytes:
    return call.done().replace(b'"id":%d' % call.request.body["id"], b'"id":99999')


def _server_error(_: HeldCall) -> bytes:
    return http(500, b"oops", kind="text/plain")


def _no_json(_: HeldCall) -> bytes:
    return http(200, b"oops")


def _cut_short(call: HeldCall) -> bytes:
    return call.done()[:-5]


BADLY: dict[str, tuple[Callable[[HeldCall], bytes] | None, int | None, set[str], str]] = {
    "a tool's error": (_tool_error, None, {"tool_error"}, "tool_error"),
    "the server's error": (_own_error, -32050, {"rpc_error"}, "error -32050"),
    "to another request": (_wrong_id, -32603, {"protocol"}, "error -32603"),
    "of status 500": (_server_error, OUTCOME_UNKNOWN, {"unknown"}, f"error {OUTCOME_UNKNOWN}"),
    "no JSON": (_no_json, -32603, {"protocol"}, "error -32603"),
    "cut short": (_cut_short, OUTCOME_UNKNOWN, {"unknown"}, f"error {OUTCOME_UNKNOWN}"),
    "a reset": (None, OUTCOME_UNKNOWN, {"unknown"}, f"error {OUTCOME_UNKNOWN}"),
}


@of_all_ways
@pytest.mark.parametrize("how", BADLY)
async def test_a_call_that_goes_badly_says_so_and_is_executed_once(
    how: str, era: str, hops: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answer, code, outcomes, said = BADLY[how]
    async with held_scene(tmp_path, caplog, hops=hops) as now, now.caller(era) as caller:
        before = now.figures()
        call = await gone_out(now, caller)
        if answer is None:
            call.reset()
        else:
            call.answer(answer(call), keep=False)
        message = (await caller.got()).messages[0]
        if code is None:
            assert message["result"]["isError"] is True
        else:
            assert message["error"]["code"] == code
        await now.is_over()
        assert len(now.server.calls) == 1
        assert now.outcomes(before) == dict.fromkeys(outcomes, 1)
        assert [line["outcome"] for line in now.lines()] == [said]
        now.server.holds = False
        await now.node.connected(*(view.spec.name for view in now.node.mesh.views()))
        assert text_of(await caller.asked(caller.call())) == "done"


@of_both_eras
async def test_two_answers_to_one_call_are_one_and_the_connection_is_not_used_again(
    era: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with held_scene(tmp_path, caplog) as now, now.caller(era) as caller:
        call = await gone_out(now, caller)
        call.answer(call.done() + call.done({"content": [{"type": "text", "text": "again"}]}))
        assert text_of(await caller.got()) == "done"
        later = await gone_out_again(now, caller)
        assert later.request.connection != call.request.connection
        later.answer()
        assert text_of(await caller.got()) == "done"
        await now.is_over()


async def gone_out_again(now: HeldScene, caller: RawCaller) -> HeldCall:
    caller.send(caller.call(8))
    return await now.server.next(len(now.server.calls) + 1)


@of_both_eras
async def test_a_reading_call_that_breaks_is_sent_again_when_its_one_server_has_answered_a_probe(
    era: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with held_scene(tmp_path, caplog) as now, now.caller(era) as caller:
        call = await gone_out(now, caller, caller.call(tool="kit__look"))
        call.reset()
        (await now.server.next(2)).answer()
        assert text_of(await caller.got()) == "done"
        await now.is_over()


@of_both_eras
async def test_lists_that_change_while_a_call_is_out_are_read_before_its_client_has_the_answer(
    era: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with held_scene(tmp_path, caplog) as now, now.caller(era) as caller, now.caller(era) as other:
        call = await gone_out(now, caller)
        other.send(other.call(8))
        second = await now.server.next(2)  # In a task, over another connection.
        keeper = now.node.supervisor.links()[0]._session._offer
        now.server.lists_held = asyncio.Event()
        note = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
        second.answer(events(note, {"jsonrpc": "2.0", "id": second.request.body["id"], "result": DONE}))
        await eventually(lambda: _is(keeper.changes == 1))
        call.answer()
        await eventually(lambda: _is(now.waits() == 2), 10.0)
        now.server.lists_held.set()
        assert [text_of(await one.got()) for one in (other, caller)] == ["done", "done"]
        await now.is_over()


@of_both_eras
async def test_requests_that_are_sent_ahead_are_served_one_after_the_other_without_a_task(
    era: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with held_scene(tmp_path, caplog) as now, now.caller(era) as caller:
        with tasks_of_calls() as tasks:
            call = await gone_out(now, caller, caller.call(1) + caller.call(2) + caller.call(3)[:-3])
            caller.send(caller.call(3)[-3:])
            for count in (1, 2, 3):
                assert len(now.server.calls) == count
                call.answer()
                assert (await caller.got()).messages[0]["id"] == count
                if count < 3:
                    call = await now.server.next(count + 1)
        assert tasks == []
        await now.is_over()
        assert [line["request_id"] for line in now.lines()] == [1, 2, 3]


@of_both_eras
async def test_a_call_that_cannot_be_written_is_refused_as_any_and_its_connection_stays(
    era: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with held_scene(tmp_path, caplog) as now, now.caller(era) as caller:
        request = caller.call(arguments={"a": "DEEP"})
        body = request.partition(b"\r\n\r\n")[2]
        deeper = body.replace(b'"DEEP"', b'{"a":' * 300 + b"1" + b"}" * 300)
        length = b"Content-Length: %d"
        got = await caller.asked(request.replace(body, deeper).replace(length % len(body), length % len(deeper)))
        assert got.messages[0]["error"]["code"] == -32602
        now.server.holds = False
        assert text_of(await caller.asked(caller.call())) == "done"
        await now.is_over()
        assert now.server.calls == []


@of_both_eras
async def test_a_call_waits_in_the_name_of_its_own_caller(
    era: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with held_scene(tmp_path, caplog, tokens=named("ann", "bob")) as now:
        async with now.caller(era, "ann") as ann, now.caller(era, "bob") as bob:
            calls = []
            for number, caller in enumerate((ann, bob, ann, bob), start=1):
                if number > 2:
                    calls[number - 3].answer(_as_events(calls[number - 3])[0])
                    await caller.got()
                caller.send(caller.call(number))
                calls.append(await now.server.next(number))
            for call, caller in zip(calls[2:], (ann, bob), strict=True):
                call.answer(_tool_error(call))
                await caller.got()
        await now.is_over()
        assert [line["caller"] for line in now.lines()] == ["ann", "bob"] * 2


@of_both_eras
async def test_requests_of_strangers_take_nothing_from_a_call_that_is_out(
    era: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with held_scene(tmp_path, caplog) as now, now.caller(era) as caller, now.caller(era) as stranger:
        monkeypatch.setattr(serving, "HEADS_MAX", 1)  # A node remembers no more paths than that.
        call = await gone_out(now, caller)
        for number in range(2):
            stranger.path = f"/mcp?servers=none{number}"
            await stranger.asked(stranger.post({"jsonrpc": "2.0", "id": 1, "method": "nothing"}))
        assert not now.waits()
        call.answer(_as_events(call)[0])
        got = await caller.got()
        assert (got.status, text_of(got)) == (200, "done")
        assert HEADERS.items() <= got.headers.items()
        await now.is_over()


async def test_an_answer_between_nodes_is_believed_by_its_proof_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with held_scene(tmp_path, caplog, hops=2) as now, now.caller(STATELESS) as caller:
        call = await gone_out(now, caller)
        (link,) = now.node.supervisor.links()
        assert link._session is not None
        pool = link._session._client._pool  # type: ignore[attr-defined]  # of the client for nodes
        (connection,) = [one for one in pool._connections if one._taker is not None]
        # As from another process at the node's address: the head of its answers, and a proof that is another one's.
        connection._taker._number += 1
        call.answer()
        error = (await caller.got()).messages[0]["error"]
        assert error["code"] == OUTCOME_UNKNOWN
        assert "proving" in error["message"]
        await now.is_over()
        await eventually(lambda: _is(len(now.server.calls) == 1))


async def _is(condition: bool) -> bool:
    return condition
