"""A real node is killed around POSTs and DELETEs of peers: no acknowledged word is lost.

`make chaos` kills a node two hundred times; `tests/unit/state/test_overrides_kill.py` kills the writer alone as often.
"""

import os
import random
from pathlib import Path

import pytest

from tests.chaos.operators_words import killed_again_and_again
from tests.measured import measured

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

KILLS = 8


async def test_no_acknowledged_word_of_an_operator_is_lost_when_its_node_is_killed(tmp_path: Path) -> None:
    seed = int(os.environ.get("CHAOS_SEED", random.randrange(2**32)))
    print(f"CHAOS_SEED={seed}")  # noqa: T201 - pytest shows it with a failure
    told = await killed_again_and_again(tmp_path, random.Random(seed), KILLS)
    measured(str(told))
    assert told.lost is None, told.lost
    assert told.kills == KILLS
