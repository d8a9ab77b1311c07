"""One supervised connection to one backend: dial, serve its client, back off, and dial again, for ever.

`Link` is started, retired and cancelled by the supervisor; dispatch sends through `request`; all others read `view`.
`agent.links.record` holds the link's standing in the table of states and its view.
`turn` limits how many links dial at once. The one rule: this task alone opens and closes the client, and every failure
becomes a state of the link, never an exception of the node.
"""

import asyncio
import logging
import random
from collections.abc import Coroutine
from contextlib import AsyncExitStack, suppress
from typing import Any, Final, NoReturn

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_never

from agent import clock
from agent.client.event import Event
from agent.client.exit_stack import SmallExitStack
from agent.client.knocks import CALLS
from agent.client.protocol import Request, ResultTaker
from agent.client.server_info import ServerInfo
from agent.errors import CallNotSent, MeshError, ProtocolBroken, Unreachable
from agent.links.crowd import UNHEARD, Kind
from agent.links.dial import Dial, opened, turn
from agent.links.follower import Followers
from agent.links.lifecycle import LinkLifecycle, ReloadAsked, Retired
from agent.links.pause import Pause, retry_soon
from agent.links.record import LinkHooks, LinkRecord, kind_of
from agent.links.session_offers import SessionOffersOfBackend
from agent.links.state import (
    DIALS,
    HUNG_DIALS,
    NAMED_DIALS,
    DialStarted,
    Sighted,
    WaitOver,
    wait_s,
)
from agent.model import BackendSpec, Json, LinkState, LinkView, NodeIdentity, Offer

log = logging.getLogger(__name__)

# A dial for which this node had no descriptor is tried again this soon: one may be closed at any moment.
SHORT_S: Final = 1.0
# Calls in flight are drained for at most as long as a node's own stop takes: a peer that leaves the catalog still
# answers its calls.
DRAIN_TIMEOUT_S: Final = 30.0

# One for all, as it refers to itself.
_ANY_FAILURE: Final = retry_if_exception_type(MeshError)


class Link:
    """See the module. Sole writer: its own task; `relabel`, `sight`, `reload` and `retire` only signal it.

    `first_attempt` is set when the present dial, or the one that `reload` asked for, has an outcome, and at the end.

    Long because the task of a link and the signals to it share one state.
    """

    __slots__ = (
        "_dial",
        "_dials",
        "_hooks",
        "_own",
        "_pause",
        "_record",
        "_retiring",
        "_rng",
        "_session",
        "first_attempt",
    )

    def __init__(
        self,
        spec: BackendSpec,
        dials: asyncio.Semaphore,
        *,
        own: NodeIdentity,
        hooks: LinkHooks,
        rng: random.Random,
        dial: Dial = opened,
    ) -> None:
        self._own = own
        self._hooks = hooks
        self._dials = dials
        self._dial = dial
        self._rng = rng
        self._record = LinkRecord(spec, hooks)
        self._session: LinkLifecycle | None = None
        self._retiring = False
        self._pause = Pause(hooks.knock, hooks.pacing, rng)
        self.first_attempt = Event()

    def __repr__(self) -> str:
        return f"<Link {self.view.key} {self.view.state} {self.view.last_error!r}>"

    @property
    def spec(self) -> BackendSpec:
        """The configured backend."""
        return self.view.spec

    @property
    def view(self) -> LinkView:
        """A frozen snapshot."""
        return self._record.view

    @property
    def heard_at_s(self) -> float:
        """When it had the last answer to a probe."""
        return self._record.heard_at_s

    def relabel(self, spec: BackendSpec, *, sighted: bool) -> None:
        """Take a new description of the same backend."""
        self._record.show(spec=spec)
        if self._session is not None:
            self._session.relabel(spec)
        if sighted:
            self.sight()

    def sight(self) -> None:
        """The catalog reported a change: list again when connected, else dial now instead of waiting on."""
        if self._session is not None:
            self._session.sighted(getattr(self.spec, "sighting", ""))
        if not self.view.connected and not self._is_held_down:
            self._pause.cut()

    def reached(self) -> None:
        """The node on the other side has reached us, so the way may be open again: dial soon, not in half a minute."""
        state, due = self._record.standing.state, self._pause.is_due
        if state is LinkState.BACKOFF and due and not self._is_held_down:
            self._pause.reached()

    @property
    def _is_held_down(self) -> bool:
        return clock.now_s() < self._record.standing.held_until_s

    def called(self) -> None:
        """A call waits for it: knock or dial now instead of waiting on.

        A call may notice before us that the server has gone; then this counts for the wait that follows.
        """
        if self._is_held_down:
            return
        match self._record.standing.state:
            case LinkState.BACKOFF | LinkState.PARKED as state:
                self._pause.called(parked=state is LinkState.PARKED)
            case _:
                self._pause.missed()
                if self.view.unheard and self._session is not None:
                    self._session.doubt()

    def look_at_subscriptions(self) -> None:
        """The names that `LinkHooks.watches` want may have changed."""
        if self._session is not None:
            self._session.look_at_subscriptions()

    def reload(self) -> Event:
        """Close the client, if open, and dial anew; the event returned is set when that has an outcome.

        A dial that is under way is not begun again: its outcome counts.
        """
        if self.first_attempt.is_set():
            self.first_attempt = Event()
        if self._record.standing.state is not LinkState.DIALING:
            if self._session is not None:
                self._session.end(ReloadAsked("reload was asked for"))
            self._pause.cut()
        return self.first_attempt

    def retire(self) -> bool:
        """End after the calls in flight, at most `DRAIN_TIMEOUT_S`. False when no client is open: cancel the task."""
        if self._session is None:
            return False
        self._retiring = True
        self._session.end(Retired(), drain_s=DRAIN_TIMEOUT_S)
        return True

    def request(self, request: Request) -> Coroutine[Any, Any, Json]:
        """Send over the open client. Raises what `McpClient.request` raises, `CallNotSent` when there is no client."""
        session = self._session
        if session is None or session.over:
            why = f": {self.view.last_error or self.view.state}"
            raise CallNotSent.about(self.view.key, "is not connected", why).with_nothing_sent()
        if self._record.view.unheard:
            raise CallNotSent.about(self.view.key, UNHEARD).with_nothing_sent()
        return session.request(request)

    def start(self, request: Request, taker: ResultTaker) -> bool:
        """Send over the open client without waiting; False: nothing was sent, and `request` has to be called."""
        session = self._session
        return session is not None and not session.over and session.start(request, taker)

    async def read_as_caller(self, affinity: str) -> None:
        """Read into `LinkHooks.offers` what this caller's session offers; nothing happens where that fails."""
        if self._session is not None and not self._session.over:
            await self._session.read_as_caller(affinity)

    async def run(self) -> None:
        """Keep the link up until cancelled or retired. Never raises, so that no other link ends with it."""
        lost: MeshError | None = None
        try:
            while True:
                stack = await self._dialled_after(lost)
                lost = None
                assert self._session is not None, "it was dialled"
                try:  # Not in a function of its own, whose frame would be held for as long as the link is up.
                    await self._session.run()
                except BaseException as exc:  # noqa: BLE001 - a cancellation goes on from there
                    lost = await self._lost(stack, exc)
        except Retired:
            pass
        except Exception:  # The top of an eternal task: a bug in one link must not end the node.
            log.exception("link ended unexpectedly", extra={"backend": self.spec.key})
        finally:
            self._record.closed()
            self.first_attempt.set()

    async def _dialled_after(self, lost: MeshError | None) -> AsyncExitStack:
        """Dial until there is a client; returns what holds it. A loss is the first failure in that row.

        Tenacity's part is over then: what it needs for each row of attempts is not held while the link is up.
        """

        async def dialled() -> AsyncExitStack | BaseException:
            nonlocal lost
            if lost is not None:
                failure, lost = lost, None
                try:
                    raise failure
                finally:
                    del failure  # Its traceback has this frame: a circle, as below.
            try:
                return await self._dialled()
            except MeshError:
                raise
            except BaseException as exc:  # noqa: BLE001 - raised below: what tenacity raises, it refers to itself
                return exc

        retrying = AsyncRetrying(retry=_ANY_FAILURE, stop=stop_never, wait=self._wait_s, sleep=self._rest)
        try:
            outcome: AsyncExitStack | BaseException = await retrying(dialled)
        finally:
            # Its last steps refer to it: a circle, which nothing collects of what was there when the node was ready.
            retrying.iter_state.reset()
        if isinstance(outcome, AsyncExitStack):
            return outcome
        try:
            raise outcome
        finally:
            del outcome

    async def _dialled(self) -> AsyncExitStack:
        """Dial once. Raises `MeshError` or `Retired`."""
        self._pause.over()  # A reload or a sighting until now is served by this dial.
        self._record.advance(DialStarted())
        stack = SmallExitStack()
        try:
            async with turn(self._dials):
                dialled, calls = self.spec, CALLS.set(self._pause.calls)
                try:
                    opened_client = await self._dial(stack, dialled, self._own)
                finally:
                    CALLS.reset(calls)
            followers = Followers(opened_client.client, self.spec, self._own, self._hooks.watches)
            # Another node at the same address has none of the offer of the one before.
            known = self.view.offer if opened_client.identity == self.view.identity else Offer()
            self._session = LinkLifecycle(opened_client, self, self._rng, followers, known)
            if self.spec != dialled:  # It has changed meanwhile.
                self._session.relabel(self.spec)
        except BaseException as exc:  # noqa: BLE001 - a cancellation goes on from there
            await self._over(stack, exc)
        return stack

    async def _lost(self, stack: AsyncExitStack, exc: BaseException) -> MeshError:
        """End the life of a client that ended with `exc`; returns why it was lost. Raises `Retired`, a cancellation."""
        try:
            await self._over(stack, exc)
        except MeshError as failure:
            return failure
        finally:
            del exc
        raise AssertionError("a life ends with its reason")

    async def _over(self, stack: AsyncExitStack, exc: BaseException) -> NoReturn:
        """Close what a dial or a client that ended with `exc` holds. Raises `MeshError`, `Retired`, a cancellation."""
        try:
            async with stack:
                await self._record_end(exc)
        except Retired:
            raise
        except Exception as failure:
            if self._retiring:  # Whatever ended it first, there is no other dial.
                raise Retired from failure
            if isinstance(failure, MeshError):
                raise
            # A client that cannot be closed cleanly must not end the node either.
            log.exception("link broke unexpectedly", extra={"backend": self.spec.key})
            raise ProtocolBroken(f"unexpected {type(failure).__name__}") from failure
        finally:
            del exc
        raise AssertionError("an end has its reason")

    async def _record_end(self, exc: BaseException) -> NoReturn:
        """Record the failure before the client is closed, which may take seconds; raises it."""
        try:
            if isinstance(exc, ReloadAsked):
                self._record.begin_anew()
            elif isinstance(exc, MeshError):
                self._failed(exc)
                if self._session is not None:
                    await self._session.linger(exc, DRAIN_TIMEOUT_S)
            elif isinstance(exc, Exception) and not isinstance(exc, Retired):
                # A bug of ours must not end the link; it is traced and waits like a protocol error.
                log.error("link broke unexpectedly", extra={"backend": self.spec.key}, exc_info=exc)
                broken = ProtocolBroken(f"unexpected {type(exc).__name__}")
                self._failed(broken)
                raise broken from exc
            raise exc
        finally:
            del exc
            if self._session is not None:
                self._hooks.crowd.links.pop(self._session, None)
            self._session = None
            self._hooks.offers.forget_backend(self.view.key)

    # From the client's life (`agent.links.lifecycle`)

    def listed(self, offer: Offer) -> None:
        """Take a whole offer; the first one of a client makes the link ready."""
        assert self._session is not None
        if self.view.connected:
            self._record.listed(offer)
            return
        self._pause.linked()
        self._record.ready(offer, self._session.opened.client.server_info, self._session.opened.identity)
        if not self._record.standing.is_child:
            self._hooks.crowd.links[self._session] = None
        self.first_attempt.set()

    @property
    def session_offers(self) -> SessionOffersOfBackend:
        """What the server offers in the sessions of single callers."""
        return SessionOffersOfBackend(self._hooks.offers, self.view.key)

    async def settled(self) -> None:
        """Return when the lists of clients have the last offer."""
        with suppress(MeshError):  # The node is stopping.
            await self._hooks.settled()

    def alive(self, latency_s: float, server_info: ServerInfo) -> None:
        """Take the answer to a probe."""
        self._record.alive(latency_s, server_info)

    def asked(self) -> None:
        """Take that a probe goes out whose answer is waited for."""
        self._record.asked()

    def missed(self, *, busy: bool, silent: bool) -> bool:
        """Take a probe that was not answered in time; False once the link counts as down."""
        return self._lives_on(self._record.missed(busy=busy, silent=silent))

    def ended_in_silence(self) -> bool:
        """Take that the stream ended and a probe was not answered then; False once the link counts as down."""
        return self._lives_on(self._record.ended_in_silence())

    def _lives_on(self, is_unheard: bool) -> bool:
        if is_unheard and self._session is not None:
            self._session.give_up()
        return self.view.connected

    # State

    def _failed(self, failure: MeshError) -> None:
        self._pause.failed(failure, kind_of(self.spec))
        self._record.failed(failure)
        self.first_attempt.set()

    def _wait_s(self, retry_state: RetryCallState) -> float:
        """Answer tenacity: full jitter by the link's own count of attempts, which a long READY resets."""
        failure = retry_state.outcome.exception() if retry_state.outcome else None
        asked_s = failure.retry_after_s if isinstance(failure, Unreachable) else None
        if isinstance(failure, MeshError) and failure.short:
            asked_s = SHORT_S
        kind = kind_of(self.spec)
        # A dial of what hangs goes on until it is given up, and no catalog says when it answers again.
        hangs = isinstance(failure, Unreachable) and failure.hangs
        return wait_s(
            self._record.standing,
            self._rng,
            retry_soon=retry_soon(failure),
            retry_after_s=asked_s,
            down=self._hooks.crowd.down[kind],
            now_s=clock.now_s(),
            dials=NAMED_DIALS if kind is not Kind.ANNOUNCED else HUNG_DIALS if hangs else DIALS,
        )

    async def _rest(self, seconds: float) -> None:
        """Sleep for tenacity, cut short by a sighting, a reload, a call, or a server that is back."""
        self._record.show(next_attempt_at_s=clock.now_s() + seconds)
        if self._pause.was_missed():
            self.called()
        # A dial of a child starts a program, and what flaps is left alone: no call before counts there.
        looks = self._record.standing.state is LinkState.BACKOFF and not (
            self._record.standing.is_child or self._is_held_down
        )
        try:
            async with asyncio.timeout(seconds):
                await self._pause.cut_short(self.spec, kind_of(self.spec), looks=looks)
            self._record.advance(Sighted())
        except TimeoutError:
            self._record.advance(WaitOver())
