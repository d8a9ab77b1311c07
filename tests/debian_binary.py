"""Finds a real program for the tests (Consul, nginx, dnsmasq and so on), or fetches one without installing anything.

`debian_binary()` looks at a variable (CONSUL_BIN), then PATH, then the project's cache folder, and otherwise lets apt
fetch the package from this machine's own distribution, or from an older suite of it where recent ones have none. Mirror
and keys come from the machine's apt configuration, so no host is named here. Called by the tests that need one, and by
`python -m tests.debian_binary`, which fetches all of them and says aloud what happened.
The one rule: it never fails a run; without a binary it returns None and `why_not()` tells the reason.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.file_locks import held_until

PROJECT = "mcp-mesh-agent"
FETCH_TIMEOUT_S = 240.0  # All of it, waiting for another process's fetch included.
COMMAND_TIMEOUT_S = 150.0  # One apt run; a dead mirror must not eat the whole budget.

# Newest first. Besides the machine's own suite only older ones are tried: their binaries run on newer systems.
SUITES = {
    "debian": ("forky", "trixie", "bookworm", "bullseye"),
    "ubuntu": ("resolute", "noble", "jammy"),
}

_reasons: list[str] = []


@dataclass(frozen=True, slots=True)
class Program:
    """A program of a Debian package: its name, where it lies in there, and words that make it say its version.

    `path` may be a pattern. Without such words it is a library, which can be loaded.
    """

    name: str
    package: str
    path: str
    version_words: tuple[str, ...]
    # Of this suite's own package, or only of an older one: Debian gave Consul up after bullseye.
    in_own_suite: bool = True

    def command(self, path: Path) -> list[str]:
        """What succeeds where it can be used."""
        loads = [sys.executable, "-c", "import ctypes, sys; ctypes.CDLL(sys.argv[1])", str(path)]
        return [str(path), *self.version_words] if self.version_words else loads

    @property
    def variable(self) -> str:
        return f"{self.name.upper()}_BIN"


CONSUL = Program("consul", "consul", "usr/bin/consul", ("version",), in_own_suite=False)
PROMTOOL = Program("promtool", "prometheus", "usr/bin/promtool", ("--version",))
NGINX = Program("nginx", "nginx", "usr/sbin/nginx", ("-v",))
CADDY = Program("caddy", "caddy", "usr/bin/caddy", ("version",))
DNSMASQ = Program("dnsmasq", "dnsmasq-base", "usr/sbin/dnsmasq", ("--version",))
UNBOUND = Program("unbound", "unbound", "usr/sbin/unbound", ("-V",))
# Preloaded into a process, whose time of day it then tells.
FAKETIME = Program("libfaketime", "libfaketime", "usr/lib/*/faketime/libfaketime.so.1", ())
PROGRAMS = (CONSUL, PROMTOOL, NGINX, CADDY, DNSMASQ, UNBOUND, FAKETIME)


@dataclass(frozen=True, slots=True)
class AptSource:
    """One repository of the machine's apt configuration. `options` are those of a one-line entry, without brackets."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    options: tuple[str, ...] = field(default=())


def debian_binary(program: Program, *, fetch: bool = True) -> Path | None:
    """The path of a program that says its version, or None. With `fetch` False nothing is downloaded."""
    _reasons.clear()
    if found := _present(program):
        return found
    if not fetch or os.environ.get(program.variable):
        _reasons.append(f"none in {program.variable}, PATH or the cache")
        return None
    _fetch_locked((program,))
    return _present(program)


def why_not() -> str:
    """Why the last call of `debian_binary` returned None."""
    return "; ".join(dict.fromkeys(_reasons)) or "no reason recorded"


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


def entries_for(sources: Iterable[AptSource], suite: str, asked: str) -> list[str]:
    """One-line entries that ask the mirrors of `suite` for the suite `asked`."""
    entries = []
    for source in sources:
        if suite in source.suites and not source.uri.startswith("cdrom:"):
            options = f"[{' '.join(source.options)}] " if source.options else ""
            entries.append(f"deb {options}{source.uri} {asked} {' '.join(source.components)}")
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


def _present(program: Program) -> Path | None:
    """What runs of the places where nothing has to be fetched. A variable that names one is the only place."""
    if explicit := os.environ.get(program.variable):
        return _runnable(program, Path(explicit), program.variable)
    on_path, cached = shutil.which(program.name), cache_folder() / program.name
    if on_path and (found := _runnable(program, Path(on_path), "PATH")):
        return found
    return _runnable(program, cached, "the cache") if cached.exists() else None


def _runnable(program: Program, path: Path, origin: str) -> Path | None:
    try:
        subprocess.run(program.command(path), check=True, capture_output=True, timeout=20)
    except (OSError, subprocess.SubprocessError) as exc:
        _reasons.append(f"{path} from {origin} does not run: {exc}")
        return None
    return path


def _fetch_locked(programs: tuple[Program, ...]) -> None:
    """Fetch under a lock, so that parallel test runs share one download."""
    deadline_s = time.monotonic() + FETCH_TIMEOUT_S
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with held_until(folder / "debian.lock", deadline_s) as is_held:
            if not is_held:
                _reasons.append("another process held the fetch for too long")
                return
            _fetch([program for program in programs if _present(program) is None], folder, deadline_s)
    except (OSError, subprocess.SubprocessError) as exc:
        _reasons.append(f"fetching failed: {exc}")


def _fetch(missing: list[Program], folder: Path, deadline_s: float) -> None:
    """Ask suite after suite for the programs that are still missing; each suite's lists are read once."""
    tools = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if tools:
        _reasons.append(f"this machine has no {' and no '.join(tools)}")
        return
    distribution, suite = _distribution()
    suites = SUITES.get(distribution, ())
    older = suites[suites.index(suite) + 1 :] if suite in suites else suites
    sources = apt_sources()
    for asked in (suite, *older):
        wanted = [program for program in missing if asked != suite or program.in_own_suite]
        if not wanted:
            continue
        entries = entries_for(sources, suite, asked)
        if not entries:
            _reasons.append(f"apt on this machine names no mirror of {suite}")
            return
        with tempfile.TemporaryDirectory(prefix="debian-fetch-") as root:
            got = _fetch_from(Path(root), entries, wanted, folder, deadline_s)
        missing = [program for program in missing if program not in got]
    if missing:
        names = ", ".join(program.package for program in missing)
        _reasons.append(f"no suite of {distribution or 'this system'} up to {suite} that is known here gave {names}")


def _fetch_from(
    root: Path, entries: list[str], wanted: list[Program], folder: Path, deadline_s: float
) -> list[Program]:
    """Run apt in a root of its own; nothing of the system's apt state is read or written. Returns what came."""
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
    _apt([*apt, "update"], root, deadline_s)
    got = []
    for program in wanted:
        # One mirror of several may be away or lack the suite; the download shows whether that matters.
        if _apt([*apt, "download", program.package], root, deadline_s):
            unpacked = root / f"unpacked-{program.name}"
            package = next(root.glob(f"{program.package}_*.deb"))
            subprocess.run(["dpkg-deb", "-x", str(package), str(unpacked)], check=True, timeout=60)
            partial = folder / f"{program.name}.{os.getpid()}.partial"
            shutil.copy2(next(unpacked.glob(program.path)), partial)
            if _runnable(program, partial, "the download") is None:  # Another suite's may need fewer libraries.
                partial.unlink()
                continue
            partial.replace(folder / program.name)  # Atomic: a reader without the lock sees a whole file or none.
            got.append(program)
    return got


def _apt(command: list[str], root: Path, deadline_s: float) -> bool:
    left_s = min(COMMAND_TIMEOUT_S, deadline_s - time.monotonic())
    if left_s <= 0:
        _reasons.append("out of time")
        return False
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=left_s, check=False)
    if done.returncode != 0:
        last_lines = " ".join((done.stderr or done.stdout).split())[-300:]
        _reasons.append(f"apt-get {command[-1]} ended with {done.returncode}: {last_lines}")
    return done.returncode == 0


def _distribution() -> tuple[str, str]:
    fields = {}
    for line in Path("/etc/os-release").read_text("utf-8").splitlines():
        name, _, value = line.partition("=")
        fields[name] = value.strip("\"'")
    return fields.get("ID", ""), fields.get("VERSION_CODENAME", "")


def main() -> int:
    """Fetch what is missing and say what happened. Exit status 0 either way: the suite runs without them too."""
    out = sys.stdout.write
    missing = tuple(program for program in PROGRAMS if _present(program) is None)
    if missing:
        _fetch_locked(missing)
    why = why_not()
    for program in PROGRAMS:
        found = _present(program)
        if found is None:
            out(f"\n*** NO {program.name.upper()}: {why}\n*** The tests that need it will be skipped.\n\n")
        else:
            out(f"Real {program.name} for the tests: {found}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
