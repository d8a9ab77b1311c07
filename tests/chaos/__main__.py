"""`python -m tests.chaos`: faults on real processes by a seed, for as long as wanted (`make chaos`, `make soak`).

Prints each fault with the time that healing took, how calls went, and how memory and descriptors of the front grew.
The one rule: exit code 1 when a call's outcome was a lie, or a call failed that another replica could have answered.
"""

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path

from tests.chaos.journal_server import READ, WRITE
from tests.chaos.load import Books
from tests.chaos.seeded import Chaos, chaos_run, grown, leaks, reads_failed
from tests.e2e.copied_nodes import node_copies
from tests.e2e.processes import environment_of


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="the same seed draws the same faults")
    parser.add_argument("--for", type=float, default=120.0, dest="for_s", help="seconds; 120")
    parser.add_argument("--longest", type=float, default=20.0, help="seconds that one fault may last; 20")
    parser.add_argument("--shortest", type=float, default=0.5, help="and that it lasts at least; 0.5")
    parser.add_argument("--only", default="", help="only faults whose name has this word")
    parser.add_argument("--soak", action="store_true", help="judge how memory and descriptors grew, too")
    asked = parser.parse_args()
    print(f"seed {asked.seed} (again: make chaos SEED={asked.seed})", flush=True)
    with tempfile.TemporaryDirectory(prefix="mesh-chaos-") as folder, node_copies(environment_of({})):
        lasts_s = asked.shortest, asked.longest
        run = chaos_run(Path(folder), asked.seed, for_s=asked.for_s, lasts_s=lasts_s, only=asked.only)
        chaos, books, lies = asyncio.run(run)
    report(chaos, books)
    failed = reads_failed(books)
    for line in (*lies, *failed):
        print(f"BROKEN: {line}")
    memory_mb, descriptors = grown(chaos.struck)
    print(f"from the second quarter to the last: {memory_mb:+.1f} MB of memory, {descriptors:+.0f} descriptors")
    leaking = asked.soak and leaks(memory_mb, descriptors, calls=len(books.ended) // 2)
    return 1 if lies or failed or leaking else 0


def report(chaos: Chaos, books: Books) -> None:
    """Print what happened."""
    for one in chaos.struck:
        print(
            f"{one.at_s:7.1f} s  {one.replica}: {one.fault}, for {one.lasted_s:.1f} s; healed in {one.healed_s:.1f} s"
        )
    for tool in (READ, WRITE):
        ended = [call for call in books.ended if call.tool == tool]
        outcomes = {word: sum(call.outcome == word for call in ended) for word in ("ok", "unknown", "not_executed")}
        print(f"{tool}: {len(ended)} calls, {outcomes}")
    print(f"calls: {books.figures(0.0)}")


if __name__ == "__main__":
    sys.exit(main())
