"""Installs a hashed lock with pip into the environment of the interpreter that runs it, and says so in few lines.

Called by the Makefile and by tests that make environments of their own, as `VENV/bin/python install/from_lock.py LOCK`;
stands on the standard library alone, because nothing is installed yet. `pip check` is the caller's to run afterwards.
A lock is complete, so pip resolves nothing (--no-deps): pip before 23.3 resolves `name[extra]` apart from the pinned
`name`, and stops as soon as a newer release of it is out. Wheels only: a source build would fetch unlocked build tools
and want a compiler. The one rule: what pip says beyond its progress is shown whole, and pip's exit code is ours.
"""

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input")
RULE = ("install", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--progress-bar", "off")
# One of these lines for each entry of the lock, whether it is installed, there already or for another platform.
COUNTED = re.compile(r"(Collecting|Ignoring|Requirement already satisfied:?) ")
HIDDEN = re.compile(
    r"\s*(Downloading|Using cached|Obtaining|Processing|Preparing metadata|Attempting uninstall:|"
    r"Found existing installation:|Uninstalling|Successfully uninstalled) |Looking in (links|indexes): "
)
PIPED_STEP = 25  # Without a terminal a line for every so many packages.
# What pip says at the end of its own retries, and when no file of the lock is for this machine.
HINTS = {
    "Retrying (Retry(": "No package registry answered. `pip config list` and PIP_* show which one pip asks, and how.",
    "No matching distribution found": "If the registry answers, it has no wheel of this release for this Python and "
    "system. Another Python: make clean, then make PYTHON=python3.12 ...",
}


def show(lines: Iterable[str], pins: int, out: TextIO) -> str | None:
    """Write pip's output as progress, errors and warnings whole. Returns the hint for a failure, if there is one."""
    on_terminal, count, line_is_open, hint = out.isatty(), 0, False, None
    for line in lines:
        hint = hint or next((text for words, text in HINTS.items() if words in line), None)
        if COUNTED.match(line):
            count += 1
            if on_terminal:
                out.write(f"\r   {count} of {pins} packages")
                line_is_open = True
            elif count % PIPED_STEP == 0:
                out.write(f"   {count} of {pins} packages\n")
        elif not HIDDEN.match(line):
            out.write("\n" * line_is_open + _shorter(line))
            line_is_open = False
        out.flush()
    out.write("\n" * line_is_open)
    return hint


def _shorter(line: str) -> str:
    """Without the names, in the two lines where pip names every package."""
    if line.startswith("Installing collected packages: "):
        return f"   installing {line.count(',') + 1}\n"
    if line.startswith("Successfully installed "):
        return f"   installed {len(line.split()) - 2} packages\n"
    return line


def main(lock: str) -> int:
    """Install one lock; returns pip's exit code."""
    pins = len(re.findall(r"^[A-Za-z0-9]", Path(lock).read_text("utf-8"), re.MULTILINE))
    command = [*PIP, *RULE, "--requirement", lock]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1) as pip:
        assert pip.stdout
        hint = show(pip.stdout, pins, sys.stdout)
    if pip.returncode != 0 and hint:
        sys.stdout.write(f"{hint}\n")
    return pip.returncode


if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1]))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
