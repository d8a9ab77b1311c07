"""What a usual call costs a node, in functions of the project that it calls, which no noise of a machine touches.

Instructions (`python -m bench instructions`) follow this number. The one rule: a change that makes calls cheaper
records the new number here; one that makes them dearer by more than a twentieth has a reason, or goes.
"""

import math
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from bench.processes import bare_server, node_process
from bench.raw_client import RawClient
from bench.raw_legacy_client import RawLegacyClient
from tests.e2e.running import START_TIMEOUT_S
from tests.waiting import eventually

pytestmark = pytest.mark.timeout(180)

# Recorded in November 2026; beside the calls, a node does little but a probe and a timer now and then. Eight are
# the ends of turns of the event loop (`agent.turns`), which calls share where there are more at once.
RECORDED = {"2026-07-28": 98.0, "sessions": 108.0}
# The same in the process beside a node that makes them (`MESH_WORKERS`). Its journal takes three more: where the next
# bytes come, that a request begins, how long its answer is.
RECORDED_OF_WORKER = {"2026-07-28": 101.0, "sessions": 111.0}
JOURNAL = 3
MARGIN = 1.05
CALLS = 100
# What goes on beside the calls makes a count too high, and the slower the machine, the more of it there is: so few
# calls are counted at once that some are made between two timers, and so often that one such count is found.
COUNTED = 25
COUNTS_MAX = 80
KINDS: dict[str, Callable[[str], RawClient | RawLegacyClient]] = {"2026-07-28": RawClient, "sessions": RawLegacyClient}
Client = RawClient | RawLegacyClient


async def call(client: Client) -> None:
    await client.call("bare__echo", {"text": "sixteen bytes ok"})


async def is_called(client: Client) -> bool:
    try:
        await call(client)
    except AssertionError:  # Its list has not come yet.
        return False
    return True


async def is_called_at_a_worker(client: Client, base: str) -> bool:
    """Call, so that the connection goes there as soon as it can."""
    await call(client)
    async with aiohttp.ClientSession() as http, http.get(f"{base}/metrics") as response:
        return "\nmesh_worker_connections 1.0\n" in await response.text()


def worker_of(process_id: int) -> int:
    tasks = Path(f"/proc/{process_id}/task").iterdir()
    (child,) = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return child


async def functions_of_a_call(era: str, folder: Path, enough: float, *, of_worker: bool = False) -> float:
    """The least of several counts, which ends with one that is no more than `enough`."""
    counted = folder / "counted"

    async def is_written() -> bool:
        return counted.exists()

    under = [sys.executable, "-m", "tests.e2e.counted_node", str(counted)]
    settings = {"MESH_DISCOVERY": "off", "MESH_LOG_LEVEL": "info", "MESH_LOG_FORMAT": "json"}
    settings["MESH_WORKERS"] = "2" if of_worker else "1"
    async with (
        bare_server() as url,
        node_process(
            "counted", servers={"bare": {"url": url}}, under=under, start_timeout_s=START_TIMEOUT_S, **settings
        ) as (base, node_id),
        KINDS[era](f"{base}/mcp") as client,
    ):
        await eventually(partial(is_called, client))
        if of_worker:
            await eventually(partial(is_called_at_a_worker, client, base))
        process_id = worker_of(node_id) if of_worker else node_id
        for _ in range(CALLS):  # What is remembered of a call is remembered then.
            await call(client)
        least = math.inf
        for _ in range(COUNTS_MAX):
            os.kill(process_id, signal.SIGRTMIN)
            for _ in range(COUNTED):
                await call(client)
            os.kill(process_id, signal.SIGRTMIN)
            await eventually(is_written)
            least = min(least, int(counted.read_text()) / COUNTED)
            counted.unlink()
            if least <= enough:
                break
    return least


@pytest.mark.parametrize("era", RECORDED)
async def test_a_usual_call_costs_no_more_functions_than_it_did(era: str, tmp_path: Path) -> None:
    functions = await functions_of_a_call(era, tmp_path, RECORDED[era] * MARGIN)
    assert RECORDED[era] / MARGIN <= functions <= RECORDED[era] * MARGIN, f"{functions:.1f} functions for a call"


@pytest.mark.parametrize("era", RECORDED_OF_WORKER)
async def test_a_usual_call_costs_a_worker_its_journal_more_than_a_node(era: str, tmp_path: Path) -> None:
    functions = await functions_of_a_call(era, tmp_path, RECORDED_OF_WORKER[era] * MARGIN, of_worker=True)
    assert functions <= RECORDED_OF_WORKER[era] * MARGIN, f"{functions:.1f} functions for a call"
    assert RECORDED_OF_WORKER[era] <= RECORDED[era] + JOURNAL
