"""Puts questions of servers to the client of a session, which then sees one ordinary call.

Called for clients from before 2026-07-28. Their servers ask with requests of their own while a call is open; a server
of 2026-07-28 answers `input_required` and is called again, and so it looks when a server with sessions asks, whose call
is parked by its client. The one rule: a client is asked only what it declared at initialize, within one deadline over
all rounds; what may not be asked comes back to the caller as it is.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeAlias
from uuid import uuid4

from mcp.shared.exceptions import MCPError
from mcp_types import CLIENT_CAPABILITIES_META_KEY

from agent import clock
from agent.client.capabilities import refusal
from agent.dispatch.dispatcher import Forwarded
from agent.dispatch.request_state import asks
from agent.dispatch.retry import received_deadline_s
from agent.errors import GIVEN_UP, OUTCOME_UNKNOWN
from agent.model import DEADLINE_META_KEY, PENDING_META_KEY, POLL_META_KEY, REFUSED_META_KEY, Json
from discovery.backoff import Backoff

# A form that is of no use any more may stay for that long; each look is one request.
POLL_EVERY_S: Final = 3.0
# Looks in a row that got nowhere; a link that broke is there again within two, if ever.
FAILED_MAX: Final = 3


async def while_wanted(
    asking: Coroutine[Any, Any, None], look: Callable[[], Awaitable[Forwarded]], keys: Collection[str]
) -> Forwarded | None:
    """Run `asking` to its end, which gives None; or until the questions `keys` are not all wanted any more.

    It is cancelled then, and what the server says in their place returned: a result, or other questions.

    Raises:
        MCPError: the call ended so.
    """
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(asking, name="ask a client")
        watched = group.create_task(_ended(look, frozenset(keys)), name="watch an open call")
        await asyncio.wait((asked, watched), return_when=asyncio.FIRST_COMPLETED)
        # An answer to a call that has ended is of no use; one that nobody waits for is called off.
        over = watched.done()
        (asked if over else watched).cancel()
    if not over:
        return None
    ended = watched.result()
    if isinstance(ended, MCPError):
        raise ended
    return ended


async def _ended(look: Callable[[], Awaitable[Forwarded]], keys: frozenset[str]) -> Forwarded | MCPError:
    """How it ended: errors as values, since a task group would wrap what is raised."""
    failures: list[MCPError] = []
    while True:
        await asyncio.sleep(POLL_EVERY_S)
        try:
            forwarded = await look()
        except MCPError as exc:
            failures.append(exc)
            if len(failures) == FAILED_MAX or not _may_pass(exc):
                return failures[0]
        else:
            failures.clear()
            if not asks(forwarded.result) or not keys <= (forwarded.result.get("inputRequests") or {}).keys():
                return forwarded


def _may_pass(exc: MCPError) -> bool:
    """Whether the call may be open still, though nobody on the way could say so."""
    data = exc.error.data
    return isinstance(data, dict) and "outcome" in data and data.get("reason") != GIVEN_UP


# As many rounds as the reference clients of 2026-07-28 allow.
ROUNDS_MAX: Final = 10
# Nobody fills in more forms for one call; a server's list of questions is not our loop's length.
SERVER_REQUESTS_MAX: Final = 16
# For users to think, over all rounds; as long as the SDK's servers keep their question's state.
PATIENCE_S: Final = 600.0
# A round without questions means "come again": first soon, then every quarter of a second (as the SDK's client).
_COME_AGAIN: Final = Backoff(first_s=0.05, last_s=0.25)
# A client that cancels waits for nobody; a server that is not told notices after ten minutes.
GIVE_UP_TIMEOUT_S: Final = 1.0

Ask: TypeAlias = Callable[[str, Json], Awaitable[Json]]
# By key: method and params.
ServerRequests: TypeAlias = dict[str, tuple[str, Json]]
Send: TypeAlias = Callable[[Json], Awaitable[Forwarded]]


@dataclass(frozen=True, slots=True)
class AskedClient:
    """A client that can be asked: what it declared, and the way to it. `ask` raises `MCPError` with its refusal."""

    capabilities: Json
    ask: Ask


@dataclass(slots=True)
class _Said:
    """What the client said so far to the questions of one round, by their keys."""

    answers: Json = field(default_factory=dict)
    refused: Json = field(default_factory=dict)

    def in_retry(self, params: Json) -> Json:
        """The retry that carries it."""
        params = _with_meta(params, REFUSED_META_KEY, self.refused) if self.refused else params
        return {**params, "inputResponses": self.answers}


async def in_rounds(send: Send, params: Json, client: AskedClient) -> Forwarded:
    """Send a request, put the questions that come back to the client, send it again, until there is an answer.

    The result still asks when this client may not be asked that.

    Raises:
        MCPError: `send`'s; or the client refused, or did not answer in time, or the questions have no end.
    """
    params = _with_meta(params, CLIENT_CAPABILITIES_META_KEY, client.capabilities)
    received_s = received_deadline_s(params)
    ends_s = clock.now_s() + (PATIENCE_S if received_s is None else min(PATIENCE_S, received_s))
    forwarded = await send(params)
    rounds, empty_rounds = 0, 0
    while asks(forwarded.result):
        questions = questions_for(client.capabilities, forwarded.result)
        if questions is None:
            return forwarded
        if rounds == ROUNDS_MAX:
            raise _unfinished(forwarded, f"the server still asked after {ROUNDS_MAX} rounds")
        rounds += not _is_parked(forwarded)
        again = _retry_of(params, forwarded.result)
        try:
            async with asyncio.timeout_at(ends_s):
                if questions:
                    said = _Said()
                    ended = await _ask_all(client.ask, questions, forwarded, said, partial(send, _looking(again)))
                    if ended is not None:
                        return ended
                    again = said.in_retry(again)
                    empty_rounds = 0
                else:
                    empty_rounds += 1
                    await asyncio.sleep(_COME_AGAIN.step_s(empty_rounds))
        except BaseException as exc:
            if _is_parked(forwarded):
                await _give_up(send, again)
            if isinstance(exc, TimeoutError):
                raise _unfinished(forwarded, "the client did not answer in time", timed_out=True) from exc
            raise
        if received_s is not None:
            again = _with_meta(again, DEADLINE_META_KEY, max(0, int((ends_s - clock.now_s()) * 1000)))
        forwarded = await _sent_again(send, again, forwarded)
    return forwarded


def _retry_of(params: Json, result: Json) -> Json:
    """The same request for the next round, without answers yet."""
    again = {name: value for name, value in params.items() if name not in ("inputResponses", "requestState")}
    state = result.get("requestState")
    return again if state is None else {**again, "requestState": state}


def questions_for(capabilities: Json, result: Json) -> ServerRequests | None:
    """The questions of a result, by key: method and params. None when one of them may not be put to such a client."""
    asked = result.get("inputRequests") or {}
    if not isinstance(asked, dict) or len(asked) > SERVER_REQUESTS_MAX:
        return None
    questions: ServerRequests = {}
    for key, question in asked.items():
        method, params = (
            (question.get("method"), question.get("params", {})) if isinstance(question, dict) else (None, {})
        )
        if not (isinstance(method, str) and isinstance(params, dict) and refusal(capabilities, method, params) is None):
            return None
        questions[key] = (method, _as_before(method, params))
    return questions


def _as_before(method: str, params: Json) -> Json:
    """A question in the words of 2025-11-25."""
    if method == "elicitation/create" and params.get("mode") == "url" and "elicitationId" not in params:
        return {**params, "elicitationId": str(uuid4())}  # Required then, unknown now.
    return params


async def _sent_again(send: Send, again: Json, forwarded: Forwarded) -> Forwarded:
    """The next round. Where the server's call was open meanwhile, it has begun, whatever is said of the round."""
    try:
        return await send(again)
    except MCPError as exc:
        raise _of_round(exc, forwarded) from exc


def _of_round(exc: MCPError, forwarded: Forwarded) -> MCPError:
    """What the failure of a round means for the call."""
    data = exc.error.data if isinstance(exc.error.data, dict) else {}
    went_nowhere = data.get("outcome") == "not_executed" or data.get("reason") == "invalid_request_state"
    return _unfinished(forwarded, exc.error.message) if went_nowhere and _is_parked(forwarded) else exc


def _looking(again: Json) -> Json:
    """The retry that only asks whether the questions still stand."""
    return _with_meta(again, POLL_META_KEY, value=True)


async def _ask_all(
    ask: Ask, questions: ServerRequests, forwarded: Forwarded, said: _Said, look: Callable[[], Awaitable[Forwarded]]
) -> Forwarded | None:
    """Ask as long as somebody wants to know; returns the result, if the call has one meanwhile."""
    asking = _ask_in_turn(ask, questions, forwarded, said)
    if not _is_parked(forwarded):
        await asking
        return None
    try:
        ended = await while_wanted(asking, look, questions)
    except MCPError as exc:
        raise _of_round(exc, forwarded) from exc
    return None if ended is None or asks(ended.result) else ended


async def _ask_in_turn(ask: Ask, questions: ServerRequests, forwarded: Forwarded, said: _Said) -> None:
    """Ask one after the other: a user reads one form at a time.

    A server whose call is open hears of a refusal; of others the first refusal ends the call and spares the rest.
    """
    for key, (method, params) in questions.items():
        try:
            said.answers[key] = await ask(method, params)
        except MCPError as exc:
            if not _is_parked(forwarded):
                raise _unfinished(forwarded, f"the client refused {method}: {exc.error.message}") from exc
            said.refused[key] = exc.error.model_dump(by_alias=True, mode="json", exclude_none=True)


def _is_parked(forwarded: Forwarded) -> bool:
    """Whether a server with a session asks, whose call is open meanwhile: it may ask as often as it likes."""
    meta = forwarded.result.get("_meta")
    return isinstance(meta, dict) and meta.get(PENDING_META_KEY) is True


async def _give_up(send: Send, again: Json) -> None:
    """Let the server know that its open call is not waited for; bounded in time, the outcome is of no interest."""
    with contextlib.suppress(MCPError, TimeoutError):
        async with asyncio.timeout(GIVE_UP_TIMEOUT_S):
            await send(_with_meta(again, REFUSED_META_KEY, {}))


def _unfinished(forwarded: Forwarded, why: str, *, timed_out: bool = False) -> MCPError:
    """The server began and was never given what it asked for."""
    replica = forwarded.replica.backend_key
    data: dict[str, Any] = {"outcome": "unknown", "timed_out": timed_out, "replica": replica, "bytes_sent": True}
    return MCPError(code=OUTCOME_UNKNOWN, message=f"The call was not completed: {why}", data=data)


def _with_meta(params: Json, name: str, value: object) -> Json:
    return {**params, "_meta": {**(params.get("_meta") or {}), name: value}}
