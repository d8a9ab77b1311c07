"""Distributions of samples, and the table that a run prints."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the result.

    `unit`: ms, KB, /s or x (a ratio). `goal`: an upper bound, or a lower one when `more_is_better`; None: none.
    `worst`: of the rounds whose median `value` is; None where it is of one.
    """

    name: str
    value: float
    unit: str
    goal: float | None = None
    more_is_better: bool = False
    worst: float | None = None

    @property
    def met(self) -> bool:
        """Whether the goal is met; True without one."""
        if self.goal is None:
            return True
        return self.value >= self.goal if self.more_is_better else self.value <= self.goal


def percentile(samples: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the samples lie."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def ratio(
    name: str,
    numerators: Sequence[float],
    denominators: Sequence[float],
    goal: float | None = None,
    *,
    more_is_better: bool = False,
) -> Figure:
    """The median and the worst of pairwise ratios: a pair is measured side by side, so the machine's noise cancels."""
    ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
    worst = min(ratios) if more_is_better else max(ratios)
    return Figure(name, statistics.median(ratios), "x", goal, more_is_better, worst)


def table(figures: Sequence[Figure]) -> str:
    """The figures as aligned text."""
    width = max((len(figure.name) for figure in figures), default=0)
    lines = []
    for figure in figures:
        sign = ">=" if figure.more_is_better else "<="
        goal = "" if figure.goal is None else f"  goal {sign} {figure.goal:.4g} {'met' if figure.met else 'MISSED'}"
        worst = "" if figure.worst is None else f"  worst {figure.worst:.3f}"
        lines.append(f"{figure.name:<{width}}  {figure.value:10.3f} {figure.unit:<2}{worst}{goal}")
    return "\n".join(lines)
