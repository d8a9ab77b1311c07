"""A real Consul for the tests of faults. The one rule: each has one of its own, as what it does to it is no other's."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.consul_process import RunningConsul, running_consul


@pytest.fixture
async def consul(consul_program: Path, tmp_path: Path) -> AsyncIterator[RunningConsul]:
    """One server of this test's own."""
    folder = tmp_path / "consul"
    folder.mkdir()
    async with running_consul(consul_program, folder) as running:
        yield running
