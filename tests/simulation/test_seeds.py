"""The core of many nodes under faults that seeds draw, on a clock of its own: 10,000 seeds of decisions, and some more.

Those are meshes of whole nodes, crowds of hundreds around some, and towns in which each of a hundred or two decides.
`make simulation` tries more of these three, and other seeds with FIRST. Each block is a unit of its own for the workers
(tests/conftest.py).
"""

import pytest

from tests.simulation.runs import try_seeds
from tests.simulation.world import simulate

# A few milliseconds for each seed of decisions, fifty times that for a mesh, ten times that again for a crowd, and some
# seconds for a town.
SEEDS = {"decisions": 10_000, "mesh": 30, "crowd": 4, "town": 1}
BLOCKS = {"decisions": 500, "mesh": 5, "crowd": 1, "town": 1}


def blocks(kind: str) -> range:
    """The first seed of each block of a kind."""
    return range(0, SEEDS[kind], BLOCKS[kind])


def try_block(kind: str, first: int) -> None:
    try_seeds(kind, range(first, first + BLOCKS[kind]))


@pytest.mark.parametrize("first", blocks("decisions"))
def test_decisions_of_one_node_keep_the_rules_under_every_seed(first: int) -> None:
    try_block("decisions", first)


@pytest.mark.parametrize("first", blocks("mesh"))
def test_mesh_of_whole_nodes_keeps_the_rules_and_is_whole_again_after_all_faults(first: int) -> None:
    try_block("mesh", first)


@pytest.mark.parametrize("first", blocks("crowd"))
def test_nodes_with_hundreds_of_others_keep_the_rules_and_are_whole_again(first: int) -> None:
    try_block("crowd", first)


@pytest.mark.parametrize("first", blocks("town"))
def test_decisions_of_each_of_hundreds_of_nodes_keep_the_rules(first: int) -> None:
    try_block("town", first)


def test_same_seed_is_the_same_run_to_the_last_call() -> None:
    assert simulate(0) == simulate(0)
