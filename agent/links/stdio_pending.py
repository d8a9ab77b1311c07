"""One request in flight over a child's pipes: its response, and its notifications until they are taken.

Kept by `stdio_door` under the request's ID. The one rule: nothing here waits but `hand_on`, so that a line of the child
is dealt with in the loop turn in which it came, however slow a caller is.
"""

import asyncio
from typing import TYPE_CHECKING, Any, Final

from agent.links import rpc
from agent.links.hello import OnNotification
from agent.model import Json

if TYPE_CHECKING:
    from collections.abc import Callable

# Progress that a caller has not taken yet; beyond it the newest is dropped (faults.md, "256 events").
UNREAD_MAX: Final = 256


class Pending:
    """See the module. `response` is None when the child ended first; `listener` takes what a subscription brings."""

    __slots__ = ("listener", "response", "token", "unread", "wake")

    def __init__(self, loop: asyncio.AbstractEventLoop, *, takes_notifications: bool = False) -> None:
        self.response: asyncio.Future[Json | None] = loop.create_future()
        self.token: Any = rpc.NO_TOKEN
        self.unread: list[Json] = []
        self.wake = asyncio.Event() if takes_notifications else None
        self.listener: Callable[[Json], None] | None = None

    def settle(self, message: Json | None) -> None:
        """Take the response; only the first counts."""
        if not self.response.done():
            self.response.set_result(message)
            if self.wake is not None:
                self.wake.set()

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
                method, params = message["method"], rpc.params_of(message)
                if method == rpc.PROGRESS_METHOD:
                    params = rpc.restore_progress_token(params, self.token)
                await on_notification(method, params)
            if self.response.done():
                return
            self.wake.clear()
            await self.wake.wait()
