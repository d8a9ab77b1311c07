"""Installs other people's MCP servers into a virtual environment of their own, in the project's cache folder.

Called by test_third_party.py. `requirements.txt` is the hashed lock of `requirements.in` (uv pip compile --universal
--python-version 3.11 --generate-hashes). The one rule: it never fails a run; what cannot be installed is reported.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.debian_binary import cache_folder

LOCK = Path(__file__).with_name("requirements.txt")
FROM_LOCK = Path(__file__).parents[3] / "install" / "from_lock.py"
# The packages are small; a mirror that needs longer is away.
INSTALL_TIMEOUT_S = 150.0


class NotInstalled(Exception):
    """Why there is no environment."""


def third_party_python() -> Path:
    """The interpreter of an environment that has the lock's packages. Raises `NotInstalled`."""
    digest = hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = cache_folder() / f"third-party-{digest}"
    python, stamp = folder / "bin" / "python", folder / "installed"
    if stamp.exists():
        return python
    try:
        _install_locked(folder, python, stamp)
    except OSError as exc:
        raise NotInstalled(str(exc)) from exc
    return python


def _install_locked(folder: Path, python: Path, stamp: Path) -> None:
    deadline_s = time.monotonic() + INSTALL_TIMEOUT_S
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "third-party.lock").open("w") as lock:
        # Held for the whole install; who comes second finds the stamp.
        fcntl.flock(lock.fileno(), fcntl.LOCK_EX)
        if stamp.exists():
            return
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(folder)], deadline_s)
        _run([str(python), str(FROM_LOCK), str(LOCK)], deadline_s)
        _run([str(python), "-m", "pip", "check"], deadline_s)
        stamp.touch()


def _run(command: list[str], deadline_s: float) -> None:
    # Our own packages, which a caller's PYTHONPATH may name, have no place in there.
    environment = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
    left_s = max(1.0, deadline_s - time.monotonic())
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=left_s, check=False, env=environment)
    except (OSError, subprocess.SubprocessError) as exc:
        raise NotInstalled(f"{command[1:4]}: {exc}") from exc
    if done.returncode != 0:
        last_words = " ".join((done.stderr or done.stdout).split())[-300:]
        raise NotInstalled(f"{' '.join(command[1:4])} ended with {done.returncode}: {last_words}")
