"""The calls of callers that accept server requests, to a server with sessions: each runs once, in a dedicated session.

Owned by `agent.client.sessions.router`. `SessionCalls` runs each call in a task of its own. When the server sends a
server request meanwhile, the caller's attempt ends with `input_required`, the call itself stays open and becomes
pending, and the caller's retry brings the answers and waits for the result. `PendingCalls` is the bounded table of
them, by `requestState`. The one rule: a call runs exactly once at the server, whatever its caller does.
"""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

from agent import clock
from agent.authority.caller import caller
from agent.client import jsonrpc
from agent.client.protocol import Request, shown_s
from agent.client.server_info import OnNotification
from agent.client.sessions.dedicated import DedicatedSession, SessionClient, SessionRefused
from agent.client.sessions.pending_call import CONTESTED_PATIENCE_S, OnPending, PendingCall, PendingResult
from agent.client.sessions.pool import SessionPool, StartTask
from agent.client.sessions.shares import greedy, quota
from agent.client.streaming import lift
from agent.errors import CallNotSent, CallOutcomeUnknown, CallTimedOut, MCPError, MeshError, ProtocolBroken, RpcError
from agent.lossless_json.unread import META, Unread
from agent.model import PENDING_META_KEY, POLL_META_KEY, REFUSED_META_KEY, Json
from agent.rpc_codes import INTERNAL_ERROR, INVALID_PARAMS
from agent.tasks.versions import RELATED_TASK
from agent.turns import in_slices

log = logging.getLogger(__name__)

# For users to think; as long as the endpoint waits for a caller with a session (`agent.server.sessions.elicitation`).
PATIENCE_S: Final = 600.0
# Of one client. Each holds a request at the backend and its stream.
PENDING_MAX: Final = 256
# A pending call lasts as long as its caller answers in time; this only keeps it from lasting for ever.
CALL_LIFETIME_S: Final = 86_400.0
# The last messages to a server when a call is over may not delay anything.
FAREWELL_TIMEOUT_S: Final = 1.0

# Servers list changed roots at once, if at all; later they do so during the caller's next call.
ROOTS_WAIT_S: Final = 1.0
ROOTS_CHANGED: Final = jsonrpc.encode_notification("notifications/roots/list_changed")

TASK_RESULT: Final = "tasks/result"

_STATE_BYTES: Final = 32
# Of an answer to a server request: what is of 2026-07-28 alone, and what the answer of a task gets more of.
_LOOKED_AT: Final = ("resultType", META)
# Tells our states from those of a stateless server that opens sessions too (`agent.client.sessions.dual_era`).
_STATE_PREFIX: Final = "mesh-agent/pending."

_Send: TypeAlias = Callable[[SessionClient], Awaitable[Json]]


class PendingCalls:
    """See the module. A call that was given up for others stays, so that its caller can get its failure."""

    def __init__(self, on_pending: OnPending) -> None:
        self._on_pending = on_pending
        self._calls: dict[str, tuple[PendingCall, asyncio.TimerHandle]] = {}

    def __repr__(self) -> str:
        return f"<PendingCalls {len(self._calls)}>"

    def make_room(self) -> bool:
        """Whether there is room for one more.

        For that, the call that a caller with more than its share has left unanswered longest may be given up.
        """
        owners, grant = [call.owner for call, _ in self._calls.values()], caller().grant
        own = [owner for owner in owners if owner.token == grant.name]
        has_quota = grant.named and len(own) >= quota(PENDING_MAX)
        if len(owners) < PENDING_MAX and not has_quota:
            return True
        over = frozenset(own) if has_quota else greedy(owners, PENDING_MAX)
        since_s = {state: call.away_since_s or 0.0 for state, (call, _) in self._calls.items() if call.owner in over}
        state = min(since_s, key=since_s.__getitem__)
        if since_s[state] + CONTESTED_PATIENCE_S > clock.now_s():
            self._on_pending("refused", 0)
            return False
        self._removed(state, "given_up").give_up(contested=True)
        return True

    def add(self, call: PendingCall) -> Json:
        """Keep a call with open server requests; returns the result that its caller gets."""
        state = _STATE_PREFIX + secrets.token_urlsafe(_STATE_BYTES)
        loop = asyncio.get_running_loop()
        if call.away_since_s is None:
            call.away_since_s = loop.time()
        timer = loop.call_later(PATIENCE_S, self._expired, state)
        self._calls[state] = call, timer
        self._on_pending("parked", 1)
        return _input_required(call, state)

    def poll(self, state: Any) -> Json | None:
        """The present server requests of the pending call of `state`; None when it is over. Raises `RpcError`."""
        call, _ = self._found(state)
        return None if call.is_over else _input_required(call, state)

    def keys(self, state: Any) -> Collection[str]:
        """Those of the server requests that the pending call of `state` has open. Raises `RpcError`."""
        return self._found(state)[0].server_requests().keys()

    def take(self, state: Any, event: str = "resumed") -> PendingCall:
        """Remove the pending call of `state`, and return it; `event` is counted. Raises `RpcError`."""
        self._found(state)
        return self._removed(state, event)

    def clear(self) -> None:
        """Remove all."""
        for state in tuple(self._calls):
            self._removed(state, "lost")

    def _found(self, state: Any) -> tuple[PendingCall, asyncio.TimerHandle]:
        if not isinstance(state, str) or state not in self._calls:
            raise RpcError(
                INVALID_PARAMS,
                "requestState names no call that waits for input: it was answered already, waited for too long, or its "
                "server was connected anew",
                {"reason": "invalid_request_state"},
            )
        return self._calls[state]

    def _expired(self, state: str) -> None:
        self._removed(state, "expired").give_up()

    def _removed(self, state: str, event: str) -> PendingCall:
        call, timer = self._calls.pop(state)
        timer.cancel()
        self._on_pending(event, -1)
        return call


def _input_required(call: PendingCall, state: str) -> Json:
    return PendingResult(
        resultType="input_required",
        inputRequests=call.server_requests(),
        requestState=state,
        _meta={PENDING_META_KEY: True},
    )


def is_pending_state(state: object) -> bool:
    """Whether a `requestState` is one of a pending call, perhaps of one that is over."""
    return isinstance(state, str) and state.startswith(_STATE_PREFIX)


def only_polls(params: Json) -> bool:
    """Whether a retry only polls whether the server requests are still open."""
    return (params.get("_meta") or {}).get(POLL_META_KEY) is True


async def answers_of(params: Json, keys: Collection[str]) -> Json:
    """The `inputResponses` of a retry to these server requests, as a server of 2025-11-25 may read them.

    Large ones stay unread but for what is ours. Raises `RpcError`.
    """
    given = params.get("inputResponses")
    try:
        if isinstance(given, Unread) and given.is_object:
            await in_slices(given.find((key,) for key in keys))
            given = given.parts(keys)
            for key, answer in given.items():
                if isinstance(answer, Unread) and answer.is_object:
                    given[key] = opened = await _opened(answer, _LOOKED_AT)
                    if isinstance(meta := opened.get(META), Unread) and meta.is_object:
                        opened[META] = await _opened(meta, (RELATED_TASK,))
    except MCPError as exc:
        raise RpcError(exc.code, exc.message) from exc
    if given is None:
        return {}
    if not isinstance(given, dict) or not all(isinstance(answer, dict) for answer in given.values()):
        raise RpcError(INVALID_PARAMS, "inputResponses must be an object of results")
    return {key: {name: part for name, part in answer.items() if name != "resultType"} for key, answer in given.items()}


async def _opened(value: Unread, names: Collection[str]) -> Json:
    """As `Unread.opened`, in slices."""
    await in_slices(value.find((name,) for name in names))
    return value.opened(names)


def refused_in(params: Json) -> dict[str, RpcError] | None:
    """The caller's errors of a retry, by server request, to be passed on; an empty object gives the call up."""
    errors = (params.get("_meta") or {}).get(REFUSED_META_KEY)
    if not isinstance(errors, dict):
        return None
    return {key: jsonrpc.error_of(error) for key, error in errors.items() if isinstance(error, dict)}


def for_retry(on_notification: OnNotification, params: Json) -> OnNotification:
    """Progress is sent with the progress token of the retry, and not at all where it has none."""
    token = (params.get("_meta") or {}).get("progressToken", jsonrpc.NO_TOKEN)

    async def hand_on(method: str, note: Json) -> None:
        if method != jsonrpc.PROGRESS_METHOD:
            await on_notification(method, note)
        elif token is not jsonrpc.NO_TOKEN:
            await on_notification(method, jsonrpc.restore_progress_token(note, token))

    return hand_on


class SessionCalls:
    """See the module. `pool`: the dedicated sessions. `fallback`: the shared client in place of one, or raises."""

    def __init__(
        self,
        pool: SessionPool,
        start_task: StartTask,
        fallback: Callable[[SessionRefused], SessionClient],
        on_pending: OnPending,
    ) -> None:
        self._pool = pool
        self._start_task = start_task
        self._fallback = fallback
        self._pending = PendingCalls(on_pending)

    def __repr__(self) -> str:
        return repr(self._pending)

    async def begin(self, request: Request, features: Json) -> Json:
        """The first attempt of a call, of a caller with these features. As `McpClient.request`."""
        call = PendingCall(features, request.affinity)
        taken = None if request.sink is None else call.large_result(request.sink.make_rewriter)
        # Without what belongs to this attempt, which may end before the call.
        lasting = replace(request, on_notification=call.notify, sink=taken)

        def send(client: SessionClient) -> Awaitable[Json]:
            deadline_s = clock.now_s() + CALL_LIFETIME_S
            return client.request(replace(lasting, deadline_s=deadline_s), on_server_request=call.ask)

        call.task = self._start_task(self._serve(call, request.affinity, send), "call in a dedicated session")
        return await self._attend(call, request)

    async def roots_changed(self, session: DedicatedSession, request: Request, *, can_be_asked: bool) -> Json:
        """Notify the server of a session that its caller's roots have changed, as `request` says.

        If the caller accepts server requests now, those that follow make the result `input_required`, as a call's; else
        they wait for the caller's next call.
        """
        affinity = request.affinity
        complete: Json = {"resultType": "complete"}
        if not can_be_asked:
            assert session.client is not None, "it is open"
            await session.client.answer(ROOTS_CHANGED, timeout_s=FAREWELL_TIMEOUT_S)
            return complete
        call = PendingCall(session.features, affinity)

        async def send(client: SessionClient) -> Json:
            await client.answer(ROOTS_CHANGED, timeout_s=FAREWELL_TIMEOUT_S)
            await call.asked_within(ROOTS_WAIT_S)
            await call.settled()
            return complete

        call.task = self._start_task(self._serve(call, affinity, send), "notify a server of changed roots")
        return await self._attend(call, request)

    async def retry(self, request: Request) -> Json:
        """Another attempt of a pending call, with its caller's answers. As `McpClient.request`."""
        params = request.params or {}
        if only_polls(params) and (asked := self._pending.poll(params["requestState"])) is not None:
            return asked
        refused = refused_in(params)
        answers = await answers_of(params, self._pending.keys(params["requestState"]))
        call = self._pending.take(params["requestState"], "cancelled" if refused == {} else "resumed")
        if refused == {}:
            call.give_up()
            raise RpcError(INTERNAL_ERROR, "The client gave the call up")
        replies: Sequence[bytes] | None = None
        try:
            replies = call.answer(answers, refused or {})
        finally:
            if replies is None:  # The answers cannot be serialized, and others cannot follow.
                call.give_up()
        if request.on_notification is not None:
            request = replace(request, on_notification=for_retry(request.on_notification, params))
        return await self._attend(call, request, replies)

    def end(self) -> None:
        """Remove all pending calls; the owner of the tasks ends them."""
        self._pending.clear()

    async def _attend(self, call: PendingCall, request: Request, replies: Sequence[bytes] = ()) -> Json:
        """One attempt of the caller: send its replies and wait for the result or for server requests."""
        attended, timeout_s = False, request.left_s()
        try:
            async with asyncio.timeout_at(request.deadline_s) as deadline:
                lift(deadline, request.sink)
                await call.send(replies, timeout_s=timeout_s)
                while True:
                    result = await call.news(request.on_notification, request.sink)
                    if result is None and not self._pending.make_room():
                        log.warning("MCP server request refused: too many calls wait for input")
                        await _refuse(call, "Too many calls wait for input already")
                        continue
                    attended = True
                    return self._pending.add(call) if result is None else result
        except TimeoutError as exc:
            if request.method == TASK_RESULT and self._pending.make_room():
                attended = True  # It waits for a task, which may ask at any time, for longer than an attempt does.
                return self._pending.add(call)
            kind = CallNotSent if call.client is None else CallTimedOut
            raise kind.about("the server", f"did not answer {request.method} within {shown_s(timeout_s)}") from exc
        finally:
            if not attended:
                call.give_up()

    async def _serve(self, call: PendingCall, affinity: str | None, send: _Send) -> None:
        """Run one call to its end, whether an attempt waits for it or not."""
        outcome: Json | MeshError | None = None
        try:
            try:
                async with (
                    self._pool.lent(call.features, affinity, call.notify) as session,
                    session.serving(call) as client,
                ):
                    try:
                        await call.settled()  # Earlier server requests may matter to the call: the caller's roots.
                        outcome = await send(client)
                    finally:
                        session.take_back(call)
                        await _refuse(call, "The request that this question belongs to is over")
            except SessionRefused as exc:
                call.client = shared = self._fallback(exc)
                outcome = await send(shared)
        except MeshError as exc:
            outcome = exc
        except Exception as exc:  # A bug of ours ends this call and its session, and no other.
            log.exception("MCP call broke unexpectedly")
            outcome = ProtocolBroken.for_clients(f"unexpected {type(exc).__name__}")
        finally:
            lost = call.given_up or CallOutcomeUnknown.for_clients("the call was given up")
            call.end(lost if outcome is None else outcome)


async def _refuse(call: PendingCall, why: str) -> None:
    """Refuse the open server requests, as far as the server still listens."""
    with contextlib.suppress(CallOutcomeUnknown):
        await call.send(call.refuse(why), timeout_s=FAREWELL_TIMEOUT_S)
