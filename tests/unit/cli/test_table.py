"""Lists on a terminal and off it: columns, width, colours and names."""

import os
import sys
from typing import Any

import pytest

from agent.cli.table import fitted, print_list, print_table

HEADS = ["NAME", "STATE", "LAST ERROR"]
ROWS = [["node-with-a-name", "ready", None], ["b", "parked", "it refuses the connection " * 9]]


def on_terminal(monkeypatch: pytest.MonkeyPatch, **environ: str) -> None:
    """Have stdout be a terminal of 60 columns."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(os, "environ", {"COLUMNS": "60", "LINES": "20", "TERM": "xterm", **environ})


def test_table_is_aligned_leaves_empty_columns_out_and_strips_hostile_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["NAME", "EMPTY", "UP"], [["a\x1b[31m\nb", None, True], ["long-name", "", False]])
    assert capsys.readouterr().out == "NAME       UP\na b        yes\nlong-name  no\n"


def test_table_on_a_terminal_fits_its_width_and_keeps_the_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_terminal(monkeypatch, NO_COLOR="1")
    print_table(HEADS, ROWS)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) == 60
    assert lines[2].endswith("…")
    print_table(HEADS, ROWS, is_wide=True)
    assert "connection it refuses" in capsys.readouterr().out.splitlines()[2][60:]
    print_table(["NAME", "X"], [["n" * 128, "x"]])
    assert "n" * 128 in capsys.readouterr().out, "a name is what the next command is given"


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_states_are_coloured_on_a_terminal_unless_that_is_not_wanted(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_terminal(monkeypatch)
    print_table(HEADS, ROWS)
    out = capsys.readouterr().out
    assert "\x1b[32mready " in out
    assert "\x1b[31mparked" in out
    on_terminal(monkeypatch, **{name: value})
    print_table(HEADS, ROWS)
    assert "\x1b" not in capsys.readouterr().out


def test_list_in_a_pipe_has_no_colours_and_as_names_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    print_list("table", HEADS, ROWS, empty="none")
    assert "\x1b" not in capsys.readouterr().out
    print_list("name", HEADS, ROWS, empty="none")
    assert capsys.readouterr().out == "node-with-a-name\nb\n"
    print_list("name", HEADS, [], empty="none")
    print_list("table", HEADS, [], empty="none")
    assert capsys.readouterr().out == "none\n"


def test_characters_that_take_two_columns_keep_the_next_column_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["TITLE", "X"], [["時鐘", "1"], ["abcd", "2"]])
    assert capsys.readouterr().out.splitlines() == ["TITLE  X", "時鐘   1", "abcd   2"]


@pytest.mark.parametrize(
    ("widths", "columns", "expected"),
    [([4, 50, 30], 60, [4, 26, 26]), ([4, 5], 3, [4, 5]), ([200, 20], 60, [200, 12]), ([3], 1, [3]), ([], 9, [])],
)
def test_widest_columns_give_way_and_the_first_never_does(widths: list[int], columns: int, expected: Any) -> None:
    assert fitted(widths, columns) == expected
