"""Runs the conformance suite against the fixture directly, through the renaming proxy, and behind one node and two.

Called by the tests, once for all of them. Every process started here is ended here. The one rule: a run that hangs or
breaks is a report with few checks in it, never an exception, so that the tests can say which checks are missing.
"""

import asyncio
import signal
import subprocess
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import orjson

from tests.conformance.names import PublicNames
from tests.conformance.node_tools import NodeTools
from tests.conformance.renaming_proxy import renaming_proxy
from tests.conformance.verdicts import Report, failing_alone, may_be_late, report_of, with_another_run
from tests.e2e.by_hand import modern_request
from tests.e2e.copied_nodes import SERVER_MODULES
from tests.e2e.processes import NodeProcess, environment_of, spawn_copy
from tests.e2e.running import RunningNode, start_node, stop_node
from tests.measured import measured
from tests.ports import free_port
from tests.waiting import eventually

REVISIONS = ("2025-11-25", "2026-07-28")
TARGETS = ("direct", "proxy", "one", "two")
HOPS = {"one": 1, "two": 2}
SERVER_NAME = "fixture"
# No promise of ours: one of thirty exchanges takes a while beside other tests.
SCENARIO_TIMEOUT_S = 30
# A run takes 3 to 20 s, most of it tasks that take their time, and longer beside others; what takes longer is hung.
RUN_TIMEOUT_S = 120
# Of one scenario whose checks the suite judges by its clock.
MORE_RUNS_MAX = 2


async def run_all(tools: NodeTools, folder: Path) -> dict[tuple[str, str], Report]:
    """Every target with every revision; (target, revision) -> report. The targets at once: the suite mostly waits."""
    reports: dict[tuple[str, str], Report] = {}

    async def run_target(target: str) -> None:
        results = folder / target
        results.mkdir()
        async with served(target, results) as url:
            for revision in REVISIONS:
                reports[target, revision] = await run_suite(tools, url, revision, results)

    async with asyncio.TaskGroup() as group:
        for target in TARGETS:
            group.create_task(run_target(target), name=f"the suite against {target}")
    return reports


@asynccontextmanager
async def served(target: str, folder: Path) -> AsyncGenerator[str, None]:
    """A fixture of its own, whose lists change in a run, behind what the target says; yields the URL for the suite."""
    names = PublicNames(SERVER_NAME)
    async with AsyncExitStack() as stack:
        namespace = SERVER_NAME if target == "proxy" else ""
        url = await stack.enter_async_context(served_fixture(folder, namespace))
        if target in HOPS:
            url = (await stack.enter_async_context(nodes_before(url, HOPS[target], names, folder))).url
        if target != "direct":
            url = await stack.enter_async_context(renaming_proxy(url, names, free_port()))
        yield url


@asynccontextmanager
async def nodes_before(url: str, hops: int, names: PublicNames, folder: Path) -> AsyncGenerator[RunningNode, None]:
    """The last of so many nodes before the server at `url`; they end with the block."""
    mesh: dict[str, Any] = {"MESH_DISCOVERY": "embedded", "MESH_EMBEDDED_PORT": str(free_port())}
    async with AsyncExitStack() as stack:
        servers = {SERVER_NAME: {"url": url}}
        for name in ("near", "far")[:hops]:
            node = await stack.enter_async_context(running_node(name, folder, servers, mesh))

            async def offers_fixture(node: RunningNode = node) -> bool:
                return await node.offers(names.public_name("test_simple_text"))

            await eventually(offers_fixture)
            servers = {}
        yield node


@asynccontextmanager
async def served_fixture(folder: Path, namespace: str) -> AsyncGenerator[str, None]:
    """The fixture in a process of its own; yields its URL."""
    port = free_port()
    arguments = ("tests.conformance.fixture_server", str(port), *([namespace] if namespace else []))
    log_path = folder / f"fixture-{namespace or 'plain'}.log"
    process = spawn_copy(arguments, log_path, environment_of({}), modules=SERVER_MODULES)
    url = f"http://127.0.0.1:{port}/mcp"

    async def serves() -> bool:
        return "tools" in await modern_request(url, "tools/list")

    try:
        await eventually(serves)
        yield url
    finally:
        await ended(process)


@asynccontextmanager
async def running_node(
    name: str, folder: Path, servers: dict[str, Any], settings: dict[str, Any]
) -> AsyncGenerator[RunningNode, None]:
    """One node, which ends with the block."""
    node = await start_node(name, folder / name, servers=servers, **settings)
    try:
        yield node
    finally:
        await stop_node(node)


async def ended(process: NodeProcess) -> None:
    """End a process of ours that holds nothing worth a goodbye."""
    process.send_signal(signal.SIGKILL)
    await process.wait()


async def run_suite(tools: NodeTools, url: str, revision: str, folder: Path) -> Report:
    """One run of one requirement set; of a scenario in which something came too late for the suite's clock, more."""
    report = await _run(tools, url, folder, revision, "--requirements", revision)
    for number in range(MORE_RUNS_MAX):
        for scenario in sorted(may_be_late(report)):
            late = ", ".join(sorted(failing_alone(report)))
            measured(f"{folder.name}, {revision}: {scenario} is run again after {late}")
            options = ("--scenario", scenario, "--spec-version", revision, "--force")
            later = await _run(tools, url, folder, f"{revision}-{scenario}-{number}", *options)
            report = with_another_run(report, later)
    return report


async def _run(tools: NodeTools, url: str, folder: Path, name: str, *options: str) -> Report:
    results = folder / name
    results.mkdir()
    common = ("--timeout", str(SCENARIO_TIMEOUT_S * 1000), "--output-dir", str(results))
    with (folder / f"{name}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *tools.command("conformance", "server", "--url", url, *options, *common),
            cwd=folder,
            env=environment_of({}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            async with asyncio.timeout(RUN_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):  # It has ended at the last moment.
                process.kill()
            await process.wait()
    return report_of({scenario_of(path): orjson.loads(path.read_bytes()) for path in results.glob("*/checks.json")})


def scenario_of(checks: Path) -> str:
    """The suite writes `server-<scenario>-<time>/checks.json`, the time as 2026-11-22T13-10-58-268Z."""
    return checks.parent.name.removeprefix("server-").rsplit("-", 6)[0]
