"""One client's session of the era before 2026-07-28: its capabilities, its calls, and the messages to it.

Made and ended by `agent.server.sessions.table`, looked up for every message that names it. The one rule: all that
belongs to a session (calls, server requests, streams) ends with it.
"""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias

import orjson

from agent.authority.grant import ANYONE, Grant
from agent.client.event import Event
from agent.dispatch.client_events import CalledBackend
from agent.errors import NOT_EXECUTED, AnswerCut, MCPError
from agent.lossless_json.exact import read_json
from agent.lossless_json.raw import Bytes
from agent.lossless_json.unread import Unread
from agent.model import Json
from agent.rpc_codes import CONNECTION_CLOSED, INTERNAL_ERROR, INVALID_REQUEST
from agent.server.fast_path.connection import Unwaited
from agent.server.response import EventStream
from agent.server.sessions.resumption import CallStream
from agent.server.sessions.tasks import TaskTalks
from agent.subscriptions.registry import Subscriber
from agent.subscriptions.resources import ResourceNews
from agent.subscriptions.sessions import SessionNews
from agent.subscriptions.tasks import TaskNews
from agent.tasks.ids import without_tasks

log = logging.getLogger(__name__)

# As many as the largest hosts have open at once, tenfold; each may hold a body of 4 MiB and a connection.
CALLS_MAX: Final = 256
# Notifications that wait for a client that does not listen, equal ones once: changes of lists, and all that a client
# may subscribe to (agent.subscriptions.registry) with as much again below that.
NOTES_MAX: Final = 2_010
# The largest event of the reference clients.
SERVER_REQUEST_BYTES_MAX: Final = 1 << 20
# Servers that a client has called, and replicas of each.
CALLED_BACKENDS_MAX: Final = 256
# A few kinds of clients declare the same; each entry is 8 KiB at most.
_DECLARED_REMEMBERED_MAX: Final = 64
# Declared at `initialize`, unknown to 2026-07-28 under this name.
_GONE: Final = frozenset({"tasks"})
# The cancellation of a server request may not delay the caller that cancelled it.
_CANCEL_NOTE_TIMEOUT_S: Final = 1.0

RequestId: TypeAlias = str | int
# A call's end: the parts of the result as JSON, or the error to answer with, or `AnswerCut` after a part was sent.
Outcome: TypeAlias = tuple[Bytes, ...] | MCPError | AnswerCut
Tell: TypeAlias = Callable[[bytes], Awaitable[None]]


class RunningCall(NamedTuple):
    """A call under way, until it has `ended`.

    `stream`: the way back to its client; None in a batch, which is answered as one.
    """

    task: asyncio.Task[Outcome]
    stream: CallStream | None
    ended: Event


@dataclass(slots=True, eq=False, repr=False)
class ServerSession:
    """One session. Written by the event loop's requests that name it, and by the table; times are loop time.

    `version`: negotiated. `declared`: the client's capabilities as JSON; read, they would take twenty times the memory.
    `notices`: whether it is sent list changes. `grant`: of the token with which it was begun.
    `log_level`: that of `logging/setLevel`. `subscriber`: its subscriptions, since the first `resources/subscribe`.
    `upstream`: those to what servers tell in sessions of its own; `tasks`: those to its tasks.
    `stream`: the open GET stream. `deaf`: no answer of the client can arrive any more.
    `called_backends`: those of the client's calls, the last one last. `chore`: the task that notifies servers of
    changed roots; `roots_unreported`: they have changed since it last did. `adopted`: until other nodes were asked what
    the client of a session from elsewhere has gained there; held meanwhile. `unwaited`: the calls without a task, kept
    by those who start and end them.

    Long because the calls of a client, the requests to it and its stream end together.
    """

    id: str
    version: str
    declared: bytes
    used_at_s: float
    log_level: str | None = None
    subscriber: Subscriber[ResourceNews] | None = None
    upstream: Subscriber[SessionNews] | None = None
    tasks: Subscriber[TaskNews] | None = None
    stream: EventStream | None = None
    deaf: bool = False
    called_backends: tuple[CalledBackend, ...] = ()
    roots_unreported: bool = False
    notices: bool = True
    grant: Grant = ANYONE
    adopted: asyncio.Lock | None = None
    # Cancels a call of this ID at other processes of this node; None where no other process may have one.
    elsewhere: Callable[[RequestId], None] | None = None
    # Called when a level of the log is set, which calls at other processes would not have.
    leveled: Callable[[], None] | None = None
    chore: asyncio.Task[None] | None = None
    _task_talks: TaskTalks | None = None
    # Whole messages, and URIs of updates: as texts, since many sessions may wait for the very same one.
    _notes: dict[bytes | str, None] = field(default_factory=dict)
    _notes_lost: bool = False
    # By the ID as it came: 1 and "1" are two.
    _calls: dict[RequestId, RunningCall] = field(default_factory=dict)
    unwaited: dict[RequestId, Unwaited] = field(default_factory=dict)
    _server_requests: dict[str, asyncio.Future[Json | Unread | MCPError]] = field(default_factory=dict)
    _server_request_ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __repr__(self) -> str:
        listens = " listening" if self.stream is not None else ""
        calls, requests = len(self._calls), len(self._server_requests)
        return f"<Session {self.version} calls={calls} server_requests={requests}{listens}>"

    @property
    def binding(self) -> str:
        """Whose it is (`agent.authority.grant`)."""
        return self.grant.binding

    @property
    def capabilities(self) -> Json:
        """The client's capabilities."""
        capabilities: Json = read_json(self.declared)
        return capabilities

    @property
    def declared_to_servers(self) -> Json:
        """The client's capabilities as they are passed to servers of either era. Not to be changed."""
        return _declared_to_servers(self.declared)

    @property
    def task_talks(self) -> TaskTalks:
        """State that its requests about tasks share; most sessions have none."""
        if self._task_talks is None:
            self._task_talks = TaskTalks()
        return self._task_talks

    def called(self, backend: str, owner: str) -> CalledBackend:
        """Note the backend of a call; of too many, the one called longest ago is forgotten."""
        last = self.called_backends[-1] if self.called_backends else None
        if last is not None and last.backend == backend and last.owner == owner:
            return last
        target = CalledBackend(backend, owner)
        others = (other for other in self.called_backends if other != target)
        self.called_backends = (*others, target)[-CALLED_BACKENDS_MAX:]
        return target

    @property
    def busy(self) -> bool:
        """Whether something is under way, so that the session is not idle however long ago its last request was."""
        return bool(self._calls or self.unwaited) or self.stream is not None

    # Calls

    def is_taken(self, request_id: RequestId) -> bool:
        """Whether no call of this ID may begin now: `check_call` says why."""
        calls, unwaited = self._calls, self.unwaited
        return request_id in calls or request_id in unwaited or len(calls) + len(unwaited) >= CALLS_MAX

    def check_call(self, request_id: RequestId) -> None:
        """Raise `MCPError` when no call of this ID may begin now."""
        if request_id in self._calls or request_id in self.unwaited:
            raise MCPError(code=INVALID_REQUEST, message=f"A request of the ID {request_id!r} is still being served")
        if len(self._calls) + len(self.unwaited) >= CALLS_MAX:
            data = {"outcome": "not_executed", "replica": None, "bytes_sent": False}
            raise MCPError(
                code=NOT_EXECUTED,
                message=f"The session has {CALLS_MAX} requests under way, which is the limit",
                data=data,
            )

    def add_call(
        self, request_id: RequestId, task: asyncio.Task[Outcome], stream: CallStream | None = None
    ) -> RunningCall:
        """Keep a call until its task is done."""
        call = self._calls[request_id] = RunningCall(task, stream, Event())

        def end(_: object) -> None:
            self._calls.pop(request_id, None)
            call.ended.set()

        task.add_done_callback(end)
        return call

    def open_call(self, request_id: RequestId) -> RunningCall | None:
        """The call of this ID, while it is under way; it has a task from now on."""
        if (unwaited := self.unwaited.get(request_id)) is not None:
            unwaited.leave()
        return self._calls.get(request_id)

    def cancel_call(self, request_id: object) -> None:
        """The client has cancelled a call; an unknown ID may be of one that was answered meanwhile."""
        # By exact type: true equals 1 as a key.
        if isinstance(request_id, bool) or not isinstance(request_id, str | int):
            return
        if request_id in self._calls or request_id in self.unwaited:
            self._cancel(request_id)
        elif self.elsewhere is not None:
            self.elsewhere(request_id)

    def cut_off(self) -> None:
        """End every call with an answer: its outcome will not be known."""
        for request_id in (*self._calls, *self.unwaited):
            call = self._calls.get(request_id)
            if call is None or call.stream is not None:
                self._cancel(request_id, is_lost=True)

    def _cancel(self, request_id: RequestId, *, is_lost: bool = False) -> None:
        call = self.open_call(request_id)
        assert call is not None, "it is under way"
        if call.stream is not None:
            call.stream.is_lost |= is_lost
        # After its first step: only what has begun knows how to end.
        asyncio.get_running_loop().call_soon(_cancel_once, call.task)

    # Server requests

    async def ask(self, tell: Tell, method: str, params: Json) -> Json | Unread:
        """Send a request to the client with `tell`, and wait for its answer; the caller sets the deadline.

        Raises:
            MCPError: the client's error, or the request cannot be sent.
            ConnectionError: `tell`'s.
        """
        if self.deaf:
            raise _never_answered()
        server_request_id = next(self._server_request_ids)
        request = orjson.dumps({"jsonrpc": "2.0", "id": server_request_id, "method": method, "params": params})
        if len(request) > SERVER_REQUEST_BYTES_MAX:
            raise MCPError(
                code=INTERNAL_ERROR, message=f"the server request is larger than {SERVER_REQUEST_BYTES_MAX} bytes"
            )
        answered = self._server_requests[str(server_request_id)] = asyncio.get_running_loop().create_future()
        try:
            await tell(request)
            answer: Json | Unread | MCPError = await answered
        except asyncio.CancelledError:
            off = {"requestId": server_request_id, "reason": "the answer is no longer awaited"}
            note = orjson.dumps({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": off})
            with contextlib.suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(_CANCEL_NOTE_TIMEOUT_S):
                    await tell(note)
            raise
        finally:
            del self._server_requests[str(server_request_id)]
        if isinstance(answer, MCPError):
            raise answer
        return answer

    def take_answer(self, message: Json) -> None:
        """Give a response of the client to the task that waits for it; one without such a task is dropped."""
        answered = self._server_requests.get(str(message.get("id")))
        if answered is None or answered.done():
            return
        result, error = message.get("result"), message.get("error")
        # An error is a value until it is taken: it must not be raised for a server request that was cancelled
        # meanwhile.
        answered.set_result(
            result if isinstance(result, dict | Unread) else _error_of(error if isinstance(error, dict) else {})
        )

    def go_deaf(self) -> None:
        """No answer can arrive any more: every open server request fails."""
        self.deaf = True
        for answered in self._server_requests.values():
            if not answered.done():
                answered.set_result(_never_answered())

    # Notifications

    def tell(self, note: bytes) -> None:
        """Send the client a notification, once, as soon as it listens and reads; never waits."""
        self._keep(note)

    def updated(self, news: ResourceNews) -> None:
        """Notify the client of a change of a resource that it has subscribed to."""
        self._keep(news.uri)

    def take_notes(self) -> list[bytes]:
        """Take the waiting notifications, in the order of their first arrival."""
        notes, self._notes, self._notes_lost = self._notes, {}, False
        return [note if isinstance(note, bytes) else _update_of(note) for note in notes]

    def _keep(self, note: bytes | str) -> None:
        if len(self._notes) < NOTES_MAX or note in self._notes:
            self._notes[note] = None
        elif not self._notes_lost:
            self._notes_lost = True
            log.warning("MCP notifications dropped, their client does not listen", extra={"limit": NOTES_MAX})
        if self.stream is not None:
            self.stream.nudge()

    # The end

    def end(self) -> None:
        """End all that is under way. The table does this when it forgets the session."""
        if self.subscriber is not None:
            self.subscriber.close()
            self.subscriber = None  # They refer to each other; else only the garbage collector would free them.
        for followed in (self.upstream, self.tasks):
            if followed is not None:
                followed.close()
        self.upstream = self.tasks = None
        self._notes.clear()
        for request_id in (*self._calls, *self.unwaited):
            self._cancel(request_id)
        if self.chore is not None:
            self.chore.cancel()
        if self.stream is not None:
            self.stream.end()


@lru_cache(maxsize=_DECLARED_REMEMBERED_MAX)
def _declared_to_servers(declared: bytes) -> Json:
    # A null is no feature; a server may take the member alone for one.
    known: Json = read_json(declared)
    kept = {name: value for name, value in known.items() if name not in _GONE and value is not None}
    return without_tasks(kept)  # No client of this era can request a task of 2026-07-28.


def _cancel_once(task: asyncio.Task[Outcome]) -> None:
    """A call that is being cancelled still notifies client and server; another cancellation would cut that short."""
    if not task.cancelling():
        task.cancel()


def _update_of(uri: str) -> bytes:
    note = {"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": uri}}
    return orjson.dumps(note)


def _never_answered() -> MCPError:
    return MCPError(code=CONNECTION_CLOSED, message="this node shuts down, and can hear no answer any more")


def _error_of(error: dict[str, Any]) -> MCPError:
    code, text = error.get("code"), error.get("message")
    return MCPError(
        code=code if isinstance(code, int) else INTERNAL_ERROR,
        message=text if isinstance(text, str) else "an answer without a result",
        data=error.get("data"),
    )
