"""Starts real nodes as processes and talks to them, for the end-to-end tests.

A node is `python -m agent run` with an environment of its own, started as tests/e2e/copied_nodes.py says. Processes
belong to no event loop, so a node may live longer than one test. The one rule: every node started here is ended here,
and a test that fails shows the end of every living node's log.
"""

import asyncio
import signal
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from fastmcp import Client
from fastmcp.client.transports import StreamableHttpTransport

from tests.e2e.by_hand import modern_request
from tests.e2e.processes import NodeProcess, environment_of, spawn_node
from tests.e2e.servers_files import write_servers
from tests.measured import measured
from tests.ports import free_port
from tests.socket_tables import who_has
from tests.waiting import PATIENCE_S, eventually

# It takes two seconds on an idle machine; tests that run beside it may hold it up for long.
START_TIMEOUT_S = 60.0
# The product promises 30 s; a test machine that swaps may need a little more to say so.
STOP_TIMEOUT_S = 40.0
# No promise of a node's: its first call of a tool of its own imports for two seconds of processor time, and a busy
# machine gives it a twentieth of a core.
CLIENT_TIMEOUT_S = PATIENCE_S
# For a node whose port no test named; that one was taken meanwhile is a fault of the tests, which the run says.
PORTS_TRIED_MAX = 3
ERAS = ("auto", "legacy")
MANAGEMENT_TOOLS = {
    "list_mcp_servers",
    "reload_mcp_server",
    "reload_all_mcp_servers",
    "get_mcp_server_functions",
    "get_available_mcp_servers",
}


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
        """`http://127.0.0.1:<port>`, or https."""
        return f"{'https' if 'MESH_LISTEN_CERT' in self.environment else 'http'}://127.0.0.1:{self.port}"

    @property
    def trust(self) -> ssl.SSLContext | bool:
        """What aiohttp checks the node's certificate by, and shows: what the node itself trusts and shows."""
        ca, cert = self.environment.get("MESH_TLS_CA"), self.environment.get("MESH_TLS_CERT")
        if ca is None:
            return True
        context = ssl.create_default_context(cafile=ca)
        if cert is not None:
            context.load_cert_chain(cert, self.environment.get("MESH_TLS_KEY"))
        return context

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
            session.request(method, self.base + path, data=data, headers=sent, ssl=self.trust) as response,
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
# Nodes with state folders of their own, as on several machines, are one mesh by a secret that they are given.
ONE_MESH = "one-mesh-for-all-nodes-of-a-test"
_MESH_SECRETS = ("MESH_TOKEN", "MESH_TOKEN_FILE", "MESH_PEER_TOKEN", "MESH_PEER_TOKEN_FILE")


async def start_node(
    name: str, folder: Path, *, port: int | None = None, servers: Mapping[str, Any] | None = None, **settings: Any
) -> RunningNode:
    """Start a node and wait until it is ready; `settings` are environment variables, `servers` the mcpServers."""
    environment = environment_of({"MESH_NODE_NAME": name, "MESH_STATE_DIR": str(folder / "state"), **settings})
    if not any(name in settings for name in _MESH_SECRETS):
        environment["MESH_PEER_TOKEN"] = ONE_MESH
    if servers is not None:
        environment["MESH_SERVERS_FILE"] = str(write_servers(folder, servers))
    log_path = folder / f"{name}.log"
    for left in reversed(range(1 if port else PORTS_TRIED_MAX)):
        tried = port or free_port()
        try:
            return await _started(name, tried, log_path, {**environment, "PORT": str(tried)})
        except PortTaken:
            if not left:
                raise
            log_path.unlink()  # The node that starts has a log of its own. Nothing else of the other one is left.
    raise AssertionError("the last try returns or raises")


async def start_again(node: RunningNode) -> RunningNode:
    """Start a node that has ended, or is about to, once more: the same port, state, settings and log."""
    async with asyncio.timeout(STOP_TIMEOUT_S):
        await node.process.wait()  # Its peers may know of a kill before the one that reaps it does.
    return await _started(node.name, node.port, node.log_path, node.environment)


class PortTaken(RuntimeError):
    """Another program had the node's port."""


async def _started(name: str, port: int, log_path: Path, environment: dict[str, str]) -> RunningNode:
    process = spawn_node(log_path, environment)
    node = RunningNode(name, port, process, log_path, environment.get("MESH_TOKEN"), environment)
    LIVING.append(node)

    async def ready() -> bool:
        if process.returncode is not None:
            said = f"node {name} exited with {process.returncode}:\n{node.log()}"
            if f"PORT: {port} is in use" not in said:
                raise RuntimeError(said)
            measured(f"{name} was refused its port: {who_has(port)}")
            raise PortTaken(said)
        status, _ = await node.request("GET", "/readyz")
        return status == 200

    try:
        await eventually(ready, START_TIMEOUT_S)
    except BaseException:
        # At once: of several that start together the others' failure would cut a goodbye short.
        process.kill_and_reap()
        LIVING.remove(node)
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
