"""Serves `subscriptions/listen` of one endpoint: list changes, and updates of resources and tasks that a client names.

`ListenStreams` is called by the server of stateless requests; `Notices` combines changes of the route table into list
change notifications for the clients of both eras. A stream begins with what is granted: every kind of list change, and
the resources and tasks whose servers send updates; the others are left out, as the protocol has it. The one rule: a
client that does not read costs bounded memory and delays no other client; its stream is ended, and it listens anew.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Container, Iterable, Sequence
from typing import Any, Final, Protocol

import orjson
from aiohttp import web

from agent import clock
from agent.authority.caller import caller
from agent.client.streams import RESOURCES, SESSIONS, TASKS
from agent.errors import MCPError, RpcError
from agent.lossless_json.exact import read_json
from agent.model import AFFINITY_META_KEY, PATH_META_KEY, Json
from agent.routing.table import RouteKind
from agent.rpc_codes import INTERNAL_ERROR, INVALID_PARAMS
from agent.server.request import refuse
from agent.server.response import Answer
from agent.server.task_seal import TaskSeal
from agent.subscriptions.registry import SUBSCRIPTIONS_MAX, News, Subscriber, Tell
from agent.subscriptions.resources import ResourceNews
from agent.subscriptions.sessions import SessionNews
from agent.subscriptions.tasks import TaskNews

log = logging.getLogger(__name__)

# docs/calls.md: a burst of joins must not become a burst of notifications; 250 ms is below what a person notices.
INTERVAL_S: Final = 0.25
# Where only nodes of fleets come and go: a client that lists anew reads all tools again for one name.
FLEET_INTERVAL_S: Final = 2.0

# What a client re-reads when routes of a kind differ; a namespace is in no list, and a server in another node's.
LIST_OF: Final = {
    RouteKind.TOOL: "tools",
    RouteKind.PROMPT: "prompts",
    RouteKind.RESOURCE: "resources",
    RouteKind.TEMPLATE: "resources",
}

# Each is a connection of a client, or one of two of a peer; a mesh of 1,000 nodes has room.
STREAMS_MAX: Final = 2_560
# Of one named token, so that none takes them all.
STREAMS_PER_TOKEN_MAX: Final = STREAMS_MAX // 10
# Notifications that a stream has not written yet. Equal ones are one; so many different ones mean a client that does
# not read.
PENDING_MAX: Final = 2048
# The same for notifications of tasks, in bytes of JSON. A single one may be larger, as an answer may.
PENDING_BYTES_MAX: Final = 8 << 20

_ACKNOWLEDGED: Final = "notifications/subscriptions/acknowledged"
_SUBSCRIPTION_ID_META_KEY: Final = "io.modelcontextprotocol/subscriptionId"
_URIS: Final = RESOURCES.member
_TASK_IDS: Final = TASKS.member
# The member of a client's filter, by the method of the notification.
_LIST_KINDS: Final = {
    "notifications/tools/list_changed": "toolsListChanged",
    "notifications/prompts/list_changed": "promptsListChanged",
    "notifications/resources/list_changed": "resourcesListChanged",
}


class Notices:
    """The fan-out of list changes to the clients of one endpoint. Written by its own task."""

    def __init__(self, tell: Sequence[Callable[[str], None]], sent: Callable[[str], None]) -> None:
        """Each of `tell` takes the method of a notification to the clients of one era, and never waits."""
        self._tell = tell
        self._sent = sent
        self._pending: set[str] = set()
        self._wake = asyncio.Event()
        self._in_fleets: set[RouteKind] = set()
        self._fleets_due: asyncio.TimerHandle | None = None
        self._fleets_noted_s = -FLEET_INTERVAL_S

    def __repr__(self) -> str:
        return f"<Notices pending={sorted(self._pending)}>"

    def changed(self, kinds: Iterable[RouteKind]) -> None:
        """Note which routes differ; never blocks."""
        self._pending |= {LIST_OF[kind] for kind in kinds if kind in LIST_OF}
        if self._pending:
            self._wake.set()

    def fleets_changed(self, kinds: Collection[RouteKind]) -> None:
        """Note that routes differ in what the nodes of fleets have alone, which come and go by the dozen."""
        self._in_fleets |= {kind for kind in kinds if kind in LIST_OF}
        loop = asyncio.get_running_loop()
        if self._fleets_due is not None or not self._in_fleets:
            return
        wait_s = self._fleets_noted_s + FLEET_INTERVAL_S - loop.time()
        if wait_s <= 0:
            self._note_fleets()
        else:
            self._fleets_due = loop.call_later(wait_s, self._note_fleets)

    def _note_fleets(self) -> None:
        self._fleets_due, self._fleets_noted_s = None, clock.now_s()
        kinds, self._in_fleets = self._in_fleets, set()
        self.changed(kinds)

    async def run(self) -> None:
        """Send notifications until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            kinds, self._pending = self._pending, set()
            for kind in sorted(kinds):
                for tell in self._tell:
                    tell(f"notifications/{kind}/list_changed")
                self._sent(kind)
            await asyncio.sleep(INTERVAL_S)


class NewSubscriber(Protocol[News]):
    """Makes the subscriber of one stream."""

    def __call__(self, tell: Tell[News], *, across_gateways: bool, is_node: bool) -> Subscriber[News]:
        """`tell` gets each update. `is_node`: the stream is another node's."""
        ...


class _Stream:
    """The notifications that one client has not got yet, equal ones once, in order of their first arrival."""

    def __init__(self, asked: Json) -> None:
        self.binding = caller().grant.binding
        self.shown_tasks: dict[str, str] = {}  # As the client knows them, by the mesh's name for them.
        self.kinds = frozenset(kind for kind in _LIST_KINDS.values() if asked.get(kind) is True)
        self.overflowed = False
        self.ended = False
        self.wake = asyncio.Event()
        # By method and name; for a task its params, always the latest.
        self._pending: dict[tuple[str, str], bytes] = {}
        self._pending_bytes = 0

    @property
    def over(self) -> bool:
        """Whether nothing more is to be written."""
        return self.ended or self.overflowed

    def end(self) -> None:
        """Write nothing more: the node shuts down."""
        self.ended = True
        self.wake.set()

    def list_changed(self, method: str) -> None:
        if _LIST_KINDS.get(method) in self.kinds:
            self._put(method, "")

    def updated(self, news: ResourceNews) -> None:
        if news.client is None:
            self._put(RESOURCES.notification, news.uri)
        else:
            told: Json = {"uri": news.uri, "_meta": {AFFINITY_META_KEY: news.client}}
            self._put(RESOURCES.notification, f"{news.uri} {news.client}", orjson.dumps(told))

    def task_changed(self, task: TaskNews) -> None:
        params = task.params
        if (shown := self.shown_tasks.get(task.task_id, task.task_id)) != task.task_id:
            params = orjson.dumps({**read_json(params), "taskId": shown})
        self._put(TASKS.notification, task.task_id, params)

    def received_in_session(self, news: SessionNews) -> None:
        params = news.as_json()
        self._put(SESSIONS.notification, params.decode(), params)

    def take(self) -> tuple[str, Json] | None:
        """The next notification, as method and params; None when there is none."""
        if not self._pending:
            return None
        method, name = next(iter(self._pending))
        params = self._pending.pop((method, name))
        self._pending_bytes -= len(params)
        if params:
            return method, read_json(params)
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
    """The streams of one endpoint. Sole writer of their notifications: the event loop, through the methods."""

    def __init__(
        self,
        of_resources: NewSubscriber[ResourceNews],
        of_tasks: NewSubscriber[TaskNews],
        of_sessions: NewSubscriber[SessionNews],
        seal: TaskSeal | None = None,
    ) -> None:
        """`seal`: on the IDs of tasks."""
        self._seal = seal
        self._of_resources = of_resources
        self._of_tasks = of_tasks
        self._of_sessions = of_sessions
        self._streams: set[_Stream] = set()
        self._closing = False

    def __repr__(self) -> str:
        return f"<ListenStreams {len(self._streams)} open{', closing' if self._closing else ''}>"

    @property
    def count(self) -> int:
        """How many are open."""
        return len(self._streams)

    def tell(self, method: str) -> None:
        """Send a list change to every stream that has it in its filter; never waits."""
        for stream in self._streams:
            stream.list_changed(method)

    def end_of_revoked(self, bindings: Container[str]) -> None:
        """As `Sessions.end_of_revoked`."""
        for stream in self._streams:
            if stream.binding and stream.binding not in bindings:
                stream.end()

    def close(self) -> None:
        """End all streams, now and later. May be repeated."""
        self._closing = True
        for stream in self._streams:
            stream.end()

    async def serve(
        self, answer: Answer, request_id: object, params: Json, *, notices: bool = True
    ) -> web.StreamResponse:
        """Serve one stream until the node shuts down, or its client does not read; one that leaves cancels this.

        `notices`: whether list changes may be granted.
        `params` have the protocol's shape, and Python's own numbers. Raises `MCPError` for an invalid filter.
        """
        if self._closing:
            message = "This node is shutting down; listen to another one"
            return refuse(503, message, INTERNAL_ERROR, request_id=request_id)
        if len(self._streams) >= STREAMS_MAX:
            raise MCPError(code=INTERNAL_ERROR, message=f"Subscription limit reached: {STREAMS_MAX} streams")
        asked: Json = {name: value for name, value in params["notifications"].items() if value is not None}
        if not notices:
            asked = {kind: value for kind, value in asked.items() if kind not in _LIST_KINDS.values()}
        stream = _Stream(asked)
        held = sum(one.binding == stream.binding for one in self._streams) if stream.binding else 0
        if held >= STREAMS_PER_TOKEN_MAX:
            raise MCPError(code=INTERNAL_ERROR, message=f"Subscription limit of a token reached: {held} streams")
        self._unseal_tasks(asked, stream)
        is_node = caller().grant.is_of_node
        if not is_node:  # Sessions with servers are nodes' business.
            asked.pop(SESSIONS.member, None)
        # A gateway names the nodes that the subscription has passed.
        passed = PATH_META_KEY in params["_meta"]
        resources = self._of_resources(stream.updated, across_gateways=not passed, is_node=is_node)
        tasks = self._of_tasks(stream.task_changed, across_gateways=not passed, is_node=is_node)
        sessions = self._of_sessions(stream.received_in_session, across_gateways=not passed, is_node=is_node)
        self._streams.add(stream)
        try:
            granted: Json = {kind: True for kind in _LIST_KINDS.values() if kind in stream.kinds}
            granted |= await _granted(asked, _URIS, resources) | await _granted(asked, _TASK_IDS, tasks)
            granted |= await _granted(asked, SESSIONS.member, sessions)
            if stream.shown_tasks and _TASK_IDS in granted:
                granted[_TASK_IDS] = [stream.shown_tasks[task_id] for task_id in granted[_TASK_IDS]]
            return await _write_stream(answer, stream, granted, {_SUBSCRIPTION_ID_META_KEY: request_id})
        finally:
            self._streams.discard(stream)
            resources.close()
            tasks.close()
            sessions.close()

    def _unseal_tasks(self, asked: Json, stream: _Stream) -> None:
        """Put the mesh's IDs in the place of those that the client knows; those of other callers are left out."""
        names = asked.get(_TASK_IDS)
        if self._seal is None or not caller().grant.named or not isinstance(names, list):
            return
        if len(names) > SUBSCRIPTIONS_MAX:
            raise MCPError(code=INVALID_PARAMS, message=f"notifications.{_TASK_IDS}: at most {SUBSCRIPTIONS_MAX} IDs")
        for name in names:
            with contextlib.suppress(MCPError):
                if isinstance(name, str):
                    stream.shown_tasks[self._seal.opened(name)] = name
        asked[_TASK_IDS] = list(stream.shown_tasks)


async def _write_stream(answer: Answer, stream: _Stream, granted: Json, meta: Json) -> web.StreamResponse:
    await answer.notify(_ACKNOWLEDGED, {"notifications": granted, "_meta": meta})
    while not stream.over:
        await stream.wake.wait()
        stream.wake.clear()
        while not stream.over and (note := stream.take()) is not None:
            method, params = note
            await answer.notify(method, {**params, "_meta": {**params.get("_meta", {}), **meta}})
    if stream.ended:
        return await answer.nothing()
    log.warning("MCP client reads too slowly, its stream of changes is ended", extra={"limit": PENDING_MAX})
    return await answer.result(orjson.dumps({"resultType": "complete", "_meta": meta}))


async def _granted(asked: Json, member: str, subscriber: Subscriber[Any]) -> Json:
    """The part of a filter that is granted. Raises `MCPError` when it has too many names, or what is no name."""
    names = asked.get(member) or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise MCPError(code=INVALID_PARAMS, message=f"notifications.{member}: a list of strings is required")
    if not names:
        return {}
    try:
        refusals = await subscriber.add(names)
    except RpcError as exc:
        raise MCPError(code=exc.code, message=exc.message, data=exc.data) from exc
    granted = [name for name in dict.fromkeys(names) if name not in refusals]
    return {member: granted} if granted else {}
