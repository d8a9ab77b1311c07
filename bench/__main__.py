"""`python -m bench [name ...]`: run the benchmarks, print one table, write JSON beside it.

The one rule: figures are for comparing two things in one run; this machine's absolute numbers mean nothing elsewhere.
"""

import asyncio
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import orjson

from bench import eras, floor, hop, join, listing, memory, proxy
from bench.figures import Figure, table

BENCHMARKS = {
    "hop": hop.measure,
    "floor": floor.measure,
    "proxy": proxy.measure,
    "eras": eras.measure,
    "listing": listing.measure,
    "memory": memory.measure,
    "join": join.measure,
}
RESULTS = Path(".cache/bench.json")


def main() -> int:
    """Run what is named, or everything; exit 1 when a goal is missed."""
    chosen = sys.argv[1:] or list(BENCHMARKS)
    unknown = set(chosen) - BENCHMARKS.keys()
    if unknown:
        print(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 1
    figures: list[Figure] = []
    for name in chosen:
        print(f"measuring {name} ...", file=sys.stderr)
        figures += asyncio.run(BENCHMARKS[name]())
    machine = {
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("aiohttp", "fastmcp", "mcp", "orjson")},
    }
    print(f"{machine['cpus']} CPUs, Python {machine['python']}, {machine['packages']}")
    print(table(figures))
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"name": f.name, "value": f.value, "unit": f.unit, "goal": f.goal, "met": f.met} for f in figures]
    RESULTS.write_bytes(orjson.dumps({"schema": 1, "machine": machine, "figures": rows}, option=orjson.OPT_INDENT_2))
    return 0 if all(figure.met for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
