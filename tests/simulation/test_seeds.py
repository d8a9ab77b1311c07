"""The core of many nodes under faults that seeds draw, on a clock of its own: 10,000 seeds of decisions, some meshes.

`make simulation` tries more meshes, and other seeds with FIRST. Each block is a unit of its own for the workers
(tests/conftest.py).
"""

import pytest

from tests.simulation.runs import try_seed
from tests.simulation.world import simulate

# A few milliseconds for each seed of decisions, a hundred times that for a mesh of whole nodes, a thousand for a crowd.
SEEDS = {"decisions": 10_000, "mesh": 50, "crowd": 2}
BLOCKS = {"decisions": 500, "mesh": 5, "crowd": 1}


def blocks(kind: str) -> range:
    """The first seed of each block of a kind."""
    return range(0, SEEDS[kind], BLOCKS[kind])


def try_block(kind: str, first: int) -> None:
    for seed in range(first, first + BLOCKS[kind]):
        try_seed(kind, seed)


@pytest.mark.parametrize("first", blocks("decisions"))
def test_decisions_of_one_node_keep_the_rules_under_every_seed(first: int) -> None:
    try_block("decisions", first)


@pytest.mark.parametrize("first", blocks("mesh"))
def test_mesh_of_whole_nodes_keeps_the_rules_and_is_whole_again_after_all_faults(first: int) -> None:
    try_block("mesh", first)


@pytest.mark.parametrize("first", blocks("crowd"))
def test_node_with_hundreds_of_others_keeps_the_rules_and_is_whole_again(first: int) -> None:
    try_block("crowd", first)


def test_same_seed_is_the_same_run_to_the_last_call() -> None:
    assert simulate(0) == simulate(0)
