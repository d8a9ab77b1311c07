"""IDs that one caller got, of sessions, tasks, states of calls and affinity: no other can use them."""

import pytest

from agent.authority.grant import BY_SHORT_FORM, Grant, Scope
from agent.dispatch.call import Forwarded
from agent.dispatch.request_state import RequestStates, StateRefused
from agent.errors import MCPError
from agent.model import AFFINITY_META_KEY
from agent.routing.table import Replica, Route, RouteKind
from agent.server.forward import with_own_affinity
from agent.server.sessions.sealed_id import Agreed, SessionSeal
from agent.server.task_seal import TaskSeal
from tests.callers import served

MCP = frozenset({Scope.MCP})
ONE, OTHER, ANEW = Grant("one", MCP), Grant("other", MCP), Grant("one", MCP, made="again")
KEYS = (b"k" * 32, b"old" * 10)
REPLICA = Replica("server:a", "b", "node", ours=True)
ROUTE = Route(RouteKind.TOOL, "a__b", {}, "", (REPLICA,), listed=True, owner="service:a")


def test_a_sealed_session_is_adopted_for_its_own_binding_alone() -> None:
    seal = SessionSeal("/mcp", lambda: KEYS)
    for binding in ("", ONE.binding):
        session_id = seal.seal(Agreed("2025-11-25", b"{}"), 1_000.0, binding)
        opened = {b: seal.open(session_id, 1_001.0, b) for b in ("", ONE.binding, OTHER.binding, ANEW.binding)}
        assert [b for b, agreed in opened.items() if agreed is not None] == [binding]


def test_a_task_is_opened_by_its_caller_with_any_valid_key_and_by_no_other() -> None:
    seal = TaskSeal(lambda: KEYS)
    with served(ONE):
        shown = seal.shown("mesh1/server/n/s/7~x")
        assert seal.opened(shown) == "mesh1/server/n/s/7~x"
        assert TaskSeal(lambda: (b"new", KEYS[0])).opened(shown) == "mesh1/server/n/s/7~x"
    for grant in (OTHER, ANEW):
        with served(grant):
            for guess in (shown, "mesh1/server/n/s/7~x", "mesh1/server/n/s/7", "~", "", "\ud800~\ud800"):
                with pytest.raises(MCPError, match="not handed out"):
                    seal.opened(guess)
    with served(BY_SHORT_FORM):
        assert seal.shown("mesh1/server/n/s/7") == "mesh1/server/n/s/7"


def test_results_that_are_no_tasks_stay_the_very_same() -> None:
    seal = TaskSeal(lambda: KEYS)
    plain, task = Forwarded({"content": []}, REPLICA), Forwarded({"resultType": "task", "taskId": "t"}, REPLICA)
    with served(ONE):
        assert seal.with_shown(plain) is plain
        assert seal.with_shown(task).result["taskId"].startswith("t~")
    with served(BY_SHORT_FORM):
        assert seal.with_shown(task) is task


def test_a_state_that_one_caller_was_given_is_refused_from_another() -> None:
    states = RequestStates(b"k" * 32)
    with served(ONE):
        asked = states.wrapped("tools/call", ROUTE, REPLICA, {"resultType": "input_required", "requestState": "s"}, 0.0)
        params = {"name": "a__b", "requestState": asked["requestState"]}
        assert states.unwrapped("tools/call", ROUTE, params, 1.0)[1]["requestState"] == "s"
    for grant in (OTHER, ANEW, BY_SHORT_FORM):
        with served(grant), pytest.raises(StateRefused):
            states.unwrapped("tools/call", ROUTE, params, 1.0)


def test_equal_keys_of_affinity_of_two_callers_are_two_keys_and_none_is_a_sessions() -> None:
    params = {"name": "a__b", "_meta": {AFFINITY_META_KEY: "session:guessed", "other": 1}}
    keys = set()
    for grant in (ONE, OTHER, ANEW):
        with served(grant):
            meta = with_own_affinity(params)["_meta"]
            assert meta["other"] == 1
            keys.add(meta[AFFINITY_META_KEY])
            assert with_own_affinity(params)["_meta"] == meta
    assert len(keys) == 3
    assert not any(key.startswith("session:") for key in keys)
    for node in (BY_SHORT_FORM, Grant("gateway", MCP | {Scope.PEER})):
        with served(node):
            assert with_own_affinity(params) is params
