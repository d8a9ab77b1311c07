"""Reads a backend's whole offer over an open client: every list that it announces, paged to the end, within bounds.

Called by a link after its change stream is acknowledged and again whenever the backend says that a list changed. The
one rule: no list takes another one away. One that fails keeps what it said before, or what could be read of it, is
shown with its reason (`Offer.faults`), and is asked for again ever more slowly; the listing as a whole fails only where
no list was answered at all. A list that changed while it was read, which a backend tells by refusing its own cursor, is
read once more from its beginning.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final, Protocol

from agent import clock
from agent.client.capabilities import ASKED_FOR_ALL
from agent.client.protocol import Quiet, Request
from agent.client.server_info import ServerInfo
from agent.errors import AnswerUnreadable, MeshError, RpcError, Unreachable
from agent.links.beats import shared_beats
from agent.lossless_json.raw import keep_schemas
from agent.model import FOR_NODE_META_KEY, Era, Json, ListFault, Offer
from agent.routing.digest import offer_digest
from agent.routing.once import once, once_in_parts
from agent.rpc_codes import INVALID_PARAMS, METHOD_NOT_FOUND

log = logging.getLogger(__name__)


# A paginator that never ends must not hang a link. As many tools as one backend may have, in pages of ten.
PAGES_MAX: Final = 1_000
# Bounds memory. A backend may have half of that: the route table drops what is beyond, and names it as a conflict.
ENTRIES_MAX: Final = 20_000
# A list that failed is asked for again this long after its first failure in a row, its second, and so on.
RETRY_PAUSES_S: Final = (1.0, 2.0, 5.0, 15.0, 30.0, 60.0)
# Once the tools are there, other lists may hold them up for so long when a session begins.
LATE_S: Final = 3.0

# A look at a list is an ordinary request after this long.
LOOK_TIMEOUT_S: Final = 5.0

_TOOLS: Final = "tools/list"
# method -> (capability that announces it, key of the result)
_LISTS: Final[dict[str, tuple[str, str]]] = {
    _TOOLS: ("tools", "tools"),
    "prompts/list": ("prompts", "prompts"),
    "resources/list": ("resources", "resources"),
    "resources/templates/list": ("resources", "resourceTemplates"),
}


class Reading(StrEnum):
    """Which lists are read: `ALL`, those that failed and are `DUE` again, or all but those that failed and are not."""

    ALL = "all"
    DUE = "due"
    POLL = "poll"


class _ListRefused(Unreachable):
    """An answer came, but no list that can be read."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How one reading of a list ended. `fault`: what is wrong with it, empty for nothing.

    `said`: the same for clients, where it differs. `failure`: why there is no whole list; `entries` then are those of
    the pages that came. `again`: worth another try.
    """

    entries: tuple[Any, ...]
    fault: str = ""
    failure: MeshError | None = None
    again: bool = False
    said: str = ""


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a list. `announced`: by its capability; `is_read`: it was read whole; `retry_at_s`: None never.

    `asked`: whether it is asked for at all.
    """

    method: str
    key: str
    announced: bool
    asked: bool
    entries: tuple[Any, ...] = ()
    is_read: bool = False
    fault: str = ""
    said: str = ""
    failures: int = 0
    retry_at_s: float | None = None

    def is_wanted(self, reading: Reading, now_s: float) -> bool:
        """Whether it is read now."""
        match reading:
            case Reading.ALL:
                return self.asked
            case Reading.DUE:
                return self.asked and self.retry_at_s is not None and self.retry_at_s <= now_s
            case Reading.POLL:
                return self.asked and (self.retry_at_s is None or self.retry_at_s <= now_s)

    def after(self, outcome: _Outcome, now_s: float) -> "_Known":
        """What is known after another reading."""
        if outcome.failure is not None and not (self.announced or self.entries):
            # Nothing was promised. A server that lists tools without announcing them answers.
            return replace(self, asked=False)
        keeps = outcome.failure is not None and (self.is_read or not outcome.entries)
        failures = self.failures + 1 if outcome.again else 0
        pause_s = RETRY_PAUSES_S[min(failures, len(RETRY_PAUSES_S)) - 1]
        return replace(
            self,
            entries=self.entries if keeps else outcome.entries,
            is_read=self.is_read or outcome.failure is None,
            fault=outcome.fault,
            said=outcome.said,
            failures=failures,
            retry_at_s=now_s + pause_s if outcome.again else None,
        )


@lru_cache(maxsize=len(_LISTS))
def _unknown(method: str, key: str) -> _Known:
    """One for all servers that do not have such a list."""
    return _Known(method, key, announced=False, asked=False)


def _known_before(method: str, key: str, announced: bool, entries: tuple[Any, ...]) -> _Known:
    """What is known of a list before it is read for the first time."""
    if not (announced or entries or method == _TOOLS):
        return _unknown(method, key)
    return _Known(method, key, announced, announced or method == _TOOLS, entries)


class Listed(Protocol):
    """What is needed of a client."""

    @property
    def server_info(self) -> ServerInfo:
        """As `McpClient.server_info`."""
        ...

    async def request(self, request: Request) -> Json:
        """As `McpClient.request`."""
        ...


class OfferReader:
    """What each list of one open client said last. Sole writer: the task that calls `read`."""

    __slots__ = ("_begun", "_client", "_lists")

    def __init__(self, client: Listed, known: Offer | None = None) -> None:
        """`known`: what the same backend listed before this client was opened."""
        self._client = client
        before = known or Offer()
        entries = (before.tools, before.prompts, before.resources, before.templates)
        capabilities = client.server_info.capabilities
        # From a list, as everything that is made for each link: a tuple that grows is one more that the interpreter
        # keeps in the end, up to 2,000 of each length.
        self._lists = tuple(
            [
                _known_before(method, key, capability in capabilities, part)
                for (method, (capability, key)), part in zip(_LISTS.items(), entries, strict=True)
            ]
        )
        self._begun = False

    def __repr__(self) -> str:
        """How much is known, and what is wrong with it."""
        return f"<OfferReader {[(one.method, len(one.entries), one.fault) for one in self._lists]}>"

    @property
    def offer(self) -> Offer:
        """Everything that is known now."""
        parts = [one.entries if one.announced or one.asked else () for one in self._lists]
        faults = tuple([ListFault(one.method, one.fault, one.said) for one in self._lists if one.fault])
        tools, prompts, resources, templates = parts
        return Offer(tools, prompts, resources, templates, offer_digest(*parts), faults)

    @property
    def retry_at_s(self) -> float | None:
        """When the next failed list is due, by the event loop's clock; None while none failed."""
        return min((one.retry_at_s for one in self._lists if one.retry_at_s is not None), default=None)

    async def read(self, *, timeout_s: float, reading: Reading = Reading.ALL) -> Offer:
        """Read lists, each within `timeout_s`. Returns what is known then.

        Raises what the client raises (`CallFailed`, `LinkFailed`), where it was no answer and no list was answered;
        `offer` says so of each list then.
        """
        asked = [one for one in self._lists if one.is_wanted(reading, clock.now_s())]
        outcomes = await self._read_side_by_side(asked, timeout_s)
        self._lists = tuple([self._after(one, outcomes.get(one.method)) for one in self._lists])
        self._begun = True
        failures = [outcome.failure for outcome in outcomes.values()]
        unanswered = next((one for one in failures if one is not None and not isinstance(one, _ListRefused)), None)
        if unanswered is not None and all(failures) and reading is not Reading.DUE:
            raise unanswered
        return self.offer

    def _after(self, before: _Known, outcome: _Outcome | None) -> _Known:
        if outcome is None:
            return before
        now = before.after(outcome, clock.now_s())
        _log(self._client, before, now)
        return now

    def look(self, quiet: Quiet, looked: Callable[[bool], None]) -> bool:
        """Ask whether all lists are as they are known, one after the other; `looked` says. False: that cannot be asked.

        Only whole lists of one page can be; any other, or one that failed, has to be read.
        """
        asked = [one for one in self._lists if one.asked]
        if any(one.fault or not one.is_read for one in asked):
            return False
        return _look(quiet, asked, looked)

    async def _read_side_by_side(self, asked: Sequence[_Known], timeout_s: float) -> dict[str, _Outcome]:
        """Read each; in a session's first reading, what is not announced, or no tools, may not hold up the rest."""
        pages: dict[str, list[Any]] = {one.method: [] for one in asked}
        try:
            async with asyncio.TaskGroup() as group:
                tasks = {
                    one.method: group.create_task(
                        _read_list(self._client, one, timeout_s, pages[one.method]), name=one.method
                    )
                    for one in asked
                }
                if tasks:
                    # Here, not at the group's end: Python before 3.13 leaves `cancelling()` raised there by a failure.
                    await asyncio.wait([tasks[method] for method in _awaited(asked, begun=self._begun)])
                    await asyncio.wait(tasks.values(), timeout=None if self._begun else LATE_S)
                    for task in tasks.values():
                        task.cancel()
        except ExceptionGroup as failed:
            # A task group prefers its children's failures to a cancellation that came at the same time; a caller
            # that goes on after a failed listing would then never end.
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise asyncio.CancelledError from failed
            raise failed.exceptions[0] from failed
        late = Unreachable.for_clients("listing took too long")
        return {
            method: _failed(pages[method], late) if task.cancelled() else task.result()
            for method, task in tasks.items()
        }


def _look(quiet: Quiet, lists: Sequence[_Known], looked: Callable[[bool], None]) -> bool:
    first, *others = lists
    drop: Callable[[], None] | None = None

    def is_known(page: Json) -> bool:
        return "nextCursor" not in page and keep_schemas(page, first.key) == list(first.entries)

    def heard(is_as_known: bool) -> None:
        nonlocal drop
        drop = None
        if not is_as_known or not others:
            looked(is_as_known)
        elif not _look(quiet, others, looked):
            looked(False)

    def end() -> None:
        if drop is not None:
            drop()
            heard(False)

    drop = quiet.list_quietly(first.method, is_known, heard)
    if drop is None:
        return False
    shared_beats().after(clock.now_s() + LOOK_TIMEOUT_S, end)
    return True


def _awaited(asked: Iterable[_Known], *, begun: bool) -> list[str]:
    """The lists whose end is waited for: all of them, but before there is an offer the announced tools alone."""
    announced = [one.method for one in asked if one.announced]
    if not begun and _TOOLS in announced:
        return [_TOOLS]
    return announced or [one.method for one in asked]


async def _read_list(client: Listed, one: _Known, timeout_s: float, pages: list[Any]) -> _Outcome:
    """Read one list to its end; `pages` gets the entries as they come."""
    try:
        async with asyncio.timeout(timeout_s):
            try:
                return await _read_pages(client, one, timeout_s, pages)
            except _CursorRefused:
                pages.clear()
                return await _read_pages(client, one, timeout_s, pages)
    except TimeoutError:
        return _failed(pages, Unreachable.for_clients("listing took too long"))
    except _CursorRefused:
        return _failed(pages, _ListRefused(f"{one.method} refused its own cursor, twice"))
    except MeshError as exc:
        return _failed(pages, exc)


def _failed(pages: Sequence[Any], failure: MeshError) -> _Outcome:
    # Of an answer that is no list the reason is ours, or the words of the server itself.
    said = str(failure) if isinstance(failure, _ListRefused) else failure.words("the server")
    return _Outcome(tuple(pages), str(failure), failure, again=True, said=said)


class _CursorRefused(Exception):
    """The backend no longer knows a cursor that it gave. Never leaves this module."""


def _asked_of(server_info: ServerInfo) -> Json:
    """What each request of a listing says of its reader."""
    if server_info.mesh is not None:
        # A node lists for another one what it lists for clients otherwise: fleets by their nodes, servers' own words.
        return {"_meta": {FOR_NODE_META_KEY: True}}
    # A session says at its beginning which features its client has, a stateless request each time.
    return ASKED_FOR_ALL if server_info.era is Era.MODERN else {}


async def _read_pages(client: Listed, one: _Known, timeout_s: float, entries: list[Any]) -> _Outcome:
    server_info = client.server_info
    asked = _asked_of(server_info)
    params = asked
    cursors: set[str] = set()
    while len(cursors) < PAGES_MAX:
        page = await _page(client, one, params, timeout_s)
        if page is None:
            return _Outcome(())
        listed = keep_schemas(page, one.key)
        if not isinstance(listed, list):
            raise _ListRefused(f"{one.method} was answered without a list under {one.key!r}")
        cursor = page.get("nextCursor")
        # A server that means the end by an empty text begins anew when it is asked for what comes after it.
        is_end = params.get("cursor") == "" and (
            _names(listed) == _names(entries[: len(listed)]) if listed else not cursor
        )
        if not is_end:
            shared = once if server_info.mesh is None else once_in_parts
            entries.extend(shared(entry) if isinstance(entry, dict) else entry for entry in listed)
        if len(entries) > ENTRIES_MAX:
            return _Outcome(tuple(entries[:ENTRIES_MAX]))
        # The specification's end is the member's absence; some servers write null instead, and before 2026-07-28, where
        # any text was to be a cursor too, an empty one.
        if not isinstance(cursor, str) or is_end or not (cursor or server_info.era is Era.MODERN):
            return _Outcome(tuple(entries))
        if cursor in cursors:
            return _Outcome(tuple(entries), f"{one.method} gave the same cursor twice, which was taken for its end")
        cursors.add(cursor)
        params = {**asked, "cursor": cursor}
    kept = f"{one.method} has more than {PAGES_MAX} pages; the entries of those are kept"
    return _Outcome(tuple(entries), kept, again=True)


async def _page(client: Listed, one: _Known, params: Json, timeout_s: float) -> Json | None:
    """One page; None for a list that is announced and unknown, as many servers announce resources without templates."""
    try:
        return await client.request(Request.within(one.method, params, timeout_s=timeout_s))
    except RpcError as exc:
        if exc.code == METHOD_NOT_FOUND and one.announced and "cursor" not in params:
            return None
        if exc.code == INVALID_PARAMS and "cursor" in params:
            raise _CursorRefused from exc
        raise _ListRefused(f"{one.method} was answered with error {exc.code}: {exc.message[:200]}") from exc
    except AnswerUnreadable as exc:
        raise _ListRefused(f"{one.method} cannot be read: {exc}") from exc


def _names(entries: Sequence[Any]) -> list[Any]:
    return [
        tuple(map(entry.get, ("name", "uri", "uriTemplate"))) if isinstance(entry, dict) else None for entry in entries
    ]


def _log(client: Listed, before: _Known, now: _Known) -> None:
    """The first failure and the recovery of a list; what repeats itself is of no interest."""
    extra = {"client": repr(client), "method": now.method}
    if now.fault and not before.fault:
        log.warning("MCP list could not be read as it should be", extra={**extra, "reason": now.fault})
    elif before.fault and not now.fault:
        log.info("MCP list can be read again", extra=extra)
