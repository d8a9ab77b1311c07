"""The demonstration's ports: no other program is given one before a node listens on it."""

import socket
import sys

import pytest

from agent.app.sockets import bound_socket
from agent.demo.run import held_ports


@pytest.mark.skipif(sys.platform != "linux", reason="NOT LINUX: the demonstration's ports are not held")
def test_ports_are_held_for_the_nodes_that_will_listen_on_them() -> None:
    with held_ports(3) as ports:
        assert len(set(ports)) == 3
        for port in ports:
            with socket.socket() as another, pytest.raises(OSError, match="in use"):
                another.bind(("127.0.0.1", port))
            with bound_socket("127.0.0.1", port, explicit=True), socket.create_connection(("127.0.0.1", port)):
                pass
