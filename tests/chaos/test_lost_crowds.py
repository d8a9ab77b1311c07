"""The packets of most peers are lost at once: the node doubts itself, ends no link, and goes on when they come again.

Unlike a stopped process (`tests/chaos/test_silent_crowds.py`), nothing acknowledges anything: streams of changes end by
the kernel's time-outs and new connections are not accepted. The one rule: the packets are lost for longer than a lone
peer takes to be found gone.
"""

import signal
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest

from agent.client.http.dial import TCP_USER_TIMEOUT_MS
from tests.chaos.namespace import Machine, other_machine, why_not
from tests.chaos.stub_peers import links, listed, stub_peers
from tests.chaos.test_silent_crowds import (
    ANSWERED_WITHIN_S,
    BACK_WITHIN_S,
    CALL_TIMEOUT_S,
    MANY,
    SEEN_WITHIN_S,
    SILENT_S,
    call,
    has_lasted,
    has_ready,
)
from tests.e2e.by_hand import modern_answer
from tests.e2e.copied_nodes import SERVER_MODULES
from tests.e2e.processes import NodeProcess, environment_of, spawn_copy
from tests.e2e.running import RunningNode, running_nodes
from tests.measured import measured
from tests.ports import free_ports
from tests.processor_time import Stopwatch
from tests.waiting import all_of, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

FIRST_PORT = 8000
OLD_PORT = 9000
NEW_PORT = 9001
LATE_PORT = 9002
# With a server beside them.
FEW = 8
# What is left of the silence shows by then: time-outs of the kernel, and probes that were sent before.
SETTLED_S = TCP_USER_TIMEOUT_MS / 1000 + 2.0
# Of a busy machine.
SLACK_S = 4.0
# Each look starts two programs.
LOOK_EVERY_S = 0.05
# For a process to close what it has.
CLOSED_WITHIN_S = 30.0


@pytest.fixture(autouse=True)
def namespaces() -> None:
    """What all of these tests need."""
    if reason := why_not():
        pytest.skip(f"NO NETWORK NAMESPACES: lost packets were not tried; {reason}")


@pytest.mark.parametrize(
    ("cut", "called"),
    [
        ("lose_all", True),
        ("lose_what_is_sent_there", False),
        ("lose_the_way", True),
        ("reset_and_lose_all", False),
        ("end_and_lose_all", True),
    ],
)
async def test_when_packets_of_most_peers_are_lost_no_link_ends_and_calls_work_at_once_afterwards(
    tmp_path: Path, cut: str, called: bool
) -> None:
    ports = [FIRST_PORT + number for number in range(MANY)]
    with other_machine() as machine:
        settings = {
            "MESH_DISCOVERY": "off",
            "MESH_CALL_TIMEOUT_S": str(CALL_TIMEOUT_S),
            "MESH_PEER_FILES": str(listed(tmp_path / "peers.json", ports, machine)),
        }
        async with stub_peers(tmp_path, ports, machine=machine) as stubs, running_nodes() as start:
            node = await start("many", tmp_path / "many", **settings)
            await eventually(partial(has_ready, node, MANY))
            try:
                lost_s = await lost_for_a_while(node, partial(CUTS[cut], machine, stubs), called=called)
            finally:
                machine.heal()
            heard_s, watch = time.monotonic(), Stopwatch(node.process.pid, stubs.pid)
            answers = await all_of(call(node, number) for number in range(MANY))
            answered_s = watch()
            measured(
                f"{cut}: {MANY} calls after {lost_s:.1f} s were answered within {time.monotonic() - heard_s:.2f} s"
            )
            assert all("result" in answer for answer in answers), answers
            assert answered_s < ANSWERED_WITHIN_S
            back_s = await watch.until(partial(all_are_ready, node), BACK_WITHIN_S)
            measured(f"all were heard again after {back_s:.1f} s")
            await eventually(partial(has_lasted, heard_s, SETTLED_S))
            assert node.events("MCP link down") == []


@pytest.mark.usefixtures("quick_servers")
@pytest.mark.parametrize("cut", ["lose_all", "reset_and_lose_all"])
async def test_links_that_have_just_come_up_also_of_the_old_transport_are_judged_as_older_ones_while_most_are_silent(
    tmp_path: Path, cut: str
) -> None:
    ports = [FIRST_PORT + number for number in range(FEW)]
    with other_machine() as machine:
        servers = {
            "old": {"type": "sse", "url": f"http://{machine.far}:{OLD_PORT}/sse", "mesh": {"scope": "service"}},
            "new": {"type": "http", "url": f"http://{machine.far}:{NEW_PORT}/mcp", "mesh": {"scope": "service"}},
        }
        peers = listed(tmp_path / "peers.json", [*ports, LATE_PORT], machine)
        settings = {"MESH_DISCOVERY": "off", "MESH_PEER_FILES": str(peers)}
        async with (
            stub_peers(tmp_path, ports, machine=machine) as stubs,
            running_nodes() as start,
            AsyncExitStack() as end,
        ):
            node = await start("many", tmp_path / "many", servers=servers, **settings)
            await eventually(partial(has_ready, node, FEW))
            await eventually(partial(have_failed, node, 3))
            for port, transport in ((OLD_PORT, "sse"), (NEW_PORT, "http")):
                end.callback(server_there(tmp_path, machine, port, transport).kill_and_reap)
            await end.enter_async_context(stub_peers(tmp_path, [LATE_PORT], first=FEW, machine=machine))
            await eventually(partial(has_ready, node, FEW + 3))
            try:
                lost_s = await lost_for_a_while(node, partial(CUTS[cut], machine, stubs), FEW + 3, called=False)
                await eventually(partial(all_are_suspect, node, FEW + 3))
                assert await node.offers("old__pid", "new__pid")
            finally:
                machine.heal()
            watch = Stopwatch(node.process.pid, stubs.pid)
            called_s = await watch.until(partial(answers_pid, node), BACK_WITHIN_S)
            measured(f"{cut}: called {called_s:.2f} s after {lost_s:.1f} s of it")
            await watch.until(partial(all_are_ready, node, FEW + 3), 2 * BACK_WITHIN_S)
            assert {server["reconnects"] for server in (await node.servers()).values()} == {0}


@pytest.mark.parametrize("cut", ["lose_all", "reset_and_lose_all", "end_and_lose_all"])
async def test_one_whose_packets_are_lost_among_healthy_ones_is_found_as_soon_as_ever(tmp_path: Path, cut: str) -> None:
    ports = free_ports(MANY - 1)
    with other_machine() as machine:
        files = [listed(tmp_path / "near.json", ports), listed(tmp_path / "far.json", [FIRST_PORT], machine)]
        settings = {"MESH_DISCOVERY": "off", "MESH_PEER_FILES": ",".join(map(str, files))}
        async with (
            stub_peers(tmp_path, ports),
            stub_peers(tmp_path, [FIRST_PORT], first=MANY, machine=machine) as lost,
            running_nodes() as start,
        ):
            node = await start("many", tmp_path / "many", **settings)
            await eventually(partial(has_ready, node, MANY))
            watch = Stopwatch(node.process.pid)
            CUTS[cut](machine, lost)
            try:
                down_s = await watch.until(partial(has_ready, node, MANY - 1), SEEN_WITHIN_S + SLACK_S)
                measured(f"{cut}: one of {MANY} was down after {down_s:.1f} s")
            finally:
                machine.heal()


def reset_and_lose_all(machine: Machine, _peers: NodeProcess) -> None:
    """As a firewall or NAT that restarts: what it knew ends, and what comes then is dropped."""
    machine.lose_what_is_sent_there()
    machine.reset_connections()
    machine.lose_what_is_sent_here()


def end_and_lose_all(machine: Machine, peers: NodeProcess) -> None:
    """As a proxy that closes what it has before it stops."""
    before = machine.connections()
    assert before
    machine.lose_what_is_sent_there()
    peers.send_signal(signal.SIGUSR1)
    pause, until_s = threading.Event(), time.monotonic() + CLOSED_WITHIN_S
    while left := machine.connections():
        assert time.monotonic() < until_s, f"{left} connections are not closed"
        pause.wait(LOOK_EVERY_S)
    machine.lose_what_is_sent_here()


CUTS: dict[str, Callable[[Machine, NodeProcess], None]] = {
    "lose_all": lambda machine, _: machine.lose_all(),
    "lose_what_is_sent_there": lambda machine, _: machine.lose_what_is_sent_there(),
    "lose_the_way": lambda machine, _: machine.lose_the_way(),
    "reset_and_lose_all": reset_and_lose_all,
    "end_and_lose_all": end_and_lose_all,
}


async def lost_for_a_while(node: RunningNode, cut: Callable[[], None], count: int = MANY, *, called: bool) -> float:
    """For how many seconds all packets were lost."""
    began_s = time.monotonic()
    cut()
    if called:
        failed = await all_of(call(node, number) for number in range(MANY))
        assert all("error" in answer for answer in failed)
    await eventually(partial(has_lasted, began_s, SILENT_S))
    assert await has_ready(node, count)
    return time.monotonic() - began_s


def server_there(folder: Path, machine: Machine, port: int, transport: str) -> NodeProcess:
    """A server with one tool, `pid`, on that machine."""
    words = ("tests.chaos.old_transport_server", machine.far, str(port), transport)
    log_path, environment = folder / f"{transport}.log", environment_of({})
    return spawn_copy(words, log_path, environment, network=machine.name, modules=SERVER_MODULES)


async def have_failed(node: RunningNode, count: int) -> bool:
    """Whether so many backends were dialled in vain."""
    return len({event["backend"] for event in node.events("MCP link down")}) == count


async def all_are_ready(node: RunningNode, count: int = MANY) -> bool:
    return (await links(node)).get("ready", 0) == count


async def all_are_suspect(node: RunningNode, count: int) -> bool:
    found = await links(node)
    assert found.get("suspect", 0) == count, found
    return True


async def answers_pid(node: RunningNode) -> bool:
    return "result" in await modern_answer(node.url, "tools/call", {"name": "old__pid", "arguments": {}})
