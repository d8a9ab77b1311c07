"""How many instructions a node executes for a call, counted by callgrind, which noise does not touch.

Runs of one tree differ by 1.5% at most, whatever else the machine does, so this shows what a clock cannot. Needs
valgrind, and takes a minute for each era: too slow for a test. The one rule: the goal is what was recorded here last,
and 5%; a change that makes calls cheaper records the new figure.
"""

import asyncio
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

from bench.figures import Figure
from bench.processes import canned_server, node_process
from bench.raw_client import RawClient
from bench.raw_legacy_client import RawLegacyClient

# Recorded in November 2026 with Python 3.11, in thousands a call.
RECORDED: Final = {"2026-07-28": 366.0, "sessions": 378.0}
MARGIN: Final = 1.05
CALLERS: Final = 8
WARM_CALLS: Final = 320
CALLS: Final = 192
# A node starts forty times as slowly.
START_TIMEOUT_S: Final = 180.0
_TOTALS: Final = re.compile(r"^totals: (\d+)", re.MULTILINE)


async def measure() -> list[Figure]:
    """A figure for each era; none without valgrind."""
    if shutil.which("valgrind") is None:
        print("instructions are not counted: there is no valgrind", file=sys.stderr)
        return []
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="mesh-callgrind-") as folder:
        counted = [
            "valgrind",
            "--quiet",
            "--tool=callgrind",
            "--instr-atstart=no",
            f"--callgrind-out-file={folder}/out.%p",
        ]
        async with (
            canned_server() as url,
            node_process(
                "counted",
                servers={"canned": {"url": url}},
                under=counted,
                start_timeout_s=START_TIMEOUT_S,
                MESH_DISCOVERY="off",
                MESH_LOG_LEVEL="info",
                PYTHONHASHSEED="0",
            ) as (base, process_id),
        ):
            for era, kind in (("2026-07-28", RawClient), ("sessions", RawLegacyClient)):
                async with kind(f"{base}/mcp") as client:
                    figure = await _counted(client, process_id, Path(folder))
                goal = RECORDED[era] * MARGIN
                figures.append(Figure(f"thousand instructions a call, {era}, {CALLERS} callers", figure, "k", goal))
    return figures


async def _counted(client: RawClient | RawLegacyClient, process_id: int, folder: Path) -> float:
    """Thousands of instructions for each of `CALLS` calls."""
    await _until_offered(client)
    await _calls(client, WARM_CALLS)
    await control("-i", "on", process_id)
    await _calls(client, CALLS)
    await control("-i", "off", process_id)
    await control("-d", process_id)
    outputs = list(folder.iterdir())
    found = [_TOTALS.search(path.read_text(errors="replace")) for path in outputs]
    for path in outputs:
        path.unlink()
    return sum(int(match[1]) for match in found if match is not None) / CALLS / 1000


async def _until_offered(client: RawClient | RawLegacyClient) -> None:
    while True:
        try:
            await _call(client)
        except AssertionError:
            await asyncio.sleep(0.2)
        else:
            return


async def _calls(client: RawClient | RawLegacyClient, count: int) -> None:
    async def some() -> None:
        for _ in range(count // CALLERS):
            await _call(client)

    async with asyncio.TaskGroup() as group:
        for number in range(CALLERS):
            group.create_task(some(), name=f"caller {number}")


async def _call(client: RawClient | RawLegacyClient) -> None:
    await client.call("canned__echo", {"text": "sixteen bytes ok"})


async def control(*what: object) -> None:
    """Have `callgrind_control` do something."""
    process = await asyncio.create_subprocess_exec(
        "callgrind_control", *map(str, what), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    assert await process.wait() == 0, f"callgrind_control {what}"
