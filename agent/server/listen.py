"""Serves `subscriptions/listen` of one endpoint: list changes, and updates of resources and tasks that a client names.

Registered in the endpoint's low-level server. A stream begins with what is granted: every kind of list change, and the
resources and tasks whose servers tell of updates; the others are left out, as the protocol has it. The one rule: a
client that does not read costs a bounded memory and no one else's time; its stream is ended, and it listens anew.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from mcp.server.context import ServerRequestContext
from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    PromptsListChanged,
    ResourcesListChanged,
    ServerEvent,
    ToolsListChanged,
)
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import event_to_notification
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, SubscriptionsListenRequestParams

from agent.client.streams import RESOURCES, TASKS
from agent.errors import RpcError
from agent.model import PATH_META_KEY, Json
from agent.routing.table import RouteKind
from agent.subscriptions.registry import News, Subscriber, Tell
from agent.subscriptions.tasks import TaskNews

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


log = logging.getLogger(__name__)

# Each is a connection of a client, or one of two of a peer; a mesh of 1,000 nodes has room.
STREAMS_MAX: Final = 2_560
# What a stream has to tell and has not written yet. Equal notices are one; so many different ones mean nobody reads.
PENDING_MAX: Final = 2048
# The same for what tasks are told with, in bytes of JSON. One may be larger by itself, as an answer may.
PENDING_BYTES_MAX: Final = 8 << 20

_SUBSCRIPTION_ID_META_KEY: Final = "io.modelcontextprotocol/subscriptionId"
_URIS: Final = RESOURCES.member
_TASK_IDS: Final = TASKS.member
# What a client names it in its filter, by the method that tells it.
_LIST_KINDS: Final = {
    "notifications/tools/list_changed": "toolsListChanged",
    "notifications/prompts/list_changed": "promptsListChanged",
    "notifications/resources/list_changed": "resourcesListChanged",
}


class NewSubscriber(Protocol[News]):
    """Makes the subscriber that stands for one stream."""

    def __call__(self, tell: Tell[News], *, across_gateways: bool) -> Subscriber[News]:
        """`tell` gets what there is to tell."""
        ...


class _Stream:
    """What one client is still to be told, each thing once, in order of its first telling."""

    def __init__(self, asked: Json) -> None:
        self.kinds = frozenset(kind for kind in _LIST_KINDS.values() if asked.get(kind) is True)
        self.overflowed = False
        self.wake = asyncio.Event()
        # By method and name; for a task what is told of it, which is always the latest.
        self._pending: dict[tuple[str, str], bytes] = {}
        self._pending_bytes = 0

    def list_changed(self, event: ServerEvent) -> None:
        method = event_to_notification(event, {}).method
        if _LIST_KINDS.get(method) in self.kinds:
            self._put(method, "")

    def updated(self, uri: str) -> None:
        self._put(RESOURCES.notification, uri)

    def task_changed(self, task: TaskNews) -> None:
        self._put(TASKS.notification, task.task_id, task.params)

    def take(self) -> tuple[str, Json] | None:
        """The next notification, as method and params; None when there is none."""
        if not self._pending:
            return None
        method, name = next(iter(self._pending))
        params = self._pending.pop((method, name))
        self._pending_bytes -= len(params)
        if method == TASKS.notification:
            return method, json.loads(params)  # Python's numbers: the SDK writes it with other means than ours.
        return method, {"uri": name} if name else {}

    def _put(self, method: str, name: str, params: bytes = b"") -> None:
        known = self._pending.get((method, name))
        self._pending_bytes += len(params) - len(known or b"")
        too_many = known is None and len(self._pending) >= PENDING_MAX
        if too_many or (len(self._pending) > (known is not None) and self._pending_bytes > PENDING_BYTES_MAX):
            self.overflowed = True
        else:
            self._pending[method, name] = params
        self.wake.set()


class ListenStreams:
    """The handler of one endpoint's `subscriptions/listen`."""

    def __init__(
        self, bus: InMemorySubscriptionBus, of_resources: NewSubscriber[str], of_tasks: NewSubscriber[TaskNews]
    ) -> None:
        """`bus` carries list changes."""
        self._bus = bus
        self._of_resources = of_resources
        self._of_tasks = of_tasks
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
        resources = self._of_resources(stream.updated, across_gateways=not passed)
        tasks = self._of_tasks(stream.task_changed, across_gateways=not passed)
        unsubscribe = self._bus.subscribe(stream.list_changed)
        self._open += 1
        try:
            granted: Json = {kind: True for kind in _LIST_KINDS.values() if kind in stream.kinds}
            granted |= await _granted(asked, _URIS, resources) | await _granted(asked, _TASK_IDS, tasks)
            return await self._serve(ctx, stream, granted)
        finally:
            self._open -= 1
            unsubscribe()
            resources.close()
            tasks.close()

    async def _serve(self, ctx: ServerRequestContext[Any, Any], stream: _Stream, granted: Json) -> Json:
        meta = {"_meta": {_SUBSCRIPTION_ID_META_KEY: ctx.request_id}}
        # Raw and request-scoped, as everything that rides a request's own stream (agent.server.front).
        notify = ctx.session._request_outbound.notify  # noqa: SLF001 - see above
        await notify("notifications/subscriptions/acknowledged", {"notifications": granted, **meta})
        while not stream.overflowed:
            await stream.wake.wait()
            stream.wake.clear()
            while not stream.overflowed and (note := stream.take()) is not None:
                method, params = note
                await notify(method, {**params, "_meta": {**params.get("_meta", {}), **meta["_meta"]}})
        log.warning("MCP client reads too slowly, its stream of changes is ended", extra={"limit": PENDING_MAX})
        return {"resultType": "complete", **meta}


async def _granted(asked: Json, member: str, subscriber: Subscriber[Any]) -> Json:
    """That part of a filter that is honoured. Raises `MCPError` when it asks for too much, or for what is no name."""
    names = asked.get(member) or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise MCPError(code=INVALID_PARAMS, message=f"notifications.{member}: a list of strings is required")
    if not names:
        return {}
    try:
        refusals = await subscriber.add(names)
    except RpcError as exc:
        raise MCPError(code=exc.code, message=exc.message, data=exc.data) from exc
    told_of = [name for name in dict.fromkeys(names) if name not in refusals]
    return {member: told_of} if told_of else {}
