"""The kinds of runs, how many seeds of each are tried for a number of seeds, and how a failing one is tried again.

Used by the tests and by `python -m tests.simulation`. The one rule: a failure names the command that replays it.
"""

import gc
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.simulation.towns import decide
from tests.simulation.world import simulate

# How many nodes those runs have that are of hundreds: it goes by the seed.
CROWDS, TOWNS = range(100, 301), range(100, 201)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of run. `run` takes a seed and a log, and returns the seconds until convergence.

    `one_in`: of so many seeds one is tried.
    """

    name: str
    run: Callable[[int, list[str]], float]
    one_in: int


KINDS = {
    kind.name: kind
    for kind in (
        Kind("decisions", lambda seed, log: decide(seed, log=log), 1),
        Kind("mesh", lambda seed, log: simulate(seed, log=log).converged_s, 100),
        Kind("crowd", lambda seed, log: simulate(seed, crowd=one_of(CROWDS, seed), log=log).converged_s, 500),
        Kind("town", lambda seed, log: decide(seed, size=one_of(TOWNS, seed), all_decide=True, log=log), 2_500),
    )
}


def one_of(sizes: range, seed: int) -> int:
    """How many nodes a run of hundreds has."""
    return sizes[seed * 77 % len(sizes)]


class SeedFailed(AssertionError):
    """A seed broke a rule; the text has the command that replays it."""


def try_seeds(kind: str, seeds: Iterable[int]) -> list[float]:
    """Run seed after seed; returns the seconds until convergence of each. Raises `SeedFailed`."""
    with silent():
        return [try_seed(kind, seed) for seed in seeds]


def try_seed(kind: str, seed: int, log: list[str] | None = None) -> float:
    """Run one seed; returns the seconds until convergence. Raises `SeedFailed`. `log` gets what happens."""
    try:
        return KINDS[kind].run(seed, [] if log is None else log)
    except Exception as exc:
        raise SeedFailed(f"{exc}\nreplay: make simulation REPLAY='{kind} {seed}'") from exc


@contextmanager
def silent() -> Iterator[None]:
    """Thousands of nodes say what happens to them; it would be most of a run's time.

    What is left of them goes when many are over: to look for it meanwhile takes a tenth of the time.
    """
    before, collects = logging.root.manager.disable, gc.isenabled()
    logging.disable(logging.CRITICAL)
    gc.disable()
    try:
        yield
    finally:
        logging.disable(before)
        if collects:
            gc.enable()
