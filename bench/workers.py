"""What a second process of a node is worth (`MESH_WORKERS`): calls a second at 32 callers, of one and of two, in turns.

The load is wrk and the server a bare protocol, so that neither is the limit. All share the machine's cores with what is
measured: on two cores, two processes never get both. On a busy machine calls a second say how it shares its cores; the
processor time of the busiest process for a call of them all holds there: it is what would limit processes that had a
core each. That of all processes for a call says what the second one costs. Two nodes that know nothing of each other,
with half of the callers each, say what any second process can be worth on this machine. Where the kernel can limit
processes, each is also given the same part of a core (`bench.quota`), which leaves enough for the load: then calls a
second say by the clock what a second process is worth.
"""

import asyncio
import statistics
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import aiohttp

from bench import backend, quota, wrk
from bench.figures import Figure, ratio
from bench.processes import bare_server, cpu_s, node_process
from bench.raw_client import ENVELOPE, VERSION, RawClient
from bench.raw_legacy_client import RawLegacyClient

ROUNDS = 5
CALLERS = 32
GOAL = 1.7
TOOL = "bare__echo"


@dataclass(frozen=True, slots=True)
class _Sample:
    """One run: calls a second; seconds of processor for a call of all, of the busiest process and of both together."""

    rate: float
    busiest_s: float
    all_s: float


@dataclass(frozen=True, slots=True)
class _Taken:
    """Samples of all rounds, each kind in their order."""

    rates: list[float]
    busiest_s: list[float]
    all_s: list[float]

    @classmethod
    def of(cls, samples: Sequence[_Sample]) -> "_Taken":
        return cls([it.rate for it in samples], [it.busiest_s for it in samples], [it.all_s for it in samples])


@dataclass(frozen=True, slots=True)
class _Way:
    """Something measured: loads at the same time (address, script, callers), and the processes that serve them."""

    loads: Sequence[tuple[str, str, int]]
    pids: Sequence[int]


async def measure() -> list[Figure]:
    """Compare a node of one process, one of two, and two nodes of one, in both eras."""
    settings = {"MESH_DISCOVERY": "off", "MESH_LOG_LEVEL": "info", "MESH_LOG_FORMAT": "json"}
    async with bare_server() as url, AsyncExitStack() as stack:
        alone = await backend.alone(url)
        bases, pids, sessions = {}, {}, {}
        for name in ("one", "two", "other"):
            node = node_process(
                name,
                servers={"bare": {"url": url}},
                is_quiet=True,
                MESH_WORKERS="2" if name == "two" else "1",
                **settings,
            )
            bases[name], pids[name] = await stack.enter_async_context(node)
            client = await stack.enter_async_context(RawClient(f"{bases[name]}/mcp"))
            while TOOL not in await client.tool_names():
                await asyncio.sleep(0.05)
            sessions[name] = await stack.enter_async_context(RawLegacyClient(f"{bases[name]}/mcp"))
        await _until_joined(bases["two"])
        headers = {"MCP-Protocol-Version": VERSION, "Mcp-Method": "tools/call", "Mcp-Name": TOOL}
        scripts = {
            "2026-07-28": dict.fromkeys(bases, wrk.script(TOOL, headers, ENVELOPE)),
            "sessions": {name: wrk.script(TOOL, client.session_headers) for name, client in sessions.items()},
        }
        of_two = [pids["two"], *_children(pids["two"])]
        if missing := quota.why_not():
            print(f"processes with a part of a core each are not measured: {missing}", file=sys.stderr)
        limits = (False,) if missing else (False, True)
        samples: dict[tuple[str, bool], list[list[_Sample]]] = {it: [[], [], []] for it in product(scripts, limits)}
        for number in range(ROUNDS + 1):
            for era, of in scripts.items():
                half = CALLERS // 2
                ways = (
                    _Way([(bases["one"], of["one"], CALLERS)], [pids["one"]]),
                    _Way([(bases["two"], of["two"], CALLERS)], of_two),
                    _Way([(bases[it], of[it], half) for it in ("one", "other")], [pids["one"], pids["other"]]),
                )
                for is_limited, (place, way) in product(limits, enumerate(ways)):
                    with quota.a_part_each(way.pids if is_limited else ()):
                        sample = await _sample(way)
                    if number:  # The first round warms up: links of the second process are opened then.
                        samples[era, is_limited][place].append(sample)
    taken = samples.items()
    return [alone, *(figure for (era, is_limited), it in taken for figure in _figures(era, is_limited, *it))]


async def _until_joined(base: str) -> None:
    """Wait until the second process serves."""
    async with aiohttp.ClientSession() as http:
        while True:
            async with http.get(f"{base}/metrics") as response:
                if "\nmesh_workers 1.0\n" in await response.text():
                    return
            await asyncio.sleep(0.05)


def _figures(
    era: str, is_limited: bool, of_one: list[_Sample], of_two: list[_Sample], apart: list[_Sample]
) -> list[Figure]:
    one, two, two_nodes = map(_Taken.of, (of_one, of_two, apart))
    if is_limited:
        each = f"{era}, {quota.SHARE:.0%} of a core for each process"
        return [
            Figure(f"{each}: calls/s of one, best round", max(one.rates), "/s"),
            ratio(f"{each}: two processes over one", two.rates, one.rates, GOAL, more_is_better=True),
            ratio(f"{each}: two nodes over one", two_nodes.rates, one.rates, more_is_better=True),
        ]
    by_time = "the same by the busiest one's processor time"
    return [
        Figure(f"{era}: calls/s of one process at 32 callers, best round", max(one.rates), "/s"),
        Figure(f"{era}: calls/s of two processes at 32 callers, best round", max(two.rates), "/s"),
        ratio(f"{era}: two processes over one", two.rates, one.rates, GOAL, more_is_better=True),
        ratio(f"{era}: {by_time}", one.busiest_s, two.busiest_s, GOAL, more_is_better=True),
        Figure(f"{era}: processor time of one process for a call", 1e6 * statistics.median(one.all_s), "us"),
        ratio(f"{era}: the same of both of two over it", two.all_s, one.all_s),
        ratio(
            f"{era}: two nodes of one process each, calls/s over one", two_nodes.rates, one.rates, more_is_better=True
        ),
        ratio(f"{era}: two nodes, {by_time}", one.busiest_s, two_nodes.busiest_s, more_is_better=True),
        ratio(f"{era}: two nodes, processor time for a call over one", two_nodes.all_s, one.all_s),
        ratio(f"{era}: two processes over two nodes, calls/s", two.rates, two_nodes.rates, more_is_better=True),
    ]


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


async def _sample(way: _Way) -> _Sample:
    before = [cpu_s(pid) for pid in way.pids]
    async with asyncio.TaskGroup() as group:
        runs = [group.create_task(wrk.run(*load), name="load") for load in way.loads]
    rate = sum(run.result().rate for run in runs)
    spent = [cpu_s(pid) - was for pid, was in zip(way.pids, before, strict=True)]
    calls = rate * wrk.SECONDS
    return _Sample(rate, max(spent) / calls, sum(spent) / calls)
