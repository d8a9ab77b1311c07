"""`python -m bench [name ...]`: run the benchmarks, print one table, write JSON beside it.

The one rule: figures are for comparing two things in one run; this machine's absolute numbers mean nothing elsewhere.
"""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bench import (
    adopting,
    authority,
    before,
    churn,
    eras,
    fleet,
    floor,
    hop,
    idle,
    instructions,
    join,
    listing,
    memory,
    others,
    proxy,
    scale,
    search,
    single,
    start,
    tail,
    workers,
)
from bench.report import Surroundings, document, report

if TYPE_CHECKING:
    from bench.figures import Figure

BENCHMARKS = {
    "hop": hop.measure,
    "floor": floor.measure,
    "proxy": proxy.measure,
    "eras": eras.measure,
    "listing": listing.measure,
    "memory": memory.measure,
    "start": start.measure,
    "adopting": adopting.measure,
    "join": join.measure,
    "instructions": instructions.measure,
    "fleet": fleet.measure,
    "single": single.measure,
    "authority": authority.measure,
    "scale": scale.measure,
    "search": search.measure,
    "churn": churn.measure,
    "tail": tail.measure,
    "workers": workers.measure,
    "before": before.measure,
    "others": others.measure,
    "idle": idle.measure,
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
    run = Surroundings.here()
    print(report(run, figures))
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_bytes(document(run, figures))
    return 0 if all(figure.met for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
