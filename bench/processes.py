"""Starts what the benchmarks measure: nodes and an echo server, each in a process of its own.

The one rule: everything started is stopped, by its own id.
"""

import asyncio
import os
import socket
import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import aiohttp
import orjson

START_TIMEOUT_S = 30.0
INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV")


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def node(name: str, *, servers: Mapping[str, object] | None = None, **settings: str) -> AsyncGenerator[str, None]:
    """Run a node; yields its base URL."""
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as folder:
        port = free_port()
        environment = {"PORT": str(port), "MESH_NODE_NAME": name, "MESH_STATE_DIR": folder, **settings}
        environment.setdefault("MESH_LOG_LEVEL", "warning")
        if servers is not None:
            path = Path(folder, "servers.json")
            path.write_bytes(orjson.dumps({"mcpServers": servers}))
            environment["MESH_SERVERS_FILE"] = str(path)
        async with _process([sys.executable, "-m", "agent", "run"], environment, f"http://127.0.0.1:{port}/readyz"):
            yield f"http://127.0.0.1:{port}"


def echo_server() -> AbstractAsyncContextManager[str]:
    """Run the FastMCP echo server; yields its MCP URL."""
    return _server("bench.echo_server")


def canned_server(tools: int = 1) -> AbstractAsyncContextManager[str]:
    """Run the canned server with so many tools; yields its MCP URL."""
    return _server("bench.canned_server", str(tools))


def byte_hop(target: str) -> AbstractAsyncContextManager[str]:
    """Run a hop that only copies bytes to `target`; yields its MCP URL."""
    return _server("bench.byte_hop", target)


@asynccontextmanager
async def _server(module: str, *arguments: str) -> AsyncGenerator[str, None]:
    port = free_port()
    async with _process([sys.executable, "-m", module, str(port), *arguments], {}, f"http://127.0.0.1:{port}/healthz"):
        yield f"http://127.0.0.1:{port}/mcp"


@asynccontextmanager
async def _process(command: list[str], environment: Mapping[str, str], ready_url: str) -> AsyncGenerator[None, None]:
    inherited = {key: os.environ[key] for key in INHERITED if key in os.environ}
    process = await asyncio.create_subprocess_exec(*command, env={**inherited, **environment})
    try:
        await _ready(process, ready_url)
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _ready(process: asyncio.subprocess.Process, url: str) -> None:
    async with asyncio.timeout(START_TIMEOUT_S), aiohttp.ClientSession() as session:
        while True:
            if process.returncode is not None:
                raise RuntimeError(f"{url}: the process exited with {process.returncode}")
            try:
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)
