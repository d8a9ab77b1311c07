"""The end of a node's serving, from the first refusal of new work to the last answer.

Called by the wiring, once. The one rule: one deadline over all of it, and whoever has got as far as the client is
answered before that.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

from aiohttp import web

from agent import clock
from agent.app.sockets import BACKLOG
from agent.model import HEADER_BYTES_MAX

log = logging.getLogger(__name__)

# SIGTERM drains for at most this long, everything included (docs/architecture.md, "Life of a node").
DRAIN_TIMEOUT_S: Final = 30
# Between our goodbye and the first refused connection: peers hear of it within 6 ms (p99 of Consul's watch).
LEAVE_GRACE_S: Final = 0.5
# A client that has just connected sends its request at once; on a busy machine that is some milliseconds.
LATE_REQUEST_S: Final = 0.05
# What a request that is cut off gets to say so.
CUT_OFF_S: Final = 0.05


class StopSignals:
    """What SIGTERM and SIGINT have asked for. Written by the signal handlers and by `drain`.

    `asked` is set by the first one. A SIGINT during the drain means that somebody at a terminal will not wait for it;
    another SIGTERM means nothing, because supervisors repeat it. `exit_code` is then what a shell expects.
    """

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.exit_code = 0
        self._drain: asyncio.Timeout | None = None
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.asked.set)
        loop.add_signal_handler(signal.SIGINT, self._interrupted)

    @asynccontextmanager
    async def time_to_drain(self) -> AsyncIterator[None]:
        """Give a block `DRAIN_TIMEOUT_S`, or less when somebody will not wait; raises `TimeoutError` then."""
        async with asyncio.timeout(DRAIN_TIMEOUT_S) as drain_timeout:
            self._drain = drain_timeout
            try:
                yield
            finally:
                self._drain = None

    def _interrupted(self) -> None:
        self.asked.set()
        if self._drain is not None and not self._drain.expired():
            log.warning("interrupted, the drain ends now")
            self.exit_code = 128 + signal.SIGINT
            self._drain.reschedule(clock.now_s())


def last_answer(draining: Callable[[], bool]) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """For `app.on_response_prepare`: while we drain, an answer says that it is its connection's last."""

    async def say_so(_request: web.Request, response: web.StreamResponse) -> None:
        if draining():
            response.force_close()
            # aiohttp has made the headers by now; without this one the client would send on into a reset.
            response.headers["Connection"] = "close"

    return say_so


def runner_of(app: web.Application) -> web.AppRunner:
    """What serves the application, and waits for its requests at the end as long as the deadline allows."""
    return web.AppRunner(
        app,
        handler_cancellation=True,  # Else a client that leaves would not be noticed (agent.server.response).
        access_log=None,
        max_field_size=HEADER_BYTES_MAX,
        shutdown_timeout=DRAIN_TIMEOUT_S - 2 * LEAVE_GRACE_S,
    )


async def drain(runner: web.AppRunner, bound: socket.socket, member: asyncio.Task[None], signals: StopSignals) -> None:
    """Leave the catalog with `member`, let peers hear of it, then take nobody in and finish what is under way."""
    member.cancel()
    try:
        async with signals.time_to_drain():
            await asyncio.wait([member])
            await asyncio.sleep(LEAVE_GRACE_S)
            await close_client(runner, bound)
            await runner.cleanup()
    except TimeoutError:
        log.warning("requests were cut off at the end of the drain", extra={"timeout_s": DRAIN_TIMEOUT_S})
        if runner.server is not None:
            await runner.server.shutdown(CUT_OFF_S)
        await runner.cleanup()


async def close_client(runner: web.AppRunner, bound: socket.socket) -> None:
    """Take in who has come as far as the client, close it, and give them `LATE_REQUEST_S` to say what they want.

    A client whose connection the kernel has taken believes to be heard: a reset would leave it in doubt whether its
    request was executed. And a server of asyncio that closes between accepting a connection and making its transport
    forgets the connection (a race in CPython, Debian's 3.11 has it): its client would wait until this process ends.
    """
    serve = runner.server
    assert serve is not None
    loop = asyncio.get_running_loop()
    loop.remove_reader(bound)
    await asyncio.sleep(0)  # A connection accepted in this pass of the loop gets its transport in the next, before us.
    late = _waiting(bound)
    for site in list(runner.sites):
        await site.stop()  # Closes the socket before it first waits: nobody comes in between.
    for connection in late:
        await loop.connect_accepted_socket(serve, connection)
    await asyncio.sleep(LATE_REQUEST_S)


def _waiting(bound: socket.socket) -> list[socket.socket]:
    late: list[socket.socket] = []
    with suppress(OSError):  # There are no more, or no descriptors for more.
        while len(late) < BACKLOG:
            connection, _ = bound.accept()
            connection.setblocking(False)
            late.append(connection)
    return late
