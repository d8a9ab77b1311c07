"""The stage that all tests of pairings share, and their cells.

Called by pytest alone. The one rule: the stage is a process, bound to no event loop, so that it may outlive a test
while each test still leaves nothing behind.
"""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.model import Era
from tests.integration.pairings.cells import Cell

ROOT = Path(__file__).parents[3]
STOP_TIMEOUT_S = 40.0
# The first test of a worker waits for the stage, which takes four seconds of processor time; were it given up, all of
# the others would have none.
TIMEOUT_S = 180.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let each of these tests have the time of the first one."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


@pytest.fixture(scope="session")
def stage() -> Iterator[dict[str, str]]:
    """The URLs of the node with own servers and of its peer."""
    command = [sys.executable, "-m", "tests.integration.pairings.stage"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CONSUL_", "MESH_"))}
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=kept) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line, "the stage did not come up; its trace is on stderr"
            yield json.loads(line)
        finally:
            process.stdin.close()
            try:
                assert process.wait(STOP_TIMEOUT_S) == 0
            finally:
                process.kill()


@pytest.fixture(params=list(itertools.product(Era, ("own", "peer"))), ids=lambda way: f"{way[0]} front, {way[1]}")
def way(request: pytest.FixtureRequest) -> tuple[Era, str]:
    """The client's era, and whether the node that it talks to has the server itself."""
    era, whose = request.param
    return era, whose


@pytest.fixture(params=[f"{era}-{transport}" for era in Era for transport in ("http", "stdio")])
def cell(request: pytest.FixtureRequest, stage: dict[str, str], way: tuple[Era, str]) -> Cell:
    """One cell of the matrix."""
    front, whose = way
    return Cell(front, stage[whose], request.param)


@pytest.fixture
def own_cell(stage: dict[str, str], way: tuple[Era, str]) -> Cell:
    """A cell whose server of old runs as a child for each client."""
    front, whose = way
    return Cell(front, stage[whose], "legacy-own")
