"""Tells connected clients that a list changed, in both eras, without flooding them.

The mesh calls `changed` with the kinds that differ; one task sends. The one rule: the first notice of a burst goes at
once, then at most one per kind in each `interval_s`; the last change is never swallowed.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final
from weakref import WeakSet

from mcp.server.connection import Connection
from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    PromptsListChanged,
    ResourcesListChanged,
    ServerEvent,
    ToolsListChanged,
)

from agent.core.route_table import RouteKind

log = logging.getLogger(__name__)

# docs/architecture.md: a burst of joins must not become a burst of notices; 250 ms is below what a person notices.
INTERVAL_S: Final = 0.25
# A client that does not read its stream must not delay the others.
SEND_TIMEOUT_S: Final = 1.0

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
    """The fan-out of one endpoint. Written by its own task and by `remember`; the bus is the SDK's."""

    def __init__(self, bus: InMemorySubscriptionBus, sent: Callable[[str], None]) -> None:
        self._bus = bus
        self._sent = sent
        self._pending: set[str] = set()
        self._wake = asyncio.Event()
        self._connections: WeakSet[Connection] = WeakSet()

    def __repr__(self) -> str:
        return f"<Notices pending={sorted(self._pending)} sessions={len(self._connections)}>"

    def remember(self, connection: Connection) -> None:
        """Keep a legacy session's connection, weakly: its end needs no telling."""
        self._connections.add(connection)

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
                await self._tell_sessions(kind)
                self._sent(kind)
            await asyncio.sleep(INTERVAL_S)

    async def _tell_sessions(self, kind: str) -> None:
        connections = [c for c in self._connections if c.initialized.is_set()]
        if not connections:
            return
        async with asyncio.TaskGroup() as group:
            for connection in connections:
                group.create_task(self._tell(connection, kind), name=f"notice {kind}")

    async def _tell(self, connection: Connection, kind: str) -> None:
        send = {
            "tools": connection.send_tool_list_changed,
            "prompts": connection.send_prompt_list_changed,
            "resources": connection.send_resource_list_changed,
        }[kind]
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await send()
        except TimeoutError:
            # faults.md, "slow reader": it is given up, so that nobody waits for it a second time.
            self._connections.discard(connection)
            log.warning("MCP client reads no notices and gets no more", extra={"kind": kind})
