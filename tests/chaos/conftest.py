"""A real Consul for the tests of faults. The one rule: each has one of its own, as what it does to it is no other's."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.consul_binary import consul_binary, why_not
from tests.consul_process import RunningConsul, running_consul


@pytest.fixture(scope="session")
def consul_program() -> Path:
    """A real Consul binary; the test is skipped aloud when there is none."""
    found = consul_binary(fetch=False)
    if found is None:
        pytest.skip(f"NO REAL CONSUL ({why_not()}); `python -m tests.debian_binary` fetches one")
    return found


@pytest.fixture
async def consul(consul_program: Path, tmp_path: Path) -> AsyncIterator[RunningConsul]:
    """One server of this test's own."""
    folder = tmp_path / "consul"
    folder.mkdir()
    async with running_consul(consul_program, folder) as running:
        yield running
