"""A client whose other side a test plays, and a link behind it; for the timing of links, in loop time.

The clients of `agent.client.connect` are tested against real servers elsewhere; what a link makes of their outcomes is
a matter of time and order, which no real server gives on command.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from agent.client.event import Event
from agent.client.protocol import Quiet, Request
from agent.client.server_info import ListenNotSupported, ServerInfo
from agent.errors import MeshError, Unreachable
from agent.links.crowd import Crowd
from agent.links.dial import Knock, OpenClient
from agent.links.follower import Watch
from agent.links.link import Link
from agent.links.record import LinkHooks
from agent.model import BackendSpec, Era, HttpTarget, Json, NodeIdentity, PeerSource, PeerSpec

OWN = NodeIdentity("id-own", "own")
PEER = PeerSpec("peer", HttpTarget("http://peer/mcp"), PeerSource.DISCOVERY)

Listen = Callable[[Callable[[str], None]], Awaitable[None]]


async def listens(on_change: Callable[[str], None]) -> None:
    """A change stream that comes up at once and holds."""
    on_change("listening")
    await Event().wait()


async def cannot_listen(_on_change: Callable[[str], None]) -> None:
    """What a server without change streams says."""
    raise ListenNotSupported("no stream here")


def no_failure() -> MeshError | None:
    """The ordinary outcome of everything."""
    return None


def failing_times(count: int, make: Callable[[], BaseException]) -> Callable[[], BaseException | None]:
    left = [count]

    def failure() -> BaseException | None:
        left[0] -= 1
        return make() if left[0] >= 0 else None

    return failure


def unreachable() -> Unreachable:
    return Unreachable("refused")


@dataclass
class OtherSide:
    """What the other side does. Failures are made anew for each use; `list_time_s` is how long a listing takes.

    `lists`: what other lists than that of the tools are answered with, by method; None hangs. `says`: what is sent on
    the stream of a call before its answer. `is_serial`: probes and listings are answered one after the other, those
    that were given up too.
    """

    tools: list[Json] = field(default_factory=lambda: [{"name": "a", "inputSchema": {}}])
    dial: Callable[[], BaseException | None] = no_failure
    probe: Callable[[], BaseException | None] = no_failure
    listing: Callable[[], BaseException | None] = no_failure
    closing: Callable[[], BaseException | None] = no_failure
    calling: Callable[[], BaseException | None] | None = None
    listen: Listen = listens
    quiet: Quiet | None = None
    capabilities: Json = field(default_factory=lambda: {"tools": {}})
    lists: dict[str, BaseException | Json | None] = field(default_factory=dict)
    lists_asked: list[tuple[str, float]] = field(default_factory=list)
    says: list[str] = field(default_factory=list)
    list_time_s: float = 0.0
    dial_time_s: float = 0.0
    probe_time_s: float = 0.0
    is_serial: bool = False
    free_at_s: float = 0.0
    close_time_s: float = 0.0
    identity: NodeIdentity | None = None
    start_deadline_s: float | None = None
    calls: asyncio.Event = field(default_factory=asyncio.Event)
    given_up: int = 0
    opened_at_s: list[float] = field(default_factory=list)
    closed: int = 0
    listings: list[float] = field(default_factory=list)
    probes: list[float] = field(default_factory=list)
    clients: list["ScriptedClient"] = field(default_factory=list)

    def until_answered_s(self, work_s: float) -> float:
        """Seconds until what takes so long is answered."""
        if not self.is_serial:
            return work_s
        self.free_at_s = max(self.free_at_s, now_s()) + work_s
        return self.free_at_s - now_s()

    async def knocked(self, _spec: BackendSpec, _refused: bool) -> bool:
        """As `agent.links.dial.Knock`: always worth a dial."""
        return True

    async def opened(self, stack: contextlib.AsyncExitStack, _spec: BackendSpec, _own: NodeIdentity) -> OpenClient:
        """As `agent.links.dial.opened`."""
        return await stack.enter_async_context(self._opened())

    @contextlib.asynccontextmanager
    async def _opened(self) -> AsyncIterator[OpenClient]:
        self.opened_at_s.append(now_s())
        await asyncio.sleep(self.dial_time_s)
        if (failure := self.dial()) is not None:
            raise failure
        client = ScriptedClient(self)
        self.clients.append(client)
        try:
            yield OpenClient(client, self.identity, start_deadline_s=self.start_deadline_s)
        finally:
            self.closed += 1  # Begun, it ends even when it is cancelled.
            await asyncio.sleep(self.close_time_s)
            if (failure := self.closing()) is not None:
                raise failure


class ScriptedClient:
    """A `McpClient` over the script. A call is answered when the test sets `side.calls`, or fails."""

    def __init__(self, side: OtherSide) -> None:
        self._side = side
        self.server_info = ServerInfo(Era.MODERN, "2026-07-28", side.capabilities, {"name": "script"}, None, None)
        self.lost = Event()
        self.lost_reason = self.lost_what = ""

    lists_by_session = False

    @property
    def quiet(self) -> Quiet | None:
        return self._side.quiet

    def hear_sessions(self, on_news: Callable[[str, str], None]) -> None:
        """There are none."""

    def lose(self, reason: str) -> None:
        self.lost_reason = reason
        self.lost.set()

    def give_up(self) -> None:
        self._side.given_up += 1

    async def request(self, request: Request) -> Json:
        if request.method in self._side.lists:
            self._side.lists_asked.append((request.method, now_s()))
            found = self._side.lists[request.method]
            if found is None:
                await asyncio.Event().wait()
            if isinstance(found, BaseException):
                raise found
            assert found is not None
            return found
        if request.method != "tools/list":
            for said in self._side.says:
                assert request.on_notification is not None
                await request.on_notification(said, {})
            if self._side.calling is not None and (failure := self._side.calling()) is not None:
                raise failure
            await self._side.calls.wait()
            return {"answered": request.method}
        self._side.listings.append(now_s())
        await asyncio.sleep(self._side.until_answered_s(self._side.list_time_s))
        if (failure := self._side.listing()) is not None:
            raise failure
        return {"tools": list(self._side.tools)}

    async def listen(self, on_change: Callable[[str], None]) -> None:
        await self._side.listen(on_change)

    async def probe(self, timeout_s: float) -> None:
        self._side.probes.append(now_s())
        if self._side.probe_time_s:
            try:
                async with asyncio.timeout(timeout_s):
                    await asyncio.sleep(self._side.until_answered_s(self._side.probe_time_s))
            except TimeoutError as exc:
                raise Unreachable("no answer to ping", silent=True) from exc
        if (failure := self._side.probe()) is not None:
            raise failure


@dataclass
class Told:
    """What the hooks of a link got."""

    dials: list[str] = field(default_factory=list)
    reconnected: int = 0
    changes: int = 0
    settled: list[float] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    stirred: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Rig:
    """A link that runs, and everything around it."""

    link: Link
    side: OtherSide
    told: Told
    task: asyncio.Task[None]

    async def when(self, condition: Callable[[], bool], within_s: float = 3600.0) -> float:
        """Wait in loop time until a change of the link makes `condition` true; returns the time then."""
        async with asyncio.timeout(within_s):
            while not condition():
                self.told.stirred.clear()
                await self.told.stirred.wait()
        return now_s()

    async def ready(self) -> float:
        return await self.when(lambda: self.link.view.connected)

    async def down(self) -> float:
        return await self.when(lambda: not self.link.view.connected and bool(self.link.view.failure))


@contextlib.asynccontextmanager
async def running_link(
    side: OtherSide,
    spec: BackendSpec = PEER,
    watches: tuple[Watch, ...] = (),
    *,
    crowd: Crowd | None = None,
    rng: random.Random | None = None,
    knock: Knock | None = None,
    **more: Any,
) -> AsyncIterator[Rig]:
    """A link over the script; cancelled at the end, which must end it. `knock`: at what is down, as nodes have it."""
    told = Told()

    def shown() -> None:
        told.states.append(str(link.view.state))
        told.stirred.set()

    def reconnected(_: str) -> None:
        told.reconnected += 1

    async def settled() -> None:
        told.settled.append(now_s())

    def changed(_key: str) -> None:
        told.changes += 1

    heard = (changed, told.dials.append, reconnected, watches, settled)
    hooks = LinkHooks(*heard, shown=shown, crowd=crowd or Crowd(), knock=knock)
    dials = asyncio.Semaphore(50)
    link = Link(spec, dials, own=OWN, hooks=hooks, rng=rng or random.Random(7), dial=side.opened, **more)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(link.run(), name="link")
        try:
            yield Rig(link, side, told, task)
        finally:
            task.cancel()


def now_s() -> float:
    return asyncio.get_running_loop().time()
