"""Keeps the names that an open client follows equal to those that its subscribers want, while both change.

Run by `agent.links.lifecycle` from the first subscription on, as long as the client is open; one for resources, by
their URIs, and one for tasks, by their IDs. Names are followed in streams of a bounded number each; a set that changes
is followed anew first, and the stream that it replaces is ended when the new one is acknowledged. The one rule: a
wanted name is reported as settled each time that following it begins, since updates before then were missed.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, Protocol, TypeAlias, TypeVar

from agent.client.connect import ListenNotSupported, McpClient, ServerInfo
from agent.client.event import Event
from agent.client.protocol import Request
from agent.client.streams import SESSIONS, TASKS, Subject, Updates
from agent.errors import MeshError, RpcError
from agent.lossless_json.raw import exact
from agent.model import PATH_META_KEY, BackendSpec, Json, NodeIdentity, PeerScope, PeerSpec
from agent.rpc_codes import INVALID_PARAMS, METHOD_NOT_FOUND
from agent.tasks.ids import TAKES_TASKS
from discovery.backoff import Backoff

log = logging.getLogger(__name__)

# As many as a node grants one caller. An acknowledgement repeats the names and has to fit into one event of 1 MiB.
NAMES_PER_STREAM_MAX: Final = 1_000
NAME_BYTES_PER_STREAM_MAX: Final = 512 << 10
# A stream that ended is opened again: at once after the first time, ever more slowly while it keeps ending (a proxy, a
# server that only pretends). Each failure costs a request to a live server, hence fewer steps than those of dials.
STREAMS: Final = Backoff(first_s=0.5, last_s=30.0, factor=4.0)
# A stream that held this long had an ordinary end.
STREAM_STEADY_S: Final = 60.0
# How long one poll of a task may take, and when it is repeated if there was no answer.
CATCH_UP_TIMEOUT_S: Final = 10.0
CATCH_UP_AGAIN_S: Final = 2.0

S = TypeVar("S")
# Does something in a task of the link's, with this name.
BeginTask: TypeAlias = Callable[[Callable[[], Coroutine[Any, Any, None]], str], None]


class Watch(Protocol):
    """The subscribers of a backend's resources or tasks. Its methods run in the event loop and return at once."""

    @property
    def subject(self) -> Subject:
        """Resources or tasks."""
        ...

    def wanted(self, backend_key: str) -> frozenset[str]:
        """The subscribed names, as the backend knows them, without those it refused."""
        ...

    def owed(self, backend_key: str) -> frozenset[str]:
        """The tasks whose updates may have been missed, until `updated` or refused: to be polled now."""
        ...

    def settled(self, backend_key: str, name: str, refusal: RpcError | None) -> None:
        """A name is followed from now on, or the backend refuses it."""
        ...

    def updated(self, backend_key: str, name: str, params: Json) -> None:
        """A resource has changed, or one below it; or a task, which is in `params`."""
        ...


@dataclass(eq=False, slots=True)
class _Stream:
    """One `McpClient.follow`. `names`: the requested, then the granted ones; `ready`: they are known, or it is over."""

    names: frozenset[str]
    task: asyncio.Task[None] | None = None
    ready: Event = field(default_factory=Event)
    refusals: dict[str, RpcError] = field(default_factory=dict)
    over: bool = False


class Follower:
    """One client's follower. Sole writer: the task that runs `run`, with its children; `look` only wakes it.

    `wake` is set when there is something to do.
    """

    __slots__ = ("_backend", "_client", "_meta", "_short_streams", "_streams", "_watch", "wake")

    def __init__(self, client: McpClient, backend_key: str, watch: Watch, meta: Json | None = None) -> None:
        """`meta` goes along with every request for a stream."""
        self._client = client
        self._backend = backend_key
        self._watch = watch
        self._meta = meta
        self._streams: frozenset[_Stream] = frozenset()
        self.wake = Event()
        self._short_streams = 0

    def __repr__(self) -> str:
        return f"<Follower {self._backend} {[len(stream.names) for stream in self._streams]}>"

    @property
    def subject(self) -> Subject:
        """Resources or tasks."""
        return self._watch.subject

    def look(self) -> None:
        """The wanted names may have changed."""
        if self._streams or self._watch.wanted(self._backend) or self._watch.owed(self._backend):
            self.wake.set()

    async def run(self) -> NoReturn:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self.wake.wait()
                self.wake.clear()
                wanted = self._watch.wanted(self._backend)
                if wanted and not self._can_tell():
                    for name in wanted:
                        self._watch.settled(self._backend, name, no_updates(self._backend))
                else:
                    await self._follow(wanted, group)
                    await self._catch_up()

    def _can_tell(self) -> bool:
        if self._watch.subject is SESSIONS:
            return self._client.lists_by_session
        return can_tell(self._client.server_info, self._watch.subject)

    async def _follow(self, wanted: frozenset[str], group: asyncio.TaskGroup) -> None:
        """One step towards `wanted`."""
        replaced = changed_streams(wanted, {stream: stream.names for stream in self._streams})
        missing = wanted.difference(*(stream.names for stream in self._streams - replaced))
        begun = [_Stream(frozenset(names)) for names in chunks(missing)]
        for stream in begun:
            self._streams |= {stream}
            stream.task = group.create_task(self._hold(stream), name=f"follow {len(stream.names)} of {self._backend}")
        for stream in begun:
            await stream.ready.wait()
        # A stream that has ended meanwhile has left a gap.
        before = frozenset[str]().union(*(stream.names for stream in replaced & self._streams))
        for stream in begun:
            self._report(stream, before)
        # If a new stream failed, the one that it would have replaced is better than none.
        if not any(stream.over for stream in begun):
            for stream in replaced & self._streams:
                self._end(stream)

    def _report(self, stream: _Stream, before: frozenset[str]) -> None:
        for name, refusal in stream.refusals.items():
            if not (stream.over and name in before):
                self._watch.settled(self._backend, name, refusal)
        if not stream.over:
            for name in stream.names - before:
                self._watch.settled(self._backend, name, None)

    async def _catch_up(self) -> None:
        """Poll the tasks whose updates may have been missed."""
        for task_id in self._watch.owed(self._backend):
            params = {"taskId": task_id, "_meta": TAKES_TASKS}
            try:
                request = Request.within("tasks/get", params, timeout_s=CATCH_UP_TIMEOUT_S)
                task = await self._client.request(request)
            except RpcError as exc:
                self._watch.settled(self._backend, task_id, exc)
            except MeshError as exc:
                log.debug("MCP task could not be polled", extra={"backend": self._backend, "reason": str(exc)})
                asyncio.get_running_loop().call_later(CATCH_UP_AGAIN_S, self.wake.set)
                return
            else:
                self._watch.updated(self._backend, task_id, exact(task))

    def _end(self, stream: _Stream) -> None:
        self._streams -= {stream}
        assert stream.task is not None
        stream.task.cancel()

    async def _hold(self, stream: _Stream) -> None:
        """Follow one set of names until the stream ends, and wake `run` to follow it anew."""
        asked = stream.names

        def granted(names: frozenset[str], refusals: Mapping[str, RpcError]) -> None:
            stream.names = names
            stream.refusals = {name: refusals.get(name) or not_granted(name) for name in asked - names}
            stream.ready.set()

        def updated(name: str, params: Json) -> None:
            self._watch.updated(self._backend, name, params)

        updates = Updates(asked, granted, updated, self._meta, self._watch.subject)
        loop = asyncio.get_running_loop()
        began_at_s = loop.time()
        reason, is_short = "", False
        try:
            await self._client.follow(updates)
        except MeshError as exc:
            reason, is_short = str(exc), exc.short
            if not updates.acknowledged and isinstance(exc, RpcError | ListenNotSupported):
                refusal = exc if isinstance(exc, RpcError) else no_updates(self._backend)
                stream.refusals = stream.refusals or dict.fromkeys(asked, refusal)
        stream.over = True
        stream.ready.set()
        self._streams -= {stream}
        if updates.acknowledged or not stream.refusals:
            log.info("MCP updates interrupted", extra={"backend": self._backend, "reason": reason})
            if is_short:  # Nothing was asked.
                loop.call_later(STREAMS.first_s, self.wake.set)
                return
            loop.call_later(STREAMS.step_s(self._short_streams), self.wake.set)
            self._short_streams = 0 if loop.time() - began_at_s >= STREAM_STEADY_S else self._short_streams + 1


class Followers:
    """The followers of a link's new client: each is made, and run, when there is something to follow.

    Most links never have a subscription. A gateway learns that one has passed us, against loops.
    """

    __slots__ = ("_begun", "_client", "_meta", "_spec_key", "_watches")

    def __init__(self, client: McpClient, spec: BackendSpec, own: NodeIdentity, watches: Sequence[Watch]) -> None:
        is_gateway = isinstance(spec, PeerSpec) and spec.scope is PeerScope.MESH
        self._client, self._spec_key, self._watches = client, spec.key, watches
        self._meta: Json | None = {PATH_META_KEY: [own.node_id]} if is_gateway else None
        self._begun: tuple[Follower, ...] = ()

    def __repr__(self) -> str:
        return f"<Followers of {self._spec_key} {list(self._begun)}>"

    def look(self, begin_task: BeginTask) -> None:
        """The wanted names may have changed: run those for which there is something to do by now."""
        for follower in self._begun:
            follower.look()
        for watch in self._waiting():
            follower = Follower(self._client, self._spec_key, watch, self._meta)
            follower.wake.set()
            self._begun = (*self._begun, follower)
            begin_task(follower.run, f"follow {watch.subject.member}")

    def _waiting(self) -> list[Watch]:
        begun = [follower.subject for follower in self._begun]
        idle = (watch for watch in self._watches if watch.subject not in begun)
        return [watch for watch in idle if watch.wanted(self._spec_key) or watch.owed(self._spec_key)]


def can_tell(server_info: ServerInfo, subject: Subject) -> bool:
    """Whether a server announces such updates; whether another node has tasks is known late, so it may always."""
    if subject is TASKS:
        return server_info.has_tasks or server_info.mesh is not None
    resources = server_info.capabilities.get("resources")
    return isinstance(resources, dict) and resources.get("subscribe") is True


def changed_streams(wanted: frozenset[str], streams: Mapping[S, frozenset[str]]) -> set[S]:
    """The streams to replace: those that follow too much, and the smallest one where something is to be added."""
    changed = {stream for stream, names in streams.items() if not names <= wanted}
    kept = {stream: names for stream, names in streams.items() if stream not in changed}
    missing = wanted.difference(*kept.values())
    if missing and kept:
        smallest = min(kept, key=lambda stream: len(kept[stream]))
        if len(kept[smallest]) + len(missing) <= NAMES_PER_STREAM_MAX:
            changed.add(smallest)
    return changed


def chunks(names: Iterable[str]) -> list[list[str]]:
    """Cut into sets that one stream may follow."""
    cut: list[list[str]] = []
    room_bytes = 0
    for name in sorted(names):
        size = len(name.encode("utf-8", "replace"))
        if not cut or len(cut[-1]) == NAMES_PER_STREAM_MAX or size > room_bytes:
            cut.append([])
            room_bytes = NAME_BYTES_PER_STREAM_MAX
        cut[-1].append(name)
        room_bytes -= size
    return cut


def no_updates(backend_key: str) -> RpcError:
    """The error of a server that sends no updates."""
    return RpcError(METHOD_NOT_FOUND, f"{backend_key} tells of no such updates")


def not_granted(name: str) -> RpcError:
    """The error for a name that is not in the acknowledgement."""
    return RpcError(INVALID_PARAMS, f"The server tells of no updates of {name[:128]}")
