"""What every test gets: a clean environment, and a check that it leaves nothing behind; what every run says at its end.

Called by pytest alone. Seeds are printed by pytest-randomly (random) and hypothesis (print_blob). The one rule: a test
ends with the tasks, child processes and descriptors that it started with.
"""

import asyncio
import gc
import inspect
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio.plugin
from hypothesis import HealthCheck, settings

from agent.lossless_json.exact import read_json
from tests.consul_binary import consul_binary, why_not
from tests.consul_process import RunningConsul, running_consul
from tests.copied_workers import copied_workers
from tests.e2e.copied_nodes import SERVER_MODULES, SHARED, copies, keeper
from tests.e2e.processes import environment_of
from tests.integration.servers import warm
from tests.loop import LoopOfTests
from tests.measured import attach, figures_of
from tests.order import in_order, scheduler
from tests.socket_tables import said_of

if TYPE_CHECKING:
    from execnet import XSpec
    from xdist.scheduler import LoadFileScheduling

# Test machines are noisy: a deadline per example would test the neighbours. A failing example prints its blob.
# Every run draws other examples, so few are enough for each; `--hypothesis-profile deep` draws many.
settings.register_profile(
    "mesh", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow], max_examples=30
)
settings.register_profile("deep", settings.get_profile("mesh"), max_examples=2_000)
settings.load_profile("mesh")

# The first number beyond 64 bits that is read raises the recursion limit for good (agent/lossless_json/exact.py);
# hypothesis takes that for a fault when it happens in an example.
read_json(b"9" * 20)

# Without a word about it, pytest-asyncio finds no loop before the first test, makes one and never closes it.
asyncio.set_event_loop(None)

# Settings of the shell must not reach a test. CONSUL_BIN only says where the binary is.
FOREIGN_PREFIXES = ("CONSUL_", "MESH_", "OTEL_", "FASTMCP_")
FOREIGN_NAMES = ("HOST", "PORT")
KEPT_NAMES = ("CONSUL_BIN",)

# The certificates of all authorities take 30 ms to read, which the SDK's clients do each time one is made. Tests trust
# none of them: they ask this machine alone. Tests of TLS name their own.
NO_AUTHORITY = Path(__file__).with_name("no_authority.pem")

# Closing a transport takes a few passes of the loop (abort, connection_lost, the waiters of that); none of them waits.
CLOSING_PASSES = 10
# A child that was killed is reaped by a thread of asyncio's; on a busy machine it waits for its turn, and so does the
# child, which has to run to end.
REAP_TIMEOUT_S = 10.0
PROC = "/proc/self"
# As in a node (agent/late.py).
GARBAGE_AFTER = (20_000, 50, 1_000)


class LoopTimeOfLoops:
    """What looptime does for a fixture, for those that make a loop, which are pytest-asyncio's own.

    It looks through all of pytest-asyncio to see which those are, for every fixture of every test anew.
    """

    def __init__(self, plugin: Any) -> None:
        self._plugin = plugin
        self.pytest_pyfunc_call = plugin.pytest_pyfunc_call

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: pytest.FixtureRequest) -> Generator[None, Any, Any]:
        """Let looptime have the loop that this fixture makes, if it makes one."""
        if fixturedef.func.__module__ == pytest_asyncio.plugin.__name__:
            return (yield from self._plugin.pytest_fixture_setup(fixturedef, request))
        return (yield)


def pytest_configure(config: pytest.Config) -> None:
    """See LoopTimeOfLoops."""
    looptime = config.pluginmanager.unregister(name="looptime_plugin")
    config.pluginmanager.register(LoopTimeOfLoops(looptime))


def pytest_asyncio_loop_factories() -> dict[str, type[LoopOfTests]]:
    """Tests run in the loop of a node."""
    return {"node": LoopOfTests}


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Collect without the garbage collector: what is made here stays, and looking through it takes a second each time.

    Frozen, it is not looked through later either. What tests keep is little and mostly stays, too: looked through as
    often as usual, it takes a seventh of their processor time.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(*GARBAGE_AFTER)
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what may take longest (tests/order.py)."""
    limits = [item.get_closest_marker("timeout") for item in items]
    tests = [(item.nodeid, limit.args[0] if limit else 0.0) for item, limit in zip(items, limits, strict=True)]
    items[:] = [items[place] for place in in_order(tests)]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> "LoadFileScheduling":
    """Say which worker has what (tests/order.py)."""
    return scheduler(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config, specs: "Sequence[XSpec]") -> None:
    """Copy workers where folders are tested, and let those of a run of all share what they copy processes from."""
    folders = [Path(argument).resolve() for argument in config.args if Path(argument).is_dir()]
    shared = ExitStack()
    config.add_cleanup(shared.close)
    if Path(__file__).parent in folders:
        environment = environment_of({})
        for modules, variable in SHARED.items():
            os.environ[variable] = shared.enter_context(keeper(environment, modules))
        os.environ[warm.ADDRESS] = shared.enter_context(warm.warm_servers())
    if folders and sys.platform == "linux":
        command = shared.enter_context(copied_workers(folders, config.rootpath))
        for spec in specs:
            spec.python = command


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the figures that a test took into its report, which a worker hands to the run."""
    report = yield
    attach(report)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end what was measured, and, aloud and once, what was not tested here and why."""
    reports = [report for key in ("passed", "failed") for report in terminalreporter.stats.get(key, [])]
    if figures := figures_of(report for report in reports if isinstance(report, pytest.TestReport)):
        terminalreporter.section("measured")
    for line in figures:
        terminalreporter.line(line)
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    if reasons:
        terminalreporter.section("NOT TESTED HERE", sep="!", red=True, bold=True)
    for reason, count in reasons.most_common():
        terminalreporter.line(f"{count} skipped: {reason}", red=True)


@pytest.fixture(scope="session", autouse=True)
def quick_nodes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let nodes as processes start at once, where any test starts one."""
    if any(item.get_closest_marker("e2e") for item in request.session.items):
        with copies(environment_of({})):
            yield
    else:
        yield


@pytest.fixture(scope="session")
def quick_servers() -> Iterator[None]:
    """Let servers of FastMCP's as processes start at once. A module asks for it with `pytest.mark.usefixtures`."""
    with copies(environment_of({}), SERVER_MODULES):
        yield


@pytest.fixture(scope="session")
def warm_servers() -> Iterator[None]:
    """Let commands of `warm` start at once. A module asks for it with `pytest.mark.usefixtures`."""
    with warm.warm_servers():
        yield


@pytest.fixture(scope="session")
def consul_program() -> Path:
    """A real Consul binary; the test is skipped aloud when there is none."""
    found = consul_binary(fetch=False)
    if found is None:
        pytest.skip(f"NO REAL CONSUL ({why_not()}); `python -m tests.debian_binary` fetches one")
    return found


@pytest.fixture
async def consul(consul_program: Path, tmp_path: Path) -> AsyncIterator[RunningConsul]:
    """A Consul of the test's own, which it may kill."""
    folder = tmp_path / "consul"
    folder.mkdir()
    async with running_consul(consul_program, folder) as running:
        yield running


@pytest.fixture(autouse=True)
def clean_environment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove what a developer's shell may say about Consul and the mesh, and trust no authority of the machine."""
    if request.node.get_closest_marker("fetches") is None:
        monkeypatch.setenv("SSL_CERT_FILE", str(NO_AUTHORITY))
    for name in list(os.environ):
        if (name.startswith(FOREIGN_PREFIXES) or name in FOREIGN_NAMES) and name not in KEPT_NAMES:
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def nothing_left_behind(clean_environment: None) -> Iterator[None]:  # noqa: ARG001 - the order matters, not the value
    """Fail when the test leaves child processes or descriptors.

    Fixtures of wider scope are set up before this one, so that what they own is not counted.
    """
    if sys.platform != "linux":
        yield
        return
    children_before, descriptors_before = _children(), _descriptors()
    yield
    deadline_s = time.monotonic() + REAP_TIMEOUT_S
    pause = threading.Event()
    while (_children().keys() - children_before.keys()) and time.monotonic() < deadline_s:
        pause.wait(0.01)
    children = {pid: line for pid, line in _children().items() if pid not in children_before}
    descriptors = sorted(_descriptors() - descriptors_before)
    assert not children, f"child processes left behind: {children}"
    assert not descriptors, f"descriptors left open: {[said_of(one) for one in descriptors]}"


@pytest.fixture(autouse=True)
def no_tasks_left(request: pytest.FixtureRequest, nothing_left_behind: None) -> None:  # noqa: ARG001 - order again
    """Ask for the check of tasks in tests that have a loop; a plain test needs none."""
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("no_tasks_left_in_the_loop")


@pytest.fixture
async def no_tasks_left_in_the_loop() -> AsyncIterator[None]:
    """Fail when tasks outlive the test and its fixtures. Set up first, hence torn down last."""
    before = asyncio.all_tasks()
    yield
    mine = asyncio.current_task()
    for _ in range(CLOSING_PASSES):
        await _next_pass()
    left = [task for task in asyncio.all_tasks() if task is not mine and task not in before and not task.done()]
    assert not left, f"tasks left behind: {left}"


async def _next_pass() -> None:
    loop = asyncio.get_running_loop()
    turn: asyncio.Future[None] = loop.create_future()
    loop.call_soon(turn.set_result, None)
    await turn


# Every test asks twice, and pathlib takes several times as long.
def _children() -> dict[int, str]:
    """Living or unreaped children of this process, with their command lines."""
    found: dict[int, str] = {}
    for thread in os.listdir(f"{PROC}/task"):  # noqa: PTH208 - see above
        try:
            with open(f"{PROC}/task/{thread}/children") as listing:  # noqa: PTH123 - see above
                pids = [int(pid) for pid in listing.read().split()]
        except OSError:  # The thread ended meanwhile.
            continue
        for pid in pids:
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            found[pid] = line or "(unreaped)"
    return found


def _descriptors() -> set[str]:
    """What this process has open, devices apart; sockets and pipes have numbers of their own in their names."""
    found: set[str] = set()
    for number in os.listdir(f"{PROC}/fd"):  # noqa: PTH208 - see above
        try:
            target = os.readlink(f"{PROC}/fd/{number}")  # noqa: PTH115 - see above
        except OSError:  # The listing's own descriptor, closed again.
            continue
        if not target.startswith(("/dev/", "/proc/")):
            found.add(f"{number} -> {target}")
    return found
