"""What idle links cost a node, against build 897e61c: memory and processor time of 200, instructions of each.

A link is idle, not asleep: its stream of list changes is open and it is probed. Nodes of both builds stand side by
side with links to the same servers. The one rule: the instructions, which noise does not touch, are those of one more
link in the middle of its life (callgrind; `IDLE=memory,time,instructions` chooses).
"""

import asyncio
import os
import re
import shutil
import statistics
import sys
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from bench.before import BUILD, TREE, check_out
from bench.figures import Figure, ratio
from bench.instructions import START_TIMEOUT_S, control
from bench.processes import canned_servers, cpu_s, node_process, resident_bytes
from bench.raw_client import RawClient

LINKS: Final = 200
ROUNDS: Final = 5
# Lists are read again every half a minute, so a shorter window may have none of them or all.
WINDOW_S: Final = 60.0
SETTLE_S: Final = 15.0
MEMORY_GOAL_KB: Final = 30
TIME_GOAL: Final = 0.5
# A node under callgrind is forty times as slow, and has to keep up with its probes.
FEW: Final = 10
MANY: Final = 50
_TOTALS: Final = re.compile(r"^totals: (\d+)", re.MULTILINE)


async def measure() -> list[Figure]:
    """What `IDLE` chooses, else everything; memory and time where `/proc` tells them, instructions with valgrind."""
    chosen = os.environ.get("IDLE", "memory,time,instructions").split(",")
    check_out()
    figures: list[Figure] = []
    if "memory" in chosen or "time" in chosen:
        figures += await _side_by_side(chosen)
    if "instructions" in chosen and shutil.which("valgrind") is None:
        print("instructions are not counted: there is no valgrind", file=sys.stderr)
    elif "instructions" in chosen:
        figures += await _instructions()
    return figures


@asynccontextmanager
async def _linked(
    tree: Path | None, urls: Sequence[str], *, under: Sequence[str] = (), start_timeout_s: float = 30.0
) -> AsyncGenerator[int, None]:
    """The process's id of a node of a build that has listed all these servers."""
    servers = {f"s{number}": {"url": url} for number, url in enumerate(urls)}
    name = "now" if tree is None else "before"
    async with node_process(
        name, servers=servers, under=under, start_timeout_s=start_timeout_s, tree=tree, MESH_DISCOVERY="off"
    ) as (base, process_id):
        async with RawClient(f"{base}/mcp") as client:
            wanted = {f"s{number}__echo" for number in range(len(urls))}
            while not wanted <= await client.tool_names():
                await asyncio.sleep(0.5)
        yield process_id


async def _side_by_side(chosen: Sequence[str]) -> list[Figure]:
    grown: dict[Path | None, list[float]] = {None: [], TREE: []}
    spent: dict[Path | None, list[float]] = {None: [], TREE: []}
    async with canned_servers(LINKS) as urls:
        for _ in range(ROUNDS):
            async with AsyncExitStack() as stack:
                pids = {
                    (tree, count): await stack.enter_async_context(_linked(tree, urls[:count]))
                    for tree in grown
                    for count in (0, LINKS)
                }
                await asyncio.sleep(SETTLE_S)
                for tree, figures in grown.items():
                    more = resident_bytes(pids[tree, LINKS]) - resident_bytes(pids[tree, 0])
                    figures.append(more / LINKS / 1024)
                if "time" in chosen:
                    before = {key: cpu_s(pid) for key, pid in pids.items()}
                    await asyncio.sleep(WINDOW_S)
                    for tree, figures in spent.items():
                        figures.append((cpu_s(pids[tree, LINKS]) - before[tree, LINKS]) / WINDOW_S)
    now, then = (statistics.median(grown[tree]) for tree in (None, TREE))
    figures = [
        Figure(f"one of {LINKS} idle links, median of {ROUNDS} nodes", now, "KB", MEMORY_GOAL_KB),
        Figure(f"the same of build {BUILD}", then, "KB"),
    ]
    if spent[None]:
        figures += [
            Figure(f"processor time of {LINKS} idle links", 1000 * statistics.median(spent[None]), "ms"),
            ratio(f"the same over build {BUILD}", spent[None], spent[TREE], TIME_GOAL),
        ]
    return figures


async def _instructions() -> list[Figure]:
    """Of one more link, by the difference of many and few, and of a node without any, each a second."""
    counted = {(tree, count): await _counted(tree, count) for tree in (None, TREE) for count in (FEW, MANY)}
    figures, links = [], {}
    for tree, name in ((None, "this build"), (TREE, f"build {BUILD}")):
        few, many = counted[tree, FEW], counted[tree, MANY]
        links[tree] = (many - few) / (MANY - FEW)
        figures += [
            Figure(f"{name}: thousand instructions a link and second", links[tree], "k"),
            Figure(f"{name}: thousand instructions a second without links", few - FEW * links[tree], "k"),
        ]
    return [*figures, Figure(f"instructions of a link over build {BUILD}", links[None] / links[TREE], "x", TIME_GOAL)]


async def _counted(tree: Path | None, count: int) -> float:
    """Thousands of instructions a second of a node with so many links."""
    with tempfile.TemporaryDirectory(prefix="mesh-callgrind-") as folder:
        under = ["valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no"]
        under.append(f"--callgrind-out-file={folder}/out.%p")
        async with (
            canned_servers(count) as urls,
            _linked(tree, urls, under=under, start_timeout_s=START_TIMEOUT_S) as process_id,
        ):
            await asyncio.sleep(SETTLE_S)
            await control("-i", "on", process_id)
            began_s = asyncio.get_running_loop().time()
            await asyncio.sleep(WINDOW_S)
            await control("-i", "off", process_id)
            took_s = asyncio.get_running_loop().time() - began_s
            await control("-d", process_id)
            found = [_TOTALS.search(path.read_text(errors="replace")) for path in Path(folder).iterdir()]
            return sum(int(match[1]) for match in found if match is not None) / took_s / 1000
