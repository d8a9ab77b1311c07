"""A stdio server that exits as soon as it starts: it is parked, tried again for ever, and leaves nothing behind.

A real node, whose other server is called meanwhile. Each try of the broken one starts a program that would outlive it.
The one rule: its trouble is its own, and an operator sees when it is tried next.
"""

import os
from functools import partial
from pathlib import Path

import pytest

from agent.links.state import CRASHES_MAX, PARKED_DIALS
from tests.e2e.running import RunningNode, running_nodes
from tests.e2e.servers_files import example, write_servers
from tests.e2e.steady_calls import steady_calls
from tests.measured import measured
from tests.processor_time import Stopwatch
from tests.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

# The pauses before it is parked are 0.5, 1, 2 and 4 s at most; the rest is the test machine's.
PARKED_WITHIN_S = 20.0
# Of this run alone: another run's program, or what a killed run left, is no orphan of this node's.
MARK = f"7391.{os.getpid()}"


async def test_a_child_in_a_crash_loop_is_parked_with_its_next_try_in_sight_and_leaves_no_orphan(
    tmp_path: Path,
) -> None:
    broken = {"command": "sh", "args": ["-c", f"sleep {MARK} & echo broken on purpose >&2; exit 1"]}
    servers = {"dice": example("dice"), "broken": broken}
    async with running_nodes() as start:
        node = await start("node", tmp_path, servers=servers, MESH_DISCOVERY="off")
        watch = Stopwatch(node.process.pid)
        await eventually(partial(node.offers, "node__dice__roll"))
        async with steady_calls(node, "node__dice__roll", eras=["auto"]) as tally:
            took_s = await watch.until(partial(is_parked, node), PARKED_WITHIN_S)
            await tally.grows()
        assert tally.failures == []
        shown = (await node.servers())["broken"]
        assert PARKED_DIALS.first_s / 2 < shown["next_attempt_s"] <= PARKED_DIALS.first_s
        assert (shown["attempts"], "broken on purpose" in shown["last_error"]) == (CRASHES_MAX, True)
        await eventually(partial(no_orphans))
        assert await node.metric("mesh_links", state="parked") == 1
        next_s = shown["next_attempt_s"]
        measured(f"parked after {CRASHES_MAX} exits in {took_s:.1f} s, tried again in {next_s:.0f} s, no orphan")
        # It is not given up: a file that mends it is taken up at once.
        write_servers(tmp_path, {"dice": example("dice"), "broken": example("clock")})
        await eventually(partial(node.offers, "node__broken__now"))


async def is_parked(node: RunningNode) -> bool:
    return bool((await node.servers())["broken"]["state"] == "parked")


async def no_orphans() -> bool:
    return not [line for line in command_lines() if MARK in line]


def command_lines() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_text(errors="replace"))
        except OSError:
            continue
    return found
