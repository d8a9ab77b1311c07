"""Keeps what a link knows of its server's lists current: when they are read, and what has to wait for that.

Made by a session for its client, which runs `follow` and `keep` beside its probes. The one rule: a change that the
server announced is read and shown to clients before anything that the server sent after it goes on, within bounds.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn, Protocol

from agent import clock
from agent.client.connect import ListenNotSupported, McpClient
from agent.client.event import Event, within
from agent.client.jsonrpc import LIST_CHANGES
from agent.client.server_info import OnNotification
from agent.client.streaming import LargeResult
from agent.client.streams import SESSIONS
from agent.errors import AuthRefused, CallFailed, CallNotSent, MeshError, ProtocolBroken, Unreachable
from agent.links.follower import STREAM_STEADY_S, STREAMS
from agent.links.listing import OfferReader, Reading
from agent.model import CHANGE_META_KEY, Json, Offer
from agent.routing.digest import exported_digest

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


class Relisting(Event):
    """Set while a listing is wanted."""

    __slots__ = ("_certain", "_offer", "_sighting")

    def __init__(self) -> None:
        super().__init__()
        self._certain = False
        self._offer = Offer()
        self._sighting = ""

    def set(self) -> None:
        """Want a listing, whatever is known."""
        self._certain = True
        super().set()

    def clear(self) -> None:
        """Forget that a listing was wanted."""
        self._certain = False
        super().clear()

    def sighted(self, sighting: str) -> None:
        """Want one unless `sighting`, the words of the catalog, has the digest of what is known by then."""
        self._sighting = sighting
        super().set()

    def taken(self, offer: Offer) -> None:
        """The offer was read."""
        self._offer = offer

    async def due(self) -> None:
        """Return when a listing is wanted, which is asked for anew from now on."""
        while True:
            await self.wait()
            certain = self._certain
            self.clear()
            if certain or exported_digest(self._offer) not in self._sighting.split():
                return


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


class OfferKeeper:
    """See the module. Sole writer: the task that runs `keep`; all else may be called from others.

    Long because all reasons to read the lists again share one pace.
    """

    __slots__ = (
        "_changes",
        "_changes_read",
        "_changes_shown_up_to",
        "_client",
        "_ended",
        "_hears_changes",
        "_hooks",
        "_is_node",
        "_last_change",
        "_read",
        "_reader",
        "_relist",
        "_start_deadline_s",
        "_stream_ended",
        "first_read",
        "first_took_s",
    )

    def __init__(
        self,
        client: McpClient,
        hooks: OfferHooks,
        known: Offer | None,
        *,
        is_node: bool,
        start_deadline_s: float | None,
        stream_ended: Callable[[], Awaitable[None]],
    ) -> None:
        """`known`: what the backend listed before; `is_node`: it is one of ours, which notifies of each change.

        `start_deadline_s`: until when the first listing may take, by the event loop's clock; None for `LIST_TIMEOUT_S`.
        `stream_ended`: awaited when the change stream ends; raises what ends the session.
        """
        self._stream_ended = stream_ended
        self._client = client
        self._hooks = hooks
        self._is_node = is_node
        self._start_deadline_s = start_deadline_s
        self._relist = Relisting()
        self._reader = OfferReader(client, known)
        self._read = Event()  # Set for a moment after each listing, whatever came of it.
        # How many changes the server announced, how many of them listings cover, and how many of them clients see.
        self._changes = self._changes_read = self._changes_shown_up_to = 0
        self._last_change = ""
        self._hears_changes = False
        self._ended = False
        self.first_read = Event()
        self.first_took_s = 0.0  # As soon as `first_read` is set.

    def __repr__(self) -> str:
        """What is known, and how many changes the server announced."""
        return f"<OfferKeeper {self._reader!r} changes={self._changes}>"

    def sighted(self, sighting: str) -> None:
        """Read the offer again soon if the catalog, which says `sighting`, knows of another one."""
        self._relist.sighted(sighting)

    def end(self) -> None:
        """The keeper reads nothing any more, so no call waits for it."""
        self._ended = True
        self._read.set()

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
        return Listener(self.notice, hand_on, self._changes, look=look, opened=opened, used=used)

    @property
    def changes(self) -> int:
        """How many changes the server has announced."""
        return self._changes

    def has_changed(self, listener: Listener) -> bool:
        """Whether the server announced a change since that call began."""
        return self._changes != listener.began

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
            listener.heard = self._changes
        elif method == SESSIONS.notification and listener.opened is not None:
            listener.opened()
        if listener.hand_on is not None:
            await listener.hand_on(method, params)

    async def _look(self, listener: Listener) -> None:
        """Let a caller with a session of its own see what has changed there alone."""
        if listener.look is not None and listener.looked != self._changes:
            listener.looked = self._changes
            await listener.look()

    async def _tell_change(self, listener: Listener, large: LargeResult | None) -> None:
        """Let another node, whose clients may list at once too, hear before the result of what came by other ways."""
        if listener.heard == self._changes or listener.hand_on is None or (large is not None and large.is_begun):
            return
        await listener.hand_on(self._last_change, {"_meta": {CHANGE_META_KEY: True}})

    def _changed(self, kind: str) -> None:
        """The server announced a change, or ("listening") that it will announce them."""
        if kind == "listening":
            self._hears_changes = True
        else:
            self._changes += 1
            self._last_change = f"notifications/{kind}/list_changed"
        self._relist.set()

    async def _changes_shown(self) -> None:
        """Return when clients are shown what has changed up to now, or after `CHANGE_WAIT_S`."""
        wanted = self._changes
        if self._changes_shown_up_to >= wanted:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CHANGE_WAIT_S):
                while self._changes_read < wanted and not self._ended:
                    await self._read.wait()
                await self._hooks.settled()
        # After a wait in vain, too: a caller that comes later need not wait for the same again.
        self._changes_shown_up_to = max(self._changes_shown_up_to, wanted)

    async def follow(self) -> None:
        """Turn list changes into listings, as long as there is a change stream."""
        short_streams = 0
        while True:
            began_at_s = clock.now_s()
            try:
                await self._client.listen(self._changed)
            except (ListenNotSupported, ProtocolBroken) as exc:
                log.debug("MCP list changes are not announced", extra={"reason": str(exc)})
                self._hears_changes = False
                self._relist.set()
                return
            except Unreachable:
                # The end of the stream is the first sign of a dead process; a live one is asked and listened to again.
                await self._stream_ended()
            short_streams = 0 if clock.now_s() - began_at_s >= STREAM_STEADY_S else short_streams + 1
            await asyncio.sleep(STREAMS.step_s(short_streams - 1))
            self._relist.set()

    async def keep(self) -> NoReturn:
        """List now, and whenever that is due. Raises `MeshError` where that ends the session."""
        await within(self._relist, FIRST_LISTING_WAIT_S)
        self._relist.clear()
        reading, all_read_at_s, began_at_s = Reading.ALL, 0.0, clock.now_s()
        deadline_s, timeout_s = self._start_deadline_s, LIST_TIMEOUT_S
        if deadline_s is not None:
            timeout_s = max(0.0, deadline_s - began_at_s)
        while True:
            changes = self._changes
            if reading is not Reading.DUE:
                all_read_at_s = clock.now_s()
            try:
                await self._reader.read(timeout_s=timeout_s, reading=reading)
            except (AuthRefused, CallNotSent):
                raise
            except MeshError as exc:
                if not self.first_read.is_set():
                    if isinstance(exc, CallFailed):
                        raise Unreachable.of(exc, retry_after_s=getattr(exc, "retry_after_s", None)) from exc
                    raise
                # Whether it still lives is for probes and change stream to say; its old offer is better than none.
                log.debug("MCP offer could not be listed again", extra={"reason": str(exc)})
            offer = self._reader.offer
            self._hooks.listed(offer)
            self._relist.taken(offer)
            if not self.first_read.is_set():
                self.first_took_s = clock.now_s() - began_at_s
                timeout_s = max(LIST_TIMEOUT_S, 2 * self.first_took_s)
                self.first_read.set()
            if reading is Reading.ALL:
                self._changes_read = changes
            self._read.set()
            self._read.clear()
            await asyncio.sleep(RELIST_PAUSE_S)
            reading = await self._next_reading(all_read_at_s)

    async def _next_reading(self, all_read_at_s: float) -> Reading:
        """Wait until something has to be listed."""
        # Another node tells of each change, and so does the catalog.
        is_told = self._hears_changes and self._is_node
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
