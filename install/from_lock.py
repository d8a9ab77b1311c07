"""Installs a hashed lock with pip into the environment of the interpreter that runs it, and says so in few lines.

Called by the Makefile and by tests that make environments of their own, as `VENV/bin/python install/from_lock.py LOCK`;
stands on the standard library alone, because nothing is installed yet. `pip check` is the caller's to run afterwards.
A lock is complete, so pip resolves nothing (--no-deps): pip before 23.3 resolves `name[extra]` apart from the pinned
`name`, and stops as soon as a newer release of it is out. Wheels only: a source build would fetch unlocked build tools
and want a compiler. Half of pip's work is to judge every file that the registry has of a package, on one core: several
pips fetch a part of a long lock each, then one installs. The one rule: what pip says beyond its progress is shown
whole, and pip's exit code is ours.
"""

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input")
RULE = ("--no-deps", "--require-hashes", "--only-binary", ":all:", "--progress-bar", "off")
# A pip more takes half a second to start, and a registry has better things to do than to answer us.
FETCHING_MAX = 4
PACKAGES_EACH_MIN = 10
ENDS_S = 2.0  # What an interrupted pip has to put back takes less.
ENTRY = re.compile(r"^[A-Za-z0-9].*(?:\n(?![A-Za-z0-9]).*)*", re.MULTILINE)
PIN = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;\\]+)")
# One of these lines for each entry of the lock, whether it is installed, there already or for another platform.
COUNTED = re.compile(r"(Collecting|Ignoring|Requirement already satisfied:?) ")
HIDDEN = re.compile(
    r"\s*(Downloading|Using cached|Saved|Successfully downloaded|Obtaining|Processing|Preparing metadata|"
    r"Attempting uninstall:|Found existing installation:|Uninstalling|Successfully uninstalled) |"
    r"Looking in (links|indexes): "
)
PIPED_STEP = 25  # Without a terminal a line for every so many packages.
# Not compiled here, a fifth of all: pip is already, mypy's machine code is used, and of hundreds of lexers one or two.
AS_IT_IS = r"site-packages[/\\](pip|mypyc?|pygments[/\\]lexers)[/\\]"
# What pip says at the end of its own retries, and when no file of the lock is for this machine.
HINTS = {
    "Retrying (Retry(": "No package registry answered. `pip config list` and PIP_* show which one pip asks, and how.",
    "No matching distribution found": "If the registry answers, it has no wheel of this release for this Python and "
    "system. Another Python: make clean, then make PYTHON=python3.12 ...",
}


def show(lines: Iterable[str], pins: int | None, out: TextIO) -> str | None:
    """Write pip's output as progress (none without `pins`), errors and warnings whole.

    Returns the hint for a failure, if there is one.
    """
    on_terminal, count, line_is_open, hint = out.isatty(), 0, False, None
    for line in lines:
        hint = hint or next((text for words, text in HINTS.items() if words in line), None)
        if COUNTED.match(line):
            count += 1
            if pins is None:
                continue
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
    text = Path(lock).read_text("utf-8")
    entries = [*_missing(text)]
    parts = min(FETCHING_MAX, os.cpu_count() or 1, len(entries) // PACKAGES_EACH_MIN)
    if parts < 2:  # noqa: PLR2004 - then there is nothing to share
        return _run([[*PIP, "install", *RULE, "--requirement", lock]], len(ENTRY.findall(text)))
    with TemporaryDirectory() as folder:
        code = _run([*_fetching(entries, parts, Path(folder))], len(entries))
        if code == 0:
            from_there = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": folder}
            code = _run([[*PIP, "install", *RULE, "--no-compile", "--requirement", lock]], None, from_there)
    if code == 0:
        # On all cores, where pip would take one. Some files are templates, and compile nowhere.
        compiling = [sys.executable, "-m", "compileall", "-q", "-q", "-j", "0", "-x", AS_IT_IS]
        subprocess.run([*compiling, sysconfig.get_path("purelib")], stdout=subprocess.DEVNULL, check=False)
    return code


def _missing(lock: str) -> Iterator[str]:
    """The entries whose release is not here."""
    for entry in ENTRY.findall(lock):
        pin = PIN.match(entry)
        try:
            is_here = pin is not None and version(pin[1]) == pin[2]
        except PackageNotFoundError:
            is_here = False
        if not is_here:
            yield entry


def _fetching(entries: Sequence[str], parts: int, folder: Path) -> Iterator[Sequence[str]]:
    """The commands that put all wheels into the folder."""
    for number in range(parts):
        part = folder / f"part-{number}.txt"
        part.write_text("".join(f"{entry}\n" for entry in entries[number::parts]), "utf-8")
        yield [*PIP, "download", *RULE, "--dest", str(folder), "--requirement", str(part)]


def _run(commands: Sequence[Sequence[str]], pins: int | None, settings: Mapping[str, str] | None = None) -> int:
    """Run all at once, show what they say, and a hint for a failure. Returns the first exit code that is not 0."""
    reading, writing = os.pipe()
    with ExitStack() as running, os.fdopen(reading, encoding="utf-8", errors="replace") as lines:
        pips = [
            running.enter_context(
                subprocess.Popen(
                    command, env={**os.environ, **(settings or {})}, stdout=writing, stderr=subprocess.STDOUT
                )
            )
            for command in commands
        ]
        os.close(writing)
        try:
            hint = show(lines, pins, sys.stdout)
            codes = [pip.wait() for pip in pips]
        except BaseException:
            _end(pips)
            raise
    code = next((code for code in codes if code != 0), 0)
    if code != 0 and hint:
        sys.stdout.write(f"{hint}\n")
    return code


def _end(pips: Iterable["subprocess.Popen[bytes]"]) -> None:
    """Ctrl-C reaches them, too; one that is slow to end would write on into a folder that is being removed."""
    for pip in pips:
        with suppress(subprocess.TimeoutExpired):
            pip.wait(ENDS_S)
        pip.terminate()
        pip.wait()


if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1]))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
