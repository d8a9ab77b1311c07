"""What a node needs to be ready: processor time, over a hop that only copies bytes; clock time, over build 897e61c.

Memory once it is there, over both. Most of it all is what a process imports. Linux only, where `/proc` says it.
"""

import statistics
import sys
import time
from pathlib import Path

from bench.before import BUILD, TREE, check_out
from bench.figures import Figure, ratio
from bench.processes import byte_hop_process, cpu_s, node_process, resident_bytes

RUNS = 7


async def measure() -> list[Figure]:
    """Start both in turn. Where a process is found ready, its processor time is read at once."""
    if not Path("/proc/self/stat").exists():
        print("a start is not measured: /proc tells it on Linux only", file=sys.stderr)
        return []
    times: tuple[list[float], list[float]] = ([], [])
    sizes: tuple[list[float], list[float]] = ([], [])
    for _ in range(RUNS):
        async with byte_hop_process("http://127.0.0.1:9/mcp") as process_id:
            times[0].append(cpu_s(process_id))
            sizes[0].append(resident_bytes(process_id))
        async with node_process("starter", MESH_DISCOVERY="off") as (_, process_id):
            times[1].append(cpu_s(process_id))
            sizes[1].append(resident_bytes(process_id))
    return [
        *await _over_the_build(),
        Figure("start of a node, processor time", statistics.median(times[1]) * 1000, "ms"),
        ratio("start of a node over that of a byte hop, processor time", times[1], times[0], 2.5),
        Figure("memory of a node that is ready", statistics.median(sizes[1]) / 1024, "KB"),
        ratio("memory of a node over that of a byte hop", sizes[1], sizes[0], 1.5),
    ]


async def _over_the_build() -> list[Figure]:
    """From `run` to the answer that it is ready."""
    check_out()
    took_s: dict[Path | None, list[float]] = {TREE: [], None: []}
    sizes: dict[Path | None, list[float]] = {TREE: [], None: []}
    for _ in range(RUNS):
        for tree, taken_s in took_s.items():
            began_s = time.perf_counter()
            async with node_process("starter", tree=tree, MESH_DISCOVERY="off") as (_, process_id):
                taken_s.append(time.perf_counter() - began_s)
                sizes[tree].append(resident_bytes(process_id))
    return [
        Figure("`run` to ready, median", statistics.median(took_s[None]), "s"),
        ratio(f"`run` to ready over build {BUILD}", took_s[None], took_s[TREE], 0.45),
        ratio(f"memory of a node that is ready over build {BUILD}", sizes[None], sizes[TREE], 0.65),
    ]
