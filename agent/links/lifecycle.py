"""One life of an open client: lists its offer and keeps it current, probes the backend, and reports what ended it.

Made by a link for every client that it opened, and run to its end in the link's task. The one rule: whatever happens,
`run` ends with exactly one reason, an exception that the link turns into state, and a cancellation stays one.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, NoReturn, Protocol

from agent.client.affinity import is_of_session
from agent.client.event import Event, first_of, within
from agent.client.jsonrpc import LIST_CHANGES
from agent.client.protocol import GivesUp, Request, ResultTaker, StartsRequests, why_lost
from agent.client.small_task_group import SmallTaskGroup
from agent.errors import CallFailed, CallTimedOut, LoginNeeded, MeshError, ProtocolBroken, Unreachable, bare
from agent.links.dial import OpenClient
from agent.links.follower import Followers
from agent.links.offer_keeper import CHANGE_WAIT_S, Listener, OfferHooks, OfferKeeper
from agent.links.probe import PROBE_TIMEOUT_S, NoSignOfLife, Probe, ProbeHooks
from agent.links.session_offers import SessionOffersOfBackend, read_as
from agent.links.stall import StallDetector
from agent.model import BackendSpec, Json, Offer

log = logging.getLogger(__name__)


class Retired(Exception):
    """The link is no longer wanted, and what was in flight is done. Not a failure: nothing is dialled again."""


class ReloadAsked(MeshError):
    """An operator wants the client opened anew."""


def one_failure(group: BaseExceptionGroup[BaseException]) -> Exception:
    """The failure to report for a group: a retirement or reload first, then a bug of ours (never hidden), then any."""
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
    if isinstance(first, CallFailed):
        return Unreachable.of(first, retry_after_s=getattr(first, "retry_after_s", None))
    return first


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    group.__traceback__ = None  # Its frames refer to it: a circle, for the garbage collector to find.
    for exc in group.exceptions:
        found += _leaves(exc) if isinstance(exc, BaseExceptionGroup) else [exc]
    return found


def _unheard(_affinity: str, _method: str) -> None:
    """What is heard of sessions when there is nothing to do about it any more."""


class _Counted:
    """Who takes the result of a started request: its taker, if the server's lists are what they were."""

    __slots__ = ("_changes", "_life", "_taker")

    def __init__(self, life: "LinkLifecycle", changes: int, taker: ResultTaker) -> None:
        self._life, self._changes, self._taker = life, changes, taker

    def take(self, result: Json) -> bool:
        """As `ResultTaker`."""
        return self._life.taken(result, self._changes, self._taker)

    def wait(self) -> None:
        """As `ResultTaker`."""
        self._taker.wait()


class LifecycleHooks(OfferHooks, ProbeHooks, Protocol):
    """What a session tells its link."""

    @property
    def session_offers(self) -> SessionOffersOfBackend:
        """What the server offers in the sessions of single callers."""
        ...

    def ended_in_silence(self) -> bool:
        """The stream of changes ended, and a probe was not answered then. Returns whether the client may be kept."""
        ...


class LinkLifecycle:
    """See the module. Sole writer: the task that runs `run`; `request`, `sighted` and `end` are called from others.

    Long because all that may end one life of a link is judged together.
    """

    __slots__ = (
        "_client",
        "_drain_s",
        "_end",
        "_ending",
        "_events",
        "_followers",
        "_group",
        "_idle",
        "_in_flight",
        "_offer",
        "_probes",
        "_session_offers",
        "_stall",
        "_starts",
        "opened",
        "over",
    )

    def __init__(
        self,
        opened: OpenClient,
        events: LifecycleHooks,
        rng: random.Random,
        followers: Followers,
        known: Offer | None = None,
    ) -> None:
        """`known`: what the backend listed before."""
        self.opened = opened
        self._followers = followers
        self.over = False
        self._client = opened.client
        self._starts = opened.client if isinstance(opened.client, StartsRequests) else None
        self._client.hear_sessions(self._received_in_session)
        self._events = events
        self._group: asyncio.TaskGroup | None = None  # While it runs.
        self._offer = OfferKeeper(
            opened.client,
            events,
            known,
            is_node=opened.identity is not None,
            start_deadline_s=opened.start_deadline_s,
            life=self,
        )
        self._end = Event()
        self._ending: Exception | None = None
        self._drain_s = 0.0
        self._in_flight = 0
        is_node = opened.identity is not None
        self._probes = Probe(opened.client, events, rng, self, lists=not is_node)
        self._stall: StallDetector | None = None
        if is_node:
            self._stall = StallDetector(lambda: self._in_flight > 0 and not self.over, self._probes.doubt.set)
        self._idle = Event()
        self._session_offers: SessionOffersOfBackend | None = None  # Once a call of a session has come.

    def __repr__(self) -> str:
        return f"<Session {self._client!r} in_flight={self._in_flight} ending={self._end.is_set()}>"

    async def request(self, request: Request) -> Json:
        """As `McpClient.request`; counted, so that a link that retires can wait for it.

        A list change that the server tells of meanwhile is read before the caller hears of it or gets the result.
        """
        listener = self._listener(request)
        begun_at_s = asyncio.get_running_loop().time()
        if request.started is not None:
            listener.began = request.started.changes
        else:
            self._in_flight += 1
            if self._stall is not None:
                self._stall.begun()
        try:
            result = await self._client.request(request.heard_by(listener))
        except (CallFailed, ProtocolBroken, LoginNeeded) as exc:
            if isinstance(exc, CallTimedOut):
                self._given_up(begun_at_s, request)
            self._probes.doubt.set()
            raise
        except asyncio.CancelledError:
            self._given_up(begun_at_s, request)
            raise
        else:
            if self._stall is not None:
                self._stall.answered()
            if self._offer.has_changed(listener):
                await self._offer.show_changes(listener, request.sink)
            return result
        finally:
            self._done()
            if listener.used is not None:
                listener.used()

    def start(self, request: Request, taker: ResultTaker) -> bool:
        """As `StartsRequests.start_request`, where the client can; counted as `request`, which goes on with it."""
        if self._starts is None:
            return False
        changes = self._offer.changes
        if not self._starts.start_request(request, _Counted(self, changes, taker)):
            return False
        assert request.started is not None, "it went out"
        request.started.changes, request.started.go_on = changes, self.request
        # As in `request`, without a function: a usual call comes here, and all that it costs are its functions.
        self._in_flight += 1
        if self._stall is not None:
            self._stall.begun()
        return True

    def taken(self, result: Json, changes: int, taker: ResultTaker) -> bool:
        """Give a started request's result to its taker, if the server has announced no list change since `changes`."""
        if self._offer.changes != changes or not taker.take(result):
            return False
        if self._stall is not None:
            self._stall.answered()
        self._in_flight -= 1
        if self._in_flight == 0:
            self._idle.set()
        return True

    def _done(self) -> None:
        self._in_flight -= 1
        if self._in_flight == 0:
            self._idle.set()

    def _listener(self, request: Request) -> Listener:
        affinity = request.affinity
        if affinity is None or not is_of_session(affinity) or not self._client.lists_by_session:
            return self._offer.listener(request.on_notification)
        if self._session_offers is None:
            self._session_offers = self._events.session_offers
        offers, look = self._session_offers, partial(self.read_as_caller, affinity)
        return self._offer.listener(
            request.on_notification, look, partial(offers.opened, affinity), partial(offers.used, affinity)
        )

    async def read_as_caller(self, affinity: str) -> None:
        """Read the lists as this caller has them in its session, within `CHANGE_WAIT_S`."""
        try:
            offer = await read_as(self._client, affinity, timeout_s=CHANGE_WAIT_S)
        except MeshError as exc:
            log.debug("MCP lists of a session could not be read", extra={"reason": str(exc)})
        else:
            is_own = offer is not None and offer.digest != self._offer.digest
            self._events.session_offers.put(affinity, offer if is_own else None)

    def _received_in_session(self, affinity: str, method: str) -> None:
        offers = self._events.session_offers
        if method in LIST_CHANGES:
            offers.used(affinity)
        else:
            offers.closed(affinity)

    def sighted(self, sighting: str) -> None:
        """Read the offer again soon if the catalog, which says `sighting`, knows of another one."""
        self._offer.sighted(sighting)

    def look_at_subscriptions(self) -> None:
        """Something else may be wanted of the backend than before."""
        if self._group is not None:
            self._followers.look(self.begin_task)

    def relabel(self, spec: BackendSpec) -> None:
        """Go on under new words about the backend, or end for another client."""
        if not self.opened.serves(spec):
            self.end(ReloadAsked("the catalog knows another node there"))

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
        failure: Exception | None = None
        try:
            async with SmallTaskGroup() as group:
                self._group = group
                try:
                    self._offer.begin()
                    self.look_at_subscriptions()
                    # Awaited here: when a child fails while a group has nothing left to do but wait, Python before 3.13
                    # leaves `cancelling()` raised, and what comes later takes that for a cancellation of the task. Not
                    # in a function of its own, whose frame would be held for as long as the link is up.
                    await first_of(self._end, self._client.lost)
                    await self._raise_end()
                finally:
                    self._group = None
                    self._offer.end()
                    self._probes.end()
        except ExceptionGroup as group_failure:
            # A task group prefers its children's failures to a cancellation that came while it ended.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise asyncio.CancelledError from None
            # Raised outside of this block: the failure would refer to the group, and the group does to it.
            failure = one_failure(group_failure)
        finally:
            self.over = True
            self._leave()
        assert failure is not None, "no child of a session returns"
        try:
            raise failure
        finally:
            del failure  # Its traceback has this frame: a circle, too.

    def _leave(self) -> None:
        """Cut what leads back here, so that this life goes with its last call and not with the garbage collector."""
        self._offer.end()
        self._client.hear_sessions(_unheard)
        if self._stall is not None:
            self._stall.end()

    # For the parts of this life, which have a task only as long as there is something to do

    def begin_task(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        """Do something in a task of its own; what it raises ends this life. Nothing when it has ended.

        By `end`, and not through the group: one in which a task has failed takes no other until it is over.
        """
        if self._group is not None:
            self._group.create_task(self._watched(work), name=name)

    async def _watched(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await work()
        except asyncio.CancelledError as exc:
            bare(exc)  # The task holds it.
            raise
        except Exception as exc:  # noqa: BLE001 - the top of a task; `run` raises it, and its link records it
            if self._end.is_set():
                self._idle.set()  # What is in flight there is not waited for any more.
            self.end(exc)

    async def sign_of_life(self, failure: Unreachable) -> None:
        """Return when there is one after a stream or a listing broke. Raises `LinkFailed` where the other side is gone.

        One that has fallen silent is left to the probes, as is a server that only takes its time. An end says nothing
        of the other side: what stands between ends all connections when it restarts. A side that refuses then is gone,
        as is one that is silent, unless most are.
        """
        try:
            await self._client.probe(PROBE_TIMEOUT_S)
        except Unreachable as exc:
            may_be_slow = self.opened.identity is None and isinstance(exc.__cause__, CallTimedOut)
            is_ours = exc.short or (exc.silent and (failure.silent or self._events.ended_in_silence()))
            if not may_be_slow and not is_ours:
                raise
            await self._probes.heard()

    def listed_again(self, took_s: float) -> None:
        """A later listing took so long."""
        self._probes.listed(took_s)

    def listed_first(self, took_s: float) -> None:
        """The first listing took so long; before that it had a deadline of its own, so it is probed from now on."""
        self._probes.listed(took_s)
        self._probes.begin()

    def ask(self) -> None:
        """Probe now."""
        self._probes.ask_now()

    def doubt(self) -> None:
        """Probe now, and again soon."""
        self._probes.doubt.set()

    def give_up(self) -> None:
        """End the calls under way at a node, as if the link had ended: another replica may answer them."""
        if self.opened.identity is not None and isinstance(self._client, GivesUp):
            self._client.give_up()

    def may_be_busy(self) -> bool:
        """Whether a call is open that may be all that a server does; a node does many things at once."""
        return self._in_flight > 0 and self.opened.identity is None

    def _given_up(self, begun_at_s: float, request: Request) -> None:
        if self.opened.identity is None:
            self._probes.given_up(begun_at_s, request.deadline_s)

    async def _raise_end(self) -> NoReturn:
        if self._end.is_set():
            await self._drain(self._drain_s)
            ending, self._ending = self._ending, None
            assert ending is not None, "the end has a reason"
            try:
                raise ending
            finally:
                del ending  # As in `run`.
        raise why_lost(self._client)

    async def _drain(self, timeout_s: float) -> None:
        if self._in_flight:
            self._idle.clear()
            await within(self._idle, timeout_s)
