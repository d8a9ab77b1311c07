"""Starting with nothing set, with a port that is taken, with a client that would stand open; a Consul that appears."""

import asyncio
import contextlib
import fcntl
import os
import re
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.consul_process import RunningConsul
from tests.e2e.meshes import CatalogKind
from tests.e2e.processes import NodeProcess, environment_of, spawn_node
from tests.e2e.running import LIVING, START_TIMEOUT_S, RunningNode, stop_all, stop_node
from tests.e2e.servers_files import example, write_servers
from tests.ports import free_port, free_ports
from tests.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

DEFAULT_PORT, CONSULS_PORT = 8000, 8500
# Others hold the machine's defaults for the length of a test.
MACHINE_WAIT_S = 150.0


class Bare:
    """Starts nodes with nothing but a HOME, and what a test adds; all of them end with the test."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.nodes: list[RunningNode] = []

    async def start(self, **settings: str) -> RunningNode:
        """Start one and wait until it says where it is."""
        log_path = self.home / f"node-{len(self.nodes)}.log"
        process = self.spawn(log_path, **settings)
        node = RunningNode("", 0, process, log_path)
        self.nodes.append(node)
        LIVING.append(node)

        async def ready() -> bool:
            assert process.returncode is None, node.log()
            for record in node.events("node ready"):
                node.name, node.port = record["node"], int(record["url"].rpartition(":")[2].partition("/")[0])
            return node.port != 0

        await eventually(ready, START_TIMEOUT_S)
        return node

    def spawn(self, log_path: Path, **settings: str) -> NodeProcess:
        """Start a process that may refuse to run."""
        return spawn_node(log_path, environment_of({"HOME": str(self.home), **settings}))


@pytest.fixture
async def bare(tmp_path: Path) -> AsyncIterator[Bare]:
    """A home of the test's own."""
    starter = Bare(tmp_path)
    try:
        yield starter
    finally:
        await stop_all(starter.nodes)


@contextlib.contextmanager
def held(port: int) -> Iterator[None]:
    """Make sure that a program listens on a port: we do, unless another program does already."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            listener.listen()
        yield


@pytest.fixture
async def the_machine() -> AsyncIterator[None]:
    """Let one test run at a time, of all test runs on this machine, use the ports and the catalog that are defaults."""
    path = Path(tempfile.gettempdir()) / f"mcp-mesh-agent-tests-{os.getuid()}.lock"
    with path.open("w") as lock:

        async def free() -> bool:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # An error is "not yet".
            return True

        await eventually(free, MACHINE_WAIT_S)
        yield


# A service name of the test's own: what else runs on this machine may be in its default catalog under the usual one.
@pytest.mark.usefixtures("the_machine")
@pytest.mark.timeout(300)
async def test_two_nodes_with_no_address_set_find_each_other_and_keep_their_names_and_identities(bare: Bare) -> None:
    settings = {"MESH_SERVICE_NAME": f"mcp-node-{free_port()}"}
    with held(DEFAULT_PORT):
        one = await bare.start(**settings)
        two = await bare.start(**settings)
    assert DEFAULT_PORT not in (one.port, two.port)
    assert one.port != two.port
    assert one.name != two.name
    assert two.name == f"{one.name}-{two.port}"
    await eventually(partial(has_peer, one, two.name))
    await eventually(partial(has_peer, two, one.name))
    for node in (one, two):
        discovery = await node.discovery()
        assert discovery["mode"] in ("embedded", "consul")
        assert discovery["reason"]
        assert node.events("discovery chosen")
    state = bare.home / ".local" / "state" / "mesh-agent"
    assert {path.name for path in await asyncio.to_thread(list, state.iterdir())} >= {
        f"port-{one.port}",
        f"port-{two.port}",
    }
    names, ids = [one.name, two.name], [(await node.status())["self"]["node_id"] for node in (one, two)]
    await stop_all([one, two])
    # In the other order; a name does not go to the first that comes.
    later, first = [await bare.start(PORT=str(node.port), MESH_DISCOVERY="off") for node in (two, one)]
    assert [first.name, later.name] == names
    assert [(await node.status())["self"]["node_id"] for node in (first, later)] == ids


async def has_peer(node: RunningNode, name: str) -> bool:
    peers = await node.peers()
    return name in peers and peers[name]["connected"]


async def test_nodes_with_nothing_but_the_address_of_the_catalog_join(catalog: CatalogKind, bare: Bare) -> None:
    settings = catalog.fresh()
    one = await bare.start(**settings)
    two = await bare.start(**settings)
    await eventually(partial(one.sees, two.name))
    await eventually(partial(two.sees, one.name))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"HOST": "0.0.0.0"}, r"MESH_TOKEN or MESH_TOKEN_FILE, or HOST=127\.0\.0\.1"),
        ({"HOST": "::"}, r"MESH_TOKEN"),
        ({"PORT": "70000"}, r"port .*70000"),
        ({"MESH_DISCOVERY": "sometimes"}, r"discovery .*sometimes.*embedded"),
        ({"MESH_SERVERS_FILE": "/nonexistent/servers.json"}, r"/nonexistent/servers\.json"),
    ],
)
async def test_settings_that_cannot_be_are_refused_with_the_fix(
    bare: Bare, settings: dict[str, str], said: str
) -> None:
    assert re.search(said, await refused(bare, **settings))


async def test_start_that_is_refused_for_its_servers_file_claims_no_name(bare: Bare) -> None:
    await refused(bare, PORT=str(free_port()), MESH_SERVERS_FILE="/nonexistent/servers.json")
    names = bare.home / ".local" / "state" / "mesh-agent" / "names"
    assert not await asyncio.to_thread(names.exists)


async def test_server_that_is_called_like_its_node_is_left_out_and_the_rest_runs(bare: Bare) -> None:
    servers = write_servers(bare.home, {"twin": example("clock"), "clock": example("clock")})
    settings = {"PORT": str(free_port()), "MESH_SERVERS_FILE": str(servers), "MESH_NODE_NAME": "twin"}
    node = await bare.start(**settings, MESH_DISCOVERY="off", MESH_LOG_FORMAT="json")
    await eventually(partial(node.offers, "twin__clock__now"))
    (told,) = node.events("servers file: an entry is left out")
    assert "mcpServers.twin: is the name of this node as well" in told["reason"]
    (left_out,) = (await node.status())["self"]["servers_left_out"]
    assert (left_out["name"], left_out["reasons"]) == ("twin", [told["reason"]])
    assert await node.tool_names() == {"twin__clock__now", "twin__clock__convert"}


async def test_port_that_was_asked_for_and_is_taken_is_refused(bare: Bare) -> None:
    port = free_port()
    with held(port):
        words = await refused(bare, PORT=str(port))
    assert f"PORT: {port} is in use" in words
    assert "set PORT to a free one" in words


async def refused(bare: Bare, **settings: str) -> str:
    """Start a node that must end by itself with exit code 2 and one line; returns it."""
    log_path = bare.home / "refused.log"
    process = (
        bare.spawn(log_path, MESH_DISCOVERY="off", **settings)
        if "MESH_DISCOVERY" not in settings
        else (bare.spawn(log_path, **settings))
    )
    node = RunningNode("refused", 0, process, log_path)
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            assert await process.wait() == 2, node.log()
    finally:
        await stop_node(node)
    words = node.log()
    assert words.count("\n") == 1, words
    assert "Traceback" not in words
    return words


@pytest.mark.consul
@pytest.mark.usefixtures("the_machine")
@pytest.mark.timeout(300)
async def test_nodes_move_to_a_consul_that_appears_on_this_machine(bare: Bare, consul_program: Path) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", CONSULS_PORT))
        except OSError:
            pytest.skip(f"PORT {CONSULS_PORT} IS TAKEN on this machine: cannot let a Consul appear there")
    # Not the default service name: other nodes of this machine may move over as well.
    settings = {"MESH_EMBEDDED_PORT": str(free_port()), "MESH_SERVICE_NAME": f"mcp-node-{free_port()}"}
    one = await bare.start(**settings)
    two = await bare.start(**settings)
    await eventually(partial(has_peer, one, two.name))
    assert (await one.discovery())["mode"] == "embedded"
    server, gossip = free_ports(2)
    folder = bare.home / "consul"
    folder.mkdir()
    consul = RunningConsul(consul_program, folder, {"http": CONSULS_PORT, "server": server, "serf_lan": gossip})
    try:
        consul.start()
        await consul.wait_for_leader()
        for node, other in ((one, two), (two, one)):
            await eventually(partial(is_on_consul, node))
            await eventually(partial(has_peer, node, other.name))
        assert len(await consul.call("GET", f"/v1/health/service/{settings['MESH_SERVICE_NAME']}?passing")) == 2
    finally:
        consul.kill()


async def is_on_consul(node: RunningNode) -> bool:
    discovery = await node.discovery()
    return bool(discovery["mode"] == "consul" and discovery["up"] and discovery["registered"])
