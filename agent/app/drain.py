"""The end of a node's serving, from the first refusal of new work to the last answer.

Called by the wiring, once. The one rule: one deadline over all of it, and every client whose connection the kernel has
accepted is answered before that.
"""

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final, cast

from aiohttp import web

from agent import clock
from agent.app.sockets import BACKLOG
from agent.model import HEADER_BYTES_MAX
from agent.server.fast_path.answers import CommonLines
from agent.server.fast_path.connection import IDLE_MAX_S
from agent.server.fast_path.serving import Direct, FastServer

log = logging.getLogger(__name__)

# As long as a container may take to stop before it is killed, everything included (docs/reliability.md).
DRAIN_TIMEOUT_S: Final = 30
# Between deregistration and the first refused connection: peers learn of it within 6 ms (p99 of Consul's watch).
LEAVE_GRACE_S: Final = 0.5
# A client that has just connected sends its request at once; on a busy machine, within some milliseconds.
LATE_REQUEST_S: Final = 0.05
# Time for a request that is cut off to write its error.
CUT_OFF_S: Final = 0.05
_NONE_DIRECT: Final = Direct()


class StopSignals:
    """Which signals have come, SIGTERM or SIGINT. Written by the signal handlers and by `drain`.

    SIGHUP has `reload` called; from a terminal that closes it means SIGTERM, unless `nohup` has had it ignored. SIGUSR1
    and SIGUSR2, which would end a process, mean nothing.

    `asked` is set by the first one. A SIGINT during the drain means that an operator at a terminal will not wait for
    it; another SIGTERM means nothing, because supervisors repeat it. `exit_code` is then what a shell expects.
    """

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.exit_code = 0
        self._drain: asyncio.Timeout | None = None
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.asked.set)
        loop.add_signal_handler(signal.SIGINT, self._interrupted)
        self.reload: Callable[[], None] = _nothing
        is_of_terminal = sys.stderr.isatty() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
        loop.add_signal_handler(signal.SIGHUP, self.asked.set if is_of_terminal else self._hung_up)
        for harmless in (signal.SIGUSR1, signal.SIGUSR2):
            loop.add_signal_handler(harmless, _nothing)  # Not ignored, which children would inherit.

    @asynccontextmanager
    async def time_to_drain(self) -> AsyncIterator[None]:
        """Give a block `DRAIN_TIMEOUT_S`, or less after a SIGINT; raises `TimeoutError` then."""
        async with asyncio.timeout(DRAIN_TIMEOUT_S) as drain_timeout:
            self._drain = drain_timeout
            try:
                yield
            finally:
                self._drain = None

    def _hung_up(self) -> None:
        if not self.asked.is_set():
            self.reload()

    def _interrupted(self) -> None:
        self.asked.set()
        if self._drain is not None and not self._drain.expired():
            log.warning("interrupted, the drain ends now")
            self.exit_code = 128 + signal.SIGINT
            self._drain.reschedule(clock.now_s())


def _nothing() -> None:
    """For a signal without a meaning."""


def last_answer(draining: Callable[[], bool]) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """For `app.on_response_prepare`: while we drain, an answer says that it is its connection's last."""

    async def announce(_request: web.Request, response: web.StreamResponse) -> None:
        if draining():
            response.force_close()
            # aiohttp has made the headers by now; without this one the client would send its next request into a reset.
            response.headers["Connection"] = "close"

    return announce


class _Runner(web.AppRunner):
    """Runs the application with the fast path in front of it."""

    def __init__(
        self, app: web.Application, path: str, common: CommonLines, direct: Direct, shutdown_timeout_s: float
    ) -> None:
        super().__init__(
            app,
            handler_cancellation=True,  # Else a client that leaves would not be noticed (agent.server.response).
            access_log=None,
            auto_decompress=False,  # A small body may be a very large one; the edge refuses it unread (415).
            max_field_size=HEADER_BYTES_MAX,
            keepalive_timeout=IDLE_MAX_S,
            shutdown_timeout=shutdown_timeout_s,
        )
        self._path = path
        self._common, self._direct = common, direct

    async def _make_server(self) -> web.Server:
        server = FastServer(self.app, await super()._make_server(), self._path, self._common, self._direct)
        return cast("web.Server", server)


def runner_of(
    app: web.Application,
    *,
    fast_path: str,
    common: CommonLines = lambda _: None,
    direct: Direct = _NONE_DIRECT,
    shutdown_timeout_s: float = DRAIN_TIMEOUT_S - 2 * LEAVE_GRACE_S,
) -> web.AppRunner:
    """The runner that serves the application; at the end it waits for requests as long as the deadline allows.

    `fast_path`: what `agent.server.fast_path` serves, with all below it; `common`: see `CommonLines`; `direct`: see
    `FastServer`.
    """
    return _Runner(app, fast_path, common, direct, shutdown_timeout_s)


def serving_of(runner: web.AppRunner) -> FastServer:
    """What a runner of `runner_of` serves with, once it is set up."""
    assert runner.server is not None, "it is set up"
    return cast("FastServer", runner.server)


async def _nothing_else() -> None:
    """For a node of one process."""


async def drain(
    runner: web.AppRunner,
    bound: socket.socket,
    member: asyncio.Task[None],
    signals: StopSignals,
    cut_off: Callable[[], None],
    *,
    others: Callable[[], Awaitable[None]] = _nothing_else,
) -> None:
    """Leave the catalog with `member`, let peers learn of it, then stop accepting and finish what is in flight.

    `cut_off` ends the calls of sessions that are still under way at the deadline, with an answer. `others`: waits for
    what is in flight in other processes of this node.
    """
    member.cancel()
    try:
        async with signals.time_to_drain():
            await asyncio.wait([member])
            await asyncio.sleep(LEAVE_GRACE_S)
            await close_listener(runner, bound)
            await runner.cleanup()
            await others()
    except TimeoutError:
        log.warning("requests were cut off at the end of the drain", extra={"timeout_s": DRAIN_TIMEOUT_S})
        cut_off()
        if runner.server is not None:
            await runner.server.shutdown(CUT_OFF_S)
        await runner.cleanup()


async def close_listener(runner: web.AppRunner, bound: socket.socket) -> None:
    """Accept the connections that wait in the backlog, close the socket, and give them `LATE_REQUEST_S` for a request.

    A client whose connection the kernel has accepted expects an answer: a reset would leave it in doubt whether its
    request was executed. And an asyncio server that closes between accepting a connection and making its transport
    forgets the connection (a race in CPython, Debian's 3.11 has it): its client would wait until this process ends.
    """
    serve = runner.server
    assert serve is not None
    loop = asyncio.get_running_loop()
    loop.remove_reader(bound)
    await asyncio.sleep(0)  # A connection accepted in this pass of the loop gets its transport in the next, before us.
    late = _waiting(bound)
    for site in list(runner.sites):
        await site.stop()  # Closes the socket before it first waits: no connection comes in between.
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
