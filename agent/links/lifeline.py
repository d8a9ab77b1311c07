"""Lets a child process end with this one, also when this one is killed and can end nobody.

Used by `stdio_child`. A child hears of our death by the end of its stdin; one that ignores that would run on for ever
and hold its port, its lock or its database. Linux tells a child by a signal when it asks for that (prctl(2),
PR_SET_PDEATHSIG), which has to be done between fork and exec: a small program of util-linux does so and becomes the
command; Python code in between (`preexec_fn`) could meet a lock of another thread. The one rule: it is a convenience;
where there is no such program, children start without it.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import cache

_PROGRAM = "setpriv"
# SIGTERM, as in an orderly end after a closed stdin: a server may still tidy up.
_ARGUMENTS = ("--pdeathsig", "TERM", "--")
_PROBE_TIMEOUT_S = 2.0


def lifeline(command: str, cwd: str | None, environment: Mapping[str, str]) -> tuple[str, ...]:
    """What to put before `command`; nothing where that is impossible, or would hide why it cannot be started."""
    place = os.path.join(cwd or "", command) if os.sep in command else command  # noqa: PTH118 - as exec joins them
    startable = shutil.which(place, path=environment.get("PATH", os.defpath))
    return _prefix() if startable is not None else ()


@cache
def _prefix() -> tuple[str, ...]:
    """The program with its arguments, tried once: an older one, or busybox's, does not know them."""
    program = shutil.which(_PROGRAM) if sys.platform == "linux" else None
    if program is None:
        return ()
    prefix = (program, *_ARGUMENTS)
    try:
        tried = subprocess.run(  # noqa: S603 - a program of the system, with fixed arguments
            [*prefix, "true"], capture_output=True, timeout=_PROBE_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return prefix if tried.returncode == 0 else ()
