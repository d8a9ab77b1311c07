"""`python -m tests.simulation`: many seeds, or one again with all that happened in it (`make simulation`).

The one rule: exit code 1 when a seed broke a rule, with the command that replays it.
"""

import argparse
import sys
import time

from tests.simulation.runs import KINDS, SeedFailed, silent, try_seed, try_seeds


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--seeds", type=int, default=10_000, help="of decisions; one of a whole mesh for each hundred, and so on"
    )
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--replay", nargs=2, metavar=("KIND", "SEED"), help=f"one seed again: {', '.join(KINDS)}")
    asked = parser.parse_args()
    if asked.replay:
        return replay(asked.replay[0], int(asked.replay[1]))
    return sum(many(kind, asked.first, asked.seeds // KINDS[kind].one_in) for kind in KINDS) and 1


def many(kind: str, first: int, count: int) -> int:
    """Run so many seeds of one kind, and say how it went; returns how many failed."""
    began_s, times, failed = time.process_time(), [], 0
    for seed in range(first, first + count):
        try:
            times += try_seeds(kind, [seed])
        except SeedFailed as exc:
            failed += 1
            print(f"{kind} {seed}: {exc}", flush=True)
    took_s = time.process_time() - began_s
    longest = f", converged within {max(times):.0f} s of the last fault" if times else ""
    print(f"{kind}: {count} seeds in {took_s:.1f} s of CPU, {failed} failed{longest}", flush=True)
    return failed


def replay(kind: str, seed: int) -> int:
    """Run one seed, and print what happened in it."""
    log: list[str] = []
    try:
        with silent():
            print(f"converged {try_seed(kind, seed, log):.1f} s after the last fault")
    except SeedFailed as exc:
        print(exc)
        return 1
    finally:
        print("\n".join(log))
    return 0


if __name__ == "__main__":
    sys.exit(main())
