"""Owns the link tasks: opens, closes and renews links as reconcile decided, and gives their views.

The mesh applies actions; dispatch and the API look links up by backend key. The one rule: one task owns each link, and
applying never waits for a dial.
"""

import asyncio
import contextvars
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final, Self, assert_never

from agent.links.actions import Action, CloseLink, OpenLink, RelabelLink, RenewLink
from agent.links.link import Link
from agent.model import BackendSpec, LinkView, PeerSpec, StdioTarget

log = logging.getLogger(__name__)

# 1,000 peers may join at once. Opening a link takes more memory than holding it, and the allocator keeps what those had
# that were opened at a time: with 50 in place of 4, each of 200 links had 36.5 KB in the end in place of 31.2.
DIALS_MAX: Final = 4

LinkFactory = Callable[[BackendSpec, asyncio.Semaphore], Link]


class Supervisor(AbstractAsyncContextManager["Supervisor"]):
    """All links of one node. Sole writer of the table of links; use as a context manager around the node's life."""

    def __init__(self, make_link: LinkFactory) -> None:
        self._make_link = make_link
        self._dials = asyncio.Semaphore(DIALS_MAX)
        self._group = asyncio.TaskGroup()
        self._links: dict[str, Link] = {}
        self._tasks: dict[Link, asyncio.Task[None]] = {}
        self._links_of: dict[asyncio.Task[None], Link] = {}
        # One for all links: one of its own each would be kept for as long as it lives.
        self._on_end, self._context = self._ended, contextvars.copy_context()

    def __repr__(self) -> str:
        return f"<Supervisor {list(self._links.values())}>"

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Close every link and wait for their tasks."""
        for task in self._tasks.values():
            task.cancel()
        self._links.clear()
        await self._group.__aexit__(None, None, None)

    @property
    def actual(self) -> Mapping[str, BackendSpec]:
        """The present spec of each link, by backend key."""
        return {key: link.spec for key, link in self._links.items()}

    def views(self) -> tuple[LinkView, ...]:
        """The view of every link."""
        return tuple([link.view for link in self._links.values()])

    def links(self) -> tuple[Link, ...]:
        """All links."""
        return tuple(self._links.values())

    def link(self, key: str) -> Link | None:
        """The link of a backend, None when there is none."""
        return self._links.get(key)

    def apply(self, actions: Iterable[Action]) -> None:
        """Carry out what reconcile decided."""
        for action in actions:
            match action:
                case OpenLink(spec=spec):
                    self._open(spec)
                case CloseLink(key=key, reason=reason):
                    self._close(key, reason)
                case RenewLink(spec=spec):
                    self._close(spec.key, "its configuration changed", replaced=True)
                    self._open(spec)
                case RelabelLink(spec=spec, sighted=sighted):
                    self._links[spec.key].relabel(spec, sighted=sighted)
                case _:
                    assert_never(action)

    def _open(self, spec: BackendSpec) -> None:
        # Two children of one command must not meet: the first may hold a lock, a port or a file.
        links = self._tasks if _is_child(spec) else ()
        before = [link for link in links if link.spec.key == spec.key and _is_child(link.spec)]
        after = [self._tasks[link] for link in before]
        link = self._links[spec.key] = self._make_link(spec, self._dials)
        work = _run_after(after, link) if after else link.run()
        task = self._tasks[link] = self._group.create_task(work, name=f"link {spec.key}")
        self._links_of[task] = link
        task.add_done_callback(self._on_end, context=self._context)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Forget a link; one that ended unexpectedly is opened again by the next resync."""
        link = self._links_of.pop(task)
        del self._tasks[link]
        link.first_attempt.set()  # A task that was cancelled before it ran could not.
        if self._links.get(link.spec.key) is link:
            del self._links[link.spec.key]

    def _close(self, key: str, reason: str, *, replaced: bool = False) -> None:
        """A link that the catalog removes, or a successor replaces, may finish its calls.

        One that an operator removes ends at once, and so does a child, whose successor may not start before that.
        """
        link = self._links.pop(key)
        log.info("MCP link closed", extra={"backend": key, "reason": reason})
        may_finish = isinstance(link.spec, PeerSpec) or (replaced and not _is_child(link.spec))
        if not (may_finish and link.retire()):
            self._tasks[link].cancel()


def _is_child(spec: BackendSpec) -> bool:
    return isinstance(spec.target, StdioTarget)


async def _run_after(before: list[asyncio.Task[None]], link: Link) -> None:
    await asyncio.wait(before)
    await link.run()
