"""The requests in flight over one channel that all of them share, and the way of each message to its request.

Used by the clients whose answers come beside each other, matched by ID: over a child's pipe and over the one stream of
an HTTP+SSE session. The one rule: what such a channel brings names its request or belongs to none; only a log message
is taken to be of the one call that is open.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from agent.client import jsonrpc
from agent.client.legacy_notifications import LOG_MESSAGE, SessionSubscriptions
from agent.client.server_info import OnNotification
from agent.client.streams import subscription_of
from agent.model import Json

# Progress that a caller has not taken yet; beyond it the newest is dropped.
UNREAD_MAX: Final = 256


class Pending:
    """One request. `response` is None when the channel ended first; `listener` takes what a subscription brings.

    `takes_unread`: it reads a large response itself.
    """

    __slots__ = ("listener", "response", "takes_unread", "token", "unread", "wake")

    def __init__(self, *, takes_notifications: bool = False) -> None:
        self.response: asyncio.Future[Json | None] = asyncio.get_running_loop().create_future()
        self.takes_unread = False
        self.token: Any = jsonrpc.NO_TOKEN
        self.unread: list[Json] = []
        self.wake = asyncio.Event() if takes_notifications else None
        self.listener: Callable[[Json], None] | None = None

    def settle(self, message: Json | None) -> None:
        """Take the response; only the first counts."""
        if not self.response.done():
            self.response.set_result(message)
            if self.wake is not None:
                self.wake.set()

    def fail(self, failure: Exception) -> None:
        """There will be no response; nothing happens when it is there already."""
        if not self.response.done():
            self.response.set_exception(failure)
            if self.wake is not None:
                self.wake.set()

    def forget(self) -> None:
        """Leave no failure unread and no future waiting."""
        if self.response.done() and not self.response.cancelled():
            self.response.exception()
        self.response.cancel()

    def tell(self, notification: Json) -> bool:
        """Keep a notification for the caller; False when too many wait already."""
        if self.wake is None:
            return True
        if len(self.unread) >= UNREAD_MAX:
            return False
        self.unread.append(notification)
        self.wake.set()
        return True

    async def hand_on(self, on_notification: OnNotification) -> None:
        """Await `on_notification` for each message until the response is there."""
        assert self.wake is not None, "it was made for a caller who takes notifications"
        while True:
            while self.unread:
                message = self.unread.pop(0)
                method, params = message["method"], jsonrpc.params_of(message)
                if method == jsonrpc.PROGRESS_METHOD:
                    params = jsonrpc.restore_progress_token(params, self.token)
                await on_notification(method, params)
            if self.response.done():
                return
            self.wake.clear()
            await self.wake.wait()


class PendingRequests(dict[int, Pending]):
    """Those of one channel, by ID. `on_notice` takes what belongs to no request, list or resource."""

    def __init__(self, subscriptions: SessionSubscriptions, on_notice: Callable[[str, Json], None]) -> None:
        super().__init__()
        self.dropped_notifications = 0
        self._subscriptions = subscriptions
        self._on_notice = on_notice

    def take_response(self, message: Json) -> None:
        """Give a response to its request; one that names none is dropped."""
        pending = self.get(jsonrpc.answered(message))  # Another text, or null, finds nothing.
        if pending is not None:
            pending.settle(message)

    def take_notification(self, message: Json) -> None:
        """Give a notification to the request, the subscription or the lists that it is about."""
        method, params = message["method"], jsonrpc.params_of(message)
        if method == jsonrpc.PROGRESS_METHOD:
            self._take_progress(message, params)
        elif (subscription := subscription_of(params)) is not None:
            pending = self.get(subscription)
            if pending is not None and pending.listener is not None:
                pending.listener(message)
        elif not (self._subscriptions.take(method, params) or (method == LOG_MESSAGE and self._take_log(message))):
            self._on_notice(method, params)

    def end(self, reason: str) -> None:
        """The channel ended: no response will come any more."""
        self._subscriptions.session_ended(reason)
        for pending in tuple(self.values()):
            pending.settle(None)

    def _take_progress(self, message: Json, params: Json) -> None:
        token = params.get("progressToken")
        pending = self.get(token) if isinstance(token, int) else None
        if pending is not None and not pending.tell(message):
            self.dropped_notifications += 1

    def _take_log(self, message: Json) -> bool:
        """The channel does not say whose a log message is; only a call that is alone must have caused it."""
        callers = [pending for pending in self.values() if pending.wake is not None]
        if len(callers) != 1:
            self.dropped_notifications += len(callers) > 1
            return False
        if not callers[0].tell(message):
            self.dropped_notifications += 1
        return True
