"""What the retry budget of a group is taken from by calls over scripted links."""

import contextlib

import pytest

from agent.dispatch.retry import BUDGET_RESERVE
from agent.errors import CallNotSent, MeshError
from tests.unit.control.fleet import alike, fleet

pytestmark = pytest.mark.looptime(start=1000.0)

CALLS = 20


@pytest.mark.parametrize(
    ("failure", "repetitions"),
    [
        (CallNotSent("503 to initialize"), BUDGET_RESERVE + CALLS / 5),
        (CallNotSent("refused").with_nothing_sent(), CALLS),
    ],
    ids=["refuse sessions", "are not reached"],
)
async def test_replicas_that_all_refuse_sessions_are_asked_within_the_budget(
    failure: CallNotSent, repetitions: float
) -> None:
    now = fleet(**alike("ab", failure))
    for _ in range(CALLS):
        with contextlib.suppress(MeshError):
            await now.call()
    retried = sum(value for name, value in now.series().items() if name.startswith("mesh_retries_total"))
    assert retried == repetitions
