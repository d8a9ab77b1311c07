"""Whether a connection failed because nothing came back at all, in place of a refusal, a reset or an end.

Asked where an error of the operating system becomes one of ours. The one rule: only what this node could have caused
itself, by not hearing or not being heard, is silence.
"""

import errno
import socket
from typing import Final

_SILENT: Final = frozenset({errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN})


class MayBeSilence(OSError):
    """A failure of ours that knows whether it was silence."""

    def __init__(self, text: str, *, silent: bool = False) -> None:
        super().__init__(text)
        self.silent = silent


def is_silence(exc: BaseException | None) -> bool:
    """Whether it was a time-out, a way that is not there, or a resolver that does not answer."""
    match exc:
        case MayBeSilence():
            return exc.silent
        case socket.gaierror():
            return exc.errno == socket.EAI_AGAIN
        case OSError():
            return isinstance(exc, TimeoutError) or exc.errno in _SILENT
    return False
