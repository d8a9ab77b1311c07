"""A port in use is said with its owner, and a descriptor that was left open with its connection."""

import asyncio
import os
import re
import socket
import sys

import pytest

from tests.ports import free_port, is_guarded
from tests.socket_tables import said_of, who_has

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="NO /proc ON THIS MACHINE: its tables are not read")


def test_a_port_in_use_is_said_with_the_process_that_has_it() -> None:
    port = free_port()
    assert "no socket that the kernel lists" in who_has(port)
    with socket.create_server(("127.0.0.1", port)), socket.create_connection(("127.0.0.1", port)):
        said = who_has(port)
    assert re.search(rf"tcp listen {port} to 0 of {os.getpid()} \(", said)
    assert "tcp established" in said
    assert is_guarded()
    assert said.endswith("our ranges are held")


async def test_a_socket_that_is_left_open_is_said_with_its_connection_and_its_protocol() -> None:
    async with await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        number = writer.get_extra_info("socket").fileno()
        said = said_of(f"{number} -> socket:[{os.fstat(number).st_ino}]")
        writer.close()
        await writer.wait_closed()
    assert re.search(rf"tcp \S+ \d+ to {port}, <_SelectorSocketTransport .*> for <asyncio.streams", said)
    assert said_of("9 -> /tmp/file") == "9 -> /tmp/file"
