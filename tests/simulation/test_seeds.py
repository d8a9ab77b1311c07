"""The core of many nodes under faults that seeds draw, on a clock of its own; `make simulation` tries more of them."""

import pytest

from tests.simulation.runs import try_seed
from tests.simulation.world import simulate

# The longest of these files on one worker, so it begins early (tests/conftest.py).
pytestmark = pytest.mark.timeout(180)

# A few milliseconds each; what a mesh of whole nodes costs is a hundred times that.
SEEDS, MESHES, BLOCK = 2_400, 10, 400


@pytest.mark.parametrize("first", range(0, SEEDS, BLOCK))
def test_decisions_of_one_node_keep_the_rules_under_every_seed(first: int) -> None:
    for seed in range(first, first + BLOCK):
        try_seed("decisions", seed)


@pytest.mark.parametrize("seed", range(MESHES))
def test_mesh_of_whole_nodes_keeps_the_rules_and_is_whole_again_after_all_faults(seed: int) -> None:
    try_seed("mesh", seed)


def test_node_with_hundreds_of_others_keeps_the_rules_and_is_whole_again() -> None:
    try_seed("crowd", 1)


def test_same_seed_is_the_same_run_to_the_last_call() -> None:
    assert simulate(0) == simulate(0)
