"""A worker's own ways to the backends that its node is linked with: a client for each, opened at the first need.

What a backend is and whether it is up, the node says (`agent.workers.picture`): a worker lists nothing and probes
nothing. The one rule: a way gets calls only while the node's own link is up, and only for a server that keeps no state
of its callers.
"""

import asyncio
import logging
import math
from collections.abc import Container, Iterable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Final

from agent import clock
from agent.client.event import Event, first_of, within
from agent.client.http.stateless import HttpStatelessClient
from agent.client.jsonrpc import LIST_CHANGES
from agent.client.protocol import Request, ResultTaker
from agent.client.sessions.dual_era import needs_session
from agent.errors import CallNotSent, MeshError
from agent.links.dial import Dial
from agent.model import BackendSpec, Json, LinkView, NodeIdentity, ServerSpec
from agent.workers.gate import CALL
from discovery.backoff import Backoff

log = logging.getLogger(__name__)

_AGAIN: Final = Backoff(first_s=1.0, last_s=30.0)
# One that is gone is looked at so often, until its calls under way have ended, as long as the node's own links wait.
_LOOK_EVERY_S: Final = 0.25
DRAIN_TIMEOUT_S: Final = 30.0


class WorkerLink:
    """The way to one backend; for dispatch, a link (`agent.dispatch.callable_link.CallableLink`)."""

    def __init__(self, view: LinkView) -> None:
        self.view = view
        self.heard_at_s = -math.inf  # It probes nothing.
        self.client: HttpStatelessClient | None = None
        self._wants_sessions = False
        self.lists_changed = False  # In a call, as far as it was heard here.
        self.wanted = Event()
        self.gone = Event()
        self.silent = Event()  # With `gone`: nothing is to be waited for.

    def __repr__(self) -> str:
        return f"<WorkerLink {self.view.key} {'open' if self.is_open else 'closed'}>"

    @property
    def spec(self) -> BackendSpec:
        """As `CallableLink`."""
        return self.view.spec

    @property
    def is_open(self) -> bool:
        """Whether a call can be sent now."""
        return self.client is not None and not self.client.lost.is_set()

    @property
    def serves_sessions(self) -> bool:
        """Whether calls of clients with sessions can be sent, which nothing there is gained by."""
        return self.client is not None and not self.client.lists_by_session and not self._wants_sessions

    def called(self) -> None:
        """As `CallableLink`: open it."""
        self.wanted.set()

    async def request(self, request: Request) -> Json:
        """As `CallableLink`; what is no call is the node's to say."""
        if self.client is None or request.method != CALL:
            raise CallNotSent.about(self.view.key, "is not connected").with_nothing_sent()
        return await self._request(self.client, request)

    async def _request(self, client: HttpStatelessClient, request: Request) -> Json:
        heard = request.on_notification

        async def hear(method: str, params: Json) -> None:
            self.lists_changed |= method in LIST_CHANGES
            if heard is not None:
                await heard(method, params)

        result = await client.request(request.heard_by(hear))
        if request.in_session and needs_session(result):
            self._wants_sessions = True  # The node opens them.
        return result

    def start(self, request: Request, taker: ResultTaker) -> bool:
        """As `CallableLink`."""
        client = self.client
        if client is None or request.method != CALL or not client.start_request(request, taker):
            return False
        assert request.started is not None, "it went out"
        request.started.go_on = partial(self._request, client)
        return True

    async def read_as_caller(self, affinity: str) -> None:
        """As `CallableLink`: there is nothing to read here."""


class WorkerLinks:
    """Those of one worker. `take` is called with each picture's links."""

    def __init__(self, own: NodeIdentity, dial: Dial, tasks: asyncio.TaskGroup) -> None:
        self._own = own
        self._dial = dial
        self._tasks = tasks
        self._links: dict[str, WorkerLink] = {}
        self._ending: set[WorkerLink] = set()  # They have calls under way, as far as it is known.

    def __repr__(self) -> str:
        return f"<WorkerLinks {list(self._links.values())}>"

    def link(self, key: str) -> WorkerLink | None:
        """The way to a backend; None where the node has none."""
        return self._links.get(key)

    def take(self, views: "dict[str, LinkView]", silent: Container[str] = ()) -> None:
        """Have these and no others. One whose address or identity changed is opened anew.

        The others end when their calls under way are answered, as the node's own do; those of `silent` ones at once.
        """
        for key in [key for key, link in self._links.items() if key not in views or _is_other(link.view, views[key])]:
            link = self._links.pop(key)
            self._ending.add(link)
            link.gone.set()
        for link in self._ending:  # Why one is gone may be known a moment later than that it is.
            if link.view.key in silent:
                link.silent.set()
        for key, view in views.items():
            if (known := self._links.get(key)) is not None:
                known.view = view
                continue
            link = self._links[key] = WorkerLink(view)
            self._tasks.create_task(self._keep(link), name=f"way to {key}")

    def want(self, keys: Iterable[str]) -> None:
        """Open these, as far as they are there."""
        for key in keys:
            if (link := self._links.get(key)) is not None:
                link.called()

    def open_ones(self) -> frozenset[str]:
        """The backends that can be called now."""
        return frozenset(key for key, link in self._links.items() if link.is_open)

    def changing(self) -> frozenset[str]:
        """The backends whose lists changed during a call."""
        return frozenset(key for key, link in self._links.items() if link.lists_changed)

    def close(self) -> None:
        """Close all."""
        self.take({})

    async def _keep(self, link: WorkerLink) -> None:
        try:
            await self._keep_open(link)
        finally:
            self._ending.discard(link)

    async def _keep_open(self, link: WorkerLink) -> None:
        failures = 0
        while not link.gone.is_set():
            await first_of(link.wanted, link.gone)
            link.wanted.clear()
            if link.gone.is_set():
                return
            try:
                await self._live(link)
                failures = 0
            except MeshError as exc:
                failures += 1
                log.log(
                    logging.INFO if failures == 1 else logging.DEBUG,
                    "a worker has no way of its own to a backend, calls go through the node",
                    extra={"backend": link.view.key, "reason": str(exc)},
                )
            except Exception:
                failures += 1
                log.exception("a worker's way to a backend broke unexpectedly", extra={"backend": link.view.key})
            finally:
                link.client = None
            await _pause(link, _AGAIN.step_s(failures))

    async def _live(self, link: WorkerLink) -> None:
        """Open the client and keep it until it is lost, or of no more use. Raises `MeshError`."""
        async with AsyncExitStack() as stack:
            spec = link.spec
            if isinstance(spec, ServerSpec):  # As the node speaks to it, and without a second era beside.
                spec = replace(spec, protocol=link.view.protocol_version)
            opened = await self._dial(stack, spec, self._own)
            if not isinstance(opened.client, HttpStatelessClient):
                # A session, its state and its questions have one holder.
                raise MeshError("it has sessions, which the node alone keeps")
            link.client = opened.client
            await first_of(opened.client.lost, link.gone)
            if link.gone.is_set():
                await _finished(link, opened.client)


async def _finished(link: WorkerLink, client: HttpStatelessClient) -> None:
    """Return when nothing is under way any more. What stops still answers what it has; what is silent does not."""
    end_s = clock.now_s() + DRAIN_TIMEOUT_S
    while client.is_waited_for and not link.silent.is_set() and clock.now_s() < end_s:
        await within(link.silent, _LOOK_EVERY_S)


async def _pause(link: WorkerLink, seconds: float) -> None:
    if seconds:
        try:
            async with asyncio.timeout(seconds):
                await link.gone.wait()
        except TimeoutError:
            pass


def _is_other(before: LinkView, now: LinkView) -> bool:
    was, spec = before.spec, now.spec
    return (was.target, before.identity, before.ready_at_s) != (spec.target, now.identity, now.ready_at_s)
