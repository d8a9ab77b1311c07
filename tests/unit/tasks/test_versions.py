"""Which calls are made as tasks of 2025-11-25, and the words of a task in both eras."""

from typing import Any

import pytest

from agent.errors import RpcError
from agent.mcp_terms import LATEST_HANDSHAKE_VERSION, LATEST_MODERN_VERSION
from agent.model import TASKS_EXTENSION, HttpTarget, Json, LinkView, NodeIdentity, ServerScope, ServerSpec
from agent.routing.table import Route, RouteKind
from agent.tasks.versions import as_legacy, as_modern, task_support, with_related_task, with_task, without_related_task

DECLARED: Json = {"io.modelcontextprotocol/clientCapabilities": {"extensions": {TASKS_EXTENSION: {}}}}
SPEC = ServerSpec("jobs", HttpTarget("http://jobs/mcp"), ServerScope.SERVICE)
WISH: Json = {"ttl": 5}


def sent(support: str | None, view: LinkView, **params: Any) -> Json:
    definition: Json = {"name": "job"} if support is None else {"name": "job", "execution": {"taskSupport": support}}
    return with_task("tools/call", to(definition), {"name": "job", **params}, view)


def to(definition: Json) -> Route:
    return Route(RouteKind.TOOL, "jobs__job", definition, "", (), listed=True, owner="x")


def behind(version: str, *, has_tasks: bool = True, identity: NodeIdentity | None = None) -> LinkView:
    return LinkView(SPEC, protocol_version=version, has_tasks=has_tasks, identity=identity)


@pytest.mark.parametrize(
    ("support", "params", "task"),
    [
        ("required", {"_meta": DECLARED}, {}),
        ("required", {"_meta": DECLARED, "task": WISH}, WISH),
        ("required", {"_meta": DECLARED, "task": "soon"}, {}),
        ("optional", {"_meta": DECLARED}, None),
        ("optional", {"_meta": DECLARED, "task": WISH}, WISH),
        ("optional", {"_meta": DECLARED, "task": None}, None),
        ("optional", {"task": WISH}, None),
        ("forbidden", {"_meta": DECLARED, "task": WISH}, None),
        (None, {"_meta": DECLARED, "task": WISH}, None),
    ],
)
def test_a_server_with_sessions_is_asked_for_a_task_where_it_has_to_or_its_client_wants_one(
    support: str | None, params: Json, task: Json | None
) -> None:
    got = sent(support, behind(LATEST_HANDSHAKE_VERSION), **params)
    assert got.get("task") == task
    assert ("task" in got) is (task is not None)
    assert {name: value for name, value in got.items() if name != "task"} == {
        "name": "job",
        **{name: value for name, value in params.items() if name != "task"},
    }


def test_what_needs_a_task_is_refused_where_it_is_not_made_or_not_taken() -> None:
    with pytest.raises(RpcError) as refused:
        sent("required", behind(LATEST_HANDSHAKE_VERSION))
    assert refused.value.code == -32021
    with pytest.raises(RpcError) as refused:
        sent("required", behind(LATEST_HANDSHAKE_VERSION, has_tasks=False), _meta=DECLARED)
    assert refused.value.code == -32601


def test_another_node_gets_the_wanted_task_as_it_is_and_a_stateless_server_hears_nothing_of_it() -> None:
    node = behind(LATEST_MODERN_VERSION, identity=NodeIdentity("id", "east"))
    params: Json = {"name": "job", "task": WISH}
    assert with_task("tools/call", to({"execution": {"taskSupport": "required"}}), params, node) is params
    assert with_task("prompts/get", to({}), params, behind(LATEST_HANDSHAKE_VERSION)) is params
    assert sent("required", behind(LATEST_MODERN_VERSION), task=WISH) == {"name": "job"}


@pytest.mark.parametrize("definition", [{}, {"execution": 1}, {"execution": {}}, {"execution": {"taskSupport": 1}}])
def test_a_tool_that_says_nothing_usable_says_nothing(definition: Json) -> None:
    assert task_support(definition) is None


def test_a_task_there_and_back_is_the_same() -> None:
    before = {"taskId": "1", "status": "working", "ttl": 7, "pollInterval": 8, "createdAt": "then", "x": 1}
    now = {"taskId": "1", "status": "working", "ttlMs": 7, "pollIntervalMs": 8, "createdAt": "then", "x": 1}
    assert as_modern(before) == now
    assert as_legacy(now) == before
    assert as_modern({"taskId": "1"})["ttlMs"] is None
    assert as_legacy({"taskId": "1"})["ttl"] is None


def test_each_era_has_a_term_for_a_tool_that_failed_and_for_a_question() -> None:
    failed = {"taskId": "1", "status": "completed", "resultType": "complete", "result": {"isError": True}}
    assert as_legacy(failed) == {"taskId": "1", "status": "failed", "ttl": None}
    assert as_modern({"status": "input_required"})["status"] == "working"
    assert as_legacy({"status": "input_required", "inputRequests": {}}) == {"status": "input_required", "ttl": None}


def test_a_result_says_to_which_task_it_belongs_or_does_not() -> None:
    assert without_related_task(with_related_task({"a": 1}, "7")) == {"a": 1}
    assert without_related_task(with_related_task({"a": 1, "_meta": {"x": 1}}, "7")) == {"a": 1, "_meta": {"x": 1}}
    plain: Json = {"_meta": {"x": 1}}
    assert without_related_task(plain) is plain
    assert with_related_task({"_meta": 5}, "7") == with_related_task({}, "7")
