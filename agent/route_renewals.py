"""Looks a route up once more before a call that nobody has executed is given up: somebody else may offer it by now.

Used by dispatch. Tables follow what links hear, so for a moment they still lead to who has just gone: when the last
replica of an old definition leaves, the new one is offered already, and calls of that moment need not fail. The one
rule: it is waited for only where what failed shows that the table is about to change, and only for the same owner's.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection
from typing import Final, Protocol, TypeAlias

from agent.core.route_table import Route
from agent.errors import MeshError, NoLongerOffered, RefusedElsewhere
from agent.links.flag import Flag
from agent.model import LinkView

# A table follows a link that closed within one step of the mesh, another list within one listing.
WAIT_S: Final = 0.5

# Gives the route of a request as it is now, None when there is none.
Present: TypeAlias = Callable[[], Route | None]


class _Link(Protocol):
    @property
    def view(self) -> LinkView:
        """How it stands."""
        ...


class RouteRenewals:
    """See the module. `link` finds one by backend; whoever makes the tables tells `routes_changed`."""

    def __init__(self, link: Callable[[str], _Link | None]) -> None:
        self._link = link
        self._changed = Flag()

    def __repr__(self) -> str:
        return f"<RouteRenewals {self._changed!r}>"

    def routes_changed(self) -> None:
        """The route tables are others."""
        self._changed.set()
        self._changed.clear()

    async def renewed(
        self, route: Route, present: Present, tried: Collection[str], asked: str, failure: MeshError
    ) -> Route:
        """The route with somebody who was not `tried`, if there is one by now; else as it was.

        `asked`: the backend that was asked last, which ended so.
        """
        if self._is_behind(asked, failure):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WAIT_S):
                    while (now := present()) is not None and not _leads_on(now, route, tried):
                        await self._changed.wait()
        now = present()
        return now if now is not None and _leads_on(now, route, tried) else route

    def _is_behind(self, asked: str, failure: MeshError) -> bool:
        """Whether the table still has somebody who is gone, or no longer offers it."""
        link = self._link(asked)
        return link is None or not link.view.connected or isinstance(failure, NoLongerOffered | RefusedElsewhere)


def _leads_on(now: Route, before: Route, tried: Collection[str]) -> bool:
    """Another owner's thing of that name is another thing."""
    return now.owner == before.owner and any(replica.backend_key not in tried for replica in now.replicas)
