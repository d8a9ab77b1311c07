"""`--watch` without a node: what is printed in each round, and how it ends."""

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator

import pytest

from agent.cli.output import CliFailed, Exit
from agent.cli.watch import watched

ARGS = Namespace(watch=0.001)


def rounds(*codes: int | CliFailed) -> Callable[[Namespace], int]:
    """A command that ends with these, one after the other."""
    each: Iterator[tuple[int, int | CliFailed]] = enumerate(codes)

    def command(_args: Namespace) -> int:
        number, code = next(each)
        sys.stdout.write(f"round {number}, on a terminal: {sys.stdout.isatty()}\n")
        if isinstance(code, CliFailed):
            raise code
        return code

    return command


def test_watched_list_is_printed_again_until_it_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert watched(rounds(0, 0, Exit.TOOL), ARGS) == Exit.TOOL
    assert capsys.readouterr().out.splitlines() == [f"round {number}, on a terminal: False" for number in range(3)]
    with pytest.raises(CliFailed, match="gone"):
        watched(rounds(0, CliFailed(Exit.UNREACHABLE, "gone")), ARGS)
    assert capsys.readouterr().out == "round 0, on a terminal: False\n"


def test_watched_list_on_a_terminal_takes_the_place_of_the_one_before(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert watched(rounds(0, 1), ARGS) == 1
    first, second = capsys.readouterr().out.split("\x1b[H\x1b[2J\x1b[3J")[1:]
    assert (first, second) == ("round 0, on a terminal: True\n", "round 1, on a terminal: True\n")
