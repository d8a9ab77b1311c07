"""What refusals say of the session that a request was sent in, and what a ping in the same session adds."""

import pytest

from agent.client.http.forgetting import Doubts, Refused, Standing
from agent.errors import RpcError


def refused(status: int, code: int | None = None, said: str = "") -> Refused:
    return Refused(status, None if code is None else RpcError(code, said), said)


@pytest.mark.parametrize(
    "refusal",
    [
        refused(404),
        refused(404, -32600, "Session not found"),
        refused(404, -32602, "Bad session"),
        refused(404, -32603, "unknown"),
        refused(410),
        refused(400, None, "No valid session ID"),
        refused(400, -32000, "Bad Request: Server not initialized"),
        refused(422, None, "Unknown session"),
        refused(401, None, "Session not found"),
        refused(403, None, "Session expired"),
    ],
)
def test_a_clear_refusal_means_that_the_session_is_forgotten(refusal: Refused) -> None:
    assert refusal.standing is Standing.FORGOTTEN
    assert refusal.is_unexecuted


@pytest.mark.parametrize(
    "refusal",
    [
        refused(400),
        refused(400, -32000, "Bad Request"),
        refused(400, -32602, "No browser session is open"),
        refused(404, -32602, "unknown"),
        refused(410, -32602, "unknown"),
        refused(422),
        refused(200, -32600, "Session not found"),
        refused(200, -32001, "Session not found"),
        refused(500, None, "session does not exist"),
    ],
)
def test_a_doubtful_refusal_is_confirmed_by_a_ping_that_is_refused_alike(refusal: Refused) -> None:
    assert refusal.standing is Standing.DOUBTFUL
    assert refusal.confirmed_by(refusal)
    assert not refusal.confirmed_by(None)
    assert not refusal.confirmed_by(refused(refusal.status, -32601, "Method not found"))


@pytest.mark.parametrize(
    "refusal",
    [
        refused(404, -32601, "Method not found"),
        refused(400, -32601, "Method not found"),
        refused(401, None, "the token is wrong"),
        refused(403),
        refused(200, -32602, "the session is read-only"),
        refused(200, -32000, "no such file"),
        refused(500, None, "out of memory"),
        refused(503, None, "session store is away"),
    ],
)
def test_other_refusals_say_nothing_of_the_session(refusal: Refused) -> None:
    assert refusal.standing is Standing.KNOWN
    assert not refusal.is_unexecuted


def test_a_ping_refused_otherwise_confirms_no_answer_that_may_have_been_executed() -> None:
    assert refused(400, -32602, "no such tool").confirmed_by(refused(404))
    assert not refused(200, -32600, "Session not found").confirmed_by(refused(404))
    assert not refused(500, None, "session does not exist").confirmed_by(refused(500))


def test_only_a_server_without_an_error_of_its_own_is_taken_at_its_status_twice() -> None:
    assert refused(400).is_unexecuted
    assert refused(200, -32600, "Session not found").is_unexecuted
    assert not refused(400, -32602, "no such tool").is_unexecuted
    assert not refused(500, None, "session does not exist").is_unexecuted


def test_doubts_are_settled_by_status_and_for_a_time() -> None:
    doubts = Doubts()
    assert not doubts.are_settled(400, 1.0)
    doubts.settle(400, 11.0)
    assert doubts.are_settled(400, 10.9)
    assert not doubts.are_settled(400, 11.0)
    assert not doubts.are_settled(422, 1.0)
