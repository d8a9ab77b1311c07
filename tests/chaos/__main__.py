"""`python -m tests.chaos`: faults on real processes by a seed, for as long as wanted (`make chaos`, `make soak`).

Prints each fault with the time that healing took and how calls went; then kills a node around its operator's words; or
soaks, and prints how memory, descriptors and tasks of the front grew. The one rule: exit code 1 when a call's outcome
was a lie, a call failed that another replica could have answered, an acknowledged word was lost, or something leaks.
"""

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path

from tests.chaos.journal_server import READ, WRITE
from tests.chaos.load import Books
from tests.chaos.operators_words import killed_again_and_again
from tests.chaos.seeded import Chaos, chaos_run, reads_failed
from tests.chaos.soak import judged, soak_run
from tests.e2e.copied_nodes import copies
from tests.e2e.processes import environment_of


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="the same seed draws the same faults")
    parser.add_argument("--for", type=float, default=120.0, dest="for_s", help="seconds; 120. With 0, kills alone")
    parser.add_argument("--longest", type=float, default=20.0, help="seconds that one fault may last; 20")
    parser.add_argument("--shortest", type=float, default=0.5, help="and that it lasts at least; 0.5")
    parser.add_argument("--only", default="", help="only faults whose name has this word")
    parser.add_argument("--kills", type=int, default=0, help="then kill a node so often around its operator's words")
    parser.add_argument("--soak", action="store_true", help="churn as well, sped up, and judge what the front holds")
    asked = parser.parse_args()
    print(f"seed {asked.seed} (again: make {'soak' if asked.soak else 'chaos'} SEED={asked.seed})", flush=True)
    with tempfile.TemporaryDirectory(prefix="mesh-chaos-") as folder, copies(environment_of({})):
        broken = _soaked(Path(folder), asked) if asked.soak else []
        if asked.for_s and not asked.soak:
            broken += _struck(Path(folder), asked)
        if asked.kills:
            told = asyncio.run(killed_again_and_again(Path(folder, "words"), random.Random(asked.seed), asked.kills))
            print(told, flush=True)
            broken += told.lost or []
    for line in broken:
        print(f"BROKEN: {line}")
    return 1 if broken else 0


def _struck(folder: Path, asked: argparse.Namespace) -> list[str]:
    lasts_s = asked.shortest, asked.longest
    run = chaos_run(folder, asked.seed, for_s=asked.for_s, lasts_s=lasts_s, only=asked.only)
    chaos, books, lies = asyncio.run(run)
    report(chaos, books)
    return [*lies, *reads_failed(chaos, books)]


def _soaked(folder: Path, asked: argparse.Namespace) -> list[str]:
    soak, lies = asyncio.run(soak_run(folder, asked.seed, asked.for_s))
    report(soak.chaos, soak.books)
    for sample in soak.samples:
        print(
            f"{sample.at_h:6.3f} h  {sample.memory_bytes / 2**20:6.2f} MB, {sample.descriptors} descriptors,"
            f" {sample.tasks} tasks, {len(sample.zombies)} zombies"
        )
    verdict = judged(soak.samples)
    print(f"{soak.happened}: {soak.happened.hours:.2f} hours of the plain pace\n{verdict}")
    return [*lies, *reads_failed(soak.chaos, soak.books), *verdict.complaints()]


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
