"""One supervised connection to one backend: dial, serve its client, back off, and dial again, for ever.

`Link` is started, retired and cancelled by the supervisor; dispatch sends through `request`; all others read `view`.
`agent.links.record` holds the link's standing in the table of states and its view.
`turn` limits how many links dial at once. The one rule: this task alone opens and closes the client, and every failure
becomes a state of the link, never an exception of the node.
"""

import asyncio
import logging
import math
import random
from collections.abc import AsyncGenerator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Final, NoReturn

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_never

from agent import clock
from agent.client.event import Event
from agent.client.exit_stack import SmallExitStack
from agent.client.protocol import Request, ResultTaker
from agent.client.server_info import ServerInfo
from agent.errors import CallNotSent, LinkFailed, MeshError, ProtocolBroken, Unreachable
from agent.links.dial import Dial, opened
from agent.links.follower import Followers
from agent.links.lifecycle import LinkLifecycle, ReloadAsked, Retired
from agent.links.record import LinkHooks, LinkRecord, is_announced
from agent.links.session_offers import SessionOffersOfBackend
from agent.links.state import (
    DIALS,
    NAMED_DIALS,
    DialStarted,
    Sighted,
    WaitOver,
    wait_s,
)
from agent.model import BackendSpec, Json, LinkState, LinkView, NodeIdentity, Offer

log = logging.getLogger(__name__)

# A dial within one network takes some milliseconds. Behind 200 peers that do not answer, for 5 s each, one that does
# would wait for minutes; so it is 2 s.
TURN_S: Final = 0.04
# A call that finds a link down makes it dial now, but calls in a row do not make it dial without a pause ...
CALLED_EVERY_S: Final = 1.0
# ... and hardly hurry what only an operator can mend: a refused token, a program that keeps exiting.
CALLED_IN_VAIN_EVERY_S: Final = 30.0
# A peer that probes us does so every 5 s: a way that is open again in one direction or in both is found in 15 s.
REACHED_EVERY_S: Final = 5.0
# How long a link may take to notice what a call has noticed: that its server is gone.
MISSED_FOR_S: Final = 1.0
# A dial for which this node had no descriptor is tried again this soon: one may be closed at any moment.
SHORT_S: Final = 1.0
# Calls in flight are drained for at most as long as a node's own stop takes: a peer that leaves the catalog still
# answers its calls.
DRAIN_TIMEOUT_S: Final = 30.0

# One for all, as it refers to itself.
_ANY_FAILURE: Final = retry_if_exception_type(MeshError)


@asynccontextmanager
async def turn(places: asyncio.Semaphore) -> AsyncGenerator[None, None]:
    """Wait for a place and hold it, for `TURN_S` at most; the block may take longer."""
    await places.acquire()
    held = True

    def give_up() -> None:
        nonlocal held
        if held:
            held = False
            places.release()

    timer = asyncio.get_running_loop().call_later(TURN_S, give_up)
    try:
        yield
    finally:
        timer.cancel()
        give_up()


def retry_soon(failure: BaseException | None) -> bool:
    """Whether another dial may help before an operator acts."""
    return bool(getattr(failure, "retry_soon", True))


class Link:
    """See the module. Sole writer: its own task; `relabel`, `sight`, `reload` and `retire` only signal it.

    `first_attempt` is set when the present dial, or the one that `reload` asked for, has an outcome, and at the end.

    Long because the task of a link and the signals to it share one state.
    """

    __slots__ = (
        "_called_at_s",
        "_cut_short",
        "_dial",
        "_dials",
        "_hooks",
        "_hurry_every_s",
        "_missed_at_s",
        "_own",
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
        self._hurry_every_s = CALLED_EVERY_S
        self._called_at_s = -CALLED_IN_VAIN_EVERY_S
        self._missed_at_s = -MISSED_FOR_S
        self._cut_short = Event()
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
            self._cut_short.set()

    def reached(self) -> None:
        """The node on the other side has reached us, so the way may be open again: dial soon, not in half a minute."""
        state, now_s = self._record.standing.state, clock.now_s()
        due = now_s - self._called_at_s >= max(REACHED_EVERY_S, self._hurry_every_s)
        if state is LinkState.BACKOFF and due and not self._is_held_down:
            self._called_at_s = now_s
            self._cut_short.set()

    @property
    def _is_held_down(self) -> bool:
        return clock.now_s() < self._record.standing.held_until_s

    def called(self) -> None:
        """A call waits for it: dial now instead of waiting on, not more often than `CALLED_EVERY_S`.

        A server that asked for a pause (HTTP's Retry-After) gets it. A call may notice before us that the server has
        gone; then this counts for the wait that follows.
        """
        state, now_s = self._record.standing.state, clock.now_s()
        every_s = CALLED_IN_VAIN_EVERY_S if state is LinkState.PARKED else self._hurry_every_s
        if self._is_held_down:
            return
        if state in (LinkState.BACKOFF, LinkState.PARKED) and now_s - self._called_at_s >= every_s:
            self._called_at_s = now_s
            self._cut_short.set()
        elif state not in (LinkState.BACKOFF, LinkState.PARKED):
            self._missed_at_s = now_s

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
            self._cut_short.set()
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
            raise CallNotSent.about(self.view.key, "is not connected", why)
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

        retrying = AsyncRetrying(retry=_ANY_FAILURE, stop=stop_never, wait=self._wait_s, sleep=self._pause)
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
        self._cut_short.clear()  # A reload or a sighting until now is served by this dial.
        self._record.advance(DialStarted())
        stack = SmallExitStack()
        try:
            async with turn(self._dials):
                dialled = self.spec
                opened_client = await self._dial(stack, dialled, self._own)
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
            self._session = None
            self._hooks.offers.forget_backend(self.view.key)

    # From the client's life (`agent.links.lifecycle`)

    def listed(self, offer: Offer) -> None:
        """Take a whole offer; the first one of a client makes the link ready."""
        assert self._session is not None
        if self.view.connected:
            self._record.listed(offer)
            return
        self._cut_short.clear()
        self._record.ready(offer, self._session.opened.client.server_info, self._session.opened.identity)
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
        self._record.missed(busy=busy, silent=silent)
        return self.view.connected

    def ended_in_silence(self) -> bool:
        """Take that the stream ended and a probe was not answered then; False once the link counts as down."""
        self._record.ended_in_silence()
        return self.view.connected

    # State

    def _failed(self, failure: MeshError) -> None:
        may_be_away = retry_soon(failure) or (isinstance(failure, LinkFailed) and failure.may_be_away)
        self._hurry_every_s = CALLED_EVERY_S if may_be_away else CALLED_IN_VAIN_EVERY_S
        if isinstance(failure, Unreachable) and failure.retry_after_s:
            self._hurry_every_s = math.inf
        self._record.failed(failure)
        self.first_attempt.set()

    def _wait_s(self, retry_state: RetryCallState) -> float:
        """Answer tenacity: full jitter by the link's own count of attempts, which a long READY resets."""
        failure = retry_state.outcome.exception() if retry_state.outcome else None
        asked_s = failure.retry_after_s if isinstance(failure, Unreachable) else None
        if isinstance(failure, MeshError) and failure.short:
            asked_s = SHORT_S
        crowd, announced = self._hooks.crowd, is_announced(self.spec)
        # A dial of what hangs goes on until it is given up, and no catalog says when it answers again.
        hangs = isinstance(failure, Unreachable) and failure.hangs
        return wait_s(
            self._record.standing,
            self._rng,
            retry_soon=retry_soon(failure),
            retry_after_s=asked_s,
            down=crowd.down if announced else crowd.named_down,
            now_s=clock.now_s(),
            dials=DIALS if announced and not hangs else NAMED_DIALS,
        )

    async def _pause(self, seconds: float) -> None:
        """Sleep for tenacity, cut short by a sighting or a reload."""
        self._record.show(next_attempt_at_s=clock.now_s() + seconds)
        if clock.now_s() - self._missed_at_s < MISSED_FOR_S:
            self._missed_at_s = -MISSED_FOR_S
            self.called()
        try:
            async with asyncio.timeout(seconds):
                await self._cut_short.wait()
            self._record.advance(Sighted())
        except TimeoutError:
            self._record.advance(WaitOver())
