"""Keeps what an open door follows equal to what its subscribers want, while both change.

Run by a session from the first wish on, as long as its door is open. URIs are followed in streams of a bounded number
each; a set that changes is followed anew first, and what it replaces is ended when that is acknowledged. The one rule:
a URI that is wanted and not followed is told as settled each time that it comes to be followed, since what happened
before then was missed.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NoReturn, Protocol, TypeVar

from mcp_types.jsonrpc import INVALID_PARAMS, METHOD_NOT_FOUND

from agent.errors import MeshError, RpcError
from agent.links.door import Door, ListenNotSupported
from agent.links.flag import Flag
from agent.links.listening import Updates
from agent.model import PATH_META_KEY, BackendSpec, Json, NodeIdentity, PeerScope, PeerSpec

log = logging.getLogger(__name__)

# As much as a node grants one client. An acknowledgement repeats the URIs and has to fit into one event of 1 MiB.
URIS_PER_STREAM_MAX: Final = 1_000
URI_BYTES_PER_STREAM_MAX: Final = 512 << 10
# A stream that ended is opened again, ever more slowly while it does not hold.
PAUSES_S: Final = (0.0, 0.5, 2.0, 8.0, 30.0)
STEADY_S: Final = 60.0

S = TypeVar("S")


class Watch(Protocol):
    """Who wants to know of a backend's resources. All of it is called in the event loop and returns at once."""

    def wanted(self, backend_key: str) -> frozenset[str]:
        """The URIs, as the backend knows them, that somebody wants to be told of, without those it refused."""
        ...

    def settled(self, backend_key: str, uri: str, refusal: RpcError | None) -> None:
        """A URI is followed from now on, or the backend refuses it."""
        ...

    def updated(self, backend_key: str, uri: str) -> None:
        """A resource has changed, or one below it."""
        ...


class NobodyWatches:
    """A `Watch` without wishes, for links that stand alone."""

    def wanted(self, backend_key: str) -> frozenset[str]:  # noqa: ARG002 - the protocol's signature
        """As `Watch.wanted`."""
        return frozenset()

    def settled(self, backend_key: str, uri: str, refusal: RpcError | None) -> None:
        """As `Watch.settled`."""

    def updated(self, backend_key: str, uri: str) -> None:
        """As `Watch.updated`."""


@dataclass(eq=False, slots=True)
class _Stream:
    """One `Door.follow`. `uris`: what was asked, then what was granted; `ready`: that is known, or it is over."""

    uris: frozenset[str]
    task: asyncio.Task[None] | None = None
    ready: Flag = field(default_factory=Flag)
    refusals: dict[str, RpcError] = field(default_factory=dict)
    over: bool = False


class Following:
    """One door's follower. Sole writer: the task that runs `run`, with its children; `look` only wakes it.

    `wake` is set when there is something to do; until it is for the first time, nobody need run it.
    """

    def __init__(self, door: Door, backend_key: str, watch: Watch, meta: Json | None = None) -> None:
        """`meta` goes along with every stream that is asked for."""
        self._door = door
        self._backend = backend_key
        self._watch = watch
        self._meta = meta
        self._streams: set[_Stream] = set()
        self.wake = Flag()
        self._short_streams = 0

    def __repr__(self) -> str:
        return f"<Following {self._backend} {[len(stream.uris) for stream in self._streams]}>"

    def look(self) -> None:
        """What is wanted may have changed."""
        if self._streams or self._watch.wanted(self._backend):
            self.wake.set()

    async def run(self) -> NoReturn:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self.wake.wait()
                self.wake.clear()
                wanted = self._watch.wanted(self._backend)
                if wanted and not self._can_tell():
                    for uri in wanted:
                        self._watch.settled(self._backend, uri, no_updates(self._backend))
                else:
                    await self._follow(wanted, group)

    def _can_tell(self) -> bool:
        resources = self._door.hello.capabilities.get("resources")
        return isinstance(resources, dict) and resources.get("subscribe") is True

    async def _follow(self, wanted: frozenset[str], group: asyncio.TaskGroup) -> None:
        """One step towards `wanted`."""
        replaced = changed_streams(wanted, {stream: stream.uris for stream in self._streams})
        missing = wanted.difference(*(stream.uris for stream in self._streams - replaced))
        begun = [_Stream(frozenset(uris)) for uris in chunks(missing)]
        for stream in begun:
            self._streams.add(stream)
            stream.task = group.create_task(self._hold(stream), name=f"follow {len(stream.uris)} of {self._backend}")
        for stream in begun:
            await stream.ready.wait()
        # What has ended meanwhile has left a gap.
        before = frozenset[str]().union(*(stream.uris for stream in replaced & self._streams))
        for stream in begun:
            self._tell(stream, before)
        # Where one did not come about, what it would have replaced is better than nothing.
        if not any(stream.over for stream in begun):
            for stream in replaced & self._streams:
                self._end(stream)

    def _tell(self, stream: _Stream, before: frozenset[str]) -> None:
        for uri, refusal in stream.refusals.items():
            if not (stream.over and uri in before):
                self._watch.settled(self._backend, uri, refusal)
        if not stream.over:
            for uri in stream.uris - before:
                self._watch.settled(self._backend, uri, None)

    def _end(self, stream: _Stream) -> None:
        self._streams.discard(stream)
        assert stream.task is not None
        stream.task.cancel()

    async def _hold(self, stream: _Stream) -> None:
        """Follow one set of URIs until that ends, and see to it that it is followed anew then."""
        asked = stream.uris

        def granted(uris: frozenset[str], refusals: Mapping[str, RpcError]) -> None:
            stream.uris = uris
            stream.refusals = {uri: refusals.get(uri) or not_told_of(uri) for uri in asked - uris}
            stream.ready.set()

        updates = Updates(asked, granted, lambda uri: self._watch.updated(self._backend, uri), self._meta)
        loop = asyncio.get_running_loop()
        began_at_s = loop.time()
        reason = ""
        try:
            await self._door.follow(updates)
        except MeshError as exc:
            reason = str(exc)
            if not updates.acknowledged and isinstance(exc, RpcError | ListenNotSupported):
                refusal = exc if isinstance(exc, RpcError) else no_updates(self._backend)
                stream.refusals = stream.refusals or dict.fromkeys(asked, refusal)
        stream.over = True
        stream.ready.set()
        self._streams.discard(stream)
        if updates.acknowledged or not stream.refusals:
            log.info("MCP resource updates interrupted", extra={"backend": self._backend, "reason": reason})
            loop.call_later(PAUSES_S[min(self._short_streams, len(PAUSES_S) - 1)], self.wake.set)
            self._short_streams = 0 if loop.time() - began_at_s >= STEADY_S else self._short_streams + 1


def follower(door: Door, spec: BackendSpec, own: NodeIdentity, watch: Watch) -> Following:
    """The follower of a link's new door. A gateway is told that the wish has passed us, and may not come round."""
    is_gateway = isinstance(spec, PeerSpec) and spec.scope is PeerScope.MESH
    return Following(door, spec.key, watch, {PATH_META_KEY: [own.node_id]} if is_gateway else None)


def changed_streams(wanted: frozenset[str], streams: Mapping[S, frozenset[str]]) -> set[S]:
    """The streams to replace: those that follow too much, and the smallest one where something is to be added."""
    changed = {stream for stream, uris in streams.items() if not uris <= wanted}
    kept = {stream: uris for stream, uris in streams.items() if stream not in changed}
    missing = wanted.difference(*kept.values())
    if missing and kept:
        smallest = min(kept, key=lambda stream: len(kept[stream]))
        if len(kept[smallest]) + len(missing) <= URIS_PER_STREAM_MAX:
            changed.add(smallest)
    return changed


def chunks(uris: Iterable[str]) -> list[list[str]]:
    """Cut into what one stream may follow."""
    cut: list[list[str]] = []
    room_bytes = 0
    for uri in sorted(uris):
        size = len(uri.encode("utf-8", "replace"))
        if not cut or len(cut[-1]) == URIS_PER_STREAM_MAX or size > room_bytes:
            cut.append([])
            room_bytes = URI_BYTES_PER_STREAM_MAX
        cut[-1].append(uri)
        room_bytes -= size
    return cut


def no_updates(backend_key: str) -> RpcError:
    """A server that tells of no updates answers like this itself."""
    return RpcError(METHOD_NOT_FOUND, f"{backend_key} tells of no updates of its resources")


def not_told_of(uri: str) -> RpcError:
    """The server acknowledged others, but not this one."""
    return RpcError(INVALID_PARAMS, "The server tells of no updates of this resource", {"uri": uri})
