"""The load of wrk, which Debian has (`WRK_BIN`, or on the path): the same tool call again and again.

Used where a load in Python would be the limit. The one rule: a run with a refused call or a broken connection is no
figure.
"""

import asyncio
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

SECONDS = 3
_RATE = re.compile(r"Requests/sec: *([\d.]+)")
_SHARES = re.compile(r"(50|99)% +([\d.]+)(us|ms|s)\b")
_FAULTS = re.compile(r"Non-2xx or 3xx responses|Socket errors")
_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


@dataclass(frozen=True, slots=True)
class Run:
    """What a run has seen: calls a second, and half and 99 of 100 calls within `p50_ms` and `p99_ms`."""

    rate: float
    p50_ms: float
    p99_ms: float


def script(tool: str, headers: Mapping[str, str], envelope: Mapping[str, object] | None = None) -> str:
    """What makes wrk call a tool with sixteen bytes. Without an `envelope` it is a call in a session."""
    params: dict[str, object] = {"name": tool, "arguments": {"text": "sixteen bytes ok"}}
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


def paced(script: str, rate: float, callers: int) -> str:
    """The same where each caller waits between its calls, at random, so that about so many come in a second.

    wrk waits for whole milliseconds, and what a call takes counts from when it is sent.
    """
    return f"{script}function delay() return math.random(0, {round(2000 * callers / rate - 1)}) end\n"


def program() -> str | None:
    """The path of wrk; None where there is none."""
    return os.environ.get("WRK_BIN") or shutil.which("wrk")


async def run(base: str, script: str, callers: int, seconds: int = SECONDS, path: str = "/mcp") -> Run:
    """Call for some seconds. A call may take ten of them, so that slow things are measured, too."""
    wrk = program()
    if wrk is None:
        raise SystemExit("wrk is needed: install it, or set WRK_BIN")
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as folder:
        file = Path(folder, "call.lua")
        file.write_text(script)
        limits = [f"-c{callers}", f"-d{seconds}s", "--timeout", "10s"]
        command = [wrk, "-t1", *limits, "--latency", "-s", str(file), f"{base}{path}"]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        said = (await process.communicate())[0].decode()
    rate, within = _RATE.search(said), {share: float(it) * _MS[unit] for share, it, unit in _SHARES.findall(said)}
    assert process.returncode == 0, said
    assert rate is not None, said
    assert _FAULTS.search(said) is None, said
    return Run(float(rate[1]), within["50"], within["99"])
