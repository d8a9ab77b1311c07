"""Looks a route up once more before a call that nobody has executed is given up: somebody else may offer it by now.

Used by dispatch. Tables follow what links hear, so for a moment they still lead to who has just gone: when the last
replica of an old definition leaves, the new one is offered already, and calls of that moment need not fail. The one
rule: it is waited for only where what failed shows that the table is about to change, and only for the same owner's.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection
from typing import Final, TypeAlias

from agent.core.route_table import Route
from agent.errors import CallNotSent, MeshError, NoLongerOffered, RefusedElsewhere
from agent.links.flag import Flag

# A table follows a link that closed within one step of the mesh, another list within one listing.
WAIT_S: Final = 0.5

# Who does not listen any more, or offers it no more, is soon out of the table.
_GONE: Final = (CallNotSent, NoLongerOffered, RefusedElsewhere)

# Gives the route of a request as it is now, None when there is none.
Present: TypeAlias = Callable[[], Route | None]


class RouteRenewals:
    """See the module. Whoever makes the tables tells `routes_changed`."""

    def __init__(self) -> None:
        self._changed = Flag()

    def __repr__(self) -> str:
        return f"<RouteRenewals {self._changed!r}>"

    def routes_changed(self) -> None:
        """The route tables are others."""
        self._changed.set()
        self._changed.clear()

    async def renewed(
        self, route: Route, present: Present, tried: Collection[str], failure: MeshError, within_s: float
    ) -> Route:
        """The route with somebody who was not `tried`, if there is one by now; else as it was.

        `failure`: how the last one of those ended. `within_s`: what is left of the call's time.
        """
        if isinstance(failure, _GONE):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(WAIT_S, within_s)):
                    while (now := present()) is not None and not _leads_on(now, route, tried):
                        await self._changed.wait()
        now = present()
        return now if now is not None and _leads_on(now, route, tried) else route


def _leads_on(now: Route, before: Route, tried: Collection[str]) -> bool:
    """Another owner's thing of that name is another thing."""
    return now.owner == before.owner and any(replica.backend_key not in tried for replica in now.replicas)
