"""Finds a real Consul for the contract tests, or fetches one without installing anything.

`consul_binary()` looks at CONSUL_BIN, then PATH, then the project's cache folder, and otherwise lets apt fetch the
package from an older suite of this machine's own distribution: recent suites have none. Mirror and keys come from the
machine's apt configuration, so no host is named here. Called by the contract suite, and by `python -m
tests.consul_binary`, which says aloud what happened.
The one rule: it never fails a run; without a binary it returns None and `why_not()` tells the reason.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

PROJECT = "mcp-mesh-agent"
FETCH_TIMEOUT_S = 240.0  # All of it, waiting for another process's fetch included.
COMMAND_TIMEOUT_S = 150.0  # One apt run; a dead mirror must not eat the whole budget.

# Newest first. Only suites older than the machine's own are tried: their binaries run on newer systems.
SUITES = {
    "debian": ("forky", "trixie", "bookworm", "bullseye"),
    "ubuntu": ("resolute", "noble", "jammy"),
}

_reasons: list[str] = []


@dataclass(frozen=True, slots=True)
class AptSource:
    """One repository of the machine's apt configuration. `options` are those of a one-line entry, without brackets."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    options: tuple[str, ...] = field(default=())


def consul_binary(*, fetch: bool = True) -> Path | None:
    """The path of a Consul that answers `consul version`, or None. With `fetch` False nothing is downloaded."""
    _reasons.clear()
    explicit = os.environ.get("CONSUL_BIN")
    if explicit:
        return _runnable(Path(explicit), "CONSUL_BIN")
    on_path = shutil.which("consul")
    if on_path and (found := _runnable(Path(on_path), "PATH")):
        return found
    cached = cache_folder() / "consul"
    if cached.exists() and (found := _runnable(cached, "the cache")):
        return found
    if not fetch:
        _reasons.append("none in CONSUL_BIN, PATH or the cache")
        return None
    return _fetch_locked(cached)


def why_not() -> str:
    """Why the last call of `consul_binary` returned None."""
    return "; ".join(_reasons) or "no reason recorded"


def cache_folder() -> Path:
    """Where downloads are kept between runs: the user's cache, or this project's own where the user can keep none."""
    users = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / PROJECT
    return users if _can_be_made(users) else Path(__file__).parents[1] / ".cache" / PROJECT


def _can_be_made(folder: Path) -> bool:
    """A build machine may give its user no home, or one that cannot be written."""
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


def apt_sources(folder: Path = Path("/etc/apt")) -> list[AptSource]:
    """Every `deb` repository of the machine, from one-line `.list` files and deb822 `.sources` files."""
    lists = [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*.list"))]
    found = [source for path in lists if path.is_file() for source in _one_line(path.read_text("utf-8", "replace"))]
    for path in sorted((folder / "sources.list.d").glob("*.sources")):
        found += _deb822(path.read_text("utf-8", "replace"))
    return found


def older_entries(sources: Iterable[AptSource], suite: str, older: str) -> list[str]:
    """One-line entries that ask the mirrors of `suite` for the suite `older`."""
    entries = []
    for source in sources:
        if suite in source.suites and not source.uri.startswith("cdrom:"):
            options = f"[{' '.join(source.options)}] " if source.options else ""
            entries.append(f"deb {options}{source.uri} {older} {' '.join(source.components)}")
    return list(dict.fromkeys(entries))


def _one_line(text: str) -> Iterator[AptSource]:
    pattern = re.compile(r"^\s*deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<rest>[^#\n]*)")
    for line in text.splitlines():
        if match := pattern.match(line):
            components = tuple(match["rest"].split())
            yield AptSource(match["uri"], (match["suite"],), components, tuple((match["options"] or "").split()))


def _deb822(text: str) -> Iterator[AptSource]:
    for stanza in re.split(r"\n\s*\n", "\n".join(line for line in text.splitlines() if not line.startswith("#"))):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line[:1].isspace():
                fields[name] = f"{fields.get(name, '')} {line.strip()}"
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
            continue
        # A key that is written out in the stanza has no one-line form; apt then falls back to its trusted keys.
        signed_by = fields.get("signed-by", "")
        options = (f"signed-by={signed_by}",) if signed_by.startswith("/") and " " not in signed_by else ()
        for uri in fields.get("uris", "").split():
            suites, components = fields.get("suites", "").split(), fields.get("components", "").split()
            yield AptSource(uri, tuple(suites), tuple(components), options)


def _runnable(path: Path, origin: str) -> Path | None:
    try:
        subprocess.run([str(path), "version"], check=True, capture_output=True, timeout=20)
    except (OSError, subprocess.SubprocessError) as exc:
        _reasons.append(f"{path} from {origin} does not run: {exc}")
        return None
    return path


def _fetch_locked(target: Path) -> Path | None:
    """Fetch under a lock, so that parallel test runs share one download."""
    deadline_s = time.monotonic() + FETCH_TIMEOUT_S
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with (target.parent / "consul.lock").open("w", encoding="utf-8") as lock:
            pause = threading.Event()
            while not _try_lock(lock.fileno()):
                if time.monotonic() > deadline_s:
                    _reasons.append("another process held the fetch for too long")
                    return None
                pause.wait(0.2)
            if target.exists() and (found := _runnable(target, "the cache")):
                return found
            return _fetch(target, deadline_s)
    except (OSError, subprocess.SubprocessError) as exc:
        _reasons.append(f"fetching failed: {exc}")
        return None


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _fetch(target: Path, deadline_s: float) -> Path | None:
    missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        _reasons.append(f"this machine has no {' and no '.join(missing)}")
        return None
    distribution, suite = _distribution()
    suites = SUITES.get(distribution, ())
    older = suites[suites.index(suite) + 1 :] if suite in suites else suites
    if not older:
        _reasons.append(f"no older suite of {distribution or 'this system'} {suite} is known to have Consul")
    sources = apt_sources()
    for old in older:
        entries = older_entries(sources, suite, old)
        if not entries:
            _reasons.append(f"apt on this machine names no mirror of {suite}")
            break
        with tempfile.TemporaryDirectory(prefix="consul-fetch-") as folder:
            if _fetch_from(Path(folder), entries, target, deadline_s):
                return _runnable(target, f"suite {old}")
    return None


def _fetch_from(root: Path, entries: list[str], target: Path, deadline_s: float) -> bool:
    """Run apt in a root of its own; nothing of the system's apt state is read or written."""
    for name in ("lists/partial", "cache/archives/partial", "unpacked"):
        (root / name).mkdir(parents=True)
    (root / "status").touch()
    (root / "sources.list").write_text("\n".join(entries) + "\n", "utf-8")
    settings = {
        "Dir::Etc::sourcelist": root / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::State": root,
        "Dir::State::lists": root / "lists",
        "Dir::State::status": root / "status",
        "Dir::Cache": root / "cache",
        "APT::Sandbox::User": "root",  # The sandbox user could not write below a private folder.
        "Acquire::Check-Valid-Until": "false",  # The Release file of an archived suite has expired.
        "APT::Update::Error-Mode": "any",  # Else a mirror that is away looks like a missing package.
        "Acquire::Languages": "none",
        "Acquire::Retries": "1",
        "Acquire::http::Timeout": "20",
        "Acquire::https::Timeout": "20",
    }
    apt = ["apt-get", "-q", *(part for name, value in settings.items() for part in ("-o", f"{name}={value}"))]
    for command in ([*apt, "update"], [*apt, "download", "consul"]):
        left_s = min(COMMAND_TIMEOUT_S, deadline_s - time.monotonic())
        if left_s <= 0:
            _reasons.append("out of time")
            return False
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=left_s, check=False)
        if done.returncode != 0:
            last_lines = " ".join((done.stderr or done.stdout).split())[-300:]
            _reasons.append(f"apt-get {command[-1]} ended with {done.returncode}: {last_lines}")
            # One mirror of several may be away or lack the suite; the download shows whether that matters.
            if command[-1] != "update":
                return False
    package = next(root.glob("consul_*.deb"))
    subprocess.run(["dpkg-deb", "-x", str(package), str(root / "unpacked")], check=True, timeout=60)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    shutil.copy2(root / "unpacked" / "usr" / "bin" / "consul", partial)
    partial.replace(target)  # Atomic: a reader without the lock sees a whole file or none.
    return True


def _distribution() -> tuple[str, str]:
    fields = {}
    for line in Path("/etc/os-release").read_text("utf-8").splitlines():
        name, _, value = line.partition("=")
        fields[name] = value.strip("\"'")
    return fields.get("ID", ""), fields.get("VERSION_CODENAME", "")


def main() -> int:
    """Fetch when needed and say what happened. Exit status 0 either way: the suite runs without a Consul too."""
    out = sys.stdout.write
    found = consul_binary()
    if found is None:
        out(f"\n*** NO REAL CONSUL: {why_not()}\n*** The tests marked `consul` will be skipped.\n\n")
    else:
        out(f"Real Consul for the tests: {found}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
