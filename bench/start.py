"""What a node needs to be ready, over a hop that only copies bytes: processor time, and memory once it is there.

Most of either is what a process imports. Linux only, where `/proc` says it.
"""

import statistics
import sys
from pathlib import Path

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
        Figure("start of a node, processor time", statistics.median(times[1]) * 1000, "ms"),
        ratio("start of a node over that of a byte hop, processor time", times[1], times[0], 2.5),
        Figure("memory of a node that is ready", statistics.median(sizes[1]) / 1024, "KB"),
        ratio("memory of a node over that of a byte hop", sizes[1], sizes[0], 1.5),
    ]
