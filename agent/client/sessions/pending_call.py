"""One request to a server with sessions, which may ask its caller while it works: what came of it so far.

Made by `session_router` for calls of callers that can be asked. The request runs in a task of its own, so that it goes
on while nobody waits for it; each attempt of the caller waits for news here: questions, or the end. The one rule: a
question is answered once, by the caller's answer or by a refusal, and none is left when the request is over.
"""

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

from mcp_types.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS

from agent.client import jsonrpc
from agent.client.capabilities import refusal
from agent.client.event import Event
from agent.client.negotiation import PING
from agent.client.server_info import OnNotification
from agent.client.streaming import LargeResult, MakeRewriter, ResultStream
from agent.errors import GIVEN_UP, OUTCOME_UNKNOWN, AnswerCut, CallOutcomeUnknown, MeshError, RpcError
from agent.lossless_json.exact import is_deeper_than
from agent.lossless_json.raw import Bytes
from agent.model import Json

# Notifications that nobody has taken yet; a stream that can wait does, of another the newest are dropped.
UNREAD_MAX: Final = 256
# How long a caller may leave a question alone while another waits for its place: a form takes seconds to fill in.
CONTESTED_PATIENCE_S: Final = 15.0
# Open questions of one call; no user answers more at a time.
SERVER_REQUESTS_MAX: Final = 16
# A question passes through results that are written anew, which can be done 254 levels deep; forms are flat.
SERVER_REQUEST_NESTING_MAX: Final = 200

_TOO_DEEP: Final = (INVALID_PARAMS, f"The question is nested more than {SERVER_REQUEST_NESTING_MAX} levels deep")
_TOO_MANY: Final = (INTERNAL_ERROR, "Too many questions are open already")


@dataclass(slots=True)
class _ServerRequest:
    """A server's request, and whether the caller has seen it."""

    request_id: Any
    method: str
    params: Json
    told: bool = False


# Hears what becomes of calls that wait for their callers, by a word (docs/metrics.md), and how many more wait since.
OnPending: TypeAlias = Callable[[str, int], None]


def unheard(_event: str, _waiting: int) -> None:
    """The `OnPending` of where nobody counts."""


class TakesAnswers(Protocol):
    """The session that a call was sent in."""

    async def answer(self, reply: bytes, *, timeout_s: float) -> None:
        """Send a message that has no answer: the reply to a request of the server's own, or a notification.

        Raises `CallOutcomeUnknown`: it may never hear it.
        """
        ...


class PendingCall:
    """See the module. `features` are the caller's, `caller` is its affinity: None for all who have no key.

    `task` runs the request, in `client` once it may have been sent.

    `answered`: the server knows something of this caller now. `away_since_s`: when its caller was asked what it has
    not answered yet, in loop time. `given_up`: what a call that nobody waits for ends with, once that is decided.
    """

    def __init__(self, features: Json, caller: str | None = None) -> None:
        self.features = features
        self.caller = caller
        self.answered = False
        self.away_since_s: float | None = None
        self.given_up: MeshError | None = None
        self.client: TakesAnswers | None = None
        self.task: asyncio.Task[None] | None = None
        self._questions: dict[str, _ServerRequest] = {}
        self._keys = itertools.count(1)
        self._unread: deque[tuple[str, Json]] = deque()
        self._waited_for = False
        self._outcome: Json | MeshError | None = None
        self._asked = Event()
        self._settled = Event()
        self._beginning: asyncio.Future[bool] | None = None  # A large result waits for somebody who takes it.
        self._taker: LargeResult | None = None
        self._wake = asyncio.Event()
        self._room = asyncio.Event()

    def __repr__(self) -> str:
        """What is open; never what it is about."""
        state = "over" if self._outcome is not None else "open"
        return f"<OpenCall {state}, {len(self._questions)} questions, {len(self._unread)} unread>"

    @property
    def is_over(self) -> bool:
        """Whether the result or the failure is there, or comes as soon as somebody takes it."""
        return self._outcome is not None or self._beginning is not None

    # What the session tells

    def ask(self, message: Json) -> bytes | None:
        """Take a server's request; as `OnServerRequest`."""
        method, params = message["method"], jsonrpc.params_of(message)
        if method == PING:
            return jsonrpc.encode_reply(message)
        refused = refusal(self.features, method, params)
        if refused is None and is_deeper_than(params, SERVER_REQUEST_NESTING_MAX):
            refused = _TOO_DEEP
        if refused is None and len(self._questions) >= SERVER_REQUESTS_MAX:
            refused = _TOO_MANY
        if refused is not None:
            return jsonrpc.encode_error(message["id"], *refused)
        self._questions[f"question-{next(self._keys)}"] = _ServerRequest(message["id"], method, params)
        self._asked.set()
        self._wake.set()
        return None

    async def notify(self, method: str, params: Json) -> None:
        """Take a notification of the request's own stream, which waits while the caller is slow."""
        while self._waited_for and len(self._unread) >= UNREAD_MAX:
            self._room.clear()
            await self._room.wait()
        self.hear(method, params)

    def hear(self, method: str, params: Json) -> None:
        """Take a notification from where nothing can wait."""
        if method == jsonrpc.CANCELLED_METHOD:
            self._withdraw(params.get("requestId"))
        elif self._taker is None and len(self._unread) < UNREAD_MAX:  # In the middle of a result nothing can be told.
            self._unread.append((method, params))
            self._wake.set()

    def end(self, outcome: Json | MeshError) -> None:
        """Take the result or the failure. Nobody is asked any more."""
        self._outcome = outcome
        self._questions.clear()
        self._wake.set()

    async def asked_within(self, wait_s: float) -> None:
        """Wait for a first question, at most for so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._asked.wait()

    async def settled(self) -> None:
        """Wait until nothing is asked any more, and the server has what was answered."""
        while self._questions:
            self._settled.clear()
            await self._settled.wait()

    def large_result(self, make_rewriter: MakeRewriter) -> LargeResult:
        """What its request is sent with: a result that comes in parts goes to the attempt that waits for news then."""
        return LargeResult(ResultStream(self._begin, self._part, self._end, {}), make_rewriter)

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
        try:
            await self._taker.end()
        except ConnectionError as exc:
            raise AnswerCut("the client went away at the end of a large result") from exc

    # What attempts do

    async def news(self, on_notification: OnNotification | None, large: LargeResult | None) -> Json | None:
        """Wait for the result; None when the caller is asked. Raises what the request ended with.

        Once `large` has begun to take a result, nobody is asked any more.
        """
        self._waited_for = True
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
                    if not beginning.done():  # Else the request was given up meanwhile.
                        beginning.set_result(self._taker is not None)
                if self._outcome is not None or (self._questions and self._taker is None):
                    return self._outcome
                self._wake.clear()
                await self._wake.wait()
        finally:
            self._waited_for = False
            self._room.set()

    def questions(self) -> Json:
        """The open questions as `inputRequests`: the server's own params, unchanged."""
        for question in self._questions.values():
            question.told = True
        return {key: {"method": asked.method, "params": asked.params} for key, asked in self._questions.items()}

    def answer(self, answers: Json, refused: Mapping[str, RpcError]) -> list[bytes]:
        """The replies to the questions that the caller answered or refused; the others are asked again."""
        told = {key for key, question in self._questions.items() if question.told}
        replies = [
            jsonrpc.encode_result(self._questions.pop(key).request_id, answers[key]) for key in answers.keys() & told
        ]
        for key in (refused.keys() & told) - answers.keys():
            error = refused[key]
            request_id = self._questions.pop(key).request_id
            replies.append(jsonrpc.encode_error(request_id, error.code, error.message, error.data))
        self.answered |= bool(replies)
        if replies or not self._questions:
            self.away_since_s = None
        return replies

    def refuse(self, why: str, code: int = INTERNAL_ERROR) -> list[bytes]:
        """The replies to all open questions when nobody will answer them."""
        replies = [jsonrpc.encode_error(asked.request_id, code, why) for asked in self._questions.values()]
        self._questions.clear()
        return replies

    def give_up(self, *, contested: bool = False) -> None:
        """Nobody will come for it, or others need its place: the server is told by the request's own task."""
        if contested:
            why = "The client left a question unanswered while others waited; the call may have been executed in part"
            self.given_up = RpcError(OUTCOME_UNKNOWN, why, {"outcome": "unknown", "reason": GIVEN_UP})
        else:
            self.given_up = CallOutcomeUnknown("the call was given up")
        if self.task is not None and not self.task.cancelling():  # A second time would cut its farewell short.
            self.task.cancel()

    async def send(self, replies: Iterable[bytes], *, timeout_s: float) -> None:
        """Send replies to the server's questions. Raises `CallOutcomeUnknown`: it may never hear them."""
        try:
            for reply in replies:
                assert self.client is not None, "a server asks only about what it was sent"
                await self.client.answer(reply, timeout_s=timeout_s)
        finally:
            self._settled.set()

    def _withdraw(self, request_id: Any) -> None:
        """The server no longer wants to know."""
        for key, question in tuple(self._questions.items()):
            if question.request_id == request_id:
                del self._questions[key]
                self._settled.set()
