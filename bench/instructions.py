"""How many instructions a node executes for a call, and of those of build 897e61c, counted by callgrind.

One caller, and a clock that stands (`bench.still_node`): no timer is due, and no two calls share a turn of the event
loop, so counts of one tree differ by 1% at most, whatever else the machine does. Needs valgrind. The one rule: a count
is of one interpreter; a change that makes calls cheaper records the new one, and one that makes them dearer by more
than a twentieth has a reason, or goes (`tests/e2e/test_call_instructions.py`).
"""

import asyncio
import os
import platform
import re
import shutil
import signal
import sys
import sysconfig
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.before import BUILD, TREE, check_out
from bench.figures import Figure
from bench.processes import bare_server, node_process
from bench.raw_client import RawClient
from bench.raw_legacy_client import RawLegacyClient

# Recorded on 30 November 2026, of each `interpreter`, in thousands a call.
RECORDED: Final = {
    "CPython 3.11.7 -O3": {"2026-07-28": 335.0, "sessions": 345.0},
    "CPython 3.11.2 -O2": {"2026-07-28": 303.0, "sessions": 313.0},  # Debian's.
}
MARGIN: Final = 1.05
# Of build 897e61c.
GOAL: Final = 0.4
# What a node remembers of a call is remembered by then.
WARM_CALLS: Final = 60
CALLS: Final = 60
# A node starts forty times as slowly, and the machine may have others at work.
START_TIMEOUT_S: Final = 300.0
SETTINGS: Final = {"MESH_DISCOVERY": "off", "MESH_LOG_LEVEL": "info", "MESH_LOG_FORMAT": "json", "PYTHONHASHSEED": "0"}
# What leaves the build out, whose count takes as long again.
ALONE_VARIABLE: Final = "INSTRUCTIONS"
_KINDS: Final = {"2026-07-28": RawClient, "sessions": RawLegacyClient}
_TOTALS: Final = re.compile(r"^totals: (\d+)", re.MULTILINE)
_Client = RawClient | RawLegacyClient


@dataclass(frozen=True, slots=True)
class Counted:
    """A node under callgrind, which writes into `folder`."""

    base: str
    process_id: int
    folder: Path

    async def of_a_call(self, era: str) -> float:
        """Thousands of instructions for each of `CALLS` calls, one after the other."""
        async with _KINDS[era](f"{self.base}/mcp") as client:
            await _until_offered(client)
            await _calls(client, WARM_CALLS)
            os.kill(self.process_id, signal.SIGRTMIN)
            await _calls(client, 1)  # The clock stands then.
            await control("-i", "on", self.process_id)
            await _calls(client, CALLS)
            await control("-i", "off", self.process_id)
            os.kill(self.process_id, signal.SIGRTMIN)
        await control("-d", self.process_id)
        outputs = list(self.folder.iterdir())
        found = [_TOTALS.search(path.read_text(errors="replace")) for path in outputs]
        for path in outputs:
            path.unlink()
        return sum(int(match[1]) for match in found if match is not None) / CALLS / 1000


def interpreter() -> str:
    """What counts depend on beside the code: the release, and how it was compiled."""
    level = " ".join(re.findall(r"-O\w", sysconfig.get_config_var("OPT") or "")[-1:])
    profiled = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    name = f"{platform.python_implementation()} {platform.python_version()} {level}".rstrip()
    return f"{name}, profiled" if profiled else name


@asynccontextmanager
async def counted_node(tree: Path | None = None) -> AsyncGenerator[Counted, None]:
    """A node of this build, or of the one in `tree`, in front of a server."""
    with tempfile.TemporaryDirectory(prefix="mesh-callgrind-") as folder:
        under = [
            *("valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no"),
            f"--callgrind-out-file={folder}/out.%p",
            *(sys.executable, str(Path(__file__).with_name("still_node.py"))),
        ]
        async with (
            bare_server() as url,
            node_process(
                "counted",
                servers={"bare": {"url": url}},
                under=under,
                start_timeout_s=START_TIMEOUT_S,
                tree=tree,
                **SETTINGS,
            ) as (base, process_id),
        ):
            yield Counted(base, process_id, Path(folder))


async def measure() -> list[Figure]:
    """Both eras, this build and that one (`INSTRUCTIONS=alone` leaves it out); none without valgrind."""
    if shutil.which("valgrind") is None:
        print("instructions are not counted: there is no valgrind", file=sys.stderr)
        return []
    is_alone = os.environ.get(ALONE_VARIABLE) == "alone"
    if not is_alone:
        check_out()
    now = await _of_both_eras(None)
    before = {} if is_alone else await _of_both_eras(TREE)
    recorded = RECORDED.get(interpreter(), {})
    figures = [
        Figure(f"thousand instructions a call, {era}", count, "k", recorded[era] * MARGIN if recorded else None)
        for era, count in now.items()
    ]
    for era, count in before.items():
        figures += [
            Figure(f"the same of build {BUILD}, {era}", count, "k"),
            Figure(f"instructions of a call over build {BUILD}, {era}", now[era] / count, "x", GOAL),
        ]
    return figures


async def _of_both_eras(tree: Path | None) -> dict[str, float]:
    async with counted_node(tree) as node:
        return {era: await node.of_a_call(era) for era in _KINDS}


async def _until_offered(client: _Client) -> None:
    while True:
        try:
            await _calls(client, 1)
        except AssertionError:
            await asyncio.sleep(0.2)
        else:
            return


async def _calls(client: _Client, count: int) -> None:
    for _ in range(count):
        await client.call("bare__echo", {"text": "sixteen bytes ok"})


async def control(*what: object) -> None:
    """Have `callgrind_control` do something."""
    process = await asyncio.create_subprocess_exec(
        "callgrind_control", *map(str, what), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    assert await process.wait() == 0, f"callgrind_control {what}"
