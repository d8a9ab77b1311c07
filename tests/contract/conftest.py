"""Where the contract tests get a catalog from: the embedded one, or a real Consul shared by the whole run."""

from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest

from discovery.consul.client import ConsulClient, open_client
from discovery.consul.environment import ConsulSettings
from discovery.consul.session import ConsulConnection, open_session
from discovery.embedded.server import embedded_catalog
from tests.consul_process import RunningConsul, shared_consul
from tests.contract.following import fresh_name
from tests.ports import free_ports


@pytest.fixture(scope="session")
def binary(consul_program: Path) -> Path:
    """A real Consul binary, by the name that it has in these tests."""
    return consul_program


@pytest.fixture(scope="session")
def real_consul(binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[RunningConsul, None, None]:
    """One Consul server for all tests that do not restart it."""
    with shared_consul(binary, tmp_path_factory.mktemp("consul")) as consul:
        yield consul


@pytest.fixture(scope="session")
def guarded(binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[RunningConsul, None, None]:
    """A Consul that denies by default."""
    with shared_consul(binary, tmp_path_factory.mktemp("guarded"), acl=True) as consul:
        yield consul


@pytest.fixture(scope="session", params=["embedded", pytest.param("real", marks=pytest.mark.consul)])
def shared_settings(request: pytest.FixtureRequest) -> ConsulSettings | None:
    """The settings of the real Consul, or None for an embedded catalog; set up before descriptors are counted."""
    if request.param == "embedded":
        return None
    consul: RunningConsul = request.getfixturevalue("real_consul")
    return consul.settings()


@pytest.fixture
async def settings(shared_settings: ConsulSettings | None) -> AsyncGenerator[ConsulSettings, None]:
    """How to reach the catalog under test."""
    if shared_settings is not None:
        yield shared_settings
        return
    async with embedded_catalog(free_ports(1)[0]) as embedded:
        yield embedded


@pytest.fixture
async def session(settings: ConsulSettings) -> AsyncGenerator[ConsulConnection, None]:
    """An open session with the catalog under test."""
    async with open_session(settings) as opened:
        yield opened


@pytest.fixture
async def client(settings: ConsulSettings) -> AsyncGenerator[ConsulClient, None]:
    """A second way in, to act behind the session's back."""
    async with open_client(settings) as opened:
        yield opened


@pytest.fixture
def name() -> str:
    """A service name of this test's own."""
    return fresh_name()
