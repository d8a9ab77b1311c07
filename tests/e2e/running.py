"""Starts real nodes as processes, talks to them, and waits for conditions, for the end-to-end tests.

A node is `python -m agent run` with an environment of its own. Processes belong to no event loop, so a node may live
longer than one test. The one rule: every process started here is ended here, by its own id, and a test that fails
shows the end of every living node's log.
"""

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import orjson
from fastmcp import Client
from fastmcp.client.transports import StreamableHttpTransport

T = TypeVar("T")

START_TIMEOUT_S = 30.0
# The product promises 30 s; a test machine that swaps may need a little more to say so.
STOP_TIMEOUT_S = 40.0
CLIENT_TIMEOUT_S = 20.0
POLL_S = 0.02
INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV")
ROOT = Path(__file__).parents[2]
ERAS = ("auto", "legacy")
MANAGEMENT_TOOLS = {
    "list_mcp_servers",
    "reload_mcp_server",
    "reload_all_mcp_servers",
    "get_mcp_server_functions",
    "get_available_mcp_servers",
}

# Below the range from which the kernel gives out ports for connections, and another start for each test process.
_PORTS = itertools.cycle(range(12_000 + (os.getpid() * 97) % 15_000, 31_000))


def free_port() -> int:
    """A port that was free a moment ago, and that this process has not given out before."""
    for port in _PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("unreachable: the cycle has no end")


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


class NodeProcess:
    """A child process that is bound to no event loop; its exit code is looked up whenever it is asked for."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = process.pid

    def __repr__(self) -> str:
        return f"<NodeProcess {self.pid} {self.returncode}>"

    @property
    def returncode(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.poll()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens when it has ended."""
        self._process.send_signal(number)

    def terminate(self) -> None:
        """SIGTERM."""
        self._process.terminate()

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    async def wait(self) -> int:
        """Wait for the end; the caller bounds it."""
        await eventually(self._has_ended, float("inf"))
        assert self.returncode is not None
        return self.returncode

    async def _has_ended(self) -> bool:
        return self.returncode is not None


@dataclass
class RunningNode:
    """A node's process and how to reach it."""

    name: str
    port: int
    process: NodeProcess
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
        """One REST request on a connection of its own: status and JSON; `body` as bytes is sent as it is."""
        sent = dict(headers or {})
        if self.token is not None:
            sent.setdefault("Authorization", f"Bearer {self.token}")
        data = body if isinstance(body, bytes | None) else orjson.dumps(body)
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

    async def discovery(self) -> dict[str, Any]:
        """What the status says about the catalog."""
        found: dict[str, Any] = (await self.status())["self"]["discovery"]
        return found

    async def peers(self) -> dict[str, dict[str, Any]]:
        """The peers by name."""
        code, body = await self.request("GET", "/api/v1/mcp/peers")
        assert code == 200, body
        return {peer["name"]: peer for peer in body["data"]["peers"]}

    async def servers(self) -> dict[str, dict[str, Any]]:
        """Servers and peers with their functions, by name."""
        code, body = await self.request("GET", "/api/v1/mcp/servers")
        assert code == 200, body
        return {server["name"]: server for server in body["data"]["servers"]}

    async def sees(self, *names: str) -> bool:
        """Whether all of these peers are connected and no other is listed."""
        peers = await self.peers()
        assert peers.keys() == set(names), peers
        assert all(peer["connected"] for peer in peers.values()), peers
        return True

    async def tool_names(self) -> set[str]:
        """What a modern client sees listed, the management tools left out."""
        result = await modern_request(self.url, "tools/list", token=self.token)
        return {tool["name"] for tool in result["tools"]} - MANAGEMENT_TOOLS

    async def offers(self, *names: str) -> bool:
        """Whether all of these tools are listed."""
        listed = await self.tool_names()
        assert listed >= set(names), listed
        return True

    async def counts(self, expected: Mapping[str, int]) -> bool:
        """Whether these peers have so many functions each."""
        peers = await self.peers()
        found = {name: peers[name]["function_count"] for name in expected}
        assert found == expected, found
        return True

    async def metric(self, name: str, **labels: str) -> float | None:
        """One sample of `/metrics`, None when it is not there."""
        code, text = await self.request("GET", "/metrics")
        assert code == 200, text
        wanted = name + ("{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}" if labels else "")
        found = [line.rpartition(" ")[2] for line in text.splitlines() if line.rpartition(" ")[0] == wanted]
        return float(found[0]) if found else None

    def client(self, era: str = "auto", **options: Any) -> Client[StreamableHttpTransport]:
        """A FastMCP client of this node; `era` is its `mode`."""
        options.setdefault("auth", self.token)
        return Client(StreamableHttpTransport(self.url), mode=era, timeout=CLIENT_TIMEOUT_S, **options)

    def kill(self) -> None:
        """SIGKILL: no goodbye."""
        self.process.kill()

    def log(self) -> str:
        """What the node has written."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def events(self, event: str = "") -> list[dict[str, Any]]:
        """The log's records, or those of one event."""
        whole = self.log().split("\n")[:-1]  # The last line may be half written.
        records = [orjson.loads(line) for line in whole if line.startswith("{")]
        return [record for record in records if event in ("", record["event"])]


# What a failing test shows (conftest.py); nodes leave it when they are stopped.
LIVING: list[RunningNode] = []


async def modern_request(
    url: str, method: str, params: Mapping[str, Any] | None = None, *, token: str | None = None
) -> dict[str, Any]:
    """One stateless MCP request by hand; returns the raw result. Raises AssertionError for anything else."""
    prefix = "io.modelcontextprotocol/"
    meta = {
        f"{prefix}protocolVersion": "2026-07-28",
        f"{prefix}clientInfo": {"name": "end-to-end", "version": "1"},
        f"{prefix}clientCapabilities": {},
    }
    sent: dict[str, Any] = {**(params or {}), "_meta": meta}
    headers = {
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": method,
        "Content-Type": "application/json",
    }
    if isinstance(name := sent.get("name", sent.get("uri")), str):
        headers["Mcp-Name"] = name
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": sent})
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=15)) as session,
        session.post(url, data=body, headers=headers) as response,
    ):
        text = await response.text()
        if response.content_type == "text/event-stream":
            text = next(line[5:] for line in reversed(text.splitlines()) if line.startswith("data:"))
        answer = orjson.loads(text)
        assert "result" in answer, (response.status, answer)
        result: dict[str, Any] = answer["result"]
        return result


async def legacy_tools(url: str, features: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """The raw tools that a session of 2025-11-25 is shown whose client declares these features."""
    client = {"name": "end-to-end", "version": "1"}
    info = {"protocolVersion": "2025-11-25", "capabilities": features or {}, "clientInfo": client}
    headers = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}

    async def post(session: aiohttp.ClientSession, message: dict[str, Any]) -> tuple[str, Any]:
        data = orjson.dumps({"jsonrpc": "2.0", **message})
        async with session.post(url, data=data, headers=headers) as response:
            text = await response.text()
            if response.content_type == "text/event-stream":
                text = next(line[5:] for line in reversed(text.splitlines()) if line.startswith("data:"))
            return response.headers.get("Mcp-Session-Id", ""), orjson.loads(text) if text else None

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=15)) as session:
        session_id, _ = await post(session, {"id": 1, "method": "initialize", "params": info})
        headers |= {"Mcp-Session-Id": session_id, "MCP-Protocol-Version": "2025-11-25"}
        await post(session, {"method": "notifications/initialized"})
        _, answer = await post(session, {"id": 2, "method": "tools/list", "params": {}})
        async with session.delete(url, headers=headers):
            pass
        tools: list[dict[str, Any]] = answer["result"]["tools"]
        return tools


def example(name: str, scope: str | None = None) -> dict[str, Any]:
    """The servers-file entry of one of the example servers, over stdio."""
    entry: dict[str, Any] = {"command": sys.executable, "args": ["-m", f"agent.examples.{name}"], "cwd": str(ROOT)}
    return entry if scope is None else {**entry, "mesh": {"scope": scope}}


def write_servers(folder: Path, servers: Mapping[str, Any]) -> Path:
    """Write a servers file into `folder`, replacing the one that is there."""
    folder.mkdir(parents=True, exist_ok=True)
    return replace_file(folder / "servers.json", orjson.dumps({"mcpServers": servers}, option=orjson.OPT_INDENT_2))


def replace_file(path: Path, content: bytes) -> Path:
    """Write a file as careful programs do: whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(content)
    return partial.replace(path)


def environment_of(settings: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process of ours: a few words of the shell, and the settings given."""
    kept = {key: os.environ[key] for key in INHERITED if key in os.environ}
    return {**kept, "PYTHONUNBUFFERED": "1", **settings}


def spawn(argv: Iterable[str], log_path: Path, environment: Mapping[str, str]) -> NodeProcess:
    """Start a process of ours that writes into `log_path`."""
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("ab") as log:
        return NodeProcess(
            subprocess.Popen(
                [sys.executable, "-m", *argv],
                env=dict(environment),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        )


async def start_node(
    name: str, folder: Path, *, port: int | None = None, servers: Mapping[str, Any] | None = None, **settings: Any
) -> RunningNode:
    """Start a node and wait until it is ready; `settings` are environment variables, `servers` the mcpServers."""
    port = port or free_port()
    environment = environment_of(
        {"PORT": str(port), "MESH_NODE_NAME": name, "MESH_STATE_DIR": str(folder / "state"), **settings}
    )
    if servers is not None:
        environment["MESH_SERVERS_FILE"] = str(write_servers(folder, servers))
    return await _started(name, port, folder / f"{name}.log", environment)


async def start_again(node: RunningNode) -> RunningNode:
    """Start a node that has ended once more: the same port, state, settings and log."""
    assert node.process.returncode is not None
    return await _started(node.name, node.port, node.log_path, node.environment)


async def _started(name: str, port: int, log_path: Path, environment: dict[str, str]) -> RunningNode:
    process = spawn(("agent", "run"), log_path, environment)
    node = RunningNode(name, port, process, log_path, environment.get("MESH_TOKEN"), environment)
    LIVING.append(node)

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
    exit_code = await node.process.wait()
    if node in LIVING:
        LIVING.remove(node)
    return exit_code


async def stop_all(nodes: Iterable[RunningNode]) -> list[int]:
    """End nodes, all at once; returns their exit codes."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(stop_node(node), name=f"stop {node.name}") for node in nodes]
    return [task.result() for task in tasks]


@contextmanager
def nodes_below(folder: Path) -> Iterator[None]:
    """Stop all nodes whose logs are below `folder` at the end; for fixtures that outlive an event loop."""
    try:
        yield
    finally:
        asyncio.run(stop_all([node for node in LIVING if node.log_path.is_relative_to(folder)]))


StartNode = Callable[..., Awaitable[RunningNode]]


async def all_of(starts: Iterable[Awaitable[T]]) -> list[T]:
    """Await all at once; the results in their order."""

    async def one(start: Awaitable[T]) -> T:
        return await start

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(start), name=f"one of many {number}") for number, start in enumerate(starts)]
    return [task.result() for task in tasks]


@dataclass
class Tally:
    """How steady calls went."""

    done: int = 0
    failures: list[str] = field(default_factory=list)

    async def grows(self, more: int = 10) -> None:
        """Wait until this many more calls have gone well."""
        aim = self.done + more

        async def reached() -> bool:
            assert not self.failures, self.failures
            return self.done >= aim

        await eventually(reached)


@asynccontextmanager
async def steady_calls(
    node: RunningNode, tool: str, arguments: Mapping[str, Any] | None = None, *, eras: Iterable[str] = ERAS
) -> AsyncGenerator[Tally, None]:
    """Call a tool over and over, one client per era, until the context is left; failures are kept, not raised."""
    tally = Tally()
    over = asyncio.Event()

    async def call_on(era: str) -> None:
        async with node.client(era) as client:
            while not over.is_set():
                try:
                    await client.call_tool(tool, dict(arguments or {}))
                    tally.done += 1
                except Exception as exc:  # noqa: BLE001 - whatever it is, the caller judges it
                    tally.failures.append(f"{era}: {exc!r}")
                try:
                    async with asyncio.timeout(POLL_S):
                        await over.wait()
                except TimeoutError:
                    continue

    async with asyncio.TaskGroup() as group:
        for era in eras:
            group.create_task(call_on(era), name=f"steady calls {era}")
        try:
            yield tally
        finally:
            over.set()


@asynccontextmanager
async def running_nodes() -> AsyncGenerator[StartNode, None]:
    """Yield a function like `start_node`, which takes a node to start again as well; all are stopped at the end."""
    nodes: list[RunningNode] = []

    async def start(name: str | RunningNode, folder: Path | None = None, **settings: Any) -> RunningNode:
        if isinstance(name, RunningNode):
            node = await start_again(name)
        else:
            assert folder is not None
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
        await stop_all(nodes)
