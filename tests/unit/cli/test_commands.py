"""The tree of commands: each one can be called, and stands on the page about the command line."""

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cli.argument_parser import Parser
from agent.cli.commands import build_parser

PAGE = Path(__file__).parents[3] / "docs/cli.md"
HIDDEN = "complete"  # Shells call it.


def commands(parser: Parser, before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """The words of each command, and the function that it is."""
    parser.complete()
    below = [action.choices for action in parser._actions if isinstance(action.choices, dict) and not action.type]
    groups = [choices for choices in below if all(isinstance(one, Parser) for one in choices.values())]
    if not groups:
        yield before, parser.get_default("command")
    for choices in groups:
        for name, one in choices.items():
            yield from commands(one, (*before, name))


COMMANDS = {words: command for words, command in commands(build_parser()) if words != (HIDDEN,)}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_each_command_is_a_function_that_is_there(words: tuple[str, ...]) -> None:
    module, _, name = COMMANDS[words].partition(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_each_command_stands_on_the_page_about_the_command_line() -> None:
    page = PAGE.read_text("utf-8")
    aliases = {"list", "remove"}
    missing = [
        " ".join(words) for words in COMMANDS if words[-1] not in aliases and not all(one in page for one in words)
    ]
    assert missing == []
