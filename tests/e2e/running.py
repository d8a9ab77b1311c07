"""Starts real nodes as processes and waits for conditions, for the end-to-end tests.

A node is `python -m agent run` with an environment of its own. The one rule: every process started here is ended here,
by its own id, and a test that fails shows the node's log.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

import aiohttp
import orjson

T = TypeVar("T")

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 40.0
POLL_S = 0.02
INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV")
ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def eventually(ask: Callable[[], Awaitable[T]], timeout_s: float = 15.0) -> T:
    """Repeat `ask` until its answer is true; an assertion or connection error in it counts as "not yet"."""
    last: object = None
    pause = asyncio.Event()
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    last = await ask()
                    if last:
                        return last
                except (AssertionError, aiohttp.ClientError, OSError) as exc:
                    last = exc
                try:
                    async with asyncio.timeout(POLL_S):
                        await pause.wait()
                except TimeoutError:
                    continue
    except TimeoutError:
        raise AssertionError(f"not within {timeout_s} s; last: {last!r}") from None


@dataclass
class RunningNode:
    """A node's process and how to reach it."""

    name: str
    port: int
    process: asyncio.subprocess.Process
    log_path: Path
    token: str | None = None
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def base(self) -> str:
        """`http://127.0.0.1:<port>`."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The MCP endpoint."""
        return f"{self.base}/mcp"

    async def request(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """One REST request on a connection of its own: status and JSON."""
        sent = dict(headers or {})
        if self.token is not None:
            sent.setdefault("Authorization", f"Bearer {self.token}")
        data = None if body is None else orjson.dumps(body)
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=15)) as session,
            session.request(method, self.base + path, data=data, headers=sent) as response,
        ):
            raw = await response.read()
            return response.status, orjson.loads(raw) if raw[:1] in (b"{", b"[") else raw.decode()

    async def status(self) -> dict[str, Any]:
        """`data` of the status endpoint."""
        code, body = await self.request("GET", "/api/v1/mcp/status")
        assert code == 200, body
        data: dict[str, Any] = body["data"]
        return data

    async def peers(self) -> dict[str, dict[str, Any]]:
        """The peers by name."""
        code, body = await self.request("GET", "/api/v1/mcp/peers")
        assert code == 200, body
        return {peer["name"]: peer for peer in body["data"]["peers"]}

    async def sees(self, *names: str) -> bool:
        """Whether all of these peers are connected and no other is listed."""
        peers = await self.peers()
        return peers.keys() == set(names) and all(peer["connected"] for peer in peers.values())

    def kill(self) -> None:
        """SIGKILL: no goodbye."""
        self.process.kill()

    def log(self) -> str:
        """What the node has written."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")


def write_servers(folder: Path, servers: Mapping[str, Any]) -> Path:
    """Write a servers file into `folder`, replacing the one that is there."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "servers.json"
    path.write_bytes(orjson.dumps({"mcpServers": servers}))
    return path


def opened_log(path: Path) -> IO[bytes]:
    """Open a log to append to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("ab")


async def start_node(
    name: str, folder: Path, *, port: int | None = None, servers: Mapping[str, Any] | None = None, **settings: str
) -> RunningNode:
    """Start a node and wait until it is ready; `settings` are environment variables, `servers` the mcpServers."""
    port = port or free_port()
    environment = {key: os.environ[key] for key in INHERITED if key in os.environ}
    environment |= {
        "PORT": str(port),
        "MESH_NODE_NAME": name,
        "MESH_STATE_DIR": str(folder / "state"),
        "PYTHONUNBUFFERED": "1",
        **settings,
    }
    if servers is not None:
        environment["MESH_SERVERS_FILE"] = str(write_servers(folder, servers))
    log_path = folder / f"{name}.log"
    with opened_log(log_path) as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "agent", "run", env=environment, cwd=ROOT, stdout=log, stderr=log
        )
    node = RunningNode(name, port, process, log_path, settings.get("MESH_TOKEN"), environment)

    async def ready() -> bool:
        if process.returncode is not None:
            raise RuntimeError(f"node {name} exited with {process.returncode}:\n{node.log()}")
        status, _ = await node.request("GET", "/readyz")
        return status == 200

    try:
        await eventually(ready, START_TIMEOUT_S)
    except BaseException:
        await stop_node(node)
        raise
    return node


async def stop_node(node: RunningNode) -> int:
    """End a node: SIGTERM, and SIGKILL when it does not obey in time; returns the exit code."""
    if node.process.returncode is None:
        node.process.send_signal(signal.SIGCONT)
        node.process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await node.process.wait()
        except TimeoutError:
            node.process.kill()
    return await node.process.wait()


@asynccontextmanager
async def running_nodes() -> AsyncGenerator[Callable[..., Awaitable[RunningNode]], None]:
    """Yield `start_node`; every node started through it is stopped at the end, all at once."""
    nodes: list[RunningNode] = []

    async def start(name: str, folder: Path, **settings: Any) -> RunningNode:
        node = await start_node(name, folder, **settings)
        nodes.append(node)
        return node

    try:
        yield start
    except BaseException:
        for node in nodes:
            print(f"--- log of {node.name}\n{node.log()[-6000:]}")  # noqa: T201 - pytest shows it with the failure
        raise
    finally:
        async with asyncio.TaskGroup() as group:
            for node in nodes:
                group.create_task(stop_node(node), name=f"stop {node.name}")
