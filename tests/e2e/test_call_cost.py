"""What a usual call costs a node, in functions of the project that it calls, which no noise of a machine touches.

Instructions (`python -m bench instructions`) follow this number. The one rule: a change that makes calls cheaper
records the new number here; one that makes them dearer by more than a twentieth has a reason, or goes.
"""

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from bench.processes import bare_server, node_process
from bench.raw_client import RawClient
from bench.raw_legacy_client import RawLegacyClient
from tests.waiting import eventually

# Recorded in November 2026; beside the calls, a node does little but a probe and a timer now and then.
RECORDED = {"2026-07-28": 95.0, "sessions": 105.0}
MARGIN = 1.05
CALLS = 400
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


@pytest.mark.parametrize("era", RECORDED)
async def test_a_usual_call_costs_no_more_functions_than_it_did(era: str, tmp_path: Path) -> None:
    counted = tmp_path / "counted"

    async def is_written() -> bool:
        return counted.exists()

    under = [sys.executable, "-m", "tests.e2e.counted_node", str(counted)]
    async with (
        bare_server() as url,
        node_process(
            "counted",
            servers={"bare": {"url": url}},
            under=under,
            MESH_DISCOVERY="off",
            MESH_LOG_LEVEL="info",
            MESH_LOG_FORMAT="json",
        ) as (base, process_id),
        KINDS[era](f"{base}/mcp") as client,
    ):
        await eventually(partial(is_called, client))
        for _ in range(CALLS // 4):  # What is remembered of a call is remembered then.
            await call(client)
        os.kill(process_id, signal.SIGRTMIN)
        for _ in range(CALLS):
            await call(client)
        os.kill(process_id, signal.SIGRTMIN)
        await eventually(is_written)
    functions = int(counted.read_text()) / CALLS
    assert RECORDED[era] / MARGIN <= functions <= RECORDED[era] * MARGIN, f"{functions:.1f} functions for a call"
