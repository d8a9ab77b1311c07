"""What a second process of a node is worth (`MESH_WORKERS`): calls a second at 32 callers, of one and of two, in turns.

The load is wrk, which Debian has (`WRK_BIN`, or on the path), and the server a bare protocol, so that neither is the
limit. All share the machine's cores with what is measured: on two cores, two processes never get both. On a busy
machine calls a second say how it shares its cores; the processor time of the busiest process for a call holds there.
"""

import asyncio
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import orjson

from bench.figures import Figure, median_of_ratios
from bench.processes import bare_server, node_process
from bench.raw_client import ENVELOPE, VERSION, RawClient
from bench.raw_legacy_client import RawLegacyClient

ROUNDS = 5
SECONDS = 3
CALLERS = 32
GOAL = 1.7
TOOL = "bare__echo"
_RATE = re.compile(r"Requests/sec: *([\d.]+)")
_FAULTS = re.compile(r"Non-2xx or 3xx responses|Socket errors")


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
            modern = _load({"MCP-Protocol-Version": VERSION, "Mcp-Method": "tools/call", "Mcp-Name": TOOL}, ENVELOPE)
            ways = {
                "2026-07-28": ((one, modern, first_pids), (two, modern, second_pids)),
                "sessions": (
                    (one, _load(of_one.session_headers), first_pids),
                    (two, _load(of_two.session_headers), second_pids),
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


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _sample(base: str, script: str, pids: list[int]) -> tuple[float, float]:
    """Calls a second, and the seconds of processor that the busiest of these processes took for a call of them all."""
    before = [_processor_s(pid) for pid in pids]
    rate = await _rate(base, script)
    busiest_s = max(_processor_s(pid) - was for pid, was in zip(pids, before, strict=True))
    return rate, busiest_s / (rate * SECONDS)


def _load(headers: Mapping[str, str], envelope: Mapping[str, object] | None = None) -> str:
    """The script of wrk that makes the call."""
    params: dict[str, object] = {"name": TOOL, "arguments": {"text": "sixteen bytes ok"}}
    if envelope is not None:
        params["_meta"] = envelope
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).decode()
    if envelope is None:  # IDs of a session's calls that are under way at once differ.
        before, after = body.split('"id":1', 1)
        body = f"{before}\"id\":' .. number .. '{after}"
    sent = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream", **headers}
    lines = "".join(f"wrk.headers['{name}'] = '{value}'\n" for name, value in sent.items())
    return (
        f"wrk.method = 'POST'\n{lines}number = 0\n"
        f"request = function() number = number + 1\n return wrk.format(nil, nil, nil, '{body}') end\n"
    )


async def _rate(base: str, script: str) -> float:
    """Calls a second."""
    wrk = os.environ.get("WRK_BIN") or shutil.which("wrk")
    if wrk is None:
        raise SystemExit("wrk is needed: install it, or set WRK_BIN")
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as folder:
        path = Path(folder, "call.lua")
        path.write_text(script)
        command = [wrk, "-t1", f"-c{CALLERS}", f"-d{SECONDS}s", "-s", str(path), f"{base}/mcp"]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        said = (await process.communicate())[0].decode()
    found = _RATE.search(said)
    assert process.returncode == 0, said
    assert found is not None, said
    assert _FAULTS.search(said) is None, said
    return float(found[1])
