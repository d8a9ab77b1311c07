"""Notifies the other nodes which sessions clients ended here, so that none of them goes on with one.

An ID says all that a node needs to adopt its session (`agent.server.sessions.sealed_id`), and not that it has ended.
Fed by `agent.state.ended_sessions`, run by the wiring; a node that hears of an ID keeps it as one of its own. The one
rule: no answer to a client waits for it, and a node that is linked within ten minutes hears of all, up to a number.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, NoReturn

from agent import clock
from agent.client.event import Event, within
from agent.client.protocol import Request
from agent.errors import MeshError
from agent.links.link import Link
from agent.model import CLIENT_METHOD, ClientEvent, Json, PeerScope, PeerSpec

log = logging.getLogger(__name__)

TIMEOUT_S: Final = 10.0
# A node that was away for longer adopts what its clients send it, as one of another version does.
TOLD_FOR_S: Final = 600.0
RECENT_MAX: Final = 1_000
# In one request: IDs have some 100 characters, and 2,048 at most.
AT_ONCE_MAX: Final = 256
# What could not be sent is sent again by then.
AGAIN_AFTER_S: Final = 30.0


class EndedSessionsNotices:
    """See the module. Sole writer: the event loop. `links`: all that the node has now."""

    def __init__(self, links: Callable[[], Iterable[Link]]) -> None:
        self._links = links
        self._wake = Event()
        self._ended: deque[tuple[int, float, str, int]] = deque(maxlen=RECENT_MAX)  # Number, loop time, ID, validity.
        self._number = 0
        self._told: dict[
            Link, tuple[int, int]
        ] = {}  # Its connection, and the number up to which it was notified there.

    def __repr__(self) -> str:
        return f"<EndedSessionsNotices {len(self._ended)} heard={sorted(number for _, number in self._told.values())}>"

    def note(self, session_id: str, until_s: int) -> None:
        """A client has ended this session, whose ID is valid until then (seconds since 1970)."""
        self._number += 1
        self._ended.append((self._number, clock.now_s(), session_id, until_s))
        self._wake.set()

    def routes_changed(self) -> None:
        """A node may have been linked."""
        if self._ended:
            self._wake.set()

    async def run(self) -> NoReturn:
        """Notify until cancelled."""
        while True:
            await (within(self._wake, AGAIN_AFTER_S) if self._ended else self._wake.wait())
            self._wake.clear()
            self._forget()
            nodes = [link for link in self._links() if _is_node(link)]
            self._told = {link: told for link, told in self._told.items() if link in nodes}
            async with asyncio.TaskGroup() as group:
                for link in nodes:
                    group.create_task(self._tell(link), name=f"ended sessions to {link.spec.key}")

    def _forget(self) -> None:
        while self._ended and self._ended[0][1] < clock.now_s() - TOLD_FOR_S:
            self._ended.popleft()

    async def _tell(self, link: Link) -> None:
        """Notify one node of what it has not heard since it was connected."""
        connection = link.view.reconnects
        before, told = self._told.get(link, (connection, 0))
        new = [one for one in self._ended if one[0] > (told if before == connection else 0)]
        for start in range(0, len(new), AT_ONCE_MAX):
            batch = new[start : start + AT_ONCE_MAX]
            params: Json = {"event": ClientEvent.DELETED.value, "sessions": [list(one[2:]) for one in batch]}
            try:
                await link.request(Request.within(CLIENT_METHOD, params, timeout_s=TIMEOUT_S))
            except MeshError as exc:  # One of an earlier version does not understand it.
                log.debug(
                    "node was not notified of ended sessions", extra={"backend": link.spec.key, "reason": str(exc)}
                )
                return
            self._told[link] = connection, batch[-1][0]


def _is_node(link: Link) -> bool:
    """Whether it leads to a node of this mesh, whose clients' sessions any of its nodes can go on with."""
    spec = link.spec
    return link.view.identity is not None and isinstance(spec, PeerSpec) and spec.scope is PeerScope.LOCAL
