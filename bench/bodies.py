"""What the largest legal bodies cost a node in memory, for each kind of values that they may be made of.

The peak of the resident memory above what the node held before, by the kernel's own count (`VmHWM`); one fresh node for
each kind and way. `tests/chaos/test_memory.py` measures the same. Linux only, where `/proc` tells it.
"""

import asyncio
import itertools
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from bench.figures import Figure
from bench.processes import PEER_TOKEN, canned_server, node_process, resident_bytes
from bench.raw_client import RawClient
from bench.raw_legacy_client import RawLegacyClient

# Under the limit of a body (4 MiB) by more than the envelope takes.
BODY_BYTES = 4 * 2**20 - 4_096
BODY_GOAL_MB = 16.0
ERAS: Mapping[str, Callable[[str], RawClient | RawLegacyClient]] = {
    "2026-07-28": RawClient,
    "sessions": RawLegacyClient,
}


def _nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def _filled(item: Any, item_bytes: int) -> list[Any]:
    return [item] * (BODY_BYTES // item_bytes)


# Each as the arguments of a call, of just under 4 MiB.
KINDS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "a text": lambda: {"text": "x" * BODY_BYTES},
    "a text with one emoji": lambda: {"text": "x" * (BODY_BYTES - 4) + "\N{GRINNING FACE}"},
    "a text of escapes": lambda: {"text": '"\n' * (BODY_BYTES // 4)},
    "72,000 records": lambda: {"text": _filled({"id": 123_456, "name": "somebody 123456", "value": 1.5}, 58)},
    "500,000 objects": lambda: {"text": _filled({"a": 1}, 8)},
    "1,400,000 empty arrays": lambda: {"text": _filled([], 3)},
    "10,000 arrays of 200 levels": lambda: {"text": _filled(_nested(200), 402)},
    "2,000,000 whole numbers": lambda: {"text": _filled(1, 2)},
    "800,000 decimals": lambda: {"text": _filled(1.25, 5)},
    "a million short texts": lambda: {"text": _filled("a", 4)},
    "400,000 members": lambda: {"text": {f"{number:05x}": 0 for number in range(BODY_BYTES // 10)}},
    "400,000 arguments": lambda: {"text": "", **{f"{number:05x}": 0 for number in range(BODY_BYTES // 10)}},
    "1,000 arguments of 4 KB": lambda: {"text": "", **{f"{number:03}": "\u00e9" * 2_040 for number in range(1_000)}},
}


async def measure() -> list[Figure]:
    """The peak of each kind, by era."""
    figures = []
    for era, kind in itertools.product(ERAS, KINDS):
        [[peak]] = await body_peaks([KINDS[kind]()], era=era)
        figures.append(Figure(f"{kind}, {era}", peak, "MB", BODY_GOAL_MB))
    return figures


async def body_peaks(
    calls: Sequence[dict[str, Any]],
    *,
    era: str = "2026-07-28",
    hops: int = 1,
    server: Mapping[str, object] | None = None,
    **settings: str,
) -> list[list[float]]:
    """How far, in MB, each node on the way rises in each of the calls above what it held before that one.

    `calls`: their arguments. `server`: the entry of the server whose `echo` is called; None for a canned one over HTTP.
    The first node of the way comes first.
    """
    async with way(server, hops, **settings) as (base, processes), ERAS[era](f"{base}/mcp") as client:
        async with RawClient(f"{base}/mcp") as lister, asyncio.timeout(30):
            while "canned__echo" not in await lister.tool_names():
                await asyncio.sleep(0.05)
        await client.call("canned__echo", {"text": "warm"})
        peaks = []
        for arguments in calls:
            before = [resident_bytes(process_id) for process_id in processes]
            for process_id in processes:
                Path(f"/proc/{process_id}/clear_refs").write_text("5")  # The peak begins anew.
            await client.call("canned__echo", arguments)
            after = [_peak_bytes(process_id) for process_id in processes]
            peaks.append([(end - begin) / 2**20 for begin, end in zip(before, after, strict=True)])
    return peaks


@asynccontextmanager
async def way(
    server: Mapping[str, object] | None, hops: int, **settings: str
) -> AsyncGenerator[tuple[str, Sequence[int]], None]:
    """Run so many nodes before a server; yields the base URL of the first one, and their process's ids."""
    async with AsyncExitStack() as stack:
        entry = server or {"url": await stack.enter_async_context(canned_server())}
        common = {"MESH_DISCOVERY": "off", "MESH_PEER_TOKEN": PEER_TOKEN, **settings}
        last = node_process("back", servers={"canned": {**entry, "mesh": {"scope": "service"}}}, **common)
        base, process_id = await stack.enter_async_context(last)
        processes = [process_id]
        for _ in range(hops - 1):
            front = node_process("front", MESH_PEERS=f"back={base}/mcp", **common)
            base, process_id = await stack.enter_async_context(front)
            processes.insert(0, process_id)
        yield base, processes


def _peak_bytes(process_id: int) -> int:
    lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


async def _print_table(**way_of_all: Any) -> None:
    """One row for each kind, for a look at a way: `python -m bench.bodies [era] [hops] [stdio]`."""
    for kind, arguments in KINDS.items():
        peaks = await body_peaks([arguments()], **way_of_all)
        print(f"{kind:32} {' '.join(f'{mb:6.1f}' for mb in peaks[0])}", flush=True)


if __name__ == "__main__":
    chosen = sys.argv[1:]
    child = {"command": sys.executable, "args": ["-m", "bench.stdio_server"]}
    asyncio.run(
        _print_table(
            era=next((word for word in chosen if word in ERAS), "2026-07-28"),
            hops=2 if "2" in chosen else 1,
            server=child if "stdio" in chosen else None,
        )
    )
