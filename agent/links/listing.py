"""Reads a backend's whole offer over an open client: every list that it announces, paged to the end, within bounds.

Called by a link after its change stream is acknowledged and again whenever the backend says that a list changed. The
one rule: up to its bounds an offer is whole or not taken at all; a failed page fails the listing. Only a list that
changed while it was read, which a backend tells by refusing its own cursor, is read once more from its beginning.
"""

import asyncio
import contextlib
from typing import Final

from agent.client.connect import McpClient
from agent.client.event import Event
from agent.client.protocol import Request
from agent.errors import ProtocolBroken, RpcError, Unreachable
from agent.lossless_json.raw import keep_schemas
from agent.model import Json, Offer
from agent.routing.digest import exported_digest, offer_digest
from agent.rpc_codes import INVALID_PARAMS, METHOD_NOT_FOUND


class Relisting(Event):
    """Raised while somebody wants a listing."""

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
        """Forget who wanted one."""
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


# A paginator that never ends must not hang a link. As many tools as one backend may have, in pages of ten.
PAGES_MAX: Final = 1_000
# Bounds memory. A backend may have half of that: the route table drops what is beyond, and names it as a conflict.
ENTRIES_MAX: Final = 20_000

# capability -> (method, key of the result) of the lists behind it
_LISTS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "tools": (("tools/list", "tools"),),
    "prompts": (("prompts/list", "prompts"),),
    "resources": (("resources/list", "resources"), ("resources/templates/list", "resourceTemplates")),
}


async def list_offer(client: McpClient, *, timeout_s: float) -> Offer:
    """Return everything that the backend offers now.

    Raises:
        LinkFailed, CallFailed: the client's own failures.
        Unreachable: a list was answered with an error, which may be another one tomorrow.
        ProtocolBroken: a list that is no list, or that passes the bounds.
    """
    wanted = [
        entry
        for capability, lists in _LISTS.items()
        if capability in client.server_info.capabilities
        for entry in lists
    ]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = {
                key: group.create_task(_list_all(client, method, key, timeout_s), name=f"list {key}")
                for method, key in wanted
            }
            if tasks:
                # Here, not at the group's end: Python before 3.13 leaves `cancelling()` raised there by a failure.
                await asyncio.wait(tasks.values())
    except ExceptionGroup as failed:
        # A task group prefers its children's failures to a cancellation that came at the same time; whoever goes on
        # after a failed listing would never end then.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError from failed
        raise failed.exceptions[0] from failed  # Any of them fails the whole listing.
    parts = {key: task.result() for key, task in tasks.items()}
    tools, prompts = parts.get("tools", ()), parts.get("prompts", ())
    resources, templates = parts.get("resources", ()), parts.get("resourceTemplates", ())
    return Offer(tools, prompts, resources, templates, offer_digest(tools, prompts, resources, templates))


class _CursorRefused(Exception):
    """The backend no longer knows a cursor that it gave. Never leaves this module."""


async def _list_all(client: McpClient, method: str, key: str, timeout_s: float) -> tuple[Json, ...]:
    with contextlib.suppress(_CursorRefused):
        return await _list_pages(client, method, key, timeout_s)
    try:
        return await _list_pages(client, method, key, timeout_s)
    except _CursorRefused as exc:
        raise Unreachable(f"{method} refused its own cursor, twice") from exc


async def _list_pages(client: McpClient, method: str, key: str, timeout_s: float) -> tuple[Json, ...]:
    entries: list[Json] = []
    params: Json = {}
    cursors: set[str] = set()
    while len(cursors) < PAGES_MAX:
        try:
            page = await client.request(Request.within(method, params, timeout_s=timeout_s))
        except RpcError as exc:
            if exc.code == METHOD_NOT_FOUND and not cursors:
                # Many servers announce resources and serve no templates; an absent list is an empty one.
                return ()
            if exc.code == INVALID_PARAMS and cursors:
                raise _CursorRefused from exc
            raise Unreachable(f"{method} was answered with error {exc.code}: {exc.message[:200]}") from exc
        listed = keep_schemas(page, key)
        if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
            raise ProtocolBroken(f"{method} was answered without a list of objects under {key!r}")
        entries.extend(listed)
        if len(entries) > ENTRIES_MAX:
            return tuple(entries[:ENTRIES_MAX])
        cursor = page.get("nextCursor")
        # The specification's end is the member's absence; some servers write null or an empty text instead.
        if not isinstance(cursor, str) or not cursor:
            return tuple(entries)
        if cursor in cursors:
            raise ProtocolBroken(f"{method} goes round in circles: it gave the same cursor twice")
        cursors.add(cursor)
        params = {"cursor": cursor}
    raise ProtocolBroken(f"{method} has more than {PAGES_MAX} pages")
