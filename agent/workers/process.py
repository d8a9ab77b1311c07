"""One worker process, from its first frame to its end.

Started by `agent.workers.crew` with the descriptors that join it with its node. It listens nowhere, registers
nothing, keeps no file and writes no state. The one rule: it ends when its node ends, whatever it is doing.
"""

import asyncio
import logging
import mmap
import os
import random
import socket
import sys
from contextlib import suppress
from typing import Any, Final

from agent import turns
from agent.client.dial_guard import limit_dials
from agent.client.http.prover import Credentials
from agent.descriptors import raise_limit
from agent.dispatch.request_state import RequestStates
from agent.identity.node_key import NodeKey
from agent.late import settle_memory
from agent.links.dial import Dialling, dialler
from agent.logs import configure_logging, kept_lines, log_uncaught
from agent.process_secrets import keep_from_others
from agent.workers.dispatch import TURN, WorkerDispatch
from agent.workers.feed import Feed
from agent.workers.links import WorkerLinks
from agent.workers.passage import Arrivals, Given
from agent.workers.picture import (
    CallCancelled,
    CloseIdle,
    CutOff,
    Leave,
    Picture,
    SessionBegun,
    SessionOver,
    Setup,
    Tick,
    Tools,
    Wanted,
)
from agent.workers.serving import Serving
from agent.workers.spawning import listening_to_the_node
from agent.workers.tally import Ready, Tally

log = logging.getLogger(__name__)

TELL_EVERY_S: Final = 0.25
# Time for a request that is cut off to write its error.
_CUT_OFF_S: Final = 0.05


def main() -> None:
    """Run until the node ends, or has let this process go."""
    listening_to_the_node()
    feed, passage = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
    journal = mmap.mmap(int(sys.argv[3]), 0)
    os.close(int(sys.argv[3]))
    keep_from_others(())
    sys.excepthook = log_uncaught
    turns.run(_run(feed, passage, journal))


async def _run(feed_end: socket.socket, passage_end: socket.socket, journal: mmap.mmap) -> None:
    feed = await Feed.over(feed_end)
    with suppress(EOFError):
        setup = await feed.receive()
        assert isinstance(setup, Setup), "it is the first frame"
        configure_logging(setup.log_level, setup.log_format, secrets=setup.log_secrets)
        _silence_what_the_node_says()
        limit_dials(setup.dial_allow, setup.dial_deny)
        raise_limit()
        async with asyncio.TaskGroup() as tasks:
            worker = Worker(setup, feed, passage_end, journal, tasks)
            await worker.run()
    logging.shutdown()
    # Whatever else holds on is of no use without the node.
    os._exit(0)


class Worker:
    """See the module."""

    def __init__(
        self, setup: Setup, feed: Feed, passage_end: socket.socket, journal: mmap.mmap, tasks: asyncio.TaskGroup
    ) -> None:
        self._feed = feed
        self._tasks = tasks
        self._secrets: tuple[bytes, ...] = ()
        self._tally = Tally(_spans(setup))
        key = NodeKey(setup.key_seed)
        credentials = Credentials(key, lambda: self._secrets, setup.own.name)
        dial = dialler(Dialling(credentials, outbound=setup.outbound))
        self._links = WorkerLinks(setup.own, dial, tasks)
        dispatch = WorkerDispatch(
            node_id=setup.own.node_id,
            link=self._links.link,
            recorder=self._tally,
            call_timeout_s=setup.call_timeout_s,
            rng=random.Random(),  # noqa: S311 - jitter, nothing secret
            own_weight=setup.weight,
            states=RequestStates(setup.state_key),
        )
        dispatch.links = self._links
        self._dispatch = dispatch
        self._serving = Serving(setup, dispatch, journal, feed.send)
        self._arrivals = Arrivals(passage_end, self._received)
        self._left = asyncio.Event()
        self._known: frozenset[str] = frozenset()
        self._lines, self._lines_told = kept_lines(), 0

    def __repr__(self) -> str:
        return f"<Worker {self._serving!r}>"

    async def run(self) -> None:
        """Serve until the node has let it go. Raises `EOFError` when the node has ended."""
        await self._serving.start()
        self._feed.send(Ready())
        settle_memory()
        telling = self._tasks.create_task(self._tell(), name="tell the node")
        reading = self._tasks.create_task(self._read(), name="read of the node")
        leaving = self._tasks.create_task(self._left.wait(), name="leave")
        await asyncio.wait([reading, leaving], return_when=asyncio.FIRST_COMPLETED)
        telling.cancel()
        self._say()
        logging.shutdown()
        # Calls under way have no answer that anything could take, or there are none.
        os._exit(0)

    async def _read(self) -> None:
        with suppress(EOFError):
            while True:
                self._take(await self._feed.receive())

    def _take(self, frame: Any) -> None:
        serving = self._serving
        serving.heard()
        match frame:
            case Tick():
                pass
            case Picture():
                self._take_picture(frame)
            case Tools():
                serving.change_tools(frame)
                self._dispatch.renewals.routes_changed()
            case SessionBegun() | SessionOver() | CallCancelled():
                serving.change_sessions(frame)
            case Wanted():
                self._links.want(frame.backends)
            case CloseIdle():
                serving.close_idle(frame.count, frame.idle_s)
            case Leave():
                serving.leave()
            case CutOff():
                serving.endpoint.sessions.cut_off()
                asyncio.get_running_loop().call_later(_CUT_OFF_S, self._left.set)

    def _take_picture(self, picture: Picture) -> None:
        self._secrets = picture.secrets
        self._serving.show(picture)
        for key in self._known - picture.links.keys():
            self._dispatch.forget(key)
        self._known = frozenset(picture.links)
        self._links.take(dict(picture.links), picture.silent)
        self._dispatch.drain(picture.drained)
        self._dispatch.far(picture.far)

    def _received(self, given: Given) -> None:
        self._tasks.create_task(self._serving.take(given), name="take a connection")

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(TELL_EVERY_S)
            self._say()
            if self._serving.is_leaving and not self._serving.count:
                self._left.set()

    def _say(self) -> None:
        done = self._tally.take()
        done.closed = self._serving.closed()
        done.ways, done.changing = self._links.open_ones(), self._links.changing()
        done.sessions, self._serving.used_sessions = self._serving.used_sessions, set()
        self._lines_told, _, done.lines = self._lines.since(self._lines_told)
        self._feed.send(done)


def _spans(setup: Setup) -> Any:
    if setup.traces_url is None:
        return None
    from agent.tracing.export import Spans  # noqa: PLC0415 - few nodes are traced

    return Spans.of_node(setup.traces_url, setup.own)


class _OfTheNode(logging.Filter):
    """Drops the lines of requests that the node serves, which writes one itself."""

    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002 - as `logging.Filter`
        """As `logging.Filter`."""
        turn = TURN.get()
        return turn is None or not turn.not_here


class _Lines:
    """The same for lines that are no records (`agent.traffic_log.RequestLines`)."""

    def __init__(self, lines: Any) -> None:
        self._lines = lines
        self.flush = lines.flush

    def add(self, level: int, fields: Any) -> None:
        turn = TURN.get()
        if turn is None or not turn.not_here:
            self._lines.add(level, fields)

    def usual(self, named: Any, request_id: Any, ms: float) -> None:
        turn = TURN.get()
        if turn is None or not turn.not_here:
            self._lines.usual(named, request_id, ms)


def _silence_what_the_node_says() -> None:
    """The node logs how sessions begin and end; a request has one line, of the process that served it."""
    logging.getLogger("agent.server.sessions.table").setLevel(logging.WARNING)
    logging.getLogger("agent.mcp").addFilter(_OfTheNode())
    for one in logging.getLogger().handlers:
        if getattr(one, "requests", None) is not None:
            one.requests = _Lines(one.requests)  # type: ignore[attr-defined]  # `agent.logs` has its own class
