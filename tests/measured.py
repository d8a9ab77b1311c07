"""Figures that a test took, which a run shows at its end, whether it went well or not.

Whatever takes one calls `measured`; tests/conftest.py puts them into the report of the test that runs. The one rule:
what is shown here was measured in that run; what has to hold is asserted as well.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import pytest

_PROPERTY: Final = "measured"
# Of the test that runs.
_TAKEN: list[str] = []
# Of a figure that is over its limit.
TRIES: Final = 3


def measured(figure: str) -> None:
    """Say a figure, with its unit."""
    _TAKEN.append(figure)


async def least(take: Callable[[], Awaitable[float]], under: float) -> float:
    """Take a figure, and again up to twice while none was under its limit; returns the least.

    For what other work on the machine only ever adds to, each time anew: what is really too much is too much each time.
    """
    taken: list[float] = []
    while len(taken) < TRIES and min(taken, default=under) >= under:
        taken.append(await take())
    return min(taken)


def attach(report: pytest.TestReport) -> None:
    """Put what was taken into a report."""
    if report.when == "call":
        report.user_properties += [(_PROPERTY, figure) for figure in _TAKEN]
        _TAKEN.clear()


def figures_of(reports: Iterable[pytest.TestReport]) -> list[str]:
    """One line for each test that took any."""
    lines = []
    for report in reports:
        found = [str(value) for name, value in report.user_properties if name == _PROPERTY]
        if found and report.when == "call":
            lines.append(f"{report.nodeid.removeprefix('tests/')}: {'; '.join(found)}")
    return sorted(lines)
