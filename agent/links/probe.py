"""Whether the other side of an open client lives: it is probed every few seconds, and any answer counts.

Begun by `agent.links.lifecycle` for every client. At rest it is asked without a task, where its transport can, and only
what is unusual then has one, as long as it lasts. An error counts, a late answer, one that is not MCP. A server that
never answers `ping` but lists is up, and is probed with its shortest list from then on. A request that was given up
(cancelled, timed out) may still keep its server busy. The one rule: only missing answers end a client, and only while
the server is at work on no other request.
"""

import asyncio
import math
import random
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol, TypeAlias

from agent import clock
from agent.client.event import Event, within
from agent.client.protocol import McpClient, Request
from agent.client.server_info import ServerInfo
from agent.client.small_task_group import SmallTaskGroup
from agent.errors import LinkFailed, MeshError, RpcError, Unreachable, bare
from agent.links.beats import BEAT_S, shared_beats

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
# A server whose last list took longer than that has this many times as long for a probe.
SLOW_FACTOR: Final = 1.5
# The shortest timer: one of no length would fire again and again before the clock moves.
TICK_S: Final = 0.01

# The usually shortest lists: the capability of each, and its request.
_LISTS: Final = (("prompts", "prompts/list"), ("resources", "resources/list"))
_PING: Final = "ping"
_LIST: Final = "list in place of a ping"

# A probe whose answer may still come, by what it asks; the result is why there is none.
_Asked: TypeAlias = tuple[str, asyncio.Future[LinkFailed | None]]


class NoSignOfLife(Unreachable):
    """Probe after probe went unanswered: what is in flight will not be answered either."""


class ProbeHooks(Protocol):
    """The receiver of probe outcomes: the client's link."""

    def alive(self, latency_s: float, server_info: ServerInfo) -> None:
        """A probe was answered. `server_info` as now known."""
        ...

    def asked(self) -> None:
        """A probe goes out whose answer is waited for."""
        ...

    def missed(self, *, busy: bool, silent: bool) -> bool:
        """A probe was not answered in time. `busy`: at work on a call. Returns whether the client may be kept.

        `silent`: nothing came back at all; it was not refused.
        """
        ...


class ProbedLife(Protocol):
    """The life of the client that is probed."""

    def may_be_busy(self) -> bool:
        """Whether a call is open that may be all that the server does."""
        ...

    def begin_task(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        """Do something in a task; what it raises ends this life."""
        ...


class Doubt(Event):
    """Set by a call without an answer: reason to probe at once."""

    __slots__ = ("_probe",)

    def __init__(self, probe: "Probe") -> None:
        super().__init__()
        self._probe: Probe | None = probe

    def set(self) -> None:
        """Set it, and probe."""
        super().set()
        if self._probe is not None:
            self._probe.ask_now()

    def end(self) -> None:
        """Probe no more."""
        self._probe = None


class _Over:
    """A life that is over."""

    def may_be_busy(self) -> bool:
        return False

    def begin_task(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        """Nothing is begun any more."""


_OVER: Final = _Over()


class Probe:
    """The probes of one client, from `begin` to `end`.

    `lists`: whether to try a list where `ping` is not answered; a node always answers.

    Long because a probe that goes on in a task is the one that was begun without.
    """

    __slots__ = (
        "_answered",
        "_asked_at_s",
        "_at_work_until_s",
        "_beats",
        "_begun",
        "_client",
        "_drop",
        "_due_s",
        "_given_up_since_s",
        "_heard_next",
        "_hooks",
        "_in_task",
        "_late",
        "_life",
        "_lists",
        "_patience_s",
        "_pings",
        "_prober",
        "_rng",
        "doubt",
    )

    def __init__(
        self,
        client: McpClient,
        hooks: ProbeHooks,
        rng: random.Random,
        life: ProbedLife,
        *,
        lists: bool,
    ) -> None:
        self._lists = lists
        self._client = client
        self._hooks = hooks
        self._rng = rng
        self._life: ProbedLife = life
        self._given_up_since_s = self._at_work_until_s = -math.inf
        self._pings = True
        self._patience_s = PROBE_TIMEOUT_S
        self._answered = Event()
        self._begun = self._in_task = False
        self._prober: Callable[[Callable[[bool], None]], Callable[[], None] | None] | None = None
        self._beats = shared_beats()
        self._due_s = self._asked_at_s = 0.0
        self._drop: Callable[[], None] | None = None  # While it is asked without a task.
        self._late: asyncio.Future[LinkFailed | None] | None = None  # What a task waits for that was asked so.
        self._heard_next: Event | None = None  # Set at the next answer, where that is waited for.
        self.doubt = Doubt(self)

    def __repr__(self) -> str:
        state = "asks in a task" if self._in_task else "asks" if self._drop is not None else "rests"
        return f"<Probe {state}, due {self._due_s:g}>"

    def listed(self, took_s: float) -> None:
        """Take how long the last listing took: a gateway that starts a child for each request answers no probe sooner.

        One that was slow when it had just been started, and no more, is waited for no longer than any other.
        """
        self._patience_s = SLOW_FACTOR * took_s if took_s > LATE_S else PROBE_TIMEOUT_S

    def given_up(self, begun_at_s: float, deadline_s: float) -> None:
        """Take that a request was given up: its server may be at work on it until its deadline.

        It has done it once a probe that was sent later is answered. After the deadline too, its silence counts as late
        as that of an idle server, which is probed every few seconds.
        """
        self._given_up_since_s = max(self._given_up_since_s, begun_at_s)
        self._at_work_until_s = max(self._at_work_until_s, deadline_s, clock.now_s() + PROBE_EVERY_S)

    def _busy(self) -> bool:
        return self._life.may_be_busy() or clock.now_s() < self._at_work_until_s

    # At rest

    def begin(self) -> None:
        """Probe from now on."""
        self._begun = True
        quiet = self._client.quiet
        self._prober = None if quiet is None else quiet.prober()
        if self.doubt.is_set():
            self.ask_now()
        else:
            self._rest()

    def end(self) -> None:
        """Probe no more. Nothing here leads back to the life then, or only the garbage collector could take it away."""
        self._begun = False
        self._drop_quiet_one()
        self._life, self._prober = _OVER, None
        self.doubt.end()
        # The next beat still has this probe, which need not hold a whole link for seconds.
        del self._client, self._hooks

    def _drop_quiet_one(self) -> None:
        drop, self._drop = self._drop, None
        if drop is not None:
            drop()

    def ask_now(self) -> None:
        """There is reason not to wait for the next beat."""
        if self._begun and not self._in_task:
            self._in_task = True
            self._life.begin_task(self._until_answered, "probe")

    async def heard(self) -> None:
        """Ask now, and return when there is an answer; what never answers ends its life."""
        self._heard_next = heard = self._heard_next or Event()
        self.doubt.set()
        await heard.wait()

    def _rest(self) -> None:
        jitter = PROBE_JITTER * (2 * self._rng.random() - 1)
        self._due_s = clock.now_s() + PROBE_EVERY_S * (1 + jitter)
        self._beats.by(self._due_s, self._ask)

    def _is_due(self, at_s: float, now_s: float) -> bool:
        """Whether that moment has come; a beat may be one of before."""
        return self._begun and not self._in_task and now_s > at_s - 2 * BEAT_S

    def _ask(self) -> None:
        now_s = clock.now_s()
        if self._drop is None and self._is_due(self._due_s, now_s) and not self._asks_quietly(now_s):
            self.ask_now()

    def _asks_quietly(self, now_s: float) -> bool:
        if self._prober is None or not self._pings or self._patience_s > PROBE_TIMEOUT_S:
            return False
        if self._life.may_be_busy() or now_s < self._at_work_until_s:
            return False
        self._drop = self._prober(self._heard)
        if self._drop is None:
            return False
        self._asked_at_s = now_s
        # This was the last beat before now.
        self._beats.after(now_s + PROBE_TIMEOUT_S - BEAT_S, self._look_for_answer)
        return True

    def _heard(self, is_well: bool) -> None:
        self._drop = None
        if self._late is not None:
            if not self._late.done():
                # Why is not known: a connection that ends for want of acknowledgements is silence, and the probe that
                # goes out beside this one hears a refusal by itself.
                self._late.set_result(None if is_well else Unreachable("no usual answer", silent=True))
            self._answered.set()
        elif is_well and self._begun:
            self._is_alive(self._asked_at_s)
        else:
            self.ask_now()

    def _is_alive(self, asked_at_s: float) -> None:
        self._hooks.alive(clock.now_s() - asked_at_s, self._client.server_info)
        if self._heard_next is not None:
            self._heard_next.set()
            self._heard_next = None
        self._rest()

    def _look_for_answer(self) -> None:
        if self._drop is not None and self._is_due(self._asked_at_s + PROBE_TIMEOUT_S, clock.now_s()):
            self.ask_now()

    # In a task

    async def _until_answered(self) -> None:
        """Probe until there is an answer. Raises `NoSignOfLife`, in a group."""
        async with SmallTaskGroup() as group:
            (asked, failure), busy = self._asked_before(), False
            while True:
                if failure is not None:
                    await self._confirm(failure, busy=busy or self._busy())
                asked_at_s, busy = clock.now_s(), self._busy()
                self._hooks.asked()
                if not (busy and asked):  # Else it has one to answer when it is free; more would only fill its pipe.
                    asked = self._asked_in_tasks(group, asked, makes_up=failure is not None and not busy)
                failure, asked = await self._first_answer(asked, self._patience_s)
                if failure is None:
                    break
            for _, late in asked:
                late.cancel()
        self._in_task, self._late = False, None
        self._drop_quiet_one()
        self.doubt.clear()
        self._is_alive(asked_at_s)

    def _asked_before(self) -> tuple[tuple[_Asked, ...], LinkFailed | None]:
        """The probe that went out without a task and may still be answered, and whether it is missed by now."""
        if self._drop is None:
            return (), None
        self._late = asyncio.get_running_loop().create_future()
        left_s = self._asked_at_s + LATE_S - clock.now_s()
        asyncio.get_running_loop().call_later(left_s, self._is_too_late, self._late)
        is_missed = clock.now_s() > self._asked_at_s + PROBE_TIMEOUT_S - BEAT_S
        failure = _unanswered(PROBE_TIMEOUT_S) if is_missed else None
        return ((_PING, self._late),), failure

    def _is_too_late(self, late: asyncio.Future[LinkFailed | None]) -> None:
        if self._late is late and not late.done():
            self._drop_quiet_one()
            self._heard(is_well=False)

    async def _confirm(self, failure: LinkFailed, *, busy: bool) -> None:
        """Take a miss, and wait until the next probe. Raises `NoSignOfLife`."""
        if failure.short:  # Nothing was asked, for want of what this node has.
            await asyncio.sleep(PROBE_AFTER_MISS_S)
            return
        if not self._hooks.missed(busy=busy, silent=failure.silent):
            raise NoSignOfLife(f"no sign of life: {failure}") from failure
        if busy:
            self.doubt.clear()  # There is a reason for its silence.
        await asyncio.sleep(DOUBT_PAUSE_S)
        await within(self.doubt, PROBE_AFTER_MISS_S - DOUBT_PAUSE_S)

    def _asked_in_tasks(
        self, group: asyncio.TaskGroup, asked: tuple[_Asked, ...], *, makes_up: bool
    ) -> tuple[_Asked, ...]:
        """All that are open with one more. `makes_up`: a list makes up for a ping that was lost with its connection.

        A server that answers late, one after the other, would have ever more of them to answer otherwise.
        """
        open_ones = [name for name, _ in asked] if self._lists else []
        if self._pings and _PING not in open_ones:
            asked = (*asked, (_PING, group.create_task(self._asked(self._ping), name=_PING)))
        if (not self._pings or (makes_up and self._lists)) and _LIST not in open_ones:
            asked = (*asked, (_LIST, group.create_task(self._asked(self._list), name=_LIST)))
        return asked

    async def _first_answer(
        self, asked: tuple[_Asked, ...], timeout_s: float
    ) -> tuple[LinkFailed | None, tuple[_Asked, ...]]:
        """None for the first answer to any of them, else why there is none; and those that may still be answered."""
        until_s = clock.now_s() + timeout_s
        failure: LinkFailed | None = None
        while asked and (left_s := until_s - clock.now_s()) > TICK_S:
            self._answered.clear()
            done = [one for _, one in asked if one.done()]
            if not done:
                await within(self._answered, left_s)  # `asyncio.wait` costs as much as the rest of a probe's wait.
            asked = tuple(one for one in asked if one[1] not in done)
            for one in done:
                if one.result() is None:
                    return None, asked
                if failure is None or failure.silent:
                    failure = one.result()
        return failure or _unanswered(timeout_s), asked

    async def _asked(self, probe: Callable[[], Coroutine[None, None, LinkFailed | None]]) -> LinkFailed | None:
        asked_at_s = clock.now_s()
        try:
            failure = await probe()
        finally:
            self._answered.set()
        # A busy server is silent; one that refuses at once is not busy, but gone.
        is_silent = failure is not None and (failure.silent or clock.now_s() - asked_at_s >= PROBE_TIMEOUT_S)
        if asked_at_s > self._given_up_since_s and not is_silent:
            self._at_work_until_s = -math.inf
        return failure

    async def _ping(self) -> LinkFailed | None:
        try:
            await self._client.probe(max(LATE_S, self._patience_s))
        except LinkFailed as exc:
            return bare(exc)
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
            return bare(exc)
        except MeshError as exc:
            return Unreachable.because(exc)
        self._pings = False
        return None


def _unanswered(timeout_s: float) -> Unreachable:
    return Unreachable(f"no answer within {timeout_s:g} s", silent=True)
