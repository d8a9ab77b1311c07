"""Tells connected clients that a list changed, in both eras, without flooding them.

The mesh calls `changed` with the kinds that differ; one task sends. The one rule: the first notice of a burst goes at
once, then at most one per kind in each `interval_s`; the last change is never swallowed.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    PromptsListChanged,
    ResourcesListChanged,
    ServerEvent,
    ToolsListChanged,
)

from agent.core.route_table import RouteKind

# docs/calls.md: a burst of joins must not become a burst of notices; 250 ms is below what a person notices.
INTERVAL_S: Final = 0.25

# What a client re-reads when routes of a kind differ; a namespace is in no list.
_LIST_OF: Final = {
    RouteKind.TOOL: "tools",
    RouteKind.PROMPT: "prompts",
    RouteKind.RESOURCE: "resources",
    RouteKind.TEMPLATE: "resources",
}
_EVENTS: Final[dict[str, Callable[[], ServerEvent]]] = {
    "tools": ToolsListChanged,
    "prompts": PromptsListChanged,
    "resources": ResourcesListChanged,
}


class Notices:
    """The fan-out of one endpoint. Written by its own task; the bus is the SDK's, `tell` reaches all sessions."""

    def __init__(self, bus: InMemorySubscriptionBus, tell: Callable[[str], None], sent: Callable[[str], None]) -> None:
        self._bus = bus
        self._tell = tell
        self._sent = sent
        self._pending: set[str] = set()
        self._wake = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Notices pending={sorted(self._pending)}>"

    def changed(self, kinds: Iterable[RouteKind]) -> None:
        """Note which routes differ; never blocks."""
        self._pending |= {_LIST_OF[kind] for kind in kinds if kind in _LIST_OF}
        if self._pending:
            self._wake.set()

    async def run(self) -> None:
        """Send notices until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            kinds, self._pending = self._pending, set()
            for kind in sorted(kinds):
                await self._bus.publish(_EVENTS[kind]())
                self._tell(f"notifications/{kind}/list_changed")
                self._sent(kind)
            await asyncio.sleep(INTERVAL_S)
