"""Gateways that `bench.others` compares with a node: how each is started, called and looked at from outside.

`MESH_BENCH_OTHERS` names a JSON file that lists them; nothing here knows what they are. The one rule: a gateway is
ready when a call through it is answered as the server behind answers, not when its port opens.

    {"server_port": 18100, "first_port": 18101, "second_port": 18102,
     "gateways": [{"name": "...", "url": "http://127.0.0.1:18201/mcp", "tool": "echo",
                   "eras": ["2026-07-28", "sessions"], "command": ["..."] or "pid": 4711,
                   "environment": {}, "folder": "...", "headers": {}, "counted": "a file of bench.stdio_server",
                   "version": "..."}],
     "pairs": [the same of gateways with the servers at first_port and second_port behind one tool]}

A gateway with a `command` is started, after its server, alone on the first core; one with a `pid` runs already. A whole
file is in docs/performance.md.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import aiohttp
import orjson

from bench.pinned import GATEWAY_CORE
from bench.processes import INHERITED
from bench.raw_client import ENVELOPE, VERSION
from bench.steady import REFUSALS
from tests.ports import free_port

FILE_VARIABLE: Final = "MESH_BENCH_OTHERS"
ERAS: Final = ("2026-07-28", "sessions")
START_TIMEOUT_S: Final = 120.0
STOP_TIMEOUT_S: Final = 10.0
ACCEPT: Final = "application/json, text/event-stream"
# A server that is a child of its gateway does not count for it.
SERVER_MODULE: Final = b"bench.stdio_server"


@dataclass(frozen=True, slots=True)
class Gateway:
    """One of the file's entries: see the module."""

    name: str
    url: str
    tool: str
    eras: tuple[str, ...] = ERAS
    command: tuple[str, ...] = ()
    pid: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    counted: str = ""
    version: str = ""

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> Self:
        """From JSON."""
        lists = {key: tuple(value) for key, value in entry.items() if key in ("eras", "command")}
        return cls(**{**entry, **lists})


@dataclass(frozen=True, slots=True)
class Others:
    """The file; without one, free ports and no gateways."""

    server_port: int = field(default_factory=free_port)
    first_port: int = field(default_factory=free_port)
    second_port: int = field(default_factory=free_port)
    gateways: tuple[Gateway, ...] = ()
    pairs: tuple[Gateway, ...] = ()

    @classmethod
    def named(cls) -> Self:
        """The file that the environment names."""
        name = os.environ.get(FILE_VARIABLE)
        if name is None:
            return cls()
        said = orjson.loads(Path(name).read_bytes())
        lists = {key: tuple(map(Gateway.read, said.get(key, ()))) for key in ("gateways", "pairs")}
        return cls(**{**said, **lists})


@dataclass(frozen=True, slots=True)
class Running:
    """A gateway that answers. `start_s`: from its command to its first answer; None where it ran already."""

    gateway: Gateway
    pid: int
    start_s: float | None

    def processes(self) -> list[int]:
        """It and what it has started, but for the server."""
        found, looked_at = [self.pid], 0
        while looked_at < len(found):
            found += [child for child in _children(found[looked_at]) if SERVER_MODULE not in _command(child)]
            looked_at += 1
        return found

    def cpu_s(self) -> float:
        """Seconds of processor time of all of them, those that have ended included."""
        total = 0
        for pid in self.processes():
            with suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += sum(map(int, fields[11:15]))
        return total / os.sysconf("SC_CLK_TCK")

    def resident_mb(self) -> float:
        """Memory of all of them."""
        pages = 0
        for pid in self.processes():
            with suppress(OSError):
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@asynccontextmanager
async def running(gateway: Gateway) -> AsyncGenerator[Running, None]:
    """Start it if it has to be, and wait until it answers."""
    if gateway.pid:
        await _until_answered(gateway)
        yield Running(gateway, gateway.pid, None)
        return
    inherited = {key: os.environ[key] for key in INHERITED if key in os.environ}
    quiet, started_s = asyncio.subprocess.DEVNULL, time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *(*GATEWAY_CORE, *gateway.command),
        env={**inherited, **gateway.environment},
        cwd=gateway.folder,
        stdin=quiet,
        stdout=quiet,
        stderr=quiet,
    )
    try:
        await _until_answered(gateway, process)
        yield Running(gateway, process.pid, time.perf_counter() - started_s)
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
            except TimeoutError:
                process.kill()
        await process.wait()


async def headers_of(gateway: Gateway, era: str, http: aiohttp.ClientSession) -> dict[str, str]:
    """What each call of that era carries; opens a session where it needs one."""
    if era != "sessions":
        return {
            **gateway.headers,
            "MCP-Protocol-Version": VERSION,
            "Mcp-Method": "tools/call",
            "Mcp-Name": gateway.tool,
        }
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
    message: dict[str, Any] = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
    headers = {**gateway.headers, "Accept": ACCEPT}
    async with http.post(gateway.url, json=message, headers=headers) as response:
        raw = await response.read()
        assert response.status == 200, raw
        session = response.headers.get("Mcp-Session-Id")
    version = orjson.loads(_message(raw))["result"]["protocolVersion"]
    opened = {**gateway.headers, "MCP-Protocol-Version": version, **({"Mcp-Session-Id": session} if session else {})}
    message = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    async with http.post(gateway.url, json=message, headers={**opened, "Accept": ACCEPT}) as response:
        assert response.status < 300, await response.read()
    return opened


async def call(gateway: Gateway, era: str, headers: Mapping[str, str], http: aiohttp.ClientSession) -> None:
    """One call, which has to be answered as the server answers."""
    params: dict[str, Any] = {"name": gateway.tool, "arguments": {"text": "sixteen bytes ok"}}
    if era != "sessions":
        params["_meta"] = ENVELOPE
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    async with http.post(gateway.url, json=message, headers={**headers, "Accept": ACCEPT}) as response:
        raw = await response.read()
    assert response.status == 200, raw
    assert b"sixteen bytes ok" in raw, raw
    assert not any(refusal in raw for refusal in REFUSALS), raw


async def _until_answered(gateway: Gateway, process: asyncio.subprocess.Process | None = None) -> None:
    async with asyncio.timeout(START_TIMEOUT_S):
        while True:
            if process is not None and process.returncode is not None:
                raise RuntimeError(f"{gateway.name}: its process exited with {process.returncode}")
            with suppress(aiohttp.ClientError, AssertionError, orjson.JSONDecodeError, KeyError):
                async with aiohttp.ClientSession() as http:
                    headers = await headers_of(gateway, gateway.eras[0], http)
                    await call(gateway, gateway.eras[0], headers, http)
                return
            await asyncio.sleep(0.02)


def _message(raw: bytes) -> bytes:
    """The message of an answer that may be a stream of events."""
    if raw.lstrip().startswith(b"{"):
        return raw
    return next(line[5:] for line in reversed(raw.splitlines()) if line.startswith(b"data:"))


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def _command(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
