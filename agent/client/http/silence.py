"""Whether a connection failed because nothing came back at all, in place of a refusal, a reset or an end.

Asked where an error of the operating system becomes one of ours. The one rule: only what this node could have caused
itself, by not hearing or not being heard, is silence.
"""

import errno
import socket
from typing import Final, TypeVar

from agent.descriptors import shortage
from agent.errors import MeshError

_F = TypeVar("_F", bound=MeshError)

_SILENT: Final = frozenset({errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN})


class MayBeSilence(OSError):
    """A failure of ours that knows whether it was silence."""

    def __init__(self, text: str, *, silent: bool = False, short: bool = False, refused: bool = False) -> None:
        super().__init__(text)
        self.silent = silent or short
        self.short = short
        self.refused = refused


def is_silence(exc: BaseException | None) -> bool:
    """Whether it was a time-out, a way that is not there, or a resolver that does not answer."""
    match exc:
        case MayBeSilence() | MeshError():
            return exc.silent
        case socket.gaierror():
            return exc.errno == socket.EAI_AGAIN
        case OSError():
            return isinstance(exc, TimeoutError) or exc.errno in _SILENT or is_short(exc)
    return False


def is_short(exc: BaseException | None) -> bool:
    """Whether this node had no descriptor, memory or port left for it."""
    return exc.short if isinstance(exc, MayBeSilence | MeshError) else bool(shortage(exc))


def noted(failure: _F, exc: BaseException | None) -> _F:
    """A failure that was caused by `exc`, as silent as that, and cut off where a connection was."""
    failure.silent, failure.short = is_silence(exc), is_short(exc)
    failure.cut_off = isinstance(exc, ConnectionError)
    failure.refused = isinstance(exc, MayBeSilence) and exc.refused
    return failure
