"""Serves `subscriptions/listen` of one endpoint: list changes, and updates of the resources that a client names.

Registered in the endpoint's low-level server. A stream begins with what is granted: every kind of list change, and the
resources whose servers tell of updates; the others are left out, as the protocol has it. The one rule: a client that
does not read costs a bounded memory and no one else's time; its stream is ended, and it listens anew.
"""

import asyncio
import logging
from typing import Any, Final, Protocol

from mcp.server.context import ServerRequestContext
from mcp.server.subscriptions import InMemorySubscriptionBus, ServerEvent
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import event_to_notification
from mcp_types import INTERNAL_ERROR, SubscriptionsListenRequestParams

from agent.errors import RpcError
from agent.model import PATH_META_KEY, Json
from agent.resource_updates import Subscriber

log = logging.getLogger(__name__)

# Each is a connection of a client, or one of two of a peer; a mesh of 1,000 nodes has room.
STREAMS_MAX: Final = 2_560
# What a stream has to tell and has not written yet. Equal notices are one; so many different ones mean nobody reads.
PENDING_MAX: Final = 2048

UPDATED: Final = "notifications/resources/updated"
_SUBSCRIPTION_ID_META_KEY: Final = "io.modelcontextprotocol/subscriptionId"
_URIS: Final = "resourceSubscriptions"
# What a client names it in its filter, by the method that tells it.
_LIST_KINDS: Final = {
    "notifications/tools/list_changed": "toolsListChanged",
    "notifications/prompts/list_changed": "promptsListChanged",
    "notifications/resources/list_changed": "resourcesListChanged",
}


class NewSubscriber(Protocol):
    """Makes the subscriber that stands for one stream."""

    def __call__(self, tell: Any, *, across_gateways: bool) -> Subscriber:
        """`tell` gets the public URI of what has changed."""
        ...


class _Stream:
    """What one client is still to be told, each thing once, in order of its first telling."""

    def __init__(self, granted: Json) -> None:
        self.kinds = frozenset(kind for kind in _LIST_KINDS.values() if granted.get(kind) is True)
        self.pending: dict[tuple[str, str | None], None] = {}
        self.overflowed = False
        self.wake = asyncio.Event()

    def list_changed(self, event: ServerEvent) -> None:
        method = event_to_notification(event, {}).method
        if _LIST_KINDS.get(method) in self.kinds:
            self._put((method, None))

    def updated(self, uri: str) -> None:
        self._put((UPDATED, uri))

    def _put(self, note: tuple[str, str | None]) -> None:
        if len(self.pending) >= PENDING_MAX and note not in self.pending:
            self.overflowed = True
        else:
            self.pending[note] = None
        self.wake.set()


class ListenStreams:
    """The handler of one endpoint's `subscriptions/listen`."""

    def __init__(self, bus: InMemorySubscriptionBus, subscriber: NewSubscriber) -> None:
        """`bus` carries list changes."""
        self._bus = bus
        self._subscriber = subscriber
        self._open = 0

    def __repr__(self) -> str:
        return f"<ListenStreams {self._open} open>"

    async def __call__(self, ctx: ServerRequestContext[Any, Any], params: SubscriptionsListenRequestParams) -> Json:
        """Serve one stream until the client leaves, or does not read."""
        if self._open >= STREAMS_MAX:
            raise MCPError(code=INTERNAL_ERROR, message=f"Subscription limit reached: {STREAMS_MAX} streams")
        asked = params.notifications.model_dump(by_alias=True, mode="json", exclude_none=True)
        stream = _Stream(asked)
        # A gateway says which nodes the wish has passed.
        passed = PATH_META_KEY in ((ctx.params or {}).get("_meta") or {})
        subscriber = self._subscriber(stream.updated, across_gateways=not passed)
        unsubscribe = self._bus.subscribe(stream.list_changed)
        self._open += 1
        try:
            granted = await _granted(asked, subscriber)
            return await self._serve(ctx, stream, granted)
        finally:
            self._open -= 1
            unsubscribe()
            subscriber.close()

    async def _serve(self, ctx: ServerRequestContext[Any, Any], stream: _Stream, granted: Json) -> Json:
        meta = {"_meta": {_SUBSCRIPTION_ID_META_KEY: ctx.request_id}}
        # Raw and request-scoped, as everything that rides a request's own stream (agent.api.front).
        notify = ctx.session._request_outbound.notify  # noqa: SLF001 - see above
        await notify("notifications/subscriptions/acknowledged", {"notifications": granted, **meta})
        while not stream.overflowed:
            await stream.wake.wait()
            stream.wake.clear()
            while stream.pending and not stream.overflowed:
                method, uri = next(iter(stream.pending))
                del stream.pending[method, uri]
                await notify(method, meta if uri is None else {"uri": uri, **meta})
        log.warning("MCP client reads too slowly, its stream of changes is ended", extra={"limit": PENDING_MAX})
        return {"resultType": "complete", **meta}


async def _granted(asked: Json, subscriber: Subscriber) -> Json:
    """The part of a filter that is honoured. Raises `MCPError` when it asks for too much."""
    granted: Json = {kind: True for kind in _LIST_KINDS.values() if asked.get(kind) is True}
    uris = asked.get(_URIS) or []
    if uris:
        try:
            refusals = await subscriber.add(uris)
        except RpcError as exc:
            raise MCPError(code=exc.code, message=exc.message, data=exc.data) from exc
        if told_of := [uri for uri in dict.fromkeys(uris) if uri not in refusals]:
            granted[_URIS] = told_of
    return granted
