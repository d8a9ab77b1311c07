"""What a server's offer means to the pins of a node."""

from typing import Any

import pytest

from agent.model import Offer
from agent.pins.book import FIRST_SIGHT, Key, Pin, judge
from agent.pins.definition import canonical
from agent.routing.table import RouteKind

SAVE = {"name": "save", "description": "Saves."}
KEY = Key("kit", RouteKind.TOOL, "save")
PINS = {KEY: Pin(canonical(RouteKind.TOOL, SAVE), "2026-11-29T07:00:00Z", FIRST_SIGHT)}


def test_what_is_as_it_was_pinned_is_neither_new_nor_changed() -> None:
    judgement = judge(PINS, "kit", Offer(tools=(dict(SAVE),)))
    assert (judgement.new, judgement.changed, judgement.unpinned) == ({}, {}, {})


def test_a_tool_of_another_server_or_kind_of_that_name_is_new() -> None:
    assert list(judge(PINS, "box", Offer(tools=(SAVE,))).new) == [Key("box", RouteKind.TOOL, "save")]
    assert list(judge(PINS, "kit", Offer(prompts=(SAVE,))).new) == [Key("kit", RouteKind.PROMPT, "save")]


def test_a_changed_definition_is_named_in_its_present_form_and_the_first_of_one_name_counts() -> None:
    changed = {**SAVE, "description": "Saves it all."}
    judgement = judge(PINS, "kit", Offer(tools=(changed, SAVE)))
    assert judgement.changed == {KEY: canonical(RouteKind.TOOL, changed)}
    assert judge(PINS, "kit", Offer(tools=(SAVE, changed))).changed == {}


def test_what_is_no_object_or_has_no_name_is_passed_over() -> None:
    hostile: Any = ("save", {"description": "?"}, {"name": 1})
    judgement = judge({}, "kit", Offer(tools=hostile))
    assert (judgement.new, judgement.unpinned) == ({}, {})


def test_what_cannot_be_pinned_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    deep: object = {}
    for _ in range(100):
        deep = {"properties": deep}
    judgement = judge(PINS, "kit", Offer(tools=({**SAVE, "inputSchema": deep},)))
    assert judgement.unpinned[KEY].startswith("no canonical JSON: ")
    monkeypatch.setattr("agent.pins.book.PINS_MAX", 2)
    judgement = judge(PINS, "kit", Offer(tools=({"name": "one"}, {"name": "two"})))
    assert [key.name for key in judgement.new] == ["one"]
    assert judgement.unpinned == {Key("kit", RouteKind.TOOL, "two"): "more than 2 pins"}
