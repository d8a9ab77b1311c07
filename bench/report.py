"""What a run leaves behind: where it was measured, with which versions, and its figures, as text and as JSON."""

import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import orjson

import agent
from bench import wrk
from bench.figures import Figure, table
from bench.gateways import Others

PACKAGES = ("aiohttp", "fastmcp", "mcp", "orjson")
NO_PROGRAM = "absent"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The machine and the versions of one run. `memory_mb` 0 and `cpu` "unknown": the system does not say."""

    cpu: str
    cpus: int
    memory_mb: int
    system: str
    versions: dict[str, str]

    @classmethod
    def here(cls) -> "Surroundings":
        """Of this process."""
        versions = {"mcp-mesh-agent": agent.__version__, "python": platform.python_version()}
        others = Others.named()
        named = {one.name: one.version for one in (*others.gateways, *others.pairs) if one.version}
        programs = {"wrk": _first_line(wrk.program(), "-v"), "valgrind": _first_line("valgrind", "--version")}
        return cls(
            cpu=_told(Path("/proc/cpuinfo"), "model name") or platform.processor() or "unknown",
            cpus=os.cpu_count() or 1,
            memory_mb=int((_told(Path("/proc/meminfo"), "MemTotal") or "0").removesuffix(" kB")) // 1024,
            system=f"{platform.system()} {platform.release()} {platform.machine()}",
            versions=versions | {name: version(name) for name in PACKAGES} | programs | named,
        )


def report(run: Surroundings, figures: Sequence[Figure]) -> str:
    """The table under two lines about the machine and the versions."""
    machine = f"{run.cpus} x {run.cpu}, {run.memory_mb} MB, {run.system}"
    return "\n".join((machine, ", ".join(f"{name} {it}" for name, it in run.versions.items()), table(figures)))


def document(run: Surroundings, figures: Sequence[Figure]) -> bytes:
    """The same as JSON: `machine`, and each figure with its goal, which way that goes, and whether it was met."""
    rows = [{**asdict(figure), "met": figure.met} for figure in figures]
    return orjson.dumps({"schema": 2, "machine": asdict(run), "figures": rows}, option=orjson.OPT_INDENT_2)


def _first_line(program: str | None, option: str) -> str:
    """What a program says first when it is asked for its version, without its own name."""
    try:
        said = subprocess.run([program or "", option], capture_output=True, text=True, check=False).stdout
    except OSError:
        return NO_PROGRAM
    return said.partition("\n")[0].partition(" Copyright")[0].removeprefix("valgrind-").removeprefix("wrk ").strip()


def _told(file: Path, name: str) -> str | None:
    """What one of the kernel's files says first of `name`; None where there is no such file or line."""
    lines = file.read_text("utf-8").splitlines() if file.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name), None)
