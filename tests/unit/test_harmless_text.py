"""Untrusted text: nothing that comes out can move a cursor, change a colour, hide, turn around or start a line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.harmless_text import many_lines, one_line

CORPUS = {
    "plain": ("pay — 支付 ✓", "pay — 支付 ✓"),
    "colour": ("\x1b[1;31mred\x1b[0m", "red"),
    "one byte control sequence": ("\x9b2Jx", "x"),
    "title by BEL": ("\x1b]0;owned\x07x", "x"),
    "title by ST": ("\x1b]0;owned\x1b\\x", "x"),
    "unfinished title": ("x\x1b]0;owned", "x"),
    "lone escape": ("a\x1b", "a"),
    "charset switch": ("\x1b(0abc", "abc"),
    "backspaces": ("safe\b\b\b\bevil", "safeevil"),
    "line breaks": ("a\r\nb\u2028c\x85d\te", "a b c d e"),
    "override": ("user\u202etxt.exe", "usertxt.exe"),
    "isolates": ("\u2066a\u2069", "a"),
    "zero width": ("p\u200bay\ufeff", "pay"),
    "tags": ("x\U000e0001\U000e0041", "x"),
    "surrogate": ("x\udcffy", "xy"),
    "nul": ("a\0b", "ab"),
}


@pytest.mark.parametrize(("text", "wanted"), CORPUS.values(), ids=CORPUS.keys())
def test_hostile_text_becomes_one_harmless_line(text: str, wanted: str) -> None:
    assert one_line(text) == wanted


@given(st.text(), st.integers(1, 50))
def test_any_text_becomes_one_short_line_that_can_be_encoded(text: str, chars_max: int) -> None:
    shown = one_line(text, chars_max)
    assert len(shown) <= chars_max
    assert len(shown.splitlines()) <= 1
    assert "\x1b" not in shown
    shown.encode()


@given(st.text())
def test_any_text_keeps_at_most_its_lines(text: str) -> None:
    shown = many_lines(text)
    assert shown.count("\n") <= len(text.splitlines())
    assert not set(shown) & set("\x1b\r\x85\u2028\u202e")
    shown.encode()


def test_long_text_is_cut_with_a_mark() -> None:
    assert one_line("x" * 100, 10) == "x" * 9 + "…"
    assert one_line("\u200b" * 1000 + "x", 10).endswith("…")
    assert many_lines("x" * 200_000).endswith("x…")
