"""What a second process of a node is worth (`MESH_WORKERS`): calls a second at 32 callers, of one and of two, in turns.

The load is wrk and the server a bare protocol, so that neither is the limit. All share the machine's cores with what is
measured: on two cores, two processes never get both. On a busy machine calls a second say how it shares its cores; the
processor time of the busiest process for a call holds there.
"""

import asyncio
from pathlib import Path

import aiohttp

from bench import wrk
from bench.figures import Figure, median_of_ratios
from bench.processes import bare_server, cpu_s, node_process
from bench.raw_client import ENVELOPE, VERSION, RawClient
from bench.raw_legacy_client import RawLegacyClient

ROUNDS = 5
CALLERS = 32
GOAL = 1.7
TOOL = "bare__echo"


async def measure() -> list[Figure]:
    """Compare nodes of one and of two processes, in both eras."""
    settings = {"MESH_DISCOVERY": "off", "MESH_LOG_LEVEL": "info", "MESH_LOG_FORMAT": "json"}
    async with (
        bare_server() as url,
        node_process("one", servers={"bare": {"url": url}}, is_quiet=True, **settings) as (one, pid_of_one),
        node_process("two", servers={"bare": {"url": url}}, is_quiet=True, MESH_WORKERS="2", **settings) as (two, pid),
        RawClient(f"{one}/mcp") as first,
        RawClient(f"{two}/mcp") as second,
    ):
        for client in (first, second):
            while TOOL not in await client.tool_names():
                await asyncio.sleep(0.05)
        await _until_joined(two)
        async with RawLegacyClient(f"{one}/mcp") as of_one, RawLegacyClient(f"{two}/mcp") as of_two:
            first_pids, second_pids = [pid_of_one], [pid, *_children(pid)]
            headers = {"MCP-Protocol-Version": VERSION, "Mcp-Method": "tools/call", "Mcp-Name": TOOL}
            modern = wrk.script(TOOL, headers, ENVELOPE)
            ways = {
                "2026-07-28": ((one, modern, first_pids), (two, modern, second_pids)),
                "sessions": (
                    (one, wrk.script(TOOL, of_one.session_headers), first_pids),
                    (two, wrk.script(TOOL, of_two.session_headers), second_pids),
                ),
            }
            samples: dict[str, list[list[tuple[float, float]]]] = {era: [[], []] for era in ways}
            for number in range(ROUNDS + 1):
                for era, pair in ways.items():
                    for taken, way in zip(samples[era], pair, strict=True):
                        sample = await _sample(*way)
                        if number:  # The first round warms up: links of the second process are opened then.
                            taken.append(sample)
    return [figure for era, taken in samples.items() for figure in _figures(era, *taken)]


async def _until_joined(base: str) -> None:
    """Wait until the second process serves."""
    async with aiohttp.ClientSession() as http:
        while True:
            async with http.get(f"{base}/metrics") as response:
                if "\nmesh_workers 1.0\n" in await response.text():
                    return
            await asyncio.sleep(0.05)


def _figures(era: str, of_one: list[tuple[float, float]], of_two: list[tuple[float, float]]) -> list[Figure]:
    (ones, alone_s), (twos, busiest_s) = zip(*of_one, strict=True), zip(*of_two, strict=True)
    ratio, by_time = median_of_ratios(twos, ones), median_of_ratios(alone_s, busiest_s)
    return [
        Figure(f"{era}: calls/s of one process at 32 callers, best round", max(ones), "/s"),
        Figure(f"{era}: calls/s of two processes at 32 callers, best round", max(twos), "/s"),
        Figure(f"{era}: two processes over one", ratio, "x", GOAL, more_is_better=True),
        Figure(f"{era}: the same by the busiest one's processor time", by_time, "x", GOAL, more_is_better=True),
    ]


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


async def _sample(base: str, script: str, pids: list[int]) -> tuple[float, float]:
    """Calls a second, and the seconds of processor that the busiest of these processes took for a call of them all."""
    before = [cpu_s(pid) for pid in pids]
    rate = (await wrk.run(base, script, CALLERS)).rate
    busiest_s = max(cpu_s(pid) - was for pid, was in zip(pids, before, strict=True))
    return rate, busiest_s / (rate * wrk.SECONDS)
