"""Starts what the benchmarks measure: nodes and an echo server, each in a process of its own.

The one rule: everything started is stopped, by its own id.
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import aiohttp
import orjson

from tests.ports import free_port, many_ports

START_TIMEOUT_S = 30.0
PEER_TOKEN = "one-mesh-for-all-nodes-of-a-measurement"
INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV")


@asynccontextmanager
async def node(
    name: str, *, servers: Mapping[str, object] | None = None, is_quiet: bool = False, **settings: str
) -> AsyncGenerator[str, None]:
    """Run a node; yields its base URL. `is_quiet`: see `node_process`."""
    async with node_process(name, servers=servers, is_quiet=is_quiet, **settings) as (base, _):
        yield base


@asynccontextmanager
async def node_process(
    name: str,
    *,
    servers: Mapping[str, object] | None = None,
    under: Sequence[str] = (),
    is_quiet: bool = False,
    start_timeout_s: float = START_TIMEOUT_S,
    tree: Path | None = None,
    **settings: str,
) -> AsyncGenerator[tuple[str, int], None]:
    """Run a node; yields its base URL and its process's id. `under`: a command that runs it, without its log.

    `is_quiet`: its log is written, and not shown. `tree`: of another build, which runs with the same packages.
    """
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as folder:
        port = int(settings.get("PORT") or free_port())
        environment = {"PORT": str(port), "MESH_NODE_NAME": name, "MESH_STATE_DIR": folder, **settings}
        environment.setdefault("MESH_PEER_TOKEN", PEER_TOKEN)
        environment.setdefault("MESH_LOG_LEVEL", "warning")
        if servers is not None:
            path = Path(folder, "servers.json")
            path.write_bytes(orjson.dumps({"mcpServers": servers}))
            environment["MESH_SERVERS_FILE"] = str(path)
        scheme = "https" if "MESH_LISTEN_CERT" in settings else "http"
        command, base = [*under, sys.executable, "-m", "agent", "run"], f"{scheme}://127.0.0.1:{port}"
        log = asyncio.subprocess.DEVNULL if under or is_quiet else None
        ready_url = f"{base}/readyz"
        async with _process(
            command, environment, ready_url, start_timeout_s=start_timeout_s, output=log, folder=tree
        ) as process_id:
            yield base, process_id


def echo_server() -> AbstractAsyncContextManager[str]:
    """Run the FastMCP echo server; yields its MCP URL."""
    return _server("bench.echo_server")


def proxy_server(target: str) -> AbstractAsyncContextManager[str]:
    """Run FastMCP's proxy in front of `target`; yields its MCP URL."""
    return _server("bench.proxy_server", target)


@asynccontextmanager
async def long_catalog_server(count: int) -> AsyncGenerator[str, None]:
    """Run a Consul with one list of so many instances; yields its URL."""
    async with _server("bench.long_catalog", str(count)) as url:
        yield url.removesuffix("/mcp")


@asynccontextmanager
async def static_server(folder: str) -> AsyncGenerator[str, None]:
    """Serve a folder's files at `/files/`; yields the base URL."""
    async with _server("bench.static_server", folder) as url:
        yield url.removesuffix("/mcp")


@asynccontextmanager
async def canned_servers(count: int) -> AsyncGenerator[list[str], None]:
    """Run one process that is a canned server on each of so many ports; yields their MCP URLs."""
    with many_ports(count) as ports:
        command = [sys.executable, "-m", "bench.canned_server", ",".join(str(port) for port in ports)]
        async with _process(command, {}, f"http://127.0.0.1:{ports[-1]}/healthz"):
            yield [f"http://127.0.0.1:{port}/mcp" for port in ports]


@asynccontextmanager
async def stub_nodes(count: int, delay_ms: int) -> AsyncGenerator[list[str], None]:
    """Run one process that is so many nodes, with one tool of a fleet each; yields their MCP URLs."""
    async with stub_node_process(count, delay_ms) as (urls, _):
        yield urls


@asynccontextmanager
async def stub_node_process(
    count: int, delay_ms: int, *, first: int = 0
) -> AsyncGenerator[tuple[list[str], int], None]:
    """The same, with the process's id; the nodes are numbered from `first` on."""
    with many_ports(count) as ports:
        listed = ",".join(str(port) for port in ports)
        command = [sys.executable, "-m", "bench.stub_nodes", listed, PEER_TOKEN, str(delay_ms), str(first)]
        async with _process(command, {}, f"http://127.0.0.1:{ports[-1]}/healthz") as process_id:
            yield [f"http://127.0.0.1:{port}/mcp" for port in ports], process_id


def canned_server(tools: int = 1, delay_ms: int = 0) -> AbstractAsyncContextManager[str]:
    """Run the canned server with so many tools that take so long each; yields its MCP URL."""
    return _server("bench.canned_server", str(tools), str(delay_ms))


def bare_server(answer_bytes: int = 16) -> AbstractAsyncContextManager[str]:
    """Run the server on a bare protocol, whose tool answers with so long a text; yields its MCP URL."""
    return _server("bench.bare_server", str(answer_bytes))


def byte_hop(target: str) -> AbstractAsyncContextManager[str]:
    """Run a hop that only copies bytes to `target`; yields its MCP URL."""
    return _server("bench.byte_hop", target)


@asynccontextmanager
async def byte_hop_process(target: str) -> AsyncGenerator[int, None]:
    """Run such a hop; yields its process's id."""
    port = free_port()
    command = [sys.executable, "-m", "bench.byte_hop", str(port), target]
    async with _process(command, {}, f"http://127.0.0.1:{port}/healthz") as process_id:
        yield process_id


def resident_bytes(process_id: int) -> int:
    """Bytes of memory that a process holds now."""
    for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"the kernel tells no VmRSS of {process_id}")


def cpu_s(process_id: int) -> float:
    """Seconds of processor time that a process has used, on its own behalf and in the kernel."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def _server(module: str, *arguments: str) -> AsyncGenerator[str, None]:
    port = free_port()
    async with _process([sys.executable, "-m", module, str(port), *arguments], {}, f"http://127.0.0.1:{port}/healthz"):
        yield f"http://127.0.0.1:{port}/mcp"


@asynccontextmanager
async def _process(
    command: list[str],
    environment: Mapping[str, str],
    ready_url: str,
    *,
    start_timeout_s: float = START_TIMEOUT_S,
    output: int | None = None,
    folder: Path | None = None,
) -> AsyncGenerator[int, None]:
    """Yields the process's id once it is ready."""
    inherited = {key: os.environ[key] for key in INHERITED if key in os.environ}
    process = await asyncio.create_subprocess_exec(
        *command, env={**inherited, **environment}, stdout=output, stderr=output, cwd=folder
    )
    try:
        await _ready(process, ready_url, start_timeout_s)
        yield process.pid
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _ready(process: asyncio.subprocess.Process, url: str, timeout_s: float) -> None:
    async with asyncio.timeout(timeout_s), aiohttp.ClientSession() as session:
        while True:
            if process.returncode is not None:
                raise RuntimeError(f"{url}: the process exited with {process.returncode}")
            try:
                async with session.get(url, ssl=False) as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)
