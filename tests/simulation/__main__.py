"""`python -m tests.simulation`: many seeds, or one again with all that happened in it (`make simulation`).

With `--mistakes` instead what notices each mistake of a list. The one rule: exit code 1 when a seed broke a rule, with
the command that replays it, or when a mistake that seeds should notice was not.
"""

import argparse
import subprocess
import sys
import time

from tests.simulation.mistakes import MISTAKES
from tests.simulation.runs import KINDS, SeedFailed, silent, try_seed, try_seeds


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--seeds", type=int, default=10_000, help="of decisions; one of a whole mesh for each hundred, and so on"
    )
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--nodes", type=int, default=0, help="so many whole nodes: --seeds counts these cities alone")
    parser.add_argument("--replay", nargs=2, metavar=("KIND", "SEED"), help=f"one seed again: {', '.join(KINDS)}")
    parser.add_argument("--mistakes", nargs="*", metavar="NAME", help="try these, or all; names by their beginnings")
    asked = parser.parse_args()
    if asked.replay:
        return replay(asked.replay[0], int(asked.replay[1]), asked.nodes)
    if asked.mistakes is not None:
        return try_mistakes(asked.mistakes or [""], asked.seeds)
    if asked.nodes:
        return many("city", asked.first, asked.seeds, asked.nodes) and 1
    return sum(many(kind, asked.first, asked.seeds // KINDS[kind].one_in) for kind in KINDS) and 1


def many(kind: str, first: int, count: int, nodes: int = 0) -> int:
    """Run so many seeds of one kind, and say how it went; returns how many failed."""
    began_s, times, failed = time.process_time(), [], 0
    for seed in range(first, first + count):
        try:
            times += try_seeds(kind, [seed], nodes)
        except SeedFailed as exc:
            failed += 1
            print(f"{kind} {seed}: {exc}", flush=True)
    took_s = time.process_time() - began_s
    longest = f", converged within {max(times):.0f} s of the last fault" if times else ""
    print(f"{kind}: {count} seeds in {took_s:.1f} s of CPU, {failed} failed{longest}", flush=True)
    return failed


def replay(kind: str, seed: int, nodes: int) -> int:
    """Run one seed, and print what happened in it."""
    log: list[str] = []
    try:
        with silent():
            print(f"converged {try_seed(kind, seed, log, nodes):.1f} s after the last fault")
    except SeedFailed as exc:
        print(exc)
        return 1
    finally:
        print("\n".join(log))
    return 0


# In a process of its own, which imports the real code only once it has the mistake.
_CHILD = """
import sys
from tests.simulation.mistakes import make
name, kinds, seeds, first = sys.argv[1:]
make(name)
from tests.simulation.runs import noticed
sys.stdout.write(noticed(kinds.split(), int(seeds), int(first)))
"""


def try_mistakes(beginnings: list[str], seeds: int) -> int:
    """Try each against so many seeds, and say what noticed it; returns 1 where one went unnoticed that should not."""
    unnoticed = 0
    for name, mistake in MISTAKES.items():
        if not name.startswith(tuple(beginnings)):
            continue
        if mistake.held_by:
            print(f"{name}: {mistake.held_by}, for {mistake.why}", flush=True)
            continue
        command = [sys.executable, "-c", _CHILD, name, " ".join(mistake.kinds), str(seeds), str(mistake.first)]
        began_s = time.monotonic()
        tried = subprocess.run(command, check=False, capture_output=True, text=True)
        said = tried.stdout or (tried.stderr.strip().splitlines() or ["NOT NOTICED"])[-1]
        unnoticed += not tried.stdout
        print(f"{name}: {said} ({time.monotonic() - began_s:.0f} s)", flush=True)
    return unnoticed and 1


if __name__ == "__main__":
    sys.exit(main())
