"""What a restored snapshot costs with the waits that nodes make, which real tests cannot wait for."""

import pytest

from discovery.consul.environment import WAIT_S
from tests.simulation.restored import NAMES, restored

# The second answer without ourselves, after which we register again; and the requests themselves.
MORE_S = 1.0


@pytest.mark.parametrize("seed", range(20))
def test_a_restored_snapshot_costs_one_wait_of_the_usual_length_and_no_peer(seed: int) -> None:
    took_s, seen, trusted = restored(seed)
    assert 0.0 < took_s <= WAIT_S + MORE_S
    assert seen == {len(NAMES)}
    assert trusted
