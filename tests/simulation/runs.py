"""The kinds of runs, how many seeds of each are tried for a number of seeds, and how a failing one is tried again.

Used by the tests and by `python -m tests.simulation`. The one rule: a failure names the command that replays it.
"""

import gc
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.simulation.rules import RuleBroken
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


def noticed(kinds: Iterable[str], seeds: int) -> str:
    """The first seed of these kinds that breaks a rule, and its rule; empty where none of so many does."""
    for kind in kinds:
        for seed in range(seeds // KINDS[kind].one_in):
            try:
                try_seeds(kind, [seed])
            except SeedFailed as exc:
                return f"{kind} {seed}: {str(exc).partition('replay: ')[0].strip()}"
    return ""


def try_seed(kind: str, seed: int, log: list[str] | None = None) -> float:
    """Run one seed; returns the seconds until convergence. Raises `SeedFailed`. `log` gets what happens."""
    try:
        with no_bugs():
            return KINDS[kind].run(seed, [] if log is None else log)
    except Exception as exc:
        raise SeedFailed(f"{str(exc) or repr(exc)}\nreplay: make simulation REPLAY='{kind} {seed}'") from exc


class Bugs(logging.Handler):
    """Exceptions that nothing foresees: a node says each of them and goes on. `first`: of a run."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.first: logging.LogRecord | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the first one."""
        if record.exc_info and self.first is None:
            self.first = record


@contextmanager
def no_bugs() -> Iterator[None]:
    """Raises `RuleBroken` at the end of a run in which an exception came that no part of a node foresees."""
    bugs, root = Bugs(), logging.getLogger()
    root.addHandler(bugs)
    try:
        yield
    finally:
        root.removeHandler(bugs)
    if bugs.first is not None and bugs.first.exc_info:
        raise RuleBroken(f"an unforeseen failure: {bugs.first.getMessage()}: {bugs.first.exc_info[1]!r}")


@contextmanager
def silent() -> Iterator[None]:
    """Thousands of nodes say what happens to them, which would be most of a run's time, but for bugs.

    What is left of them goes when many are over: to look for it meanwhile takes a tenth of the time.
    """
    before, collects = logging.root.manager.disable, gc.isenabled()
    logging.disable(logging.WARNING)
    gc.disable()
    try:
        yield
    finally:
        logging.disable(before)
        if collects:
            gc.enable()
