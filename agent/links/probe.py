"""Whether the other side of an open client lives: it is probed every few seconds, and any answer counts.

Run by `agent.links.lifecycle` for every client. An error counts, a late answer, one that is not MCP. A server that
never answers `ping` but lists is up, and is probed with its shortest list from then on. A request that was given up
(cancelled, timed out) may still keep its server busy. The one rule: only missing answers end a client, and only while
the server is at work on no other request.
"""

import asyncio
import math
import random
from collections.abc import Callable, Coroutine
from typing import Final, NoReturn, Protocol

from agent import clock
from agent.client.event import Event, within
from agent.client.protocol import McpClient, Request
from agent.errors import LinkFailed, MeshError, RpcError, Unreachable

# Every 5 s a link costs next to nothing, and +-20% keep those that began together apart; within one network an answer
# takes milliseconds, so one that takes a second is missed.
PROBE_EVERY_S: Final = 5.0
PROBE_JITTER: Final = 0.2
PROBE_TIMEOUT_S: Final = 1.0
# After a miss the next probe comes sooner: 6 s, then three unanswered ones and two of these, are the promised 12 s.
PROBE_AFTER_MISS_S: Final = 1.0
# A call that got no answer is reason to probe at once, and after a miss again soon: under load, dead is known early.
DOUBT_PAUSE_S: Final = 0.2
# A probe that was missed is still waited for this long: late is alive.
LATE_S: Final = 10.0
# A server whose list took longer than that has this many times as long for a probe.
SLOW_FACTOR: Final = 1.5
# The shortest timer: one of no length would fire again and again before the clock moves.
TICK_S: Final = 0.01

# The usually shortest lists: the capability of each, and its request.
_LISTS: Final = (("prompts", "prompts/list"), ("resources", "resources/list"))
_PING: Final = "ping"
_LIST: Final = "list in place of a ping"


class NoSignOfLife(Unreachable):
    """Probe after probe went unanswered: what is in flight will not be answered either."""


class ProbeHooks(Protocol):
    """The receiver of probe outcomes: the client's link."""

    def alive(self, latency_s: float, *, has_tasks: bool) -> None:
        """A probe was answered. `has_tasks` as now known."""
        ...

    def missed(self, *, busy: bool) -> bool:
        """A probe was not answered in time. `busy`: at work on a call. Returns whether the client may be kept."""
        ...


class Probe:
    """The probes of one client. `calls_open`: whether a call is, which may be all that the server does.

    `lists`: whether to try a list where `ping` is not answered; a node always answers.
    """

    __slots__ = (
        "_answered",
        "_at_work_until_s",
        "_calls_open",
        "_client",
        "_given_up_since_s",
        "_hooks",
        "_lists",
        "_patience_s",
        "_pings",
        "_rng",
        "doubt",
    )

    def __init__(
        self, client: McpClient, hooks: ProbeHooks, rng: random.Random, calls_open: Callable[[], bool], *, lists: bool
    ) -> None:
        self._lists = lists
        self._client = client
        self._hooks = hooks
        self._rng = rng
        self._calls_open = calls_open
        self._given_up_since_s = self._at_work_until_s = -math.inf
        self._pings = True
        self._patience_s = PROBE_TIMEOUT_S
        self._answered = Event()
        self.doubt = Event()

    def listed(self, took_s: float) -> None:
        """Take how long a listing took: a gateway that starts a child for each request answers no probe sooner."""
        if took_s > LATE_S:
            self._patience_s = SLOW_FACTOR * took_s

    def given_up(self, begun_at_s: float, deadline_s: float) -> None:
        """Take that a request was given up: its server may be at work on it until its deadline.

        It has done it once a probe that was sent later is answered. After the deadline too, its silence counts as late
        as that of an idle server, which is probed every few seconds.
        """
        self._given_up_since_s = max(self._given_up_since_s, begun_at_s)
        self._at_work_until_s = max(self._at_work_until_s, deadline_s, clock.now_s() + PROBE_EVERY_S)

    def _busy(self) -> bool:
        return self._calls_open() or clock.now_s() < self._at_work_until_s

    async def run(self, group: asyncio.TaskGroup) -> NoReturn:
        """Probe for ever, in tasks of `group`. Raises `NoSignOfLife`."""
        asked: tuple[asyncio.Task[LinkFailed | None], ...] = ()  # No set: most of the time it is empty.
        missed = False
        while True:
            usual_s = PROBE_EVERY_S * self._rng.uniform(1 - PROBE_JITTER, 1 + PROBE_JITTER)
            await within(self.doubt, PROBE_AFTER_MISS_S - DOUBT_PAUSE_S if missed else usual_s)
            asked_at_s = clock.now_s()
            busy = self._busy()
            if not (busy and asked):  # Else it has one to answer when it is free; more would only fill its pipe.
                # A server that answers late, one after the other, would have ever more of them to answer. The list,
                # which goes over another connection, makes up for a ping that was lost with its own.
                open_ones = [task.get_name() for task in asked] if self._lists else []
                if self._pings and _PING not in open_ones:
                    asked = (*asked, group.create_task(self._ask(self._ping), name=_PING))
                if (not self._pings or (missed and self._lists and not busy)) and _LIST not in open_ones:
                    asked = (*asked, group.create_task(self._ask(self._list), name=_LIST))
            failure, asked = await self._first_answer(asked, self._patience_s)
            if failure is None:
                missed = False
                for late in asked:
                    late.cancel()
                asked = ()
                self.doubt.clear()
                self._hooks.alive(clock.now_s() - asked_at_s, has_tasks=self._client.server_info.has_tasks)
                continue
            busy = busy or self._busy()
            if not self._hooks.missed(busy=busy):
                raise NoSignOfLife(f"no sign of life: {failure}") from failure
            if busy:
                self.doubt.clear()  # There is a reason for its silence.
            missed = True
            await asyncio.sleep(DOUBT_PAUSE_S)

    async def _first_answer(
        self, asked: tuple[asyncio.Task[LinkFailed | None], ...], timeout_s: float
    ) -> tuple[LinkFailed | None, tuple[asyncio.Task[LinkFailed | None], ...]]:
        """None for the first answer to any of them, else why there is none; and those that may still be answered."""
        until_s = clock.now_s() + timeout_s
        failure: LinkFailed | None = None
        while asked and (left_s := until_s - clock.now_s()) > TICK_S:
            self._answered.clear()
            done = [task for task in asked if task.done()]
            if not done:
                await within(self._answered, left_s)  # `asyncio.wait` costs as much as the rest of a probe's wait.
            asked = tuple(task for task in asked if task not in done)
            for task in done:
                if task.result() is None:
                    return None, asked
                failure = task.result()
        return failure or Unreachable(f"no answer within {timeout_s:g} s"), asked

    async def _ask(self, probe: Callable[[], Coroutine[None, None, LinkFailed | None]]) -> LinkFailed | None:
        asked_at_s = clock.now_s()
        try:
            failure = await probe()
        finally:
            self._answered.set()
        # A busy server is silent; one that refuses at once is not busy, but gone.
        is_silent = failure is not None and clock.now_s() - asked_at_s >= PROBE_TIMEOUT_S
        if asked_at_s > self._given_up_since_s and not is_silent:
            self._at_work_until_s = -math.inf
        return failure

    async def _ping(self) -> LinkFailed | None:
        try:
            await self._client.probe(max(LATE_S, self._patience_s))
        except LinkFailed as exc:
            return exc
        self._pings = True
        return None

    async def _list(self) -> LinkFailed | None:
        capabilities = self._client.server_info.capabilities
        method = next((method for kind, method in _LISTS if kind in capabilities), "tools/list")
        try:
            await self._client.request(Request.within(method, timeout_s=max(LATE_S, self._patience_s)))
        except RpcError:
            pass
        except LinkFailed as exc:
            return exc
        except MeshError as exc:
            return Unreachable(str(exc))
        self._pings = False
        return None
