"""One call to a server with sessions, which may send server requests to its caller meanwhile: its state so far.

Made by `agent.client.sessions.calls` for calls of callers that accept server requests. The call runs in a task of its
own, so that it continues between the caller's attempts; each attempt waits here for server requests or the end. The one
rule: a server request gets one reply, the caller's or a refusal, and none is left open when the call is over.
"""

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

from agent.authority.caller import caller as present_caller
from agent.client import jsonrpc
from agent.client.capabilities import refusal
from agent.client.event import Event
from agent.client.negotiation import PING
from agent.client.server_info import OnNotification
from agent.client.sessions.client_tasks import TASK_REQUESTS, ClientTask, ClientTasks
from agent.client.sessions.shares import Owner
from agent.client.streaming import LargeResult, MakeRewriter, ResultStream
from agent.errors import GIVEN_UP, OUTCOME_UNKNOWN, AnswerCut, CallOutcomeUnknown, MeshError, RpcError
from agent.lossless_json.exact import is_deeper_than
from agent.lossless_json.raw import Bytes
from agent.model import Json
from agent.rpc_codes import INTERNAL_ERROR, INVALID_PARAMS

# Notifications that no attempt has taken yet; a stream that can wait does, otherwise the newest are dropped.
UNREAD_MAX: Final = 256
# How long a caller may leave a server request unanswered while another waits for its place: forms take seconds.
CONTESTED_PATIENCE_S: Final = 15.0
# Open server requests of one call; no user answers more at a time.
SERVER_REQUESTS_MAX: Final = 16
# A server request passes through results that are serialized anew, which works 254 levels deep; forms are flat.
SERVER_REQUEST_NESTING_MAX: Final = 200

_TOO_DEEP: Final = (INVALID_PARAMS, f"The server request is nested more than {SERVER_REQUEST_NESTING_MAX} levels deep")
_TOO_MANY: Final = (INTERNAL_ERROR, "Too many server requests are open already")


class PendingResult(dict[str, Any]):
    """An `input_required` result of a pending call; the type shows that our own client made it, and no server."""


@dataclass(slots=True)
class _ServerRequest:
    """A server's request, and whether the caller has seen it.

    `task`: its server made it as one, which has its ID. `of_session`: the message, of one that named no call.
    """

    request_id: Any
    method: str
    params: Json
    reported: bool = False
    task: ClientTask | None = None
    of_session: Json | None = None

    def answered(self, answer: Json) -> list[bytes]:
        """The replies, now that the caller has answered."""
        if self.task is not None:
            return self.task.settle(answer, "completed")
        return [jsonrpc.encode_result(self.request_id, answer)]

    def failed(self, error: RpcError) -> list[bytes]:
        """The replies, now that it cannot be answered."""
        if self.task is not None:
            return self.task.settle(error, "failed")
        return [jsonrpc.encode_error(self.request_id, error.code, error.message, error.data)]


# Called with what happened to a pending call (the events of docs/metrics.md) and the change of their number.
OnPending: TypeAlias = Callable[[str, int], None]


def unheard(_event: str, _waiting: int) -> None:
    """An `OnPending` that counts nothing."""


class TakesAnswers(Protocol):
    """The session that a call was sent in."""

    async def answer(self, reply: bytes, *, timeout_s: float) -> None:
        """Send a message that has no answer: the reply to a server request, or a notification.

        Raises `CallOutcomeUnknown`: it may never arrive.
        """
        ...


class PendingCall:
    """See the module. `features`: the caller's capabilities. `caller`: its affinity key, None for callers without one.

    `task` runs the call, in `client` once it may have been sent.

    `answered`: the server has had a reply of this caller. `away_since_s`: when the caller got a server request that it
    has not answered yet, in loop time. `given_up`: the failure that an abandoned call ends with, once that is decided.

    Long because the attempts that wait, the server requests and the end of a call are one state.
    """

    def __init__(self, features: Json, caller: str | None = None) -> None:
        self.features = features
        self.owner = Owner(present_caller().grant.name, caller)
        self.answered = False
        self.away_since_s: float | None = None
        self.given_up: MeshError | None = None
        self.client: TakesAnswers | None = None
        self.task: asyncio.Task[None] | None = None
        self._requests: dict[str, _ServerRequest] = {}
        self._tasks = ClientTasks()
        self._owed: list[bytes] = []  # To a server that cancelled a task whose result it waits for.
        self._keys = itertools.count(1)
        self._unread: deque[tuple[str, Json]] = deque()
        self._attended = False
        self._outcome: Json | MeshError | None = None
        self._any_requested = Event()
        self._settled = Event()
        self._beginning: asyncio.Future[bool] | None = None  # A large result waits for an attempt that takes it.
        self._taker: LargeResult | None = None
        self._large: LargeResult | None = None
        self._wake = asyncio.Event()
        self._room = asyncio.Event()

    def __repr__(self) -> str:
        """The number of open server requests; never their content."""
        state = "over" if self._outcome is not None else "open"
        return f"<PendingCall {state}, {len(self._requests)} server requests, {len(self._unread)} unread>"

    @property
    def is_over(self) -> bool:
        """Whether the result or the failure is there, or comes as soon as an attempt takes it."""
        return self._outcome is not None or self._beginning is not None

    # From the session

    def ask(self, message: Json, *, of_session: bool = False) -> bytes | None:
        """Take a server request; as `OnServerRequest`. `of_session`: it named no call."""
        method, params = message["method"], jsonrpc.params_of(message)
        if method == PING:
            return jsonrpc.encode_reply(message)
        if method in TASK_REQUESTS:
            return self._about_task(message["id"], method, params)
        refused = refusal(self.features, method, params)
        if refused is None and is_deeper_than(params, SERVER_REQUEST_NESTING_MAX):
            refused = _TOO_DEEP
        if refused is None and len(self._requests) >= SERVER_REQUESTS_MAX:
            refused = _TOO_MANY
        task, wanted = None, params.get("task")
        if refused is None and isinstance(wanted, dict):
            params = {member: value for member, value in params.items() if member != "task"}
            task = self._tasks.begin(wanted)
            refused = _TOO_MANY if task is None else None
        if refused is not None:
            return jsonrpc.encode_error(message["id"], *refused)
        kept = message if of_session and task is None else None
        asked = _ServerRequest(message["id"], method, params, task=task, of_session=kept)
        self._requests[f"question-{next(self._keys)}"] = asked
        self._any_requested.set()
        self._wake.set()
        return None if task is None else jsonrpc.encode_result(message["id"], {"task": task.task})

    def has_task(self, params: Json) -> bool:
        """Whether a server request with these params is about a task that the server made of one before."""
        return self._tasks.knows(params)

    def _about_task(self, request_id: Any, method: str, params: Json) -> bytes | None:
        replies, cancelled = self._tasks.about(request_id, method, params)
        for key in [key for key, one in self._requests.items() if cancelled is not None and one.task is cancelled]:
            del self._requests[key]
            self._settled.set()
        self._owed += replies[1:]
        return replies[0] if replies else None

    async def notify(self, method: str, params: Json) -> None:
        """Take a notification of the request's own stream, which waits while the caller is slow."""
        while self._attended and len(self._unread) >= UNREAD_MAX:
            self._room.clear()
            await self._room.wait()
        self.hear(method, params)

    def hear(self, method: str, params: Json) -> None:
        """Take a notification from where nothing can wait."""
        if method == jsonrpc.CANCELLED_METHOD:
            self._withdraw(params.get("requestId"))
        elif self._taker is None and len(self._unread) < UNREAD_MAX:  # Dropped in the middle of a result.
            self._unread.append((method, params))
            self._wake.set()

    def end(self, outcome: Json | MeshError) -> None:
        """Take the result or the failure. No server request is open any more."""
        self._outcome = outcome
        self._requests.clear()
        self._wake.set()

    async def asked_within(self, wait_s: float) -> None:
        """Wait for a first server request, at most for so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._any_requested.wait()

    async def settled(self) -> None:
        """Wait until no server request is open, and the server has the replies."""
        while self._requests:
            self._settled.clear()
            await self._settled.wait()

    def large_result(self, make_rewriter: MakeRewriter) -> LargeResult:
        """The sink of its request: a result in parts goes to the attempt that waits for news then."""
        self._large = LargeResult(ResultStream(self._begin, self._part, self._end, {}), make_rewriter)
        return self._large

    async def _begin(self) -> bool:
        """Wait for an attempt, which may be a later one than the last."""
        self._beginning = asyncio.get_running_loop().create_future()
        self._wake.set()
        return await self._beginning

    async def _part(self, part: Bytes) -> None:
        assert self._taker is not None, "it has begun"
        try:
            await self._taker.part(part)
        except ConnectionError as exc:
            raise AnswerCut("the client went away in the middle of a large result") from exc

    async def _end(self) -> None:
        assert self._taker is not None, "it has begun"
        assert self._large is not None, "it has begun"
        try:
            await self._taker.end(is_error=self._large.ended_with_error is True)
        except ConnectionError as exc:
            raise AnswerCut("the client went away at the end of a large result") from exc

    # For attempts

    async def news(self, on_notification: OnNotification | None, large: LargeResult | None) -> Json | None:
        """Wait for the result; None when there are server requests. Raises the failure that the call ended with.

        Once `large` has begun to take a result, server requests are not returned any more.
        """
        self._attended = True
        try:
            while True:
                while self._unread:
                    method, params = self._unread.popleft()
                    self._room.set()
                    if on_notification is not None:
                        await on_notification(method, params)
                if isinstance(self._outcome, MeshError):
                    raise self._outcome
                if self._beginning is not None:
                    beginning, self._beginning = self._beginning, None
                    if large is not None and await large.begin():
                        self._taker = large
                    if not beginning.done():  # Else the call was given up meanwhile.
                        beginning.set_result(self._taker is not None)
                if self._outcome is not None or (self._requests and self._taker is None):
                    return self._outcome
                self._wake.clear()
                await self._wake.wait()
        finally:
            self._attended = False
            self._room.set()

    def server_requests(self) -> Json:
        """The open server requests as `inputRequests`: the server's own params, unchanged."""
        for request in self._requests.values():
            request.reported = True
        return {key: {"method": request.method, "params": request.params} for key, request in self._requests.items()}

    def answer(self, answers: Json, refused: Mapping[str, RpcError]) -> list[bytes]:
        """The replies to the server requests that the caller answered or refused; the others are reported again."""
        reported = {key for key, request in self._requests.items() if request.reported}
        given, not_given = answers.keys() & reported, (refused.keys() & reported) - answers.keys()
        replies, self._owed = self._owed, []
        for key in given:
            replies += self._requests.pop(key).answered(answers[key])
        for key in not_given:
            replies += self._requests.pop(key).failed(refused[key])
        self.answered |= bool(given or not_given)
        if given or not_given or not self._requests:
            self.away_since_s = None
        return replies

    def taken_back(self, count_max: int) -> list[Json]:
        """The open server requests that named no call, which this one need not answer any more."""
        found = [(key, one.of_session) for key, one in self._requests.items() if one.of_session is not None]
        for key, _ in found[:count_max]:
            del self._requests[key]
        return [message for _, message in found[:count_max]]

    def refuse(self, why: str, code: int = INTERNAL_ERROR) -> list[bytes]:
        """Refusals of all open server requests."""
        replies, self._owed = self._owed, []
        for request in self._requests.values():
            replies += request.failed(RpcError(code, why))
        self._requests.clear()
        return replies

    def give_up(self, *, contested: bool = False) -> None:
        """End the call: its caller has gone, or others need its place. Its task cancels the request at the server."""
        if contested:
            left = "The client left a server request unanswered while others waited"
            why = f"{left}; the call may have been executed in part"
            self.given_up = RpcError(OUTCOME_UNKNOWN, why, {"outcome": "unknown", "reason": GIVEN_UP})
        else:
            self.given_up = CallOutcomeUnknown.for_clients("the call was given up")
        if self.task is not None and not self.task.cancelling():  # Another cancellation would cut its clean-up short.
            self.task.cancel()

    async def send(self, replies: Iterable[bytes], *, timeout_s: float) -> None:
        """Send replies to server requests. Raises `CallOutcomeUnknown`: they may never arrive."""
        try:
            for reply in replies:
                assert self.client is not None, "a server request belongs to a call that was sent"
                await self.client.answer(reply, timeout_s=timeout_s)
        finally:
            self._settled.set()

    def _withdraw(self, request_id: Any) -> None:
        """Drop a server request that the server has cancelled; one that is a task was answered with that already."""
        self._tasks.withdraw(request_id)
        for key, request in tuple(self._requests.items()):
            if request.request_id == request_id and request.task is None:
                del self._requests[key]
                self._settled.set()
