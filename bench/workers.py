"""What a second process of a node is worth (`MESH_WORKERS`): calls a second at 32 callers, of one and of two, in turns.

The load is wrk, which Debian has (`WRK_BIN`, or on the path), and the server a bare protocol, so that neither is the
limit. All share the machine's cores with what is measured: on two cores, two processes never get both.
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
from bench.processes import bare_server, node
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
        node("one", servers={"bare": {"url": url}}, is_quiet=True, **settings) as one,
        node("two", servers={"bare": {"url": url}}, is_quiet=True, MESH_WORKERS="2", **settings) as two,
        RawClient(f"{one}/mcp") as first,
        RawClient(f"{two}/mcp") as second,
    ):
        for client in (first, second):
            while TOOL not in await client.tool_names():
                await asyncio.sleep(0.05)
        await _until_joined(two)
        async with RawLegacyClient(f"{one}/mcp") as of_one, RawLegacyClient(f"{two}/mcp") as of_two:
            modern = _load({"MCP-Protocol-Version": VERSION, "Mcp-Method": "tools/call", "Mcp-Name": TOOL}, ENVELOPE)
            ways = {
                "2026-07-28": ((one, modern), (two, modern)),
                "sessions": ((one, _load(of_one.session_headers)), (two, _load(of_two.session_headers))),
            }
            samples: dict[str, list[list[float]]] = {era: [[], []] for era in ways}
            for number in range(ROUNDS + 1):
                for era, pair in ways.items():
                    for taken, way in zip(samples[era], pair, strict=True):
                        rate = await _rate(*way)
                        if number:  # The first round warms up: links of the second process are opened then.
                            taken.append(rate)
    return [figure for era, taken in samples.items() for figure in _figures(era, *taken)]


async def _until_joined(base: str) -> None:
    """Wait until the second process serves."""
    async with aiohttp.ClientSession() as http:
        while True:
            async with http.get(f"{base}/metrics") as response:
                if "\nmesh_workers 1.0\n" in await response.text():
                    return
            await asyncio.sleep(0.05)


def _figures(era: str, ones: list[float], twos: list[float]) -> list[Figure]:
    return [
        Figure(f"{era}: calls/s of one process at 32 callers, best round", max(ones), "/s"),
        Figure(f"{era}: calls/s of two processes at 32 callers, best round", max(twos), "/s"),
        Figure(f"{era}: two processes over one", median_of_ratios(twos, ones), "x", GOAL, more_is_better=True),
    ]


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
