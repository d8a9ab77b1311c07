"""Servers of tests whose port another program takes before they listen: they move on, and the run says who has it.

The other program listens on an address beside the one that tests/ports.py looks at, so the port is free to it.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import measured, ports
from tests.consul_process import RunningConsul
from tests.e2e.running import PortTaken, StartNode
from tests.ports import free_port, free_ports, is_free

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

TOKEN = "token-of-this-test-0123456789"


@contextmanager
def next_port_taken() -> Iterator[int]:
    """The port that is given out next."""
    port = free_port() + 1
    while port not in ports.OWN_PORTS or not is_free(port):
        port = free_port() + 1
    with socket.create_server(("127.0.0.2", port)):
        yield port


async def test_a_node_whose_port_was_taken_moves_on_and_the_run_says_who_has_it(
    start: StartNode, tmp_path: Path
) -> None:
    with next_port_taken() as port:
        node = await start("node", tmp_path, HOST="0.0.0.0", MESH_TOKEN=TOKEN, MESH_DISCOVERY="off")
    assert node.port != port
    assert (await node.status())["self"]["name"] == "node"
    assert f"node was refused its port: port {port} has tcp listen" in measured._TAKEN.pop()


async def test_a_node_whose_port_the_test_names_is_refused_as_ever(start: StartNode, tmp_path: Path) -> None:
    with next_port_taken() as port, pytest.raises(PortTaken, match=f"{port} is in use"):
        await start("node", tmp_path, port=port, HOST="127.0.0.2", MESH_TOKEN=TOKEN, MESH_DISCOVERY="off")
    assert f"port {port} has tcp listen" in measured._TAKEN.pop()


@pytest.mark.consul
async def test_a_consul_whose_port_was_taken_moves_on_too(consul_program: Path, tmp_path: Path) -> None:
    names = ("http", "server", "serf_lan")
    consul = RunningConsul(consul_program, tmp_path, dict(zip(names, free_ports(3), strict=True)), movable=names)
    port = consul.ports["http"]
    with socket.create_server(("127.0.0.1", port)):
        try:
            consul.start()
            await consul.wait_for_leader()
        finally:
            consul.kill()
    assert port not in consul.ports.values()
    assert f"consul was refused a port: port {port} has tcp listen" in measured._TAKEN.pop()
