"""The event loop of tests: a node's, which forgets no connection that comes as its server closes.

Where a server closes between accepting a connection and making its transport, CPython drops the half-made transport
(Debian's 3.11 does; `agent.app.drain.close_listener` is a node's own way around it), and the connection stays open
until the garbage collector comes by. Servers of tests close without that care, so the loop takes it: else a test whose
peer dials at that moment is blamed for a descriptor.
"""

import asyncio
import socket
from typing import Any

from agent.turns import Loop


class LoopOfTests(Loop):
    """See the module."""

    def _make_socket_transport(self, sock: socket.socket, *args: Any, **more: Any) -> Any:
        _refuse_where_closed(sock, more.get("server"))
        return super()._make_socket_transport(sock, *args, **more)  # type: ignore[misc] # of the base class

    def _make_ssl_transport(self, sock: socket.socket, *args: Any, **more: Any) -> Any:
        _refuse_where_closed(sock, more.get("server"))
        return super()._make_ssl_transport(sock, *args, **more)  # type: ignore[misc] # of the base class


def _refuse_where_closed(sock: socket.socket, server: asyncio.Server | None) -> None:
    """What is raised here, the loop keeps to itself."""
    if server is not None and not server.sockets:
        sock.close()
        raise ConnectionAbortedError("the server has closed")
