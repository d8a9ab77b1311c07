"""The conformance tests' own tools: renaming, comparing, and what is locked. None of these needs Node."""

import json
from pathlib import Path

import pytest

from tests.conformance.names import PublicNames
from tests.conformance.node_tools import HERE, LOCK_FILES
from tests.conformance.renaming import SPOILED, renamed_answer, renamed_header, renamed_request
from tests.conformance.runs import scenario_of
from tests.conformance.verdicts import (
    BY_THE_CLOCK,
    STREAMS_ALONE,
    Report,
    failing_alone,
    failing_behind,
    may_be_late,
    no_longer_failing,
    report_of,
    unexpected,
    with_another_run,
)

NAMES = PublicNames("fixture")


def asked(method: str, **params: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


@pytest.mark.parametrize(
    ("own", "public"),
    [
        (asked("tools/call", name="add"), asked("tools/call", name="fixture__add")),
        (asked("prompts/get", name="add"), asked("prompts/get", name="fixture__add")),
        (asked("resources/read", uri="test://a/b"), asked("resources/read", uri="test://fixture/a/b")),
        (
            asked("completion/complete", ref={"type": "ref/prompt", "name": "add"}),
            asked("completion/complete", ref={"type": "ref/prompt", "name": "fixture__add"}),
        ),
        (
            asked("subscriptions/listen", notifications={"resourceSubscriptions": ["test://a"]}),
            asked("subscriptions/listen", notifications={"resourceSubscriptions": ["test://fixture/a"]}),
        ),
        (asked("initialize", name="add"), asked("initialize", name="add")),
        (asked("tools/call", name=7), asked("tools/call", name=7)),
    ],
)
def test_a_request_is_renamed_where_it_names_something(own: object, public: object) -> None:
    assert renamed_request(NAMES, own) == public
    assert renamed_request(PublicNames(""), own) == own


@pytest.mark.parametrize(
    ("method", "own", "public"),
    [
        ("tools/call", "add", "fixture__add"),
        ("tools/call", "  add ", "  fixture__add "),
        ("tools/call", "=?base64?YWRk?=", "=?base64?Zml4dHVyZV9fYWRk?="),
        ("tools/call", "=?base64?not base64?=", "=?base64?not base64?="),
        ("resources/read", "test://a", "test://fixture/a"),
        ("tasks/get", "a-task", "a-task"),
        (None, "add", "add"),
    ],
)
def test_the_header_is_renamed_with_the_body(method: str | None, own: str, public: str) -> None:
    assert renamed_header(NAMES, method, own) == public


def test_a_list_shows_the_fixtures_entries_alone_under_their_own_names() -> None:
    answer = {"id": 1, "result": {"tools": [{"name": "fixture__add", "x": 1}, {"name": "list_mcp_servers"}]}}
    assert renamed_answer(NAMES, "tools/list", answer) == {"id": 1, "result": {"tools": [{"name": "add", "x": 1}]}}


def test_a_backends_own_name_in_an_answer_is_spoiled() -> None:
    read = {"id": 1, "result": {"contents": [{"uri": "test://fixture/a"}, {"uri": "test://a"}]}}
    contents = renamed_answer(NAMES, "resources/read", read)["result"]["contents"]
    assert contents == [{"uri": "test://a"}, {"uri": f"{SPOILED}test://a"}]
    error = {"id": 1, "error": {"code": -32602, "message": "no", "data": {"uri": "test://a"}}}
    assert renamed_answer(NAMES, "resources/read", error)["error"]["data"]["uri"] == f"{SPOILED}test://a"


def test_a_check_counts_as_its_worst_occurrence() -> None:
    checks = [{"id": "a", "status": status, "errorMessage": status} for status in ("SUCCESS", "FAILURE", "WARNING")]
    report = report_of({"s": checks})
    assert report.statuses == {"s:a": "FAILURE"}
    assert failing_alone(report) == {"s:a": "FAILURE"}


@pytest.mark.parametrize(
    ("direct", "behind", "worse"),
    [
        ("SUCCESS", "SUCCESS", False),
        ("SUCCESS", "SKIPPED", True),
        ("SUCCESS", None, True),
        ("SUCCESS", "WARNING", True),
        ("SUCCESS", "FAILURE", True),
        ("WARNING", "WARNING", False),
        ("WARNING", "FAILURE", True),
        ("WARNING", "SUCCESS", False),
        ("SUCCESS", "INFO", True),
        ("INFO", None, False),
        ("INFO", "WARNING", True),
        ("SKIPPED", "INFO", False),
        ("SKIPPED", "FAILURE", True),
        ("FAILURE", None, False),
        (None, "SUCCESS", False),
        (None, "FAILURE", True),
    ],
)
def test_a_hop_is_held_to_the_direct_run(direct: str | None, behind: str | None, worse: bool) -> None:
    def report(status: str | None) -> Report:
        return Report() if status is None else Report({"s:a": status}, {"s:a": ""})

    assert bool(failing_behind(report(direct), report(behind))) is worse


def test_a_stream_that_a_server_may_do_without_may_be_missing_but_not_broken() -> None:
    (name,) = STREAMS_ALONE
    for behind, worse in {"SUCCESS": False, "INFO": False, "WARNING": True}.items():
        found = failing_behind(Report({name: "SUCCESS"}, {name: ""}), Report({name: behind}, {name: ""}))
        assert bool(found) is worse


def test_an_expectation_names_a_check_or_a_whole_scenario() -> None:
    failing = {"s:a": "", "s:b": "", "t:a": ""}
    assert unexpected(failing, {"s": "known", "t:a": "known"}) == {}
    assert unexpected(failing, {"s:a": "known", "t:b": "known"}) == {"s:b": "", "t:a": ""}
    assert no_longer_failing(failing, {"s": "known", "t:a": "known"}) == set()
    assert no_longer_failing(failing, {"s:c": "known", "u": "known", "t:a": "known"}) == {"s:c", "u"}


def test_another_run_counts_for_what_the_suite_judges_by_its_clock_and_for_nothing_else() -> None:
    name = next(iter(BY_THE_CLOCK))
    late = Report({name: "WARNING", "s:a": "FAILURE"}, {name: "nothing arrived", "s:a": "broken"})
    assert may_be_late(late) == {"server-stateless"}
    again = with_another_run(late, Report({name: "SUCCESS", "s:a": "SUCCESS"}, {name: "", "s:a": ""}))
    assert failing_alone(again) == {"s:a": "broken"}
    assert may_be_late(again) == set()
    assert with_another_run(late, Report()).statuses == late.statuses


def test_a_result_folder_names_its_scenario() -> None:
    folder = Path("results/server-sep-2164-resource-not-found-2026-11-22T13-10-58-268Z")
    assert scenario_of(folder / "checks.json") == "sep-2164-resource-not-found"


def test_the_lock_has_an_integrity_of_everything_and_an_address_of_nothing() -> None:
    packages = json.loads((HERE / "package-lock.json").read_text("utf-8"))["packages"]
    installed = {path: entry for path, entry in packages.items() if path}
    assert len(installed) > 100
    assert [path for path, entry in installed.items() if not entry.get("integrity", "").startswith("sha512-")] == []
    assert [path for path, entry in installed.items() if "resolved" in entry] == []
    texts = {name: (HERE / name).read_text("utf-8") for name in LOCK_FILES}
    assert [name for name, text in texts.items() if "://" in text] == []


def test_node_is_pinned_by_hash() -> None:
    lines = (HERE / "requirements.txt").read_text("utf-8").splitlines()
    pinned = [line for line in lines if "==" in line]
    assert len(pinned) == 1
    assert sum("--hash=sha256:" in line for line in lines) > 3
