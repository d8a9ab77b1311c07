"""The node's side of its workers: starts them, says what they have to know, gives them connections, counts their calls.

Built by the wiring where `MESH_WORKERS` is more than 1, in front of the fast path (`FastServer.elsewhere`). The node
alone listens. A connection goes to a worker at a boundary between requests, once it has shown that it makes calls which
a worker may serve. The one rule: the end of a worker, whenever it comes, ends no connection whose state is known.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Final

from agent import clock
from agent.model import LinkView
from agent.routing.table import Route
from agent.server.fast_path.connection import Connection
from agent.server.fast_path.heads import Beginning
from agent.server.fast_path.serving import FastServer
from agent.workers.feed import Feed
from agent.workers.gate import Gate
from agent.workers.journal import ROOM_BYTES, Journal, Left
from agent.workers.passage import Given, Passage
from agent.workers.picture import (
    TICK_S,
    CallCancelled,
    CloseIdle,
    CutOff,
    Leave,
    Picture,
    SessionBegun,
    SessionOver,
    Setup,
    Tick,
    Wanted,
    backends_of,
    changes,
    tools_for_workers,
)
from agent.workers.recovered import RecoveredConnection
from agent.workers.spawning import ended, started
from agent.workers.tally import Back, CrewMetrics, Done, Ready, add
from discovery.backoff import Backoff

log = logging.getLogger(__name__)

# A connection has to make so many calls in a row before a worker gets it, and twice as many for each time that another
# request brought it back.
CALLS_BEFORE_MOVE: Final = 2
_DOUBLINGS_MAX: Final = 5
# One that stays, as workers have enough, makes so many requests before it is looked at again: each look would cost a
# call a tenth of its work, and what a worker then lacks it gets within milliseconds.
STAYS_FOR: Final = 16
_AGAIN: Final = Backoff(first_s=0.5, last_s=30.0)
# One that lived so long did not fail at its start.
_LIVED_S: Final = 60.0
# A worker that does not read what it is sent gets no more connections.
_UNSENT_BYTES_MAX: Final = 8 << 20
# One that says nothing for so long, though this process runs, is ended: it says something four times a second.
HUNG_S: Final = 10.0


@dataclass(slots=True, eq=False)
class Standing:
    """What the node remembers of a connection, in `Connection.moved`.

    `calls`: in a row up to now; `stays_for`: so many requests are the node's, whatever they are.
    """

    calls: int = 0
    returns: int = 0
    stays_for: int = 0


@dataclass(frozen=True, slots=True)
class _Away:
    """A connection that a worker has, by a descriptor of this process. `returns`: as `Standing`."""

    sock: socket.socket
    address: str
    returns: int


@dataclass(slots=True, eq=False)
class _Worker:
    """One running worker. `held`: its connections, by their places in its journal; `silent_s`: it has said nothing."""

    process: asyncio.subprocess.Process
    feed: Feed
    passage: Passage
    journal: Journal
    held: dict[int, _Away] = field(default_factory=dict)
    tools: dict[str, Route] = field(default_factory=dict)
    ways: frozenset[str] = frozenset()
    wanted: frozenset[str] = frozenset()
    picture: Picture | None = None
    is_ready: bool = False
    is_leaving: bool = False
    in_flight: int = 0
    silent_s: float = 0.0

    @property
    def takes_connections(self) -> bool:
        is_here = self.is_ready and not self.is_leaving and self.journal.has_room
        return is_here and self.feed.unsent_bytes < _UNSENT_BYTES_MAX


class Crew:
    """See the module. Its one writer is the event loop.

    `count`: of all processes, this one included. `look`: the present picture; `routes`: the tools of `/mcp`, by name.
    `used`: called with the ID of each session whose calls a worker has served; `keep_lines` with the lines of its log.

    Long because a worker's start, its connections and its end are one state.
    """

    def __init__(
        self,
        count: int,
        setup: Setup,
        gate: Gate,
        *,
        look: Callable[[], Picture],
        routes: Callable[[], Mapping[str, Route]],
        metrics: CrewMetrics,
        used: Callable[[str], None],
        keep_lines: Callable[[Sequence[tuple[int, str]]], None],
    ) -> None:
        self._count = count - 1
        self._setup = setup
        self._gate = gate
        self._look = look
        self._routes = routes
        self._metrics = metrics
        self._used, self._keep_lines = used, keep_lines
        self._server: FastServer | None = None
        self._workers: list[_Worker] = []
        self._calling: set[Connection] = set()
        self._sessions: set[str] = set()
        self._picture = Picture()
        self._tools: dict[str, Route] = {}
        self._seen: tuple[object, object] | None = None
        self._heard_changing: dict[str, float | None] = {}  # By workers, of the link of that time.
        self._tasks: asyncio.TaskGroup | None = None
        self._nudged = asyncio.Event()
        self._is_leaving = False
        self._looked_s = clock.now_s()
        self._over = asyncio.Event()
        gate.sessions = self._sessions

    def __repr__(self) -> str:
        return f"<Crew {len(self._workers)} of {self._count}, {len(self)} connections>"

    def __len__(self) -> int:
        """How many connections workers hold."""
        return sum(len(one.held) for one in self._workers)

    def addresses(self) -> Iterator[str]:
        """The other side's address of each."""
        return (away.address for one in self._workers for away in one.held.values())

    def close_idle(self, count: int, idle_s: float) -> None:
        """Have each worker close its part of so many connections that were idle for so long."""
        held = len(self)
        for one in self._workers:
            if part := -(-count * len(one.held) // held) if held else 0:
                one.feed.send(CloseIdle(part, idle_s))

    async def run(self, server: FastServer) -> None:
        """Keep the workers until cancelled, in front of `server`."""
        self._server = server
        server.elsewhere = self._elsewhere
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for number in range(1, self._count + 1):
                tasks.create_task(self._keep(number), name=f"worker {number}")
            while True:
                self._end_what_hangs()
                self._say_what_changed()
                with suppress(TimeoutError):
                    async with asyncio.timeout(TICK_S):
                        await self._nudged.wait()
                self._nudged.clear()

    def nudge(self) -> None:
        """Something that workers have to know has changed: they hear of it at once."""
        self._nudged.set()

    # Sessions: those of `/mcp` that need nothing of the node but its word that they live.

    def session_begun(self, session_id: str) -> None:
        """Workers may serve its calls."""
        self._sessions.add(session_id)
        self._send(SessionBegun(session_id))

    def session_over(self, session_id: str, *, ended: bool) -> None:
        """Workers may not any more; with `ended`, what is under way ends, too."""
        if session_id in self._sessions:
            self._sessions.discard(session_id)
            self._send(SessionOver(session_id, ended))

    def cancel(self, session_id: str, request_id: str | int) -> None:
        """Cancel a call that may be under way in a worker."""
        self._send(CallCancelled(session_id, request_id))

    # The end

    def leave(self) -> None:
        """The node stops: idle connections come back at once, and workers end after their last answer."""
        self._is_leaving = True
        for one in self._workers:
            one.is_leaving = True
        self._send(Leave())
        if not self._workers:
            self._over.set()

    async def finished(self) -> None:
        """Wait until no worker is left. Only after `leave`."""
        await self._over.wait()

    def cut_off(self) -> None:
        """End what is under way in workers."""
        self._send(CutOff())

    # Connections

    def _elsewhere(self, connection: Connection, beginning: Beginning | None, data: bytes) -> bool:
        """As `agent.server.fast_path.connection.Elsewhere`."""
        if beginning is None or self._is_leaving or len(data) > ROOM_BYTES:
            return False
        standing = connection.moved
        if standing is None:
            standing = connection.moved = Standing()
        if standing.stays_for:
            standing.stays_for -= 1
            return False
        if not (tool := self._gate.takes(beginning.head, data)):
            standing.calls = 0
            return False
        standing.calls += 1
        if standing.calls < CALLS_BEFORE_MOVE << standing.returns:
            return False
        self._calling.add(connection)
        backends = backends_of(self._tools[tool])
        ready = [one for one in self._workers if one.takes_connections and self._has_ways(one, backends)]
        worker = min(ready, key=lambda one: len(one.held), default=None)
        if worker is None:
            return False
        if len(self._calling) > len(worker.held) and self._move(connection, worker, standing, data):
            return True
        standing.calls, standing.stays_for = 0, STAYS_FOR
        return False

    def _has_ways(self, worker: _Worker, backends: frozenset[str]) -> bool:
        """Whether it can call all of these; it opens what is missing, and says so when it has."""
        if backends <= worker.ways:
            return True
        if not backends <= worker.wanted:
            worker.wanted |= backends
            worker.feed.send(Wanted(backends))
        return False

    def _move(self, connection: Connection, worker: _Worker, standing: Standing, data: bytes) -> bool:
        peer, returns = connection.peername, standing.returns

        def give(descriptor: int) -> bool:
            if (taken := worker.journal.take(descriptor, data)) is None:
                return False
            number, sock = taken
            worker.held[number] = _Away(sock, str(peer[0]) if isinstance(peer, tuple) and peer else "", returns)
            worker.passage.give(Given(sock.fileno(), number, returns, len(data)))
            self._calling.discard(connection)
            return True

        return connection.give_away(give)

    def _has_closed(self, worker: _Worker, number: int) -> None:
        if (away := worker.held.pop(number, None)) is not None:
            away.sock.close()
            worker.journal.give_back(number)

    def _take_back(self, worker: _Worker, number: int, returns: int | None = None) -> None:
        """Serve a connection here that a worker does not serve any more. `returns`: by its word; None: it has died."""
        if (away := worker.held.pop(number, None)) is None:
            return
        left = worker.journal.left(number, away.sock)
        worker.journal.give_back(number)
        if left is None:
            away.sock.close()
            return
        assert self._tasks is not None, "it runs"
        standing = Standing(returns=min(away.returns if returns is None else returns, _DOUBLINGS_MAX))
        serving = self._serve_here(away.sock, standing, left, is_lost=returns is None and left.may_be_executed)
        try:
            self._tasks.create_task(serving, name="a connection of a worker")
        except RuntimeError:  # The node itself ends.
            serving.close()
            away.sock.close()

    async def _serve_here(self, sock: socket.socket, standing: Standing, left: Left, *, is_lost: bool) -> None:
        server = self._server
        assert server is not None, "it runs"
        connection = RecoveredConnection(server) if is_lost else Connection(server)
        connection.moved = standing
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, sock)
        except OSError:
            return  # The client has gone.
        serve = connection.serve_lost if isinstance(connection, RecoveredConnection) else connection.data_received
        try:  # In this very turn of the loop, so that nothing is read of it before.
            if left.data:
                serve(left.data)
        except Exception:  # as the event loop does: one connection's failure must end nothing else
            log.exception("a connection of a worker cannot go on")
            connection.abort()

    # Workers

    async def _keep(self, number: int) -> None:
        failures = 0
        while not self._is_leaving:
            began_s = clock.now_s()
            try:
                code = await self._live(number)
            except OSError as exc:
                log.warning("a worker cannot be started", extra={"worker": number, "reason": exc.strerror or str(exc)})
                code = None
            if self._is_leaving:
                break
            failures = 1 if clock.now_s() - began_s >= _LIVED_S else failures + 1
            self._metrics.worker_lost()
            extra = {"worker": number, "code": code, "again_in_s": _AGAIN.step_s(failures)}
            log.warning("a worker ended, and is started again", extra=extra)
            await asyncio.sleep(_AGAIN.step_s(failures))

    async def _live(self, number: int) -> int:
        """One life of a worker, to its end; returns its exit code. Raises `OSError` where it cannot be started."""
        with closing(Journal()) as journal:
            process, feed_end, passage_end = await started(journal.fd)
            worker = _Worker(process, await Feed.over(feed_end), Passage(passage_end), journal)
            try:
                worker.feed.send(self._setup)
                self._workers.append(worker)
                log.info("a worker was started", extra={"worker": number, "pid": process.pid})
                await self._listen(worker)
            finally:
                worker.is_ready = False
                worker.feed.close()
                worker.passage.close()
                try:
                    code = await ended(process)
                finally:
                    self._end(worker)
        return code

    async def _listen(self, worker: _Worker) -> None:
        with suppress(EOFError):
            while True:
                frame = await worker.feed.receive()
                worker.silent_s = 0.0
                match frame:
                    case Done():
                        self._took_part(worker, frame)
                    case Back():
                        self._take_back(worker, frame.number, frame.returns)
                    case Ready():
                        self._show_all(worker)
                        worker.is_ready = True
                        if self._is_leaving:
                            worker.feed.send(Leave())

    def _end_what_hangs(self) -> None:
        now_s = clock.now_s()
        # What this process has missed itself counts for nothing.
        passed_s, self._looked_s = min(now_s - self._looked_s, 2 * TICK_S), now_s
        for one in self._workers:
            one.silent_s += passed_s if one.is_ready else 0.0
            if one.silent_s > HUNG_S:
                one.silent_s = 0.0
                log.warning("a worker hangs, and is ended", extra={"pid": one.process.pid, "limit_s": HUNG_S})
                with suppress(ProcessLookupError):
                    one.process.kill()

    def _took_part(self, worker: _Worker, done: Done) -> None:
        add(done, self._metrics)
        self._metrics.worker_called(done.call_count)
        worker.in_flight = done.in_flight
        # A way that was wanted and is not open yet is wanted anew.
        worker.ways, worker.wanted = done.ways, frozenset()
        for number in done.closed:
            self._has_closed(worker, number)
        for session_id in done.sessions:
            self._used(session_id)
        for key in done.changing & self._picture.links.keys():
            self._heard_changing[key] = self._picture.links[key].ready_at_s
        self._keep_lines(done.lines)

    def _end(self, worker: _Worker) -> None:
        """It has ended, and nothing of it runs any more: what it had is served here."""
        if worker in self._workers:
            self._workers.remove(worker)
        for number in tuple(worker.held):
            self._take_back(worker, number)
        if self._is_leaving and not self._workers:
            self._over.set()

    # What workers have to know

    def _say_what_changed(self) -> None:
        if self._server is not None:
            self._calling &= self._server.connections
        self._picture = picture = self._look()
        routes = self._routes()
        links = {key: view for key, view in picture.links.items() if not self._is_changing(key, view)}
        if self._seen is None or self._seen[0] is not routes or self._seen[1] != links:
            self._seen = routes, links
            self._tools = tools_for_workers(routes, links)
            self._gate.know(self._tools, picture.links)
        for worker in self._workers:
            if worker.is_ready:
                self._show(worker)
        ready = [one for one in self._workers if one.is_ready]
        self._metrics.workers_running(len(ready), len(self), sum(one.in_flight for one in ready))

    def _is_changing(self, key: str, view: LinkView) -> bool:
        return key in self._picture.changing or self._heard_changing.get(key) == view.ready_at_s

    def _show(self, worker: _Worker) -> None:
        if worker.picture != self._picture:
            worker.picture = self._picture
            worker.feed.send(self._picture)
            self._gate.forget()
        if worker.tools is not self._tools:
            if (changed := changes(worker.tools, self._tools)) is not None:
                worker.feed.send(changed)
            worker.tools = self._tools
        worker.feed.send(Tick())

    def _show_all(self, worker: _Worker) -> None:
        self._show(worker)
        for session_id in self._sessions:
            worker.feed.send(SessionBegun(session_id))

    def _send(self, frame: object) -> None:
        for worker in self._workers:
            if worker.is_ready:
                worker.feed.send(frame)
