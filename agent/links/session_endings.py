"""What ends the life of an open door, and which of several endings at once counts.

Used by `session`, whose tasks raise them, and by `link`, which turns them into state.
"""

import logging

from agent.errors import CallFailed, MeshError, ProtocolBroken, Unreachable

log = logging.getLogger(__name__)


class Retired(Exception):
    """The link is no longer wanted, and what was in flight is done. Not a failure: nothing is dialled again."""


class NoSignOfLife(Unreachable):
    """Probe after probe went unanswered: what is in flight will not be answered either."""


class ReloadAsked(MeshError):
    """An operator wants the door opened anew."""


def one_failure(group: BaseExceptionGroup[BaseException]) -> Exception:
    """The one failure that a group stands for: what was asked for, then a bug of ours (not to be hidden), then any."""
    leaves = list(_leaves(group))
    for kind in (Retired, ReloadAsked):
        for leaf in leaves:
            if isinstance(leaf, kind):
                return leaf
    for leaf in leaves:
        if not isinstance(leaf, MeshError):
            log.error("link broke unexpectedly", exc_info=leaf)
            return ProtocolBroken(f"unexpected {type(leaf).__name__}")
    first = leaves[0]
    assert isinstance(first, MeshError)
    return Unreachable(str(first)) if isinstance(first, CallFailed) else first


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for exc in group.exceptions:
        found += _leaves(exc) if isinstance(exc, BaseExceptionGroup) else [exc]
    return found
