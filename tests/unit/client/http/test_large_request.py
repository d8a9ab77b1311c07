"""A large request's connection: the kernel's limit for it, and what is left where the kernel does not tell.

Over real sockets; what the kernel does at the limit is shown in `tests/chaos/test_half_open.py`.
"""

import asyncio
import errno
import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from agent.client.http.dial import TCP_USER_TIMEOUT_MS
from agent.client.http.large_request import AHEAD_MS, TCP_USER_TIMEOUT_LARGE_MS, LargeRequest
from tests.waiting import eventually

pytestmark = pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system has no such limit")

# A container that is paused, or a machine that swaps.
STALL_MS = 10_000


class Untold(socket.socket):
    """Of a system that does not tell of its connections, or tells less of them."""

    told: bytes | None = None

    def getsockopt(self, *asked: Any) -> Any:
        if len(asked) == 2:
            return super().getsockopt(*asked)
        if self.told is None:
            raise OSError(errno.EPERM, "Operation not permitted")
        return self.told


@pytest.fixture
def dialled() -> Iterator[Untold]:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener, Untold() as sock:
        sock.connect(listener.getsockname())
        yield sock


def limit_ms(sock: socket.socket) -> int:
    return int(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))


async def test_a_large_request_survives_a_loop_that_stands_still() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener, socket.socket() as sock:
        sock.connect(listener.getsockname())
        large = LargeRequest(sock, lambda: pytest.fail("it is heard"))
        assert limit_ms(sock) >= STALL_MS

        async def is_moved_on() -> bool:
            return limit_ms(sock) > AHEAD_MS

        await eventually(is_moved_on)
        large.end()
        assert limit_ms(sock) == TCP_USER_TIMEOUT_MS


@pytest.mark.parametrize("told", [None, b"", b"\x01" * 20])
async def test_a_large_request_has_the_whole_limit_where_the_kernel_does_not_tell(
    dialled: Untold, told: bytes | None
) -> None:
    dialled.told = told
    broken: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: broken.append(context))
    large = LargeRequest(dialled, lambda: pytest.fail("nothing says so"))

    async def has_all() -> bool:
        return limit_ms(dialled) == TCP_USER_TIMEOUT_LARGE_MS or bool(broken)

    await eventually(has_all)
    assert not broken
    large.end()
    assert limit_ms(dialled) == TCP_USER_TIMEOUT_MS
