"""One life of an open client: its offer is listed and kept current, it is probed, and what ends it is told.

Made by a link for every client that it opened, and run to its end in the link's task. The one rule: whatever happens,
`run` ends with exactly one reason, an exception that the link turns into state, and a cancellation stays one.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final, NoReturn, Protocol

from agent.client.connect import ListenNotSupported
from agent.client.event import Event, first_of
from agent.client.jsonrpc import LIST_CHANGES
from agent.client.server_info import OnNotification
from agent.client.streaming import LargeResult
from agent.errors import AuthRefused, CallFailed, CallNotSent, LinkFailed, MeshError, ProtocolBroken, Unreachable
from agent.links.dial import OpenClient
from agent.links.follower import Follower, begin_to_follow
from agent.links.listing import OfferReader, Reading, Relisting
from agent.model import BackendSpec, Json, Offer

log = logging.getLogger(__name__)


class Retired(Exception):
    """The link is no longer wanted, and what was in flight is done. Not a failure: nothing is dialled again."""


class NoSignOfLife(Unreachable):
    """Probe after probe went unanswered: what is in flight will not be answered either."""


class ReloadAsked(MeshError):
    """An operator wants the client opened anew."""


def one_failure(group: BaseExceptionGroup[BaseException]) -> Exception:
    """The one failure that a group stands for: what was asked for, then a bug of ours (not to be hidden), then any."""
    leaves = list(_leaves(group))
    for kind in (Retired, ReloadAsked):
        for leaf in leaves:
            if isinstance(leaf, kind):
                return leaf
    for leaf in leaves:
        if not isinstance(leaf, MeshError):
            log.error("link broke unexpectedly", exc_info=leaf)
            return ProtocolBroken(f"unexpected {type(leaf).__name__}")
    first = leaves[0]
    assert isinstance(first, MeshError)
    return Unreachable(str(first)) if isinstance(first, CallFailed) else first


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for exc in group.exceptions:
        found += _leaves(exc) if isinstance(exc, BaseExceptionGroup) else [exc]
    return found


# What a hung node has of reads is then moved in 6 s at most: this, and three probes that are waited for in vain.
STALL_S: Final = 2.0
# Less than this is nothing: a timer of no length would fire without end before the clock moves.
TICK_S: Final = 0.01


class StallDetector:
    """One timer at most, while calls are under way: `waiting` says whether. `doubt` is called at each stall."""

    __slots__ = ("_answered_at_s", "_doubt", "_timer", "_waiting")

    def __init__(self, waiting: Callable[[], bool], doubt: Callable[[], None]) -> None:
        self._waiting = waiting
        self._doubt = doubt
        self._answered_at_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<SilenceWatch {'idle' if self._timer is None else 'listening'}>"

    def begun(self) -> None:
        """A call is under way."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._answered_at_s = loop.time()
            self._timer = loop.call_later(STALL_S, self._look)

    def answered(self) -> None:
        """A call was answered."""
        self._answered_at_s = asyncio.get_running_loop().time()

    def _look(self) -> None:
        self._timer = None
        if self._waiting():
            loop = asyncio.get_running_loop()
            left_s = self._answered_at_s + STALL_S - loop.time()
            if left_s < TICK_S:
                self._doubt()
                left_s = STALL_S
            self._timer = loop.call_later(left_s, self._look)


# faults.md: probe every 5 s +-20% with a time-out of 1 s.
PROBE_EVERY_S: Final = 5.0
PROBE_JITTER: Final = 0.2
PROBE_TIMEOUT_S: Final = 1.0
# After a miss the next probe comes sooner: 6 s, then three unanswered ones and two of these, are the promised 12 s.
PROBE_AFTER_MISS_S: Final = 1.0
# A call that got no answer is reason to probe at once, and after a miss again soon: under load, dead is known early.
DOUBT_PAUSE_S: Final = 0.2
# Every backend that is no node of ours is listed again this often: some cannot tell us sooner, and others could, by
# their own word, and never do (the Python SDK's `add_tool` notifies nobody).
RELIST_EVERY_S: Final = 30.0
# One list, all its pages; a first listing in which no list takes less counts as a failed dial.
LIST_TIMEOUT_S: Final = 10.0
# Listing waits for the change stream, so that no change falls between them, but not for one that never comes up.
FIRST_LISTING_WAIT_S: Final = 2.0
# A burst of list_changed is one listing: the first at once, the next no sooner than this.
RELIST_PAUSE_S: Final = 0.1
# What a server says of a changed list before the answer to a call holds that answer back until the list is read, but no
# longer than this: a server that does one thing at a time may have other things to do first.
CHANGE_WAIT_S: Final = 2.0
# Streams that keep ending at once (a proxy, a server that only pretends) are opened again ever more slowly.
LISTEN_PAUSES_S: Final = (0.0, 0.5, 2.0, 8.0, 30.0)
# A stream that held this long had an ordinary end.
LISTEN_STEADY_S: Final = 60.0


class LifecycleHooks(Protocol):
    """Whom a session tells: its link."""

    def listed(self, offer: Offer) -> None:
        """A whole offer was read."""
        ...

    async def settled(self) -> None:
        """Return when what was listed is what clients are shown."""
        ...

    def probed(self, latency_s: float | None, *, has_tasks: bool) -> bool:
        """A probe was answered, or missed (None). `has_tasks` as now known. Returns whether the session may go on."""
        ...


class LinkLifecycle:
    """See the module. Sole writer: the task that runs `run`; `request`, `sighted` and `end` are called from others."""

    __slots__ = (
        "_changes",
        "_changes_read",
        "_changes_shown_up_to",
        "_client",
        "_doubt",
        "_drain_s",
        "_end",
        "_ending",
        "_events",
        "_followings",
        "_hears_changes",
        "_idle",
        "_in_flight",
        "_listed",
        "_read",
        "_reader",
        "_relist",
        "_rng",
        "_stall",
        "opened",
        "over",
    )

    def __init__(
        self,
        opened: OpenClient,
        events: LifecycleHooks,
        rng: random.Random,
        followings: Sequence[Follower],
        known: Offer | None = None,
    ) -> None:
        """`known`: what the backend listed before."""
        self.opened = opened
        self._followings = followings
        self.over = False
        self._client = opened.client
        self._events = events
        self._rng = rng
        self._relist = Relisting()
        self._reader = OfferReader(opened.client, known)
        self._read = Event()  # Set for a moment after each listing, whatever came of it.
        # How many changes were told of, how many of them listings know, and clients are shown.
        self._changes = self._changes_read = self._changes_shown_up_to = 0
        self._hears_changes = False
        self._listed = Event()
        self._end = Event()
        self._ending: Exception = Unreachable("the session ended")
        self._drain_s = 0.0
        self._in_flight = 0
        self._doubt = Event()
        self._stall: StallDetector | None = None
        if opened.identity is not None:
            self._stall = StallDetector(lambda: self._in_flight > 0 and not self.over, self._doubt.set)
        self._idle = Event()

    def __repr__(self) -> str:
        return f"<Session {self._client!r} in_flight={self._in_flight} ending={self._end.is_set()}>"

    async def request(
        self,
        method: str,
        params: Json,
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
        on_notification: Callable[[str, Json], Awaitable[None]] | None = None,
        affinity: str | None = None,
        large: LargeResult | None = None,
    ) -> Json:
        """As `McpClient.request`; counted, so that a link that retires can wait for it.

        A list change that the server tells of meanwhile is read before the caller hears of it or gets the result.
        """
        changes = self._changes
        self._in_flight += 1
        if self._stall is not None:
            self._stall.begun()
        try:
            result = await self._client.request(
                method,
                params,
                timeout_s=timeout_s,
                headers=headers,
                on_notification=partial(self._notice, on_notification),
                affinity=affinity,
                large=large,
            )
        except (CallFailed, ProtocolBroken):
            self._doubt.set()
            raise
        else:
            if self._stall is not None:
                self._stall.answered()
            if self._changes != changes:
                await self._show_changes()
            return result
        finally:
            self._in_flight -= 1
            if self._in_flight == 0:
                self._idle.set()

    async def _notice(self, hand_on: OnNotification | None, method: str, params: Json) -> None:
        """Take what the server says on the stream of a call; a change of its lists is read before it is handed on."""
        if (kind := LIST_CHANGES.get(method)) is not None:
            self._changed(kind)
            await self._show_changes()
        if hand_on is not None:
            await hand_on(method, params)

    def _changed(self, kind: str) -> None:
        """The server told of a change, or ("listening") that it will."""
        if kind == "listening":
            self._hears_changes = True
        else:
            self._changes += 1
        self._relist.set()

    async def _show_changes(self) -> None:
        """Return when clients are shown what has changed up to now, or after `CHANGE_WAIT_S`."""
        wanted = self._changes
        if self._changes_shown_up_to >= wanted:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CHANGE_WAIT_S):
                while self._changes_read < wanted and not self.over:
                    await self._read.wait()
                await self._events.settled()
        # After a wait in vain, too: a caller that comes later need not wait for the same again.
        self._changes_shown_up_to = max(self._changes_shown_up_to, wanted)

    def sighted(self, sighting: str) -> None:
        """Read the offer again soon if the catalog, which says `sighting`, knows of another one."""
        self._relist.sighted(sighting)

    def look_at_subscriptions(self) -> None:
        """Something else may be wanted of the backend than before."""
        for following in self._followings:
            following.look()

    def relabel(self, spec: BackendSpec) -> None:
        """Go on under new words about the backend: another token from the next request on, or another client."""
        if not self.opened.serves(spec):
            self.end(ReloadAsked("the catalog knows another node there"))
        elif (token := self.opened.token(spec)) is not None:
            self._client.use_token(token)

    def end(self, reason: Exception, *, drain_s: float = 0.0) -> None:
        """Let `run` raise `reason`, after what is in flight or after `drain_s` seconds. The first reason stays.

        After `run`, it ends `linger`, unless there is time to drain.
        """
        if self.over and not drain_s:
            self._idle.set()
        if not self._end.is_set():
            self._ending, self._drain_s = reason, drain_s
            self._end.set()

    async def linger(self, failure: Exception, timeout_s: float) -> None:
        """Keep the client, after `run`, for what is in flight, at most `timeout_s` seconds.

        A peer that stops ends its streams and takes no connections, and still answers what it has. The calls of one
        that died end by themselves, and those of one that hangs are not waited for.
        """
        if not isinstance(failure, NoSignOfLife):
            await self._drain(timeout_s)

    async def run(self) -> NoReturn:
        """Serve until something ends it.

        Raises:
            MeshError: what ended it, a failure or `ReloadAsked`.
            Retired: it was asked to end and has finished.
        """
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow(), name="follow")
                group.create_task(self._keep_listed(), name="list")
                group.create_task(self._probe(), name="probe")
                self.look_at_subscriptions()
                await begin_to_follow(self._followings, group, self._end, self._client.lost)
                # Awaited here: when a child fails while a group has nothing left to do but wait, Python before 3.13
                # leaves `cancelling()` raised, and what comes later takes that for a cancellation of the task.
                await self._watch_end()
        except ExceptionGroup as group_failure:
            # A task group prefers its children's failures to a cancellation that came while it ended.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise asyncio.CancelledError from None
            raise one_failure(group_failure) from group_failure
        finally:
            self.over = True
        raise AssertionError("no child of a session returns")

    async def _follow(self) -> None:
        """Turn list changes into listings, as long as there is a change stream."""
        loop = asyncio.get_running_loop()
        short_streams = 0
        while True:
            began_at_s = loop.time()
            try:
                await self._client.listen(self._changed)
            except (ListenNotSupported, ProtocolBroken) as exc:
                log.debug("MCP list changes are not announced", extra={"reason": str(exc)})
                self._hears_changes = False
                self._relist.set()
                return
            except Unreachable:
                # The end of the stream is the first sign of a dead process; a live one is asked and listened to again.
                await self._client.probe(PROBE_TIMEOUT_S)
            short_streams = 0 if loop.time() - began_at_s >= LISTEN_STEADY_S else short_streams + 1
            await asyncio.sleep(LISTEN_PAUSES_S[min(short_streams, len(LISTEN_PAUSES_S)) - 1] if short_streams else 0)
            self._relist.set()

    async def _keep_listed(self) -> None:
        await _within(self._relist, FIRST_LISTING_WAIT_S)
        self._relist.clear()
        reading, all_read_at_s = Reading.ALL, 0.0
        while True:
            changes = self._changes
            if reading is not Reading.DUE:
                all_read_at_s = asyncio.get_running_loop().time()
            try:
                await self._reader.read(timeout_s=LIST_TIMEOUT_S, reading=reading)
            except (AuthRefused, CallNotSent):
                raise
            except MeshError as exc:
                if not self._listed.is_set():
                    if isinstance(exc, CallFailed):
                        raise Unreachable(str(exc)) from exc
                    raise
                # Whether it still lives is for probes and change stream to say; its old offer is better than none.
                log.debug("MCP offer could not be listed again", extra={"reason": str(exc)})
            offer = self._reader.offer
            self._events.listed(offer)
            self._relist.taken(offer)
            self._listed.set()
            if reading is Reading.ALL:
                self._changes_read = changes
            self._read.set()
            self._read.clear()
            await asyncio.sleep(RELIST_PAUSE_S)
            reading = await self._next_reading(all_read_at_s)

    async def _next_reading(self, all_read_at_s: float) -> Reading:
        """Wait until something has to be listed."""
        # Another node tells of each change, and so does the catalog.
        is_told = self._hears_changes and self.opened.identity is not None
        retry_at_s = self._reader.retry_at_s
        due_at_s = [
            *([] if is_told else [all_read_at_s + RELIST_EVERY_S]),
            *([] if retry_at_s is None else [retry_at_s]),
        ]
        try:
            async with asyncio.timeout_at(min(due_at_s, default=None)):
                await self._relist.due()
        except TimeoutError:
            return Reading.DUE if min(due_at_s) == retry_at_s else Reading.POLL
        return Reading.ALL

    async def _probe(self) -> None:
        loop = asyncio.get_running_loop()
        await self._listed.wait()  # Before that, the listing has a deadline of its own.
        missed = False
        while True:
            usual_s = PROBE_EVERY_S * self._rng.uniform(1 - PROBE_JITTER, 1 + PROBE_JITTER)
            await _within(self._doubt, PROBE_AFTER_MISS_S - DOUBT_PAUSE_S if missed else usual_s)
            asked_at_s = loop.time()
            try:
                await self._client.probe(PROBE_TIMEOUT_S)
            except LinkFailed as exc:
                if not self._events.probed(None, has_tasks=self._client.server_info.has_tasks):
                    raise NoSignOfLife(f"no sign of life: {exc}") from exc
                missed = True
                await asyncio.sleep(DOUBT_PAUSE_S)
            else:
                missed = False
                self._doubt.clear()
                self._events.probed(loop.time() - asked_at_s, has_tasks=self._client.server_info.has_tasks)

    async def _watch_end(self) -> None:
        await first_of(self._end, self._client.lost)
        if self._end.is_set():
            await self._drain(self._drain_s)
            raise self._ending
        raise Unreachable(self._client.lost_reason)

    async def _drain(self, timeout_s: float) -> None:
        if self._in_flight:
            self._idle.clear()
            await _within(self._idle, timeout_s)


async def _within(flag: Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await flag.wait()
