"""One supervised connection to one backend: dial, list, follow changes, probe, and dial again, for ever.

Started and cancelled by the supervisor; dispatch sends through `request`; everybody else reads `view`. The one rule:
this task alone opens and closes the door, and whatever goes wrong becomes a state of the link, never an exception of
the node.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Final

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_never

from agent.core.backoff import STDIO_CAP_S, delay_s
from agent.core.link_state import (
    DialStarted,
    LinkEvent,
    LinkStanding,
    Lost,
    Opened,
    OpenFailed,
    ProbeAnswered,
    ProbeMissed,
    Sighted,
    WaitOver,
    advance,
)
from agent.errors import CallFailed, CallNotSent, LinkFailed, MeshError, ProtocolBroken, Unreachable
from agent.links.door import Door, ListenNotSupported
from agent.links.listing import list_offer
from agent.links.mesh_door import OpenDoor, opened
from agent.model import BackendSpec, Json, LinkState, LinkView, NodeIdentity, Offer, StdioTarget

log = logging.getLogger(__name__)

# faults.md: probe every 5 s +-20% with a time-out of 1 s.
PROBE_EVERY_S: Final = 5.0
PROBE_JITTER: Final = 0.2
PROBE_TIMEOUT_S: Final = 1.0
# A backend without a change stream is listed again this often; it cannot tell us sooner.
RELIST_EVERY_S: Final = 30.0
# One listing, all pages; a first listing that takes longer counts as a failed dial.
LIST_TIMEOUT_S: Final = 10.0
# A burst of list_changed is one listing: the first at once, the next no sooner than this.
RELIST_PAUSE_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class LinkHooks:
    """Whom a link tells: the mesh of any change of its view, metrics of dials and reconnects."""

    changed: Callable[[], None]
    dialled: Callable[[str], None]
    reconnected: Callable[[str], None]


class _ReloadAsked(Unreachable):
    """An operator wants the door closed and opened anew."""


class Link:
    """See the module. Sole writer: its own task, and `sight`, `relabel` and `reload`, which only set flags."""

    def __init__(
        self, spec: BackendSpec, dials: asyncio.Semaphore, *, own: NodeIdentity, hooks: LinkHooks, rng: random.Random
    ) -> None:
        self._own = own
        self._hooks = hooks
        self._dials = dials
        self._rng = rng
        self._standing = LinkStanding(is_child=isinstance(spec.target, StdioTarget))
        self._view = LinkView(spec)
        self._door: Door | None = None
        self._cut_short = asyncio.Event()
        self._relist = asyncio.Event()
        self._reload = asyncio.Event()
        self.first_attempt = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Link {self._view.key} {self._view.state} {self._view.last_error!r}>"

    @property
    def spec(self) -> BackendSpec:
        """What the link is configured to be."""
        return self._view.spec

    @property
    def view(self) -> LinkView:
        """A frozen snapshot."""
        return self._view

    def relabel(self, spec: BackendSpec, *, sighted: bool) -> None:
        """Take new words about the same backend; a new sighting cuts a wait short."""
        self._show(spec=spec)
        if sighted:
            self.sight()

    def sight(self) -> None:
        """Dial now instead of waiting on: the catalog or an operator has seen it."""
        self._cut_short.set()

    def reload(self) -> asyncio.Event:
        """Close the door, if open, and dial anew; the event returned is set after that attempt."""
        self.first_attempt = asyncio.Event()
        if self._standing.state is not LinkState.DIALING:  # A dial that is under way is the new one.
            self._reload.set()
            self._cut_short.set()
        return self.first_attempt

    async def request(
        self,
        method: str,
        params: Json,
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
        on_notification: Callable[[str, Json], Awaitable[None]] | None = None,
    ) -> Json:
        """Send over the open door. Raises what `Door.request` raises, `CallNotSent` when there is no door."""
        door = self._door
        if door is None:
            raise CallNotSent(f"{self._view.key} is not connected: {self._view.last_error or self._view.state}")
        return await door.request(method, params, timeout_s=timeout_s, headers=headers, on_notification=on_notification)

    async def run(self) -> None:
        """Keep the link up until cancelled."""
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(MeshError), stop=stop_never, wait=self._wait_s, sleep=self._pause
        )
        try:
            await retrying(self._session)
        finally:
            self._door = None
            self._show(state=LinkState.CLOSED)

    async def _session(self) -> None:
        """One life of the door, from dial to loss; always ends with a `MeshError`."""
        self._advance(DialStarted())
        try:
            async with AsyncExitStack() as stack:
                async with self._dials:
                    opened_door = await stack.enter_async_context(opened(self.spec, self._own))
                await self._serve(opened_door)
        except ExceptionGroup as group:
            # A task group that has failures of its own swallows a cancellation that came with them (Python 3.11 to
            # 3.13); the supervisor waits for us to end.
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise asyncio.CancelledError from group
            failure = _first_failure(group)
            self._failed(failure)
            raise failure from group
        except MeshError as exc:
            self._failed(exc)
            raise
        except Exception as exc:  # A bug of ours must not end the link; it is traced and waits like a protocol error.
            log.exception("link broke unexpectedly", extra={"backend": self.spec.key})
            failure = ProtocolBroken(f"unexpected {type(exc).__name__}")
            self._failed(failure)
            raise failure from exc

    async def _serve(self, opened_door: OpenDoor) -> None:
        self._relist.clear()
        self._reload.clear()
        self._door = opened_door.door
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow(opened_door.door), name="follow")
                group.create_task(self._keep_listed(opened_door), name="list")
                group.create_task(self._probe(opened_door.door), name="probe")
                group.create_task(self._watch_loss(opened_door.door), name="loss")
                group.create_task(self._watch_reload(), name="reload")
        finally:
            self._door = None

    async def _follow(self, door: Door) -> None:
        """Turn list changes into listings; where there is no change stream, list again every half minute."""

        def on_change(_kind: str) -> None:
            self._relist.set()

        while True:
            try:
                await door.listen(on_change)
            except ListenNotSupported:
                break
            except Unreachable:
                # The end of the stream is the first sign of a dead process; a live one is asked and listened to again.
                await door.probe(PROBE_TIMEOUT_S)
        while True:
            self._relist.set()
            await asyncio.sleep(RELIST_EVERY_S)

    async def _keep_listed(self, opened_door: OpenDoor) -> None:
        door = opened_door.door
        while True:
            async with asyncio.timeout(None if self._view.connected else LIST_TIMEOUT_S):
                await self._relist.wait()
            self._relist.clear()
            try:
                offer = await list_offer(door, timeout_s=LIST_TIMEOUT_S)
            except* (CallFailed, LinkFailed) as group:
                raise _first_failure(group) from group
            self._listed(opened_door, offer)
            await asyncio.sleep(RELIST_PAUSE_S)

    def _listed(self, opened_door: OpenDoor, offer: Offer) -> None:
        if self._standing.state in (LinkState.READY, LinkState.SUSPECT):
            if offer.digest != self._view.offer.digest:
                log.info("MCP offer changed", extra={"backend": self.spec.key, "tools": len(offer.tools)})
                self._show(offer=offer, function_count=len(offer.tools))
            return
        hello = opened_door.door.hello
        self._advance(Opened())
        self._show(
            offer=offer,
            function_count=len(offer.tools),
            identity=opened_door.identity,
            era=hello.era,
            server_info=hello.server_info,
            last_error="",
            failure="",
            next_attempt_at_s=None,
            ready_at_s=_now_s(),
        )
        self._hooks.dialled("ok")
        self.first_attempt.set()
        log.info("MCP link ready", extra={"backend": self.spec.key, "tools": len(offer.tools), "era": hello.era.value})

    async def _probe(self, door: Door) -> None:
        while True:
            await asyncio.sleep(PROBE_EVERY_S * self._rng.uniform(1 - PROBE_JITTER, 1 + PROBE_JITTER))
            asked_at_s = _now_s()
            try:
                await door.probe(PROBE_TIMEOUT_S)
            except LinkFailed as exc:
                self._advance(ProbeMissed())
                if self._standing.state not in (LinkState.READY, LinkState.SUSPECT):
                    raise Unreachable(f"no sign of life: {exc}") from exc
            else:
                self._advance(ProbeAnswered())
                self._show(latency_s=_now_s() - asked_at_s)

    async def _watch_loss(self, door: Door) -> None:
        await door.lost.wait()
        raise Unreachable(door.lost_reason)

    async def _watch_reload(self) -> None:
        await self._reload.wait()
        raise _ReloadAsked("reload was asked for")

    def _failed(self, failure: MeshError) -> None:
        was_up = self._view.ready_at_s is not None
        self._advance(Lost() if was_up else OpenFailed(retry_soon=getattr(failure, "retry_soon", True)))
        if was_up:
            self._hooks.reconnected(self.spec.key)
        else:
            self._hooks.dialled(type(failure).__name__)
        self._show(
            last_error=str(failure),
            failure=type(failure).__name__,
            ready_at_s=None,
            reconnects=self._view.reconnects + was_up,
        )
        level = logging.WARNING if self._standing.attempts <= 1 else logging.DEBUG
        log.log(level, "MCP link down", extra={"backend": self.spec.key, "reason": str(failure)})
        if not isinstance(failure, _ReloadAsked):  # Whoever asked waits for what the new dial brings.
            self.first_attempt.set()

    def _wait_s(self, retry_state: RetryCallState) -> float:
        """Answer tenacity: full jitter by the link's own count of attempts, which a long READY resets."""
        failure = retry_state.outcome.exception() if retry_state.outcome else None
        if self._standing.state is LinkState.PARKED:
            return float("inf")
        cap: Json = {"cap_s": STDIO_CAP_S} if isinstance(self.spec.target, StdioTarget) else {}
        retry_soon = getattr(failure, "retry_soon", True)
        return delay_s(self._standing.attempts, self._rng, retry_soon=retry_soon, **cap)

    async def _pause(self, seconds: float) -> None:
        """Sleep for tenacity, cut short by a sighting or a reload."""
        parked = seconds == float("inf")
        self._show(next_attempt_at_s=None if parked else _now_s() + seconds)
        try:
            async with asyncio.timeout(None if parked else seconds):
                await self._cut_short.wait()
            self._advance(Sighted())
        except TimeoutError:
            self._advance(WaitOver())
        self._cut_short.clear()

    def _advance(self, event: LinkEvent) -> None:
        self._standing = advance(self._standing, event, _now_s())
        if self._standing.state is not self._view.state or self._standing.attempts != self._view.attempts:
            self._show(state=self._standing.state, attempts=self._standing.attempts)

    def _show(self, **changes: object) -> None:
        before, self._view = self._view, replace(self._view, **changes)  # type: ignore[arg-type]  # names are checked by replace itself
        quiet = {"latency_s", "next_attempt_at_s"}
        if not changes.keys() <= quiet and before != self._view:
            self._hooks.changed()


def _first_failure(group: BaseExceptionGroup[BaseException]) -> MeshError:
    """The one failure that a group of link tasks stands for; a bug among them wins, so that it is not hidden."""
    leaves: list[BaseException] = []
    queue: list[BaseException] = [group]
    while queue:
        exc = queue.pop(0)
        if isinstance(exc, BaseExceptionGroup):
            queue.extend(exc.exceptions)
        else:
            leaves.append(exc)
    for leaf in leaves:
        if isinstance(leaf, TimeoutError):
            return Unreachable("listing took too long")
        if not isinstance(leaf, MeshError):
            log.error("link broke unexpectedly", exc_info=leaf)
            return ProtocolBroken(f"unexpected {type(leaf).__name__}")
    first = leaves[0]
    assert isinstance(first, MeshError)
    return first if isinstance(first, LinkFailed) else Unreachable(str(first))


def _now_s() -> float:
    return asyncio.get_running_loop().time()
