"""The ways between simulated nodes, and the client that a link gets over them.

Every packet from one node to another may be lost, in each direction by itself; a node may be dead, which answers with a
reset, or hang, which answers with nothing. The one rule: whether a request was executed, and whether its answer
arrived, are two facts, and a client learns only the second one.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol, Self

from agent.client.event import Event, first_of
from agent.client.http.dial import TCP_USER_TIMEOUT_MS
from agent.client.protocol import Request
from agent.client.server_info import ServerInfo
from agent.errors import CallNotSent, CallOutcomeUnknown, CallTimedOut, MeshError, Unreachable
from agent.links.dial import TURN_S
from agent.model import Era, Json, NodeIdentity

CONNECT_TIMEOUT_S = 5.0
LATENCY_S = 0.001
INFO = ServerInfo(Era.MODERN, "2026-07-28", {"tools": {}}, {"name": "simulated"}, None, None)


class Host(Protocol):
    """What answers at an address: a node, or the MCP server of one."""

    identity: NodeIdentity | None
    name: str
    alive: bool
    hangs: bool
    leaving: bool
    clients: "dict[SimulatedClient, None]"

    def reached_by(self, name: str) -> None:
        """Something came from that host."""
        ...

    async def serve(self, method: str, params: Json) -> Json:
        """Execute one request; raises `RpcError`."""
        ...


@dataclass
class Network:
    """`cut`: pairs (from, to) of host names whose packets are lost. `at`: URL -> the host there.

    `dials`, `opened_at`: (when, from, URL) of each dial and each connection since the rules looked last, of a dial also
    how many before it found nothing (`in_vain`: by URL, and from). `dialled_at`: when a host last dialled a URL.
    `lost_since`: since when `lose` loses what it does.
    """

    at: dict[str, Host] = field(default_factory=dict)
    cut: set[tuple[str, str]] = field(default_factory=set)
    slow_s: dict[str, float] = field(default_factory=dict)
    dials: list[tuple[float, str, str, int]] = field(default_factory=list)
    opened_at: list[tuple[float, str, str]] = field(default_factory=list)
    dialled_at: dict[tuple[str, str], float] = field(default_factory=dict)
    lost_since: dict[tuple[str, str], float] = field(default_factory=dict)
    in_vain: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    began_most: int = 0
    _began: dict[str, int] = field(default_factory=dict)

    def carries(self, source: str, to: str) -> bool:
        """Whether a packet arrives."""
        return (source, to) not in self.cut

    def lose(self, source: str, to: str) -> None:
        """Lose all packets from one host to another from now on."""
        self.cut.add((source, to))
        self.lost_since.setdefault((source, to), asyncio.get_running_loop().time())

    def heal(self) -> None:
        """Lose nothing any more."""
        self.cut.clear()
        self.lost_since.clear()
        self.slow_s.clear()

    def latency_s(self, source: str, to: str) -> float:
        """How long one takes."""
        return LATENCY_S + self.slow_s.get(source, 0.0) + self.slow_s.get(to, 0.0)

    @asynccontextmanager
    async def opened(self, source: Host, url: str) -> "AsyncGenerator[SimulatedClient, None]":
        """A connection from `source` to what is at `url`. Raises `Unreachable`."""
        now_s = asyncio.get_running_loop().time()
        host = self.at.get(url)
        self.dials.append((now_s, source.name, url, self.in_vain[url][source.name]))
        self.dialled_at[source.name, url] = now_s
        over = self._note_begun(source.name)
        self.in_vain[url][source.name] += 1
        try:
            await self._connect(source, host)
        finally:
            over()
        del self.in_vain[url][source.name]
        assert host is not None
        self.opened_at.append((asyncio.get_running_loop().time(), source.name, url))
        client = SimulatedClient(self, source, host)
        host.clients[client] = None
        try:
            yield client
        finally:
            host.clients.pop(client, None)
            client.lose("this node ended its link")

    def _note_begun(self, name: str) -> Callable[[], None]:
        """Count a dial until it is over or has lost its place, whichever is first."""
        self._began[name] = self._began.get(name, 0) + 1
        self.began_most = max(self.began_most, self._began[name])
        counted = True

        def over() -> None:
            nonlocal counted
            if counted:
                counted = False
                self._began[name] -= 1
                timer.cancel()

        timer = asyncio.get_running_loop().call_later(TURN_S, over)
        return over

    async def _connect(self, source: Host, host: Host | None) -> None:
        if host is None:
            await asyncio.sleep(LATENCY_S)
            raise Unreachable("connection refused")
        there, back = self.carries(source.name, host.name), self.carries(host.name, source.name)
        # A hung process still accepts connections: its kernel does. What asks it for its identity waits in vain.
        if there and not host.hangs:
            host.reached_by(source.name)
        if not (there and back) or host.hangs:
            await asyncio.sleep(CONNECT_TIMEOUT_S)
            raise Unreachable("no answer in time", silent=True)
        await asyncio.sleep(2 * self.latency_s(source.name, host.name))
        if not host.alive or host.leaving:
            raise Unreachable("connection refused")


class SimulatedClient:
    """A `McpClient` over the simulated network."""

    lists_by_session = False

    def __init__(self, network: Network, source: Host, host: Host) -> None:
        self._network, self._source, self._host = network, source, host
        self._under_way: dict[asyncio.Timeout, None] = {}  # In order, as all that a run depends on.
        self._on_change: Callable[[str], None] | None = None
        self._stream_over: Callable[[MeshError], None] | None = None
        self._asked: _QuietProbe | None = None
        self.server_info = INFO
        self.lost = Event()
        self.streams_end = Event()
        self.lost_reason = self.lost_what = ""

    def __repr__(self) -> str:
        return f"<SimulatedClient {self._source.name} -> {self._host.name}>"

    def hear_sessions(self, on_news: Callable[[str, str], None]) -> None:
        """There are none."""

    def lose(self, reason: str) -> None:
        """The connection is reset: the other side died, and its kernel says so."""
        if self.lost.is_set():
            return
        self.lost_reason = reason
        self.lost.set()
        now_s = asyncio.get_running_loop().time()
        for timer in self._under_way:
            timer.reschedule(now_s)
        self.end_streams()
        if self._asked is not None:
            self._asked.over(is_well=False)

    def end_streams(self) -> None:
        """The stream of changes ends."""
        self.streams_end.set()
        over, self._stream_over = self._stream_over, None
        if over is not None:
            self._on_change = None
            over(Unreachable(self.lost_reason or "the stream ended"))

    def hear_reset(self) -> None:
        """The other side has died; hears of it where packets arrive."""
        if self._network.carries(self._host.name, self._source.name):
            self.lose("connection reset")

    def hear_change(self) -> None:
        """The other side's tools have changed."""
        if self._on_change is not None and self._network.carries(self._host.name, self._source.name):
            self._on_change("tools")

    async def request(self, request: Request) -> Json:
        """As `McpClient.request`."""
        assert request.params is not None or request.method == "tools/list"
        params = request.params or {}
        return await self._exchange(request.deadline_s, lambda: self._host.serve(request.method, params))

    def give_up(self) -> None:
        """As `GivesUp.give_up`."""
        now_s = asyncio.get_running_loop().time()
        for timer in self._under_way:
            timer.reschedule(now_s)

    async def listen(self, on_change: Callable[[str], None]) -> None:
        """As `McpClient.listen`."""
        self._on_change = on_change
        try:
            on_change("listening")
            await first_of(self.lost, self.streams_end)
        finally:
            self._on_change = None
        raise Unreachable(self.lost_reason or "the stream ended")

    @property
    def quiet(self) -> Self:
        """As `McpClient.quiet`."""
        return self

    def prober(self) -> Callable[[Callable[[bool], None]], Callable[[], None] | None]:
        """As `Quiet.prober`."""
        return self._ask_quietly

    def _ask_quietly(self, heard: Callable[[bool], None]) -> Callable[[], None] | None:
        if self.lost.is_set():
            return None
        self._asked = asked = _QuietProbe(self._network, self._source, self._host, heard)
        asked.send()
        return asked.drop

    def list_quietly(self, *_: object) -> None:
        """As `Quiet.list_quietly`: of what tells of its changes, as all here do, no list is asked so."""

    async def listen_quietly(
        self, on_change: Callable[[str], None], ended: Callable[[MeshError], None]
    ) -> Callable[[], None]:
        """As `Quiet.listen_quietly`."""
        if self.lost.is_set() or self.streams_end.is_set():
            raise Unreachable(self.lost_reason or "the stream ended")
        self._on_change, self._stream_over = on_change, ended
        on_change("listening")
        return self._drop_stream

    def _drop_stream(self) -> None:
        self._on_change = self._stream_over = None

    async def follow(self, _updates: object) -> None:
        """Nothing is subscribed in the simulation."""
        raise AssertionError

    async def probe(self, timeout_s: float) -> None:
        """As `McpClient.probe`."""
        try:
            await self._exchange(asyncio.get_running_loop().time() + timeout_s, _nothing)
        except (CallOutcomeUnknown, CallNotSent) as exc:
            raise Unreachable.because(exc) from exc

    async def _exchange(self, deadline_s: float, work: Callable[[], Awaitable[Json]]) -> Json:
        network, source, host = self._network, self._source, self._host
        if self.lost.is_set():
            raise CallNotSent(f"the connection is lost: {self.lost_reason}")
        travel_s = network.latency_s(source.name, host.name)
        timer = asyncio.timeout_at(deadline_s)
        try:
            async with timer:
                self._under_way[timer] = None
                await asyncio.sleep(travel_s)
                if not network.carries(source.name, host.name) or host.hangs or not host.alive:
                    await Event().wait()
                host.reached_by(source.name)
                answer = await work()
                await asyncio.sleep(travel_s)
                if not network.carries(host.name, source.name) or host.hangs:
                    await Event().wait()
                return answer
        except TimeoutError as exc:
            if self.lost.is_set():
                raise CallOutcomeUnknown(f"no answer: {self.lost_reason}") from exc
            raise CallTimedOut("no answer in time") from exc
        finally:
            self._under_way.pop(timer, None)


class _QuietProbe:
    """A probe that no task waits for. Where packets are lost, the kernel gives its connection up, as one in silence."""

    def __init__(self, network: Network, source: Host, host: Host, heard: Callable[[bool], None]) -> None:
        self._network, self._source, self._host = network, source, host
        self._heard: Callable[[bool], None] | None = heard
        self._timer: asyncio.TimerHandle | None = None

    def send(self) -> None:
        """Ask."""
        self._later(self._network.latency_s(self._source.name, self._host.name), self._arrive)

    def over(self, *, is_well: bool) -> None:
        """The answer is there, or the connection has ended."""
        heard = self._heard
        self.drop()
        if heard is not None:
            heard(is_well)

    def drop(self) -> None:
        """Wait no longer."""
        self._heard = None
        if self._timer is not None:
            self._timer.cancel()

    def _arrive(self) -> None:
        network, source, host = self._network, self._source, self._host
        if not network.carries(source.name, host.name) or not host.alive:
            self._later(TCP_USER_TIMEOUT_MS / 1000, self._give_up)
        elif not host.hangs:  # Else its kernel says that the bytes are there.
            host.reached_by(source.name)
            self._later(network.latency_s(source.name, host.name), self._answer)

    def _answer(self) -> None:
        if not self._network.carries(self._host.name, self._source.name):
            self._later(TCP_USER_TIMEOUT_MS / 1000, self._give_up)
        elif not self._host.hangs:
            self.over(is_well=True)

    def _give_up(self) -> None:
        self.over(is_well=False)

    def _later(self, seconds: float, what: Callable[[], None]) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, what)


async def _nothing() -> Json:
    return {}
