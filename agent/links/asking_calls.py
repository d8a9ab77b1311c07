"""The calls of clients that can be asked, to a server with sessions: each runs once, in a session of its client's own.

Kept by `asking_door`. When a server asks while a call is open, the call's attempt ends with its questions, the call
itself stays open (it is parked), and the client's retry brings the answers and waits on. The one rule: the server's
request runs exactly once, whatever its client does.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeAlias

from agent.errors import CallNotSent, CallOutcomeUnknown, CallTimedOut, MeshError, ProtocolBroken, RpcError
from agent.links import rpc
from agent.links.hello import OnNotification
from agent.links.open_call import OnParked, OpenCall
from agent.links.own_session import OwnSession, SessionDoor, SessionRefused
from agent.links.own_sessions import OwnSessions, StartTask
from agent.links.parked import ParkedCalls, answers_of, for_retry, only_looks, refused_in
from agent.links.result_sink import LargeResult, lift
from agent.model import CLIENT_METHOD, Json

log = logging.getLogger(__name__)

# A call that asks may last as long as its client answers in time; this only keeps it from lasting for ever.
CALL_LIFETIME_S: Final = 86_400.0
# What is left to tell the server when a call is over may not hold us up.
FAREWELL_TIMEOUT_S: Final = 1.0

# Servers ask for changed roots at once, if at all; later they hear them with the client's next call.
ROOTS_WAIT_S: Final = 1.0
ROOTS_CHANGED: Final = rpc.encode_notification("notifications/roots/list_changed")

_Send: TypeAlias = Callable[[SessionDoor], Awaitable[Json]]


class AskingCalls:
    """See the module. `own`: the sessions that there are. `fallback`: goes on without a session, or raises."""

    def __init__(
        self,
        own: OwnSessions,
        start_task: StartTask,
        fallback: Callable[[SessionRefused], SessionDoor],
        on_parked: OnParked,
    ) -> None:
        self._own = own
        self._start_task = start_task
        self._fallback = fallback
        self._parked = ParkedCalls(on_parked)

    def __repr__(self) -> str:
        return repr(self._parked)

    async def begin(
        self,
        method: str,
        params: Json | None,
        features: Json,
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None,
        on_notification: OnNotification | None,
        affinity: str | None,
        large: LargeResult | None,
    ) -> Json:
        """The first attempt of a call, of a client with these features. As `Door.request`."""
        call = OpenCall(features, affinity)
        taken = None if large is None else call.large_result(large.make_walk)

        def send(door: SessionDoor) -> Awaitable[Json]:
            return door.request(
                method,
                params,
                timeout_s=CALL_LIFETIME_S,
                headers=headers,
                on_notification=call.notify,
                on_question=call.ask,
                large=taken,
            )

        call.task = self._start_task(self._serve(call, affinity, send), "call that may ask")
        return await self._attend(call, method, timeout_s=timeout_s, on_notification=on_notification, large=large)

    async def tell_of_roots(self, session: OwnSession, client: str, *, can_be_asked: bool, timeout_s: float) -> Json:
        """Tell the server of a session that its client's roots have changed.

        What it asks then is put to a client that can be asked now, and the result is `input_required`, as a call's;
        else it waits for the client's next call.
        """
        told: Json = {"resultType": "complete"}
        if not can_be_asked:
            assert session.door is not None, "it is open"
            await session.door.answer(ROOTS_CHANGED, timeout_s=FAREWELL_TIMEOUT_S)
            return told
        call = OpenCall(session.features, client)

        async def send(door: SessionDoor) -> Json:
            await door.answer(ROOTS_CHANGED, timeout_s=FAREWELL_TIMEOUT_S)
            await call.asked_within(ROOTS_WAIT_S)
            await call.settled()
            return told

        call.task = self._start_task(self._serve(call, client, send), "tell of changed roots")
        return await self._attend(call, CLIENT_METHOD, timeout_s=timeout_s)

    async def retry(
        self,
        method: str,
        params: Json,
        *,
        timeout_s: float,
        on_notification: OnNotification | None = None,
        large: LargeResult | None = None,
    ) -> Json:
        """Another attempt of a call that is parked, with its client's answers. As `Door.request`."""
        if only_looks(params) and (asked := self._parked.look(params["requestState"])) is not None:
            return asked
        answers, refused = answers_of(params), refused_in(params)
        parked = self._parked.take(params["requestState"], "cancelled" if refused == {} else "resumed")
        if refused == {}:
            parked.give_up()
            raise RpcError(-32603, "The client gave the call up")
        try:
            replies = parked.answer(answers, refused or {})
        except RpcError:  # The answers cannot be written, and nobody can come with others.
            parked.give_up()
            raise
        return await self._attend(
            parked,
            method,
            timeout_s=timeout_s,
            on_notification=for_retry(on_notification, params),
            large=large,
            replies=replies,
        )

    def end(self) -> None:
        """Forget who is waited for; whoever owns the tasks ends them."""
        self._parked.clear()

    async def _attend(
        self,
        call: OpenCall,
        method: str,
        *,
        timeout_s: float,
        on_notification: OnNotification | None = None,
        large: LargeResult | None = None,
        replies: Sequence[bytes] = (),
    ) -> Json:
        """One attempt of the client: hand in its replies and wait for the result, or park the call as it asks."""
        attended = False
        try:
            async with asyncio.timeout(timeout_s) as deadline:
                lift(deadline, large)
                await call.send(replies, timeout_s=timeout_s)
                while True:
                    result = await call.news(on_notification, large)
                    if result is None and not self._parked.make_room():
                        log.warning("MCP server's question refused: too many calls wait for input")
                        await _refuse(call, "Too many calls wait for input already")
                        continue
                    attended = True
                    return self._parked.park(call) if result is None else result
        except TimeoutError as exc:
            kind = CallNotSent if call.door is None else CallTimedOut
            raise kind(f"the server did not answer {method} within {timeout_s:g} s") from exc
        finally:
            if not attended:
                call.give_up()

    async def _serve(self, call: OpenCall, affinity: str | None, send: _Send) -> None:
        """Run one request of the server's to its end, whoever waits for it meanwhile."""
        outcome: Json | MeshError | None = None
        try:
            try:
                async with self._own.lent(call.features, affinity) as session, session.serving(call) as door:
                    try:
                        await call.settled()  # What was asked before the call may matter to it: the client's roots.
                        outcome = await send(door)
                    finally:
                        await _refuse(call, "The request that this question belongs to is over")
            except SessionRefused as exc:
                call.door = shared = self._fallback(exc)
                outcome = await send(shared)
        except MeshError as exc:
            outcome = exc
        except Exception as exc:  # A bug of ours ends this call and its session, and nobody else's.
            log.exception("MCP call broke unexpectedly")
            outcome = ProtocolBroken(f"unexpected {type(exc).__name__}")
        finally:
            lost = call.given_up or CallOutcomeUnknown("the call was given up")
            call.end(lost if outcome is None else outcome)


async def _refuse(call: OpenCall, why: str) -> None:
    """Answer what the server still asks, as far as it listens."""
    with contextlib.suppress(CallOutcomeUnknown):  # As far as it listens.
        await call.send(call.refuse(why), timeout_s=FAREWELL_TIMEOUT_S)
