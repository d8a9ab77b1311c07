"""A server that takes a request and does not answer it: knocks tell when it answers again, and then it is asked anew.

Used while a client is opened over HTTP (`agent.client.http.connect`, `agent.client.http.sse_connect`). What a balancer
has given to a worker that died is never answered, also when new requests are. But a slow server may start a program for
each request, so it is not asked the same again and again: it gets knocks, requests that mean nothing and cost nothing.
The one rule: the first question is not given up for its slowness, and no session is asked for twice of a server that
was not silent in between.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, Final, Generic, Self, TypeVar

from agent import clock
from agent.client.event import Event
from agent.client.http.attempts import outcome_of
from agent.client.knocks import CALLS, KNOCK_EVERY_S, OWN, Knocks
from agent.client.quick_servers import QUICK_S
from agent.client.small_task_group import SmallTaskGroup
from agent.errors import MeshError

# So many knocks are open at one server; a knock has as many turns to be answered, no more where many servers hang.
KNOCKS_OPEN_MAX: Final = 3
# A process that was stopped answers what it was sent first, and need not be asked anew.
AWAKE_PAUSE_S: Final = 0.25
# An unanswered knock is silence; after each awakening it takes twice as long, for a server that is only slow has many.
SILENT_KNOCKS: Final = 1.5
# One that has answered a question slowly is knocked at this many times as rarely as that took: where it does one thing
# at a time, each knock is in the way of what it was asked.
SLOW_ANSWERS: Final = 2.0
# What answers a knock itself while the question stays open may be a gateway that reads JSON, so the next knocks are the
# question. It may also be slow, and start a program for each: no more than this without calls, and as often as others
# with them, as each call would be one. A server that goes on is found in 10 s.
QUESTION_EVERY_S: Final = 6.0
# Of one question: the first, which a slow server may be at work on, the last, and one between them.
ASKED_OPEN_MAX: Final = 3
# One that is answered too late may have opened a session, which is waited for so long, to be ended.
LATE_S: Final = 10.0

_TOO_MANY: Final = 429
# What is higher is a proxy's word for a server that is away. A server may answer 500 to what it cannot read.
_NOT_IMPLEMENTED: Final = 501

_T = TypeVar("_T")


class Awakening:
    """For one dial, from `__aenter__` to `__aexit__`, which ends all that it began; no knocks after `rest`.

    `knock` returns the status of an answer, and may raise `MeshError`; `took_s`: how long one takes. `question`: a
    knock that gateways pass on, which may start a program; None where `knock` is one. `knocks`: whose limit it shares.
    `was_silent`: whether the server was so, and went on. Sole writer: the event loop.

    Long because the knocks of a dial and the questions that they repeat share one state.
    """

    __slots__ = (
        "__weakref__",
        "_asked",
        "_calls",
        "_group",
        "_heard_at_s",
        "_is_new",
        "_knock",
        "_knocked_at_s",
        "_knocks",
        "_pause",
        "_question",
        "_questions",
        "_shared",
        "_silent_knocks",
        "_slow_s",
        "_timer",
        "was_silent",
    )

    def __init__(
        self,
        knock: Callable[[], Awaitable[int]],
        took_s: float = 0.0,
        *,
        question: Callable[[], Awaitable[int]] | None = None,
        knocks: Knocks = OWN,
    ) -> None:
        self._knock = knock
        self._question = question
        self._questions: list[float] | None = None  # Since it is knocked at by them: when those unanswered were sent.
        self._shared = knocks
        self._calls = CALLS.get()
        self._group: asyncio.TaskGroup | None = SmallTaskGroup()  # While it runs.
        self._asked: list[_Asked[Any]] = []
        self._knocks: list[asyncio.Task[None]] = []
        self.was_silent = False
        self._heard_at_s = self._knocked_at_s = clock.now_s()
        self._is_new = True  # Nothing has been heard yet.
        self._silent_knocks = SILENT_KNOCKS
        self._slow_s = SLOW_ANSWERS * took_s
        self._timer: asyncio.TimerHandle | None = None
        self._pause: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Awakening {len(self._knocks)} knocks, {sum(one.open for one in self._asked)} questions>"

    async def __aenter__(self) -> Self:
        assert self._group is not None, "it is entered once"
        await self._group.__aenter__()
        self._knock_in(max(KNOCK_EVERY_S, self._slow_s))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """End everything that is under way."""
        self.rest()
        for one in self._asked:
            one.end()
        self._asked.clear()
        # It knows the task that dials, whose end knows of this: a circle, for the garbage collector to find.
        group, self._group = self._group, None
        assert group is not None, "it is left once"
        try:
            await group.__aexit__(None, None, None)
        finally:
            del group

    async def end_with(self, stack: AsyncExitStack) -> None:
        """End, at once or, where an answer that came too late for the dial may still open a session, with `stack`."""
        self.rest()
        if any(one.open for one in self._asked):
            stack.push_async_exit(self)
        else:
            await self.__aexit__()

    def rest(self) -> None:
        """Knock no more."""
        self._shared.discard(self)
        if self._calls is not None:
            self._calls.on_call = None
        for timer in (self._timer, self._pause):
            if timer is not None:
                timer.cancel()
        self._timer = None
        for knock in self._knocks:
            knock.cancel()
        self._knocks.clear()

    async def answer(
        self,
        ask: Callable[[], Awaitable[_T]],
        *,
        drop: Callable[[_T], Awaitable[None]] | None = None,
        says_nothing: Callable[[Exception], bool],
    ) -> _T:
        """The first answer to what `ask` asks, anew where the server answers others again; the caller bounds the time.

        `drop`: ends what was made too late, for which the others are waited for; without, they are given up.
        `says_nothing`: whether a failure is none of the server's own words; it counts where no other one is open.
        """
        asked = _Asked(self._begin, ask, drop, says_nothing)
        self._asked.append(asked)
        began_s = clock.now_s()
        try:
            made = await asked.answer()
        except Exception as exc:
            if not says_nothing(exc):
                self._answered(asked, began_s)
            raise
        else:
            self._answered(asked, began_s)
            return made
        finally:
            if not asked.open:
                self._asked.remove(asked)

    # Knocks

    @property
    def _is_called(self) -> bool:
        return self._calls is not None and self._calls.lately(clock.now_s())

    @property
    def _every_s(self) -> float:
        is_called = self._is_called
        question_s = QUESTION_EVERY_S if self._questions is not None and not is_called else 0.0
        return max(self._slow_s, question_s, self._shared.every_s(called=is_called))

    def _hurry(self) -> None:
        """It is called: what was put off for want of calls is due sooner."""
        if self._timer is not None and (due_s := self._knocked_at_s + self._every_s) < self._timer.when():
            self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_at(due_s, self._knock_on)

    def _knock_on(self) -> None:
        self._shared.add(self, called=self._is_called)
        gap_s, self._knocked_at_s = clock.now_s() - self._knocked_at_s, clock.now_s()
        self._timer = asyncio.get_running_loop().call_later(self._every_s, self._knock_on)
        self._knocks = [one for one in self._knocks if not one.done()]
        if len(self._knocks) >= KNOCKS_OPEN_MAX:
            self._knocks.pop(0).cancel()
        knocked = self._knocked(gap_s) if self._questions is None else self._questioned(self._questions)
        self._knocks.append(self._begin(knocked, "knock at a server that hangs"))

    def _answered(self, asked: "_Asked[Any]", began_s: float) -> None:
        """Begin the knocks anew, more rarely where the server is slow."""
        self._hear(clock.now_s(), self._every_s)
        took_s = clock.now_s() - began_s
        # Of several it is not known which one was answered, and the server may have hung meanwhile.
        if asked.times > 1 or self._timer is None or took_s < KNOCK_EVERY_S:
            return
        self.rest()
        self._slow_s = SLOW_ANSWERS * took_s
        self._knock_in(self._every_s)

    def _knock_in(self, wait_s: float) -> None:
        """Begin the knocks, sooner where it is called meanwhile."""
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._knock_on)
        if self._calls is not None:
            self._calls.on_call = self._hurry

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        assert self._group is not None, "it runs"
        return self._group.create_task(work, name=name)

    async def _answers(self, knock: Callable[[], Awaitable[int]]) -> bool:
        """Whether a server answers."""
        try:
            async with asyncio.timeout(KNOCKS_OPEN_MAX * max(KNOCK_EVERY_S, self._slow_s)):
                status = await knock()
        except (MeshError, TimeoutError):
            return False
        if status == _TOO_MANY:
            self.rest()
        return status != _TOO_MANY and status <= _NOT_IMPLEMENTED

    async def _knocked(self, gap_s: float) -> None:
        sent_s = clock.now_s()
        if await self._answers(self._knock):
            self._heard(sent_s, gap_s)

    async def _questioned(self, unanswered: list[float]) -> None:
        """Knock by the question. One that was sent before and is still open is held, when this one is answered soon."""
        assert self._question is not None, "else it is not knocked at so"
        sent_s = clock.now_s()
        unanswered.append(sent_s)
        if not await self._answers(self._question) or sent_s not in unanswered:
            return  # Else a later one was answered before it.
        unanswered.remove(sent_s)
        if clock.now_s() - sent_s >= QUICK_S:
            return  # It is slow with all.
        was_held = any(sent_s - one >= self._silent_knocks * KNOCK_EVERY_S for one in unanswered)
        unanswered.clear()
        self.was_silent |= was_held
        self._pause = asyncio.get_running_loop().call_later(AWAKE_PAUSE_S, self._ask_anew, was_held)

    def _hear(self, sent_s: float, gap_s: float) -> bool:
        """An answer to what was sent then is there; returns whether the server had been silent before."""
        was_silent = sent_s - self._heard_at_s >= self._silent_knocks * max(KNOCK_EVERY_S, gap_s)
        self.was_silent |= was_silent
        self._is_new, self._heard_at_s = False, clock.now_s()
        return was_silent

    def _heard(self, sent_s: float, gap_s: float) -> None:
        """A knock was answered. It may have been slow itself, which is no silence."""
        is_new = self._is_new
        if self._question is not None and self._questions is None:
            self._questions = []
        if was_silent := self._hear(sent_s, gap_s):
            self._silent_knocks *= 2
        elif not is_new:
            return  # It has been answering, and is only slow with what it was asked.
        # A question from just before it went on may be lost as well; it is repeated where that opens no session.
        self._pause = asyncio.get_running_loop().call_later(AWAKE_PAUSE_S, self._ask_anew, was_silent)

    def _ask_anew(self, was_silent: bool) -> None:
        for one in self._asked:
            if was_silent or one.is_harmless:
                one.ask_anew()


class _Asked(Generic[_T]):
    """One question, until it is answered; one that went out more than once may be answered more than once."""

    __slots__ = ("_ask", "_begin_task", "_drop", "_is_over", "_made", "_says_nothing", "_tasks", "_there", "times")

    def __init__(
        self,
        begin: Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]],
        ask: Callable[[], Awaitable[_T]],
        drop: Callable[[_T], Awaitable[None]] | None,
        says_nothing: Callable[[Exception], bool],
    ) -> None:
        self._begin_task, self._ask, self._drop, self._says_nothing = begin, ask, drop, says_nothing
        self._tasks: list[asyncio.Task[None]] = []
        self._made: list[_T | Exception] = []
        self._there = Event()
        self._is_over = False
        self.times = 0  # That it was asked.

    def __repr__(self) -> str:
        return f"<_Asked {self.open} open{', over' if self._is_over else ''}>"

    @property
    def open(self) -> int:
        """How often it is open."""
        return len(self._tasks)

    @property
    def is_harmless(self) -> bool:
        """Whether an answer that comes too late leaves nothing behind."""
        return self._drop is None

    async def answer(self) -> _T:
        """The first answer, or why there is none."""
        self._begin()
        try:
            await self._there.wait()
        except asyncio.CancelledError:
            self._is_over = True
            if self._drop is not None and self._made and not isinstance(made := self._made[0], Exception):
                await self._drop(made)  # It was made at this very moment.
            raise
        finally:
            self._is_over = True
            if self._drop is None or not self._made:
                self.end()
            for task in self._tasks:
                asyncio.get_running_loop().call_later(LATE_S, task.cancel)
        return outcome_of(self._made.pop())

    def ask_anew(self) -> None:
        """Ask once more, beside what is open."""
        if self._is_over:
            return
        if len(self._tasks) >= ASKED_OPEN_MAX:
            self._tasks.pop(1).cancel()
        self._begin()

    def end(self) -> None:
        """Give up what is open."""
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()

    def _begin(self) -> None:
        task = self._begin_task(self._asked(), "first request to a server")
        self._tasks.append(task)
        self.times += 1
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task in self._tasks:
            self._tasks.remove(task)

    async def _asked(self) -> None:
        try:
            made = await self._ask()
        except Exception as exc:  # noqa: BLE001 - the top of a task; raised by `answer`
            if not self._is_over and (len(self._tasks) == 1 or not self._says_nothing(exc)):
                self._take(exc)
        else:
            if not self._made and not self._is_over:
                self._take(made)
            elif self._drop is not None:
                await self._drop(made)

    def _take(self, made: _T | Exception) -> None:
        if not self._made:
            self._made.append(made)
            self._there.set()
