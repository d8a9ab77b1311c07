"""Keeps what a link knows of its server's lists current: when they are read, and what has to wait for that.

Made by a session for its client, and begun with its life. Lists are read in a task that ends when they are read; one
that is only looked at again, every half a minute, has none where the client can ask without. The one rule: a change
that the server announced is read and shown to clients before anything that the server sent after it goes on, within
bounds.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Final, Protocol

from agent import clock
from agent.client.connect import ListenNotSupported, McpClient
from agent.client.event import Event, within
from agent.client.jsonrpc import LIST_CHANGES
from agent.client.server_info import OnNotification
from agent.client.streaming import LargeResult
from agent.client.streams import SESSIONS
from agent.errors import AuthRefused, CallFailed, CallNotSent, MeshError, ProtocolBroken, Unreachable
from agent.links.beats import BEAT_S, shared_beats
from agent.links.due_listing import Relisting
from agent.links.follower import STREAM_STEADY_S, STREAMS
from agent.links.listing import OfferReader, Reading
from agent.model import CHANGE_META_KEY, Json, Offer

log = logging.getLogger(__name__)

# Every backend that is no node of ours is listed again this often: some cannot announce a change,
# and others declare that they can but never do (the Python SDK's `add_tool` sends no notification).
RELIST_EVERY_S: Final = 30.0
# One list, all its pages. In the first listing a server's lists have what is left of the time that it may take to
# start; one that was slower than this, behind a gateway that starts a child for each request, may be so again.
LIST_TIMEOUT_S: Final = 10.0
# Listing waits for the change stream, so that no change falls between them, but not for one that never comes up.
FIRST_LISTING_WAIT_S: Final = 2.0
# A burst of list_changed is one listing: the first at once, the next no sooner than this.
RELIST_PAUSE_S: Final = 0.1
# What a server says of a changed list before the answer to a call holds that answer back until the list is read, but no
# longer than this: a server that does one thing at a time may have other things to do first.
CHANGE_WAIT_S: Final = 2.0

# So many looks in a row that said nothing, and lists are read the ordinary way: one of them may have two pages.
LOOKS_IN_VAIN_MAX: Final = 3


class Listener:
    """Who hears what the server says on the stream of a call: list changes after `began`, of them up to `heard`.

    `look`: reads what the caller's own session offers; None where that is what all have. It has, up to `looked`.
    `opened`: called when the caller gets such a session, `used` when the call has ended.
    """

    __slots__ = ("_notice", "began", "hand_on", "heard", "look", "looked", "opened", "used")

    def __init__(
        self,
        notice: "Callable[[Listener, str, Json], Awaitable[None]]",
        hand_on: OnNotification | None,
        began: int,
        *,
        look: Callable[[], Awaitable[None]] | None = None,
        opened: Callable[[], None] | None = None,
        used: Callable[[], None] | None = None,
    ) -> None:
        self._notice = notice
        self.hand_on = hand_on
        self.look = look
        self.opened = opened
        self.used = used
        self.began = self.heard = self.looked = began

    def __call__(self, method: str, params: Json) -> Awaitable[None]:
        """Take a notification, as `OnNotification`."""
        return self._notice(self, method, params)


class OfferHooks(Protocol):
    """What the keeper reports to the link."""

    def listed(self, offer: Offer) -> None:
        """Lists were read; what is known now."""
        ...

    async def settled(self) -> None:
        """Return when what was listed is what clients are shown."""
        ...


class Life(Protocol):
    """The life of the client that the keeper is a part of."""

    def begin_task(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        """Do something in a task of its own; what it raises ends the life."""
        ...

    async def sign_of_life(self, failure: Unreachable) -> None:
        """Return when there is one after a stream or listing broke; raises `MeshError` where the client ends by it."""
        ...

    def listed_first(self, took_s: float) -> None:
        """The first listing took so long."""
        ...

    def listed_again(self, took_s: float) -> None:
        """A later one did."""
        ...


class _Over:
    """The life that a keeper has when its own has ended: nothing begins any more."""

    def begin_task(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None: ...

    async def sign_of_life(self, failure: Unreachable) -> None: ...

    def listed_first(self, took_s: float) -> None: ...

    def listed_again(self, took_s: float) -> None: ...


_OVER: Final = _Over()


def _ignored() -> None:
    pass


class OfferKeeper:
    """See the module. Sole writer: the task that lists; all else may be called from others.

    Long because all reasons to read the lists again share one pace.
    """

    __slots__ = (
        "_all_read_at_s",
        "_changes_read",
        "_changes_shown_up_to",
        "_client",
        "_drop_stream",
        "_ended",
        "_first_read",
        "_hears_changes",
        "_hooks",
        "_is_node",
        "_is_reading",
        "_last_change",
        "_life",
        "_look_began_at_s",
        "_looks_in_vain",
        "_read",
        "_reader",
        "_relist",
        "_short_streams",
        "_start_deadline_s",
        "_stream_began_at_s",
        "_timeout_s",
        "changes",
    )

    def __init__(
        self,
        client: McpClient,
        hooks: OfferHooks,
        known: Offer | None,
        *,
        is_node: bool,
        start_deadline_s: float | None,
        life: Life,
    ) -> None:
        """`known`: what the backend listed before; `is_node`: it is one of ours, which notifies of each change.

        `start_deadline_s`: until when the first listing may take, by the event loop's clock; None for `LIST_TIMEOUT_S`.
        """
        self._life = life
        self._client = client
        self._hooks = hooks
        self._is_node = is_node
        self._start_deadline_s = start_deadline_s
        self._relist = Relisting(self._wake)
        self._reader = OfferReader(client, known)
        self._read = Event()  # Set for a moment after each listing, whatever came of it.
        # How many changes the server announced, how many of them listings cover, and how many of them clients see.
        self.changes = self._changes_read = self._changes_shown_up_to = 0
        self._last_change = ""
        self._hears_changes = False
        self._ended = self._first_read = False
        self._drop_stream: Callable[[], None] | None = None
        self._stream_began_at_s, self._short_streams = 0.0, 0
        self._is_reading = False
        self._looks_in_vain = 0
        self._all_read_at_s = self._look_began_at_s = 0.0
        self._timeout_s = LIST_TIMEOUT_S

    def __repr__(self) -> str:
        """What is known, and how many changes the server announced."""
        return f"<OfferKeeper {self._reader!r} changes={self.changes}>"

    def sighted(self, sighting: str) -> None:
        """Read the offer again soon if the catalog, which says `sighting`, knows of another one."""
        self._relist.sighted(sighting)

    def end(self) -> None:
        """The keeper reads nothing any more, so no call waits for it."""
        self._ended = True
        # Nothing here leads back to the life any more, or only the garbage collector could take either away.
        self._life, self._relist.on_wanted = _OVER, _ignored
        self._read.set()
        drop, self._drop_stream = self._drop_stream, None
        if drop is not None:
            drop()

    @property
    def digest(self) -> str:
        """Of what all are offered."""
        return self._reader.offer.digest

    def listener(
        self,
        hand_on: OnNotification | None,
        look: Callable[[], Awaitable[None]] | None = None,
        opened: Callable[[], None] | None = None,
        used: Callable[[], None] | None = None,
    ) -> Listener:
        """For one call that begins now. `look`, `opened`, `used`: see `Listener`."""
        return Listener(self.notice, hand_on, self.changes, look=look, opened=opened, used=used)

    def has_changed(self, listener: Listener) -> bool:
        """Whether the server announced a change since that call began."""
        return self.changes != listener.began

    async def show_changes(self, listener: Listener, large: LargeResult | None) -> None:
        """Return when the result of that call may go on."""
        await self._changes_shown()
        await self._look(listener)
        await self._tell_change(listener, large)

    async def notice(self, listener: Listener, method: str, params: Json) -> None:
        """Take what the server says on the stream of a call; a change of its lists is read before it is handed on."""
        if (kind := LIST_CHANGES.get(method)) is not None:
            self._changed(kind)
            await self._changes_shown()
            await self._look(listener)
            listener.heard = self.changes
        elif method == SESSIONS.notification and listener.opened is not None:
            listener.opened()
        if listener.hand_on is not None:
            await listener.hand_on(method, params)

    async def _look(self, listener: Listener) -> None:
        """Let a caller with a session of its own see what has changed there alone."""
        if listener.look is not None and listener.looked != self.changes:
            listener.looked = self.changes
            await listener.look()

    async def _tell_change(self, listener: Listener, large: LargeResult | None) -> None:
        """Let another node, whose clients may list at once too, hear before the result of what came by other ways."""
        if listener.heard == self.changes or listener.hand_on is None or (large is not None and large.is_begun):
            return
        await listener.hand_on(self._last_change, {"_meta": {CHANGE_META_KEY: True}})

    def _changed(self, kind: str) -> None:
        """The server announced a change, or ("listening") that it will announce them."""
        if kind == "listening":
            self._hears_changes = True
        else:
            self.changes += 1
            self._last_change = f"notifications/{kind}/list_changed"
        self._relist.set()

    async def _changes_shown(self) -> None:
        """Return when clients are shown what has changed up to now, or after `CHANGE_WAIT_S`."""
        wanted = self.changes
        if self._changes_shown_up_to >= wanted:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CHANGE_WAIT_S):
                while self._changes_read < wanted and not self._ended:
                    await self._read.wait()
                await self._hooks.settled()
        # After a wait in vain, too: a caller that comes later need not wait for the same again.
        self._changes_shown_up_to = max(self._changes_shown_up_to, wanted)

    def begin(self) -> None:
        """List, and keep that current until `end`."""
        self._is_reading = True
        self._life.begin_task(self._follow, "follow")
        self._life.begin_task(self._begin_listing, "list")

    async def _follow(self, failure: MeshError | None = None) -> None:
        """Turn list changes into listings, as long as there is a change stream. `failure`: how the last one ended."""
        while True:
            failure = failure or await self._listened()
            if failure is None:
                return  # It is held, and `_stream_over` hears of its end.
            if isinstance(failure, ListenNotSupported | ProtocolBroken):
                log.debug("MCP list changes are not announced", extra={"reason": str(failure)})
                self._hears_changes = False
                self._relist.set()
                return
            if not isinstance(failure, Unreachable):
                raise failure
            # The end of the stream is the first sign of a dead process; a live one is asked and listened to again.
            await self._life.sign_of_life(failure)
            lasted_s = clock.now_s() - self._stream_began_at_s
            if failure.short:  # Nothing was asked; it is tried again as soon as after a first failure.
                pause_s = STREAMS.first_s
            else:
                self._short_streams = 0 if lasted_s >= STREAM_STEADY_S else self._short_streams + 1
                pause_s = STREAMS.step_s(self._short_streams - 1)
            await asyncio.sleep(pause_s)
            self._relist.set()
            failure = None

    async def _listened(self) -> MeshError | None:
        """How the stream ended; None for one that is held without a task."""
        self._stream_began_at_s, quiet = clock.now_s(), self._client.quiet
        try:
            if quiet is None:
                await self._client.listen(self._changed)
                raise AssertionError("a stream ends with its failure")
            self._drop_stream = await quiet.listen_quietly(self._changed, self._stream_over)
        except MeshError as exc:
            return exc
        if self._ended:
            self._drop_stream()
        return None

    def _stream_over(self, failure: MeshError) -> None:
        if not self._ended:
            self._life.begin_task(partial(self._follow, failure), "follow")

    # When lists are read

    def _wake(self) -> None:
        """A listing is wanted; while one is under way, that looks for it."""
        if not self._is_reading and not self._ended and self._relist.is_due():
            self._begin_reading(Reading.ALL)

    def _begin_reading(self, reading: Reading) -> None:
        self._is_reading = True
        self._life.begin_task(partial(self._list, reading), "list")

    async def _begin_listing(self) -> None:
        await within(self._relist, FIRST_LISTING_WAIT_S)
        self._relist.clear()
        began_at_s = clock.now_s()
        if self._start_deadline_s is not None:
            self._timeout_s = max(0.0, self._start_deadline_s - began_at_s)
        await self._read_once(Reading.ALL)
        took_s = clock.now_s() - began_at_s
        self._timeout_s = max(LIST_TIMEOUT_S, 2 * took_s)
        self._first_read = True
        self._life.listed_first(took_s)
        await self._list_on()

    async def _list(self, reading: Reading) -> None:
        await self._read_once(reading)
        await self._list_on()

    async def _list_on(self) -> None:
        """Read all again as long as that is wanted, then rest until it is."""
        await asyncio.sleep(RELIST_PAUSE_S)
        while self._relist.is_due():
            await self._read_once(Reading.ALL)
            await asyncio.sleep(RELIST_PAUSE_S)
        self._is_reading = False
        self._rest()

    async def _read_once(self, reading: Reading) -> None:
        """Raises `MeshError` where that ends the session."""
        changes, began_at_s = self.changes, clock.now_s()
        if reading is not Reading.DUE:
            self._all_read_at_s = began_at_s
        try:
            await self._reader.read(timeout_s=self._timeout_s, reading=reading)
            if self._first_read and reading is not Reading.DUE:
                self._life.listed_again(clock.now_s() - began_at_s)
        except AuthRefused:
            raise
        except MeshError as exc:
            if not self._first_read:
                if isinstance(exc, CallFailed):
                    raise Unreachable.of(exc, retry_after_s=getattr(exc, "retry_after_s", None)) from exc
                raise
            if isinstance(exc, CallNotSent) and not exc.silent:
                await self._life.sign_of_life(Unreachable.because(exc))
            # Whether it still lives is for probes and change stream to say; its old offer is better than none.
            log.debug("MCP offer could not be listed again", extra={"reason": str(exc)})
        offer = self._reader.offer
        self._hooks.listed(offer)
        self._relist.taken(offer)
        if reading is Reading.ALL:
            self._changes_read = changes
        self._read.set()
        self._read.clear()

    def _due_at_s(self) -> tuple[float, Reading] | None:
        """When something has to be read without a word of the server, and what."""
        due: list[tuple[float, Reading]] = []
        # Another node tells of each change, and so does the catalog.
        if not (self._hears_changes and self._is_node):
            due.append((self._all_read_at_s + RELIST_EVERY_S, Reading.POLL))
        if (retry_at_s := self._reader.retry_at_s) is not None:
            due.append((retry_at_s, Reading.DUE))
        return min(due, default=None)

    def _rest(self) -> None:
        if (due := self._due_at_s()) is not None:
            shared_beats().after(due[0], self._read_what_is_due)

    def _read_what_is_due(self) -> None:
        """Read what is due by now; a beat may be one of before."""
        due = None if self._is_reading or self._ended else self._due_at_s()
        if due is None or due[0] > clock.now_s() + BEAT_S:
            return
        if due[1] is not Reading.POLL or not self._looks_quietly():
            self._begin_reading(due[1])

    def _looks_quietly(self) -> bool:
        """Whether the lists are looked at without a task."""
        quiet = self._client.quiet
        if quiet is None or self._looks_in_vain >= LOOKS_IN_VAIN_MAX:
            return False
        self._look_began_at_s = clock.now_s()
        self._is_reading = self._reader.look(quiet, self._looked)
        return self._is_reading

    def _looked(self, is_as_known: bool) -> None:
        """The lists were looked at, and are as they are known, or have to be read."""
        self._is_reading = False
        self._looks_in_vain = 0 if is_as_known else self._looks_in_vain + 1
        if self._ended:
            return
        if self._relist.is_due():
            self._begin_reading(Reading.ALL)
        elif is_as_known:
            self._all_read_at_s = clock.now_s()
            self._life.listed_again(self._all_read_at_s - self._look_began_at_s)
            self._rest()
        else:
            self._begin_reading(Reading.POLL)
