"""What ends a call that has gone out and that nothing waits for yet: its client, its time, its node, its server.

The one rule: it ends as any other call does, nothing is executed twice, and nothing of it is left.
"""

import asyncio
import socket
from pathlib import Path

import pytest

from agent.app.drain import serving_of
from agent.dispatch import dispatcher
from agent.errors import OUTCOME_UNKNOWN
from agent.server import started
from agent.server.fast_path.connection import Connection
from tests.integration.servers.holding import (
    DONE,
    SESSION,
    STATELESS,
    WAITED_FOR_S,
    HeldCall,
    HeldScene,
    RawCaller,
    held_scene,
    let_no_slow_moment_count,
    named,
    raw_caller,
    tasks_of_calls,
)
from tests.integration.servers.nodes import catalog
from tests.waiting import eventually

of_both_eras = pytest.mark.parametrize("era", [STATELESS, SESSION])
of_all_ways = pytest.mark.parametrize(("era", "hops"), [(STATELESS, 1), (SESSION, 1), (STATELESS, 2), (SESSION, 2)])


@pytest.fixture(autouse=True)
def no_slow_moment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    let_no_slow_moment_count(monkeypatch)


async def gone_out(now: HeldScene, caller: RawCaller, request: bytes | None = None) -> HeldCall:
    """Send a call; it has come to the server, and no node on its way has a task for it, unless that took too long."""
    await eventually(now.reads_no_lists)
    loop = asyncio.get_running_loop()
    due_s = loop.time() + started.WAITED_FOR_S
    caller.send(caller.call() if request is None else request)
    call = await now.server.next(len(now.server.calls) + 1)
    assert not now.waits() or loop.time() >= due_s
    return call


async def server_is_told(call: HeldCall) -> None:
    """Wait until the connection of a call is closed, which says that its answer is not wanted."""

    async def told() -> bool:
        return call.writer.transport.is_closing() or _has_ended(call.writer)

    await eventually(told)


def _has_ended(writer: asyncio.StreamWriter) -> bool:
    sock = writer.get_extra_info("socket")
    peeked = socket.socket(fileno=socket.dup(sock.fileno()))
    with peeked:
        peeked.setblocking(False)
        try:
            return peeked.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except ConnectionError:
            return True


@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize("by", ["a reset", "its end", "half of it"])
async def test_a_stateless_client_that_leaves_cancels_its_call(
    by: str, hops: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with held_scene(tmp_path, caplog, hops=hops) as now, now.caller(STATELESS) as caller:
        before = now.figures()
        call = await gone_out(now, caller)
        match by:
            case "a reset":
                caller.close()
            case "its end":
                caller.writer.close()
            case _:
                caller.writer.write_eof()
        await server_is_told(call)
        await now.is_over()
        assert now.outcomes(before) == {"cancelled": 1}
        assert [line["outcome"] for line in now.lines()] == ["ended by the client"]


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_call_of_a_session_outlives_its_connection(
    hops: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with held_scene(tmp_path, caplog, hops=hops) as now, now.caller(SESSION) as caller:
        before = now.figures()
        call = await gone_out(now, caller)
        caller.close()
        await eventually(lambda: _is(now.waits() > 0 or bool(_sessions_calls(now))))
        call.answer()
        await now.is_over()
        assert now.outcomes(before) == {"ok": 1}
        assert [line["outcome"] for line in now.lines()] == ["ok"]


def _sessions_calls(now: HeldScene) -> list[object]:
    return [call for session in now.node.endpoints[0].sessions._sessions.values() for call in session._calls]


async def _is(condition: bool) -> bool:
    return condition


@of_both_eras
@pytest.mark.parametrize("server_first", [True, False])
async def test_a_client_and_a_server_that_leave_at_once_leave_nothing(
    server_first: bool, era: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with held_scene(tmp_path, caplog) as now, now.caller(era) as caller:
        await gone_out(now, caller)
        ends = [caller.writer.get_extra_info("socket"), now.server.calls[0].writer.get_extra_info("socket")]
        for sock in reversed(ends) if server_first else ends:
            sock.shutdown(socket.SHUT_RDWR)  # Now, so that the node finds both ends in one pass of its loop.
        await now.is_over()
        assert len(now.lines()) == 1


@of_both_eras
async def test_a_client_that_leaves_as_its_answer_begins_leaves_nothing(
    era: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with held_scene(tmp_path, caplog) as now, now.caller(era) as caller:
        call = await gone_out(now, caller)
        caller.writer.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        begun = call.done()[:30]
        assert call.writer.get_extra_info("socket")._sock.send(begun) == len(begun)
        if era == SESSION:
            call.answer(call.done()[30:])
        await now.is_over()
        assert len(now.lines()) == 1


async def test_a_connection_that_is_lost_with_its_call_just_gone_on_ends_it_after_its_first_step(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with held_scene(tmp_path, caplog) as now, now.caller(STATELESS) as caller:
        call = await gone_out(now, caller)
        (connection,) = _busy(now)
        connection.leave()  # Its task has not had its first step when the connection is lost.
        connection.abort()
        await server_is_told(call)
        await now.is_over()
        assert [line["outcome"] for line in now.lines()] == ["ended by the client"]


def _busy(now: HeldScene) -> list[Connection]:
    return [one for one in serving_of(now.node.runner).connections if one._unwaited is not None]


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_session_cancels_its_call_by_a_notification(
    hops: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with held_scene(tmp_path, caplog, hops=hops) as now, now.caller(SESSION) as caller:
        before = now.figures()
        call = await gone_out(now, caller)
        async with raw_caller(now.node, STATELESS) as other:
            note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}
            assert (await other.asked(other.post(note, **caller.headers))).status == 202
        await server_is_told(call)
        got = await caller.got()
        assert (got.status, got.messages) == (200, [])
        await now.is_over()
        assert now.outcomes(before) == {"cancelled": 1}
        assert [line["outcome"] for line in now.lines()] == ["ended by the client"]


async def test_a_call_that_goes_on_and_is_cancelled_in_one_pass_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with held_scene(tmp_path, caplog) as now, now.caller(SESSION) as caller:
        call = await gone_out(now, caller)
        (session,) = now.node.endpoints[0].sessions._sessions.values()
        assert session.open_call(7) is not None
        session.cancel_call(7)
        await server_is_told(call)
        await now.is_over()


async def test_an_id_is_taken_while_its_call_is_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with held_scene(tmp_path, caplog) as now, now.caller(SESSION) as caller:
        call = await gone_out(now, caller)
        async with raw_caller(now.node, STATELESS) as other:
            other.era = SESSION
            other.headers |= caller.headers
            refused = await other.asked(other.call(7))
            assert "still being served" in refused.messages[0]["error"]["message"]
        call.answer()
        assert (await caller.got()).messages[0]["result"]
        await now.is_over()
        assert len(now.server.calls) == 1


@pytest.mark.parametrize("how", ["by its client", "its token is revoked"])
async def test_the_end_of_a_session_ends_its_call(how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokens = named("ann")
    async with held_scene(tmp_path, caplog, tokens=tokens) as now, now.caller(SESSION, "ann") as caller:
        call = await gone_out(now, caller)
        if how == "by its client":
            async with raw_caller(now.node, STATELESS) as other:
                lines = "".join(f"{name}: {value}\r\n" for name, value in caller.headers.items())
                other.send(f"DELETE /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}\r\n".encode())
                assert (await other.got()).status == 200
        else:
            now.node.endpoints[0].end_of_revoked(())
        await server_is_told(call)
        assert (await caller.got()).messages == []
        await now.is_over()


@of_both_eras
async def test_a_token_that_is_revoked_takes_no_answer_away_and_no_further_call(
    era: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = named("ann")
    async with held_scene(tmp_path, caplog, tokens=tokens) as now, now.caller(era, "ann") as caller:
        call = await gone_out(now, caller)
        tokens.replace((), ())
        call.answer()
        assert (await caller.got()).messages[0]["result"]
        assert (await caller.asked(caller.call(8))).status == 401
        await now.is_over()
        assert len(now.server.calls) == 1


@of_all_ways
async def test_a_call_that_takes_longer_goes_on_in_a_task(
    era: str, hops: int, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(started, "WAITED_FOR_S", WAITED_FOR_S)
    async with held_scene(tmp_path, caplog, hops=hops) as now, now.caller(era) as caller:
        before = now.figures()
        call = await gone_out(now, caller)
        await eventually(lambda: _is(now.waits() > 0))
        call.answer()
        assert (await caller.got()).messages[0]["result"]
        await now.is_over()
        assert now.outcomes(before) == {"ok": 1}
        assert len(now.server.calls) == 1


@of_all_ways
async def test_a_call_that_was_started_ends_at_its_deadline(
    era: str, hops: int, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(started, "WAITED_FOR_S", WAITED_FOR_S)
    # The machine may take a second of the call's time before each node starts it.
    monkeypatch.setattr(dispatcher, "START_TIMEOUT_MIN_S", 1.0)
    async with held_scene(tmp_path, caplog, hops=hops, call_timeout_s=2.2) as now, now.caller(era) as caller:
        before, loop = now.figures(), asyncio.get_running_loop()
        began_s = loop.time()
        call = await gone_out(now, caller)
        error = (await caller.got()).messages[0]["error"]
        assert loop.time() - began_s >= 2.0
        assert (error["code"], error["data"]["timed_out"]) == (OUTCOME_UNKNOWN, True)
        await server_is_told(call)
        await now.is_over()
        assert now.outcomes(before) == {"timeout": 1}
        assert len(now.server.calls) == 1


@of_both_eras
@pytest.mark.parametrize("call_timeout_s", [0.3, 1.0])
async def test_a_call_with_little_time_waits_in_a_task_from_its_beginning(
    call_timeout_s: float, era: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with held_scene(tmp_path, caplog, call_timeout_s=call_timeout_s) as now, now.caller(era) as caller:
        with tasks_of_calls() as tasks:
            error = (await caller.asked(caller.call())).messages[0]["error"]
        assert (error["code"], error["data"]["timed_out"]) == (OUTCOME_UNKNOWN, True)
        assert len(tasks) == 1
        await now.is_over()


@of_all_ways
async def test_a_node_that_stops_answers_what_is_out(
    era: str, hops: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with held_scene(tmp_path, caplog, hops=hops) as now, now.caller(era) as caller:
        call = await gone_out(now, caller)
        stopping = asyncio.create_task(now.node.runner.cleanup())
        await eventually(lambda: _is(now.waits() > 0))
        call.answer()
        assert (await caller.got()).messages[0]["result"]
        assert await caller.ended()
        await stopping
        await now.is_over()


@of_both_eras
async def test_a_drain_that_is_over_cuts_off_what_is_out(
    era: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with held_scene(tmp_path, caplog) as now, now.caller(era) as caller:
        call = await gone_out(now, caller)
        now.node.endpoints[0].sessions.cut_off()
        if era == STATELESS:
            call.answer()
            assert (await caller.got()).messages[0]["result"]
        else:
            await server_is_told(call)
            error = (await caller.got()).messages[0]["error"]
            assert "stopped before its server had answered" in error["message"]
        await now.is_over()


@of_both_eras
@pytest.mark.parametrize("what", ["reload", "retire"])
async def test_a_link_that_is_closed_ends_its_call_or_waits_for_it(
    what: str, era: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with held_scene(tmp_path, caplog) as now, now.caller(era) as caller:
        call = await gone_out(now, caller)
        (link,) = now.node.supervisor.links()
        if what == "reload":
            link.reload()
            error = (await caller.got()).messages[0]["error"]
            assert error["code"] == OUTCOME_UNKNOWN
            await server_is_told(call)
        else:
            assert link.retire()
            call.answer()
            assert (await caller.got()).messages[0]["result"] is not None
        await now.is_over()
        assert len(now.server.calls) == 1


@of_both_eras
async def test_a_node_that_leaves_the_catalog_still_answers_what_is_out(
    era: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with held_scene(tmp_path, caplog, hops=2) as now, now.caller(era) as caller:
        call = await gone_out(now, caller)
        now.node.mesh.take_catalog(catalog())
        await now.node.when(lambda: not now.node.tool_names() or "kit__write" not in now.node.mesh.routes.tools)
        call.answer()
        assert (await caller.got()).messages[0]["result"]
        await now.is_over()
        assert len(now.server.calls) == 1


async def test_what_a_client_that_has_gone_had_sent_ahead_is_not_executed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with held_scene(tmp_path, caplog) as now, now.caller(STATELESS) as caller:
        call = await gone_out(now, caller, caller.call(1) + caller.call(2))
        caller.close()
        await server_is_told(call)
        await now.is_over()
        assert [line["request_id"] for line in now.lines()] == [1]
        assert len(now.server.calls) == 1


async def test_a_client_that_reads_nothing_gets_its_answers_when_it_reads(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with held_scene(tmp_path, caplog) as now, now.caller(STATELESS) as caller:
        caller.writer.transport.pause_reading()  # type: ignore[attr-defined]  # sockets can
        text = "x" * 3_000_000
        call = await gone_out(now, caller)
        caller.send(caller.call(8))
        call.answer(call.done({"content": [{"type": "text", "text": text}]}))
        second = asyncio.ensure_future(now.server.next(2))
        caller.writer.transport.resume_reading()  # type: ignore[attr-defined]  # sockets can
        assert (await caller.got()).messages[0]["result"]["content"][0]["text"] == text
        (await second).answer()
        assert (await caller.got()).messages[0]["result"]["content"] == DONE["content"]
        await now.is_over()
