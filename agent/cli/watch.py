"""`--watch`: a list again and again, in the place of the one before on a terminal, one after the other elsewhere.

Used by `agent.cli.parser` for any command that lists. The one rule: a failure ends it, with the reason and exit code of
the command itself.
"""

import io
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import redirect_stdout

_CLEAR = "\x1b[H\x1b[2J\x1b[3J"


class _Screen(io.StringIO):
    """Holds what a command prints until there is all of it, so that nothing flickers."""

    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        """Whether it is for a terminal, whose width and colours the command asks for."""
        return self._is_terminal


def watched(command: Callable[[Namespace], int], args: Namespace) -> int:
    """Run the command every `args.watch` seconds until it fails. Raises what it raises."""
    out, is_terminal = sys.stdout, sys.stdout.isatty()
    while True:
        screen = _Screen(is_terminal=is_terminal)
        with redirect_stdout(screen):
            code = int(command(args))
        out.write((_CLEAR if is_terminal else "") + screen.getvalue())
        out.flush()
        if code:
            return code
        time.sleep(args.watch)
