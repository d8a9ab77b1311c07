"""What a run of the benchmarks leaves: which figures it has, where they were measured, and what was to be reached."""

import re
from pathlib import Path

import orjson
import pytest

from bench import (
    adopting,
    authority,
    before,
    eras,
    floor,
    hop,
    idle,
    listing,
    memory,
    others,
    proxy,
    single,
    start,
    tail,
    workers,
)
from bench.__main__ import BENCHMARKS
from bench.figures import Figure
from bench.gateways import FILE_VARIABLE, Others
from bench.report import NO_PROGRAM, Surroundings, document, report

PAGE = Path(__file__).parents[3] / "docs" / "performance.md"
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
    assert {"mcp-mesh-agent", "python", "aiohttp", "fastmcp", "mcp", "wrk", "valgrind"} <= here.versions.keys()
    assert [re.findall(r"(<=|>=) \S+ (met|MISSED)", row) for row in rows] == [[("<=", "met")], [(">=", "MISSED")], []]


def test_the_document_says_which_way_a_goal_goes() -> None:
    written = orjson.loads(document(Surroundings.here(), FIGURES))
    assert written["machine"]["versions"]["orjson"]
    assert [(row["goal"], row["more_is_better"], row["met"]) for row in written["figures"]] == [
        (1.3, False, True),
        (100, True, False),
        (None, False, True),
    ]


def test_the_table_names_the_versions_of_other_gateways_and_of_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = {"name": "another gateway", "url": "http://127.0.0.1:1/mcp", "tool": "echo", "version": "abc123"}
    file = tmp_path / "others.json"
    file.write_bytes(orjson.dumps({"gateways": [entry, {**entry, "name": "one that does not say", "version": ""}]}))
    monkeypatch.setenv(FILE_VARIABLE, str(file))
    monkeypatch.setenv("WRK_BIN", str(tmp_path / "no-such-program"))
    line = report(Surroundings.here(), []).splitlines()[1]
    assert "another gateway abc123" in line
    assert "one that does not say" not in line
    assert f"wrk {NO_PROGRAM}" in line


def test_the_file_of_other_gateways_that_the_page_shows_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shown,) = re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    file = tmp_path / "others.json"
    file.write_text(shown)
    monkeypatch.setenv(FILE_VARIABLE, str(file))
    read = Others.named()
    assert all(one.version and one.command for one in (*read.gateways, *read.pairs))
    assert any(one.name.startswith(known) for one in read.gateways for known in others.GOALS)


def test_the_page_names_every_benchmark() -> None:
    named = PAGE.read_text().partition("`python -m bench ")[2].partition("`")[0].split()
    assert sorted(named) == sorted(BENCHMARKS)


def test_what_a_node_is_to_reach_over_a_gateway_goes_by_its_name() -> None:
    ours = others.Samples(rates=[150.0], cpu_us=[1.0], p50_alone_ms=[2.0])
    theirs = others.Samples(rates=[100.0], cpu_us=[1.0], p50_alone_ms=[1.0])
    of_rust = others.ratios("agentgateway, August 2026", "sessions", ours, theirs)
    assert [(figure.goal, figure.met) for figure in of_rust] == [(1.6, False), (None, True), (1.0, False)]
    assert all(figure.goal is None for figure in others.ratios("another gateway", "sessions", ours, theirs))


BATCHES_OF = {
    "adopting": adopting.RUNS,
    "authority": authority.BATCHES,
    "before": before.ROUNDS,
    "eras": eras.BATCHES,
    "floor": floor.BATCHES,
    "idle": idle.ROUNDS,
    "listing": listing.BATCHES,
    "memory": memory.RUNS,
    "others": others.ROUNDS,
    "others, pairs": others.PAIR_ROUNDS,
    "hop": hop.BATCHES,
    "proxy": proxy.BATCHES,
    "single": single.BATCHES,
    "start": start.RUNS,
    "tail": tail.ROUNDS,
    "workers": workers.ROUNDS,
}


@pytest.mark.parametrize("name", BATCHES_OF)
def test_a_figure_is_the_median_of_at_least_five(name: str) -> None:
    assert BATCHES_OF[name] >= 5
