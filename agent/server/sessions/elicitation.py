"""Puts server requests (elicitation, sampling, roots) to the client of a session, which sees one ordinary call.

Called for clients from before 2026-07-28, where a server sends requests of its own while a call is open. A server of
2026-07-28 answers `input_required` and is called again, in rounds; a server with sessions looks the same here, because
its call is kept pending (`agent.client.sessions.calls`). While the client answers for a pending call, the call is
polled, so that a form that the server no longer needs is cancelled. The one rule: a client gets only requests that it
declared at initialize, within one deadline over all rounds; a result with any other is returned as it is.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeAlias
from uuid import uuid4

from agent import clock
from agent.client.capabilities import refusal
from agent.dispatch.call import Forwarded
from agent.dispatch.request_state import asks
from agent.dispatch.retry import received_deadline_s
from agent.errors import GIVEN_UP, OUTCOME_UNKNOWN, MCPError
from agent.lossless_json.unread import Unread, as_member
from agent.mcp_terms import CLIENT_CAPABILITIES_META_KEY
from agent.model import DEADLINE_META_KEY, PENDING_META_KEY, POLL_META_KEY, REFUSED_META_KEY, Json
from discovery.backoff import Backoff

# A form that is no longer needed may stay open for that long; each poll is one request.
POLL_EVERY_S: Final = 3.0
# Failed polls in a row; a link that broke is back within two, if ever.
FAILED_MAX: Final = 3
# As many rounds as the reference clients of 2026-07-28 allow.
ROUNDS_MAX: Final = 10
# No user fills in more forms for one call; a bound on our loop.
SERVER_REQUESTS_MAX: Final = 16
# For users to think, over all rounds; as long as the SDK's servers keep their request state.
PATIENCE_S: Final = 600.0
# A round without server requests means "come again": first soon, then every quarter of a second (as the SDK's client).
_COME_AGAIN: Final = Backoff(first_s=0.05, last_s=0.25)
# A client that cancels does not wait; a server that misses the cancellation notices after ten minutes.
GIVE_UP_TIMEOUT_S: Final = 1.0

Ask: TypeAlias = Callable[[str, Json], Awaitable[Json | Unread]]
# By key: method and params.
ServerRequests: TypeAlias = dict[str, tuple[str, Json]]
Send: TypeAlias = Callable[[Json], Awaitable[Forwarded]]


@dataclass(slots=True, eq=False)
class AskedClient:
    """A client that accepts server requests: its capabilities, and a function that sends one.

    `ask` raises `MCPError` with its refusal.
    """

    capabilities: Json
    ask: Ask


@dataclass(slots=True)
class _Answers:
    """The client's answers so far to the server requests of one round, by their keys."""

    given: Json = field(default_factory=dict)
    refused: Json = field(default_factory=dict)

    def in_retry(self, params: Json) -> Json:
        """The retry that carries them."""
        params = _with_meta(params, REFUSED_META_KEY, self.refused) if self.refused else params
        return {**params, "inputResponses": as_member(self.given)}


async def in_rounds(send: Send, params: Json, client: AskedClient) -> Forwarded:
    """Send a request, put the server requests that come back to the client, send it again, until there is a result.

    The result is still `input_required` when this client does not accept such a request.

    Raises:
        MCPError: `send`'s; or the client refused, or did not answer in time, or there were too many rounds.
    """
    params = _with_meta(params, CLIENT_CAPABILITIES_META_KEY, client.capabilities)
    received_s = received_deadline_s(params)
    ends_s = asyncio.get_running_loop().time() + (PATIENCE_S if received_s is None else min(PATIENCE_S, received_s))
    forwarded = await send(params)
    rounds, empty_rounds = 0, 0
    while asks(forwarded.result):
        requests = server_requests_for(client.capabilities, forwarded.result)
        if requests is None:
            return forwarded
        if rounds == ROUNDS_MAX:
            raise _unfinished(forwarded, f"the server still asked after {ROUNDS_MAX} rounds")
        rounds += not _is_pending(forwarded)
        again = _retry_of(params, forwarded.result)
        try:
            async with asyncio.timeout_at(ends_s):
                if requests:
                    answers = _Answers()
                    ended = await _ask_all(client.ask, requests, forwarded, answers, partial(send, _polling(again)))
                    if ended is not None:
                        return ended
                    again = answers.in_retry(again)
                    empty_rounds = 0
                else:
                    empty_rounds += 1
                    await asyncio.sleep(_COME_AGAIN.step_s(empty_rounds))
        except BaseException as exc:
            if _is_pending(forwarded):
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


def server_requests_for(capabilities: Json, result: Json) -> ServerRequests | None:
    """The server requests of a result, by key: method and params. None when the client does not accept one of them."""
    asked = result.get("inputRequests") or {}
    if not isinstance(asked, dict) or len(asked) > SERVER_REQUESTS_MAX:
        return None
    requests: ServerRequests = {}
    for key, request in asked.items():
        method, params = (request.get("method"), request.get("params", {})) if isinstance(request, dict) else (None, {})
        if not (isinstance(method, str) and isinstance(params, dict) and refusal(capabilities, method, params) is None):
            return None
        requests[key] = (method, _as_before(method, params))
    return requests


def _as_before(method: str, params: Json) -> Json:
    """A server request in the form of 2025-11-25."""
    if method == "elicitation/create" and params.get("mode") == "url" and "elicitationId" not in params:
        return {**params, "elicitationId": str(uuid4())}  # Required then, unknown now.
    return params


async def _sent_again(send: Send, again: Json, forwarded: Forwarded) -> Forwarded:
    """The next round. Where the server's call was pending, it has begun, whatever the failure of the round says."""
    try:
        return await send(again)
    except MCPError as exc:
        raise _of_round(exc, forwarded) from exc


def _of_round(exc: MCPError, forwarded: Forwarded) -> MCPError:
    """The failure of a round as that of the call."""
    data = exc.data if isinstance(exc.data, dict) else {}
    went_nowhere = data.get("outcome") == "not_executed" or data.get("reason") == "invalid_request_state"
    return _unfinished(forwarded, exc.message) if went_nowhere and _is_pending(forwarded) else exc


def _polling(again: Json) -> Json:
    """The retry that only polls whether the server requests are still open."""
    return _with_meta(again, POLL_META_KEY, value=True)


async def _ask_all(
    ask: Ask,
    requests: ServerRequests,
    forwarded: Forwarded,
    answers: _Answers,
    poll: Callable[[], Awaitable[Forwarded]],
) -> Forwarded | None:
    """Ask the client, as long as the server waits for it; returns the result, if the call ends meanwhile."""
    asking = _ask_in_turn(ask, requests, forwarded, answers)
    if not _is_pending(forwarded):
        await asking
        return None
    try:
        ended = await while_wanted(asking, poll, requests)
    except MCPError as exc:
        raise _of_round(exc, forwarded) from exc
    return None if ended is None or asks(ended.result) else ended


async def while_wanted(
    asking: Coroutine[Any, Any, None], poll: Callable[[], Awaitable[Forwarded]], keys: Collection[str]
) -> Forwarded | None:
    """Run `asking` to its end, which gives None; or until one of the server requests `keys` is no longer open.

    It is cancelled then, and the server's present answer returned: a result, or other server requests.

    Raises:
        MCPError: The call ended with it.
    """
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(asking, name="ask a client")
        watched = group.create_task(_ended(poll, frozenset(keys)), name="watch an open call")
        await asyncio.wait((asked, watched), return_when=asyncio.FIRST_COMPLETED)
        # When the call has ended, the client's request is cancelled; when the client has answered, polling is.
        over = watched.done()
        (asked if over else watched).cancel()
    if not over:
        return None
    ended = watched.result()
    if isinstance(ended, MCPError):
        raise ended
    return ended


async def _ended(poll: Callable[[], Awaitable[Forwarded]], keys: frozenset[str]) -> Forwarded | MCPError:
    """How the call ended: errors as values, since a task group would wrap exceptions."""
    failures: list[MCPError] = []
    while True:
        await asyncio.sleep(POLL_EVERY_S)
        try:
            forwarded = await poll()
        except MCPError as exc:
            failures.append(exc)
            if len(failures) == FAILED_MAX or not _may_pass(exc):
                return failures[0]
        else:
            failures.clear()
            if not asks(forwarded.result) or not keys <= (forwarded.result.get("inputRequests") or {}).keys():
                return forwarded


def _may_pass(exc: MCPError) -> bool:
    """Whether the call may still be open, though it could not be reached."""
    data = exc.data
    return isinstance(data, dict) and "outcome" in data and data.get("reason") != GIVEN_UP


async def _ask_in_turn(ask: Ask, requests: ServerRequests, forwarded: Forwarded, answers: _Answers) -> None:
    """Ask one after the other: a user reads one form at a time.

    A refusal is passed to a server whose call is pending; for others the first refusal ends the call.
    """
    for key, (method, params) in requests.items():
        try:
            answers.given[key] = await ask(method, params)
        except MCPError as exc:
            if not _is_pending(forwarded):
                raise _unfinished(forwarded, f"the client refused {method}: {exc.message}") from exc
            answers.refused[key] = exc.to_json()


def _is_pending(forwarded: Forwarded) -> bool:
    """Whether the call is pending at a server with sessions, which may send any number of server requests."""
    meta = forwarded.result.get("_meta")
    return isinstance(meta, dict) and meta.get(PENDING_META_KEY) is True


async def _give_up(send: Send, again: Json) -> None:
    """Give up the pending call at the server; bounded in time, the outcome is ignored."""
    with contextlib.suppress(MCPError, TimeoutError):
        async with asyncio.timeout(GIVE_UP_TIMEOUT_S):
            await send(_with_meta(again, REFUSED_META_KEY, {}))


def _unfinished(forwarded: Forwarded, why: str, *, timed_out: bool = False) -> MCPError:
    """The server began, and never got the input that it required."""
    replica = forwarded.replica.backend_key
    data: dict[str, Any] = {"outcome": "unknown", "timed_out": timed_out, "replica": replica, "bytes_sent": True}
    return MCPError(code=OUTCOME_UNKNOWN, message=f"The call was not completed: {why}", data=data)


def _with_meta(params: Json, name: str, value: object) -> Json:
    return {**params, "_meta": {**(params.get("_meta") or {}), name: value}}
