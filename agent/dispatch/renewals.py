"""Lets a call that no backend can take now wait for the next route table: its server restarts, or a node takes over.

Used by dispatch before a call that was not executed is refused. The one rule: a wait ends with the call's own time at
the latest, and goes on beyond `WAIT_S` only while something is under way that may end it.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from agent import clock
from agent.client.event import Event
from agent.links.crowd import UNHEARD
from agent.model import LinkState, LinkView
from agent.routing.table import Route

# The route table follows a closed link within one step of the mesh, and a changed list within one listing.
WAIT_S: Final = 0.5
# A server that is just starting is worth waiting for: a Python server takes a second, on a busy machine two.
DIAL_WAIT_S: Final = 3.0

# A link that has just been made is about to be dialled.
UNDER_WAY: Final = (LinkState.IDLE, LinkState.DIALING)

# Gives the route of a request as it is now, None when its name has become unknown.
Present: TypeAlias = Callable[[], Route | None]


class RouteRenewals:
    """Wakes the calls that wait, when the mesh has a new route table or a link in doubt an answer."""

    def __init__(self) -> None:
        self._changed = Event()

    def __repr__(self) -> str:
        return f"<RouteRenewals {self._changed!r}>"

    def routes_changed(self) -> None:
        """There are new route tables, or a link that was in doubt lives."""
        self._changed.set()
        self._changed.clear()

    async def renewed(
        self,
        present: Present,
        leads_on: Callable[[Route], bool],
        is_awaited: Callable[[Route], bool],
        linked_at_s: Callable[[Route], float],
        within_s: float,
    ) -> Route | None:
        """The present route as soon as it `leads_on`, else as it is at the end; None when its name is unknown now.

        `within_s`: what is left of the call's time; 0 only looks. `is_awaited`: whether something is under way that may
        lead to it, as a dial is. `linked_at_s`: when the last dial had done so that the next table only has to show.
        """
        now_s = clock.now_s()
        last_s = now_s + within_s
        end_s = min(now_s + DIAL_WAIT_S, last_s)
        while (route := present()) is not None and not leads_on(route) and now_s < end_s:
            # In steps of `WAIT_S`: after each, only what is under way is a reason to wait on.
            step_end_s = min(now_s + WAIT_S, end_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(step_end_s):
                    while (route := present()) is not None and not leads_on(route):
                        await self._changed.wait()
            now_s = clock.now_s()
            if route is not None and not leads_on(route):
                if not is_awaited(route):
                    break
                # A dial that took all of that time was not in vain.
                end_s = min(max(end_s, linked_at_s(route) + WAIT_S), last_s)
        return route


def failures(view: LinkView) -> Iterator[str]:
    """What has gone wrong with a backend, as clients may read it; or that nothing has yet."""
    yield view.said_error
    if view.unheard:
        yield f"it {UNHEARD}"
    if view.state in UNDER_WAY:
        yield "it has not answered yet"
    yield from (fault.said for fault in view.offer.faults if fault.method == "tools/list")


def is_same(now: Route, owner: str) -> bool:
    """Whether a route is still that of `owner`, or of whichever it was whose owner is not known yet.

    All names of a peer that has listed nothing yet are the peer's own: what it lists then has owners of its own.
    """
    return owner in ("", now.owner) or any(replica.backend_key == owner for replica in now.replicas)
