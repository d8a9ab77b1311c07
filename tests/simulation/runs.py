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

# How many nodes those runs have that are of hundreds: it goes by the seed, but for cities, whose cost grows with the
# square of it: `python -m tests.simulation --nodes 200` has larger ones.
CROWDS, TOWNS, CITY = range(100, 301), range(100, 201), 100
# Mistakes are looked for in smaller ones, and in more of them.
SMALL_CITY, SMALL_CITIES_ONE_IN = 80, 1_000


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of run. `run` takes a seed, a log and how many nodes, and returns the seconds until convergence.

    `one_in`: of so many seeds one is tried. How many nodes there are goes by the kind and the seed where it is 0.
    """

    name: str
    run: Callable[[int, list[str], int], float]
    one_in: int


KINDS = {
    kind.name: kind
    for kind in (
        Kind("decisions", lambda seed, log, nodes: decide(seed, size=nodes, log=log), 1),
        Kind("mesh", lambda seed, log, nodes: simulate(seed, nodes=nodes, log=log).converged_s, 100),
        Kind(
            "crowd",
            lambda seed, log, nodes: simulate(seed, crowd=nodes or one_of(CROWDS, seed), log=log).converged_s,
            500,
        ),
        Kind(
            "town",
            lambda seed, log, nodes: decide(seed, size=nodes or one_of(TOWNS, seed), all_decide=True, log=log),
            2_500,
        ),
        Kind("city", lambda seed, log, nodes: simulate(seed, nodes=nodes or CITY, log=log).converged_s, 2_500),
    )
}


def one_of(sizes: range, seed: int) -> int:
    """How many nodes a run of hundreds has."""
    return sizes[seed * 77 % len(sizes)]


class SeedFailed(AssertionError):
    """A seed broke a rule; the text has the command that replays it."""


def try_seeds(kind: str, seeds: Iterable[int], nodes: int = 0) -> list[float]:
    """Run seed after seed; returns the seconds until convergence of each. Raises `SeedFailed`."""
    with silent():
        return [try_seed(kind, seed, nodes=nodes) for seed in seeds]


def noticed(kinds: Iterable[str], seeds: int, first: int = 0) -> str:
    """The first seed of these kinds that breaks a rule, and its rule; empty where none of so many does."""
    for kind in kinds:
        nodes, one_in = (SMALL_CITY, SMALL_CITIES_ONE_IN) if kind == "city" else (0, KINDS[kind].one_in)
        for seed in range(first, first + seeds // one_in):
            try:
                try_seeds(kind, [seed], nodes)
            except SeedFailed as exc:
                return f"{kind} {seed}: {str(exc).partition('replay: ')[0].strip()}"
    return ""


def try_seed(kind: str, seed: int, log: list[str] | None = None, nodes: int = 0) -> float:
    """Run one seed; returns the seconds until convergence. Raises `SeedFailed`. `log` gets what happens."""
    try:
        with no_bugs():
            return KINDS[kind].run(seed, [] if log is None else log, nodes)
    except Exception as exc:
        size = f" NODES={nodes}" if nodes else ""
        again = f"make simulation REPLAY='{kind} {seed}'{size}"
        raise SeedFailed(f"{str(exc) or repr(exc)}\nreplay: {again}") from exc


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
