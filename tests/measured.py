"""Figures that a test took, which a run shows at its end, whether it went well or not.

A test asks for the fixture `measured` of conftest.py. The one rule: what is shown here was measured in that run; what
has to hold is asserted as well.
"""

from collections.abc import Callable, Iterable
from typing import Final

import pytest

Measured = Callable[[str], None]
PROPERTY: Final = "measured"


def figures_of(reports: Iterable[pytest.TestReport]) -> list[str]:
    """One line for each test that took any: its file, and what it saw."""
    lines = []
    for report in reports:
        found = [str(value) for name, value in report.user_properties if name == PROPERTY]
        if found and report.when == "call":
            lines.append(f"{report.nodeid.partition('::')[0]}: {'; '.join(found)}")
    return sorted(lines)
