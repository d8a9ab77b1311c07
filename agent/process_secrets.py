"""Keeps this process's secrets from other programs of the same account: out of its environment, and out of `/proc`.

Called once at the start of a node, after its settings were read. Children of a node run as the node's account unless
`mesh.user` says otherwise, and that account may read `/proc/PID/environ` and `/proc/PID/mem` of all its processes. The
one rule: what was read is overwritten where the system shows it, and the process is closed to others before any child
runs.
"""

import ctypes
import os
import sys
from collections.abc import Iterable
from contextlib import suppress

_PR_SET_DUMPABLE = 4  # linux/prctl.h


def keep_from_others(variables: Iterable[str]) -> None:
    """Take these variables out of the environment, and close the process to all but the system's administrator.

    A closed process writes no core dump, and can be traced by no program of its account. On Linux; elsewhere the
    variables are taken out, and the rest is left to the system.
    """
    for name in variables:
        _overwrite(name)
        os.environ.pop(name, None)
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _overwrite(name: str) -> None:
    """Overwrite the text that the process was started with, which `/proc/PID/environ` goes on showing."""
    if sys.platform != "linux":
        return
    value = os.environb.get(os.fsencode(name))
    with suppress(OSError, AttributeError):
        getenv = ctypes.CDLL(None).getenv
        getenv.restype = ctypes.c_void_p
        place = getenv(os.fsencode(name))
        if place and value and ctypes.string_at(place, len(value)) == value:
            ctypes.memset(place, 0, len(value))
