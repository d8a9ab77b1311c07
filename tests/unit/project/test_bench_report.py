"""What a run of the benchmarks leaves: which figures it has, where they were measured, and what was to be reached."""

import re

import orjson
import pytest

from bench import adopting, eras, floor, listing, memory, proxy, start
from bench.figures import Figure
from bench.report import Surroundings, document, report

FIGURES = [
    Figure("a hop over the least one", 1.25, "x", 1.3),
    Figure("ours over theirs", 99.0, "x", 100, more_is_better=True),
    Figure("a call", 0.5, "ms"),
]


def test_the_table_names_machine_versions_and_which_goals_were_missed() -> None:
    here = Surroundings.here()
    first, second, *rows = report(here, FIGURES).splitlines()
    assert here.cpu in first
    assert f"{here.cpus} x " in first
    assert all(f"{name} {it}" in second for name, it in here.versions.items())
    assert {"mcp-mesh-agent", "python", "aiohttp", "fastmcp", "mcp"} <= here.versions.keys()
    assert [re.findall(r"(<=|>=) \S+ (met|MISSED)", row) for row in rows] == [[("<=", "met")], [(">=", "MISSED")], []]


def test_the_document_says_which_way_a_goal_goes() -> None:
    written = orjson.loads(document(Surroundings.here(), FIGURES))
    assert written["machine"]["versions"]["orjson"]
    assert [(row["goal"], row["more_is_better"], row["met"]) for row in written["figures"]] == [
        (1.3, False, True),
        (100, True, False),
        (None, False, True),
    ]


@pytest.mark.parametrize(
    "batches", [floor.BATCHES, proxy.BATCHES, eras.BATCHES, listing.BATCHES, memory.RUNS, start.RUNS, adopting.RUNS]
)
def test_a_figure_is_the_median_of_at_least_five(batches: int) -> None:
    assert batches >= 5
