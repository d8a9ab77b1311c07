"""Signals that come before a node has set its own handlers (`agent.app.drain`), while it is only being imported.

Called by both entry points, before anything else is imported. The one rule: what means nothing to a node, or only that
its files are to be read, does not end one that has not read them yet.
"""

import signal
import sys
from collections.abc import Sequence
from types import FrameType


def outlive_harmless_ones(arguments: Sequence[str]) -> None:
    """Let SIGUSR1, SIGUSR2 and a SIGHUP that is no closed terminal's mean nothing, where a node is started."""
    if arguments[:1] != ["run"]:
        return
    harmless = [signal.SIGUSR1, signal.SIGUSR2]
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL and not _is_of_terminal():
        harmless.append(signal.SIGHUP)
    for one in harmless:
        signal.signal(one, _nothing)  # Not ignored, which children would inherit.


def _is_of_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """For a signal without a meaning."""
