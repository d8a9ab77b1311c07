"""A node that stops hearing most others keeps its links, whose probes at rest are asked without a task."""

import pytest

from tests.simulation.own_silence import OTHERS, deaf


@pytest.mark.parametrize("number", range(3))
def test_no_link_ends_while_most_are_silent_at_once(number: int) -> None:
    assert deaf(number) == (OTHERS, OTHERS)
