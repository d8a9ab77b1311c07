"""What the end-to-end tests share: catalogs, a small mesh that lives for the whole run, and the logs of a failure.

Used by pytest alone. The one rule: the shared mesh is only read and called; a test that kills, adds or removes starts
nodes of its own, with a catalog or a service name of their own.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.consul_process import RunningConsul, shared_consul
from tests.e2e.by_hand import modern_request
from tests.e2e.meshes import (
    SHARED_COUNTS,
    SHARED_PROMPTS,
    SHARED_RESOURCES,
    SHARED_TEMPLATES,
    SHARED_TOOLS,
    CatalogKind,
    RunningKit,
    SharedMesh,
)
from tests.e2e.processes import NodeProcess, environment_of, spawn
from tests.e2e.running import LIVING, START_TIMEOUT_S, RunningNode, StartNode, nodes_below, running_nodes, start_node
from tests.e2e.servers_files import example
from tests.ports import free_port
from tests.waiting import all_of, eventually

LOG_CHARS_SHOWN = 8_000


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the end of every living node's log with a failure of a test in this folder."""
    report = yield
    if report.failed and Path(__file__).parent in item.path.parents and call.when == "call":
        for node in LIVING:
            report.sections.append((f"log of {node.name} on {node.port}", end_of_log(node)))
    return report


def end_of_log(node: RunningNode) -> str:
    """The last lines of a node's log; requests that went well say nothing about a failure."""
    lines = [line for line in node.log().splitlines() if '"MCP request"' not in line or '"ok"' not in line]
    return "\n".join(lines)[-LOG_CHARS_SHOWN:]


@pytest.fixture(scope="session")
def one_consul(consul_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningConsul]:
    """One Consul server for all tests that leave it in peace."""
    with shared_consul(consul_program, tmp_path_factory.mktemp("consul")) as consul:
        yield consul


@pytest.fixture(scope="session", params=["embedded", pytest.param("consul", marks=pytest.mark.consul)])
def catalog(request: pytest.FixtureRequest) -> CatalogKind:
    """Each test with this fixture runs on the embedded catalog and on a real Consul."""
    if request.param == "embedded":
        return CatalogKind("embedded")
    return CatalogKind("consul", request.getfixturevalue("one_consul"))


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKit]:
    """The kit over HTTP, in a process of its own for the whole run."""
    port = free_port()
    folder = tmp_path_factory.mktemp("kit")
    log_path, journal = folder / "kit.log", folder / "journal"
    process = spawn(("tests.e2e.kit_server", str(port)), log_path, environment_of({"KIT_JOURNAL": str(journal)}))
    url = f"http://127.0.0.1:{port}/mcp"
    try:
        asyncio.run(_until_serving(process, url, log_path))
        yield RunningKit(url, journal)
    finally:
        process.kill()
        asyncio.run(_ended(process))


@pytest.fixture(scope="session")
def meshes(kit: RunningKit, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[CatalogKind], SharedMesh]]:
    """The shared mesh of each catalog: started when it is first asked for, and kept until the run ends.

    Tests of both catalogs take turns, so a fixture with the catalog as its parameter would start them over and over.
    """
    running: dict[str, SharedMesh] = {}
    with ExitStack() as stack:

        def on(catalog: CatalogKind) -> SharedMesh:
            if catalog.name not in running:
                folder = tmp_path_factory.mktemp(f"mesh-{catalog.name}")
                stack.enter_context(nodes_below(folder))
                running[catalog.name] = asyncio.run(_complete_mesh(catalog, kit, folder))
            return running[catalog.name]

        yield on


@pytest.fixture(scope="session")
def mesh(catalog: CatalogKind, meshes: Callable[[CatalogKind], SharedMesh]) -> SharedMesh:
    """The shared mesh, complete: every node sees the other two and all of their tools."""
    return meshes(catalog)


@pytest.fixture
async def start() -> AsyncGenerator[StartNode, None]:
    """Start nodes that end with the test."""
    async with running_nodes() as start_one:
        yield start_one


async def _until_serving(process: NodeProcess, url: str, log_path: Path) -> None:
    async def serves() -> bool:
        if process.returncode is not None:
            raise RuntimeError(f"the server ended with {process.returncode}; see {log_path}")
        return "tools" in await modern_request(url, "tools/list")

    await eventually(serves, START_TIMEOUT_S)


async def _ended(process: NodeProcess) -> None:
    async with asyncio.timeout(10):
        await process.wait()


async def _lists_all(node: RunningNode) -> bool:
    """A node reads all lists of a peer at once: one may be older than a server there, and its tools newer."""
    prompts = await modern_request(node.url, "prompts/list")
    resources = await modern_request(node.url, "resources/list")
    templates = await modern_request(node.url, "resources/templates/list")
    return (
        {prompt["name"] for prompt in prompts["prompts"]} == SHARED_PROMPTS
        and {resource["uri"] for resource in resources["resources"]} == SHARED_RESOURCES
        and {template["uriTemplate"] for template in templates["resourceTemplates"]} == SHARED_TEMPLATES
    )


async def _complete_mesh(catalog: CatalogKind, kit: RunningKit, folder: Path) -> SharedMesh:
    settings: dict[str, Any] = catalog.bare()
    servers = {
        "plain": None,
        "desk": {"notes": example("notes"), "dice": example("dice", "service"), "kit": {"url": kit.url}},
        "hall": {"clock": example("clock"), "dice": example("dice", "service")},
    }
    nodes = await all_of(start_node(name, folder / name, servers=own, **settings) for name, own in servers.items())
    for node in nodes:
        await eventually(partial(node.sees, *(servers.keys() - {node.name})))
        await eventually(partial(node.offers, *SHARED_TOOLS))
        # A tool of two nodes is listed as soon as one of them has it; the tests want both.
        await eventually(partial(node.counts, {name: SHARED_COUNTS[name] for name in servers.keys() - {node.name}}))
        await eventually(partial(_lists_all, node))
    plain, node_status, hall = nodes
    return SharedMesh(plain, node_status, hall, kit.url)
