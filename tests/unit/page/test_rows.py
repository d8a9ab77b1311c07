"""What the page shows of a link, and the sentences that follow from two looks."""

from typing import Any

import pytest

from agent.model import HttpTarget, Json, LinkState, LinkView, PeerSource, PeerSpec, ServerScope, ServerSpec
from agent.page.rows import link_events, link_row, note_events

STANDING: Json = {"state": "ready", "connected": True, "last_error": "", "functions": 3, "maintenance": ""}
UP: Json = {"kind": "peer", "name": "b", **STANDING}


def view(**changes: Any) -> LinkView:
    spec = PeerSpec("b", HttpTarget("http://127.0.0.1:8001/mcp", token="secret-of-the-link"), PeerSource.OVERRIDE)
    return LinkView(spec, **{"state": LinkState.BACKOFF, "next_attempt_at_s": 12.0, "last_error": "no", **changes})


def test_moments_are_since_the_epoch_so_that_a_row_stays_equal_as_time_goes_on() -> None:
    assert link_row(view(), [], 1000.0)["next_at"] == 1012.0
    assert link_row(view(next_attempt_at_s=None), [], 1000.0)["next_at"] is None


def test_no_row_has_the_token_of_its_link() -> None:
    assert "secret" not in repr(link_row(view(), ["notes"], 0.0))


def test_a_server_of_the_file_is_no_peer() -> None:
    spec = ServerSpec("notes", HttpTarget("http://127.0.0.1:1/mcp"), ServerScope.SERVICE)
    row = link_row(LinkView(spec), [], 0.0)
    assert (row["kind"], row["source"], row["scope"]) == ("server", "file", "service")
    assert link_row(view(), [], 0.0)["kind"] == "peer"


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (None, UP, ["peer b is new: ready"]),
        (UP, None, ["peer b is gone"]),
        (UP, UP, []),
        (UP, UP | {"connected": False, "last_error": "reset"}, ["peer b was lost: reset"]),
        (UP | {"connected": False}, UP, ["peer b is connected"]),
        (UP, UP | {"functions": 4}, ["peer b has 4 tools, 3 before"]),
        (UP, UP | {"maintenance": "disk"}, ["peer b is in maintenance: disk"]),
        (UP | {"maintenance": "disk"}, UP, ["peer b is out of maintenance"]),
        (
            UP | {"connected": False, "last_error": "x"},
            UP | {"connected": False, "last_error": "y"},
            ["peer b cannot be reached: y"],
        ),
    ],
)
def test_two_looks_tell_what_happened_between_them(before: Json | None, after: Json | None, told: list[str]) -> None:
    assert link_events(before, after) == told


def test_only_notes_that_are_new_are_events() -> None:
    old = {"name": "a", "kind": "x", "detail": "known"}
    new = {"name": "b", "kind": "x", "detail": "fresh"}
    assert note_events({"findings": [old]}, {"findings": [old, new]}) == ["finding: b: fresh"]
    assert note_events({"findings": [old]}, {"findings": []}) == []
    clash = {"name": "pay", "holder": "a", "others": ["b"], "reason": "duplicate"}
    out = {"backend": "peer:b", "kind": "tool", "name": "t", "why": "no object"}
    assert note_events({}, {"conflicts": [clash], "left_out": [out]}) == [
        "conflict over pay: duplicate",
        "peer:b: tool t is left out: no object",
    ]
