"""The core of many nodes under faults that seeds draw, on a clock of its own: 10,000 seeds of decisions, and some more.

Those are meshes of whole nodes, crowds of hundreds around some, towns in which each of a hundred or two decides, and
cities of dozens of whole nodes that are all linked. `make simulation` tries more of these four, with cities of a
hundred, other seeds with FIRST, and larger cities with NODES. Each block is a unit of its own for the workers
(tests/conftest.py).
"""

import pytest

from tests.simulation.runs import try_seeds
from tests.simulation.world import simulate

# A few milliseconds for each seed of decisions, fifty times that for a mesh, ten times that again for a crowd, some
# seconds for a town. A city of a hundred takes half a minute, so here is one of half the size: its cost is its links'.
SEEDS = {"decisions": 10_000, "mesh": 20, "crowd": 2, "town": 1}
BLOCKS = {"decisions": 500, "mesh": 5, "crowd": 1, "town": 1}
# A snapshot is restored in this one, a fifth is cut off one way, and a tenth restarts at the same moment.
A_CITY, CITY_NODES = 13, 50
# With a limit of its own it begins first of these (tests/order.py), so that no worker is left alone with it.
CITY_LIMIT_S = 300
# So do these next. Six seconds of work are a minute on a machine with twenty programs for each core.
HUNDREDS_LIMIT_S = 180


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


@pytest.mark.timeout(HUNDREDS_LIMIT_S)
@pytest.mark.parametrize("first", blocks("crowd"))
def test_nodes_with_hundreds_of_others_keep_the_rules_and_are_whole_again(first: int) -> None:
    try_block("crowd", first)


@pytest.mark.timeout(HUNDREDS_LIMIT_S)
@pytest.mark.parametrize("first", blocks("town"))
def test_decisions_of_each_of_hundreds_of_nodes_keep_the_rules(first: int) -> None:
    try_block("town", first)


@pytest.mark.timeout(CITY_LIMIT_S)
def test_city_of_whole_nodes_keeps_the_rules_and_is_whole_again_after_all_faults() -> None:
    try_seeds("city", [A_CITY], CITY_NODES)


def test_same_seed_is_the_same_run_to_the_last_call() -> None:
    assert simulate(0) == simulate(0)
