"""The client to a stateless server (2026-07-28) that may open sessions too: which of the two ways each request goes.

Made by the HTTP and stdio clients around their stateless client. Only a session lets a server such as FastMCP's send
requests of its own while a call is open (`ctx.elicit`), so a call of a caller that has a session itself, and declared
that it accepts them, runs in a dedicated session with what it declared. `server/discover` does not tell whether a
server opens sessions (the SDKs name stateless versions alone), so the first such call tries. The one rule: every other
request, and all requests to a server that opens no session, go the stateless way as if this client were not there.
"""

import asyncio
import logging
import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

from agent import clock
from agent.client.affinity import is_of_session
from agent.client.capabilities import MAY_ASK, permits_requests
from agent.client.protocol import McpClient, Request, ResultTaker, StartsRequests
from agent.client.server_info import OnServerRequest
from agent.client.sessions.beside import LISTS, BesideSessions, features_of
from agent.client.sessions.calls import is_pending_state
from agent.client.sessions.dedicated import OnNotice, OpenSession, SessionClient, SessionRefused
from agent.client.sessions.pending_call import OnPending
from agent.client.sessions.pool import SessionLimits
from agent.errors import AuthRefused, CallNotSent, RpcError
from agent.mcp_terms import CLIENT_CAPABILITIES_META_KEY
from agent.model import CLIENT_METHOD, Json
from agent.rpc_codes import INTERNAL_ERROR
from agent.tasks.ids import declares_tasks

log = logging.getLogger(__name__)

# A server that is up opens a session at once; one that starts a program for each may take this long.
OPEN_TIMEOUT_S: Final = 15.0
# When a server that did not answer `initialize`, or no longer opens sessions, is tried again.
TRY_AGAIN_S: Final = 60.0
# Tools (prompts, resources) of one server that ask in rounds alone; each costs at most one call that is sent twice.
IN_ROUNDS_MAX: Final = 1_000

# In a session's error (FastMCP 4) where what was called asks in rounds, as only 2026-07-28 can. The call ended with its
# questions, and 2026-07-28 has such a call made again from its beginning.
_WANTS_ROUNDS: Final = "InputRequiredResult"
# The SDK's error (mcp 2) for the same, and for every other result that the session's version does not have. The call
# may have done its work, so one that may not be repeated is not; the next one goes the other way.
_UNFIT_RESULT: Final = "Handler returned an invalid result"

# In a failed result (FastMCP 4) where the tool needs a session of its caller, to enable components for it.
_NEEDS_SESSION: Final = "connections have no session"


# One for all: each empty set of their own takes 216 bytes.
_NONE: Final[frozenset[tuple[str, object]]] = frozenset()


class SecondEra:
    """Whether a stateless server opens sessions too. Written by `learning`; times are loop time.

    `tries_again`: a server that could not be asked is asked later.
    """

    __slots__ = ("_not_before_s", "_opened", "_tries_again")

    def __init__(self, *, tries_again: bool = True) -> None:
        self._tries_again = tries_again
        self._opened = False
        self._not_before_s = -math.inf

    def __repr__(self) -> str:
        state = "opens sessions" if self._opened else "not known to open sessions"
        return f"<SecondEra {state}, tried from {self._not_before_s:g} s>"

    @property
    def has_opened(self) -> bool:
        """Whether it has opened one."""
        return self._opened

    def is_worth_trying(self, now_s: float) -> bool:
        """Whether a session may be asked for."""
        return now_s >= self._not_before_s

    def opened(self) -> None:
        """It has opened a session."""
        self._opened = True
        self._not_before_s = -math.inf

    def refused(self, now_s: float) -> None:
        """It has refused one. A server that never opened any speaks one era alone, as long as this client lives."""
        self._not_before_s = now_s + TRY_AGAIN_S if self._opened else math.inf

    def silent(self, now_s: float) -> None:
        """It could not be asked, which says nothing about it."""
        self._not_before_s = now_s + TRY_AGAIN_S if self._tries_again else math.inf

    def cut_short(self, now_s: float) -> None:
        """The caller did not wait for its answer; the next ones shall not lose their time in the same way."""
        self._not_before_s = max(self._not_before_s, now_s + TRY_AGAIN_S)


def learning(open_session: OpenSession, era: SecondEra) -> OpenSession:
    """`open_session`, whose outcomes teach `era`. An outage of a server that never opened one counts as a refusal."""

    @asynccontextmanager
    async def opened(
        features: Json, on_server_request: OnServerRequest, on_notice: OnNotice
    ) -> AsyncGenerator[SessionClient, None]:
        is_open = False
        try:
            async with open_session(features, on_server_request, on_notice) as client:
                is_open = True
                era.opened()
                yield client
        except SessionRefused as exc:
            if not is_open:
                log.info("MCP server opens no sessions beside 2026-07-28", extra={"reason": str(exc)})
                era.refused(clock.now_s())
            raise
        except (AuthRefused, CallNotSent) as exc:
            if is_open or era.has_opened:
                raise
            log.info("MCP server could not open a session beside 2026-07-28", extra={"reason": str(exc)})
            era.silent(clock.now_s())
            raise SessionRefused(str(exc)) from exc
        except asyncio.CancelledError:
            if not is_open and not era.has_opened:
                era.cut_short(clock.now_s())
            raise

    return opened


class DualEraRouter(BesideSessions[McpClient]):
    """As `McpClient`. Its sessions end with it, `stateless` does not.

    `tries_again`: a server that has opened no session yet, and could not be asked for one, is asked again later.
    `by_session`: every caller with a session gets one here, not only those that accept server requests.
    """

    __slots__ = ("_by_session", "_era", "_has_asked", "_in_rounds", "_must_have", "_starts")

    def __init__(
        self,
        stateless: McpClient,
        open_session: OpenSession,
        *,
        limits: SessionLimits,
        on_pending: OnPending,
        tries_again: bool = True,
        by_session: bool = False,
    ) -> None:
        self._by_session = self._must_have = by_session
        self._era = SecondEra(tries_again=tries_again)
        super().__init__(stateless, open_session, limits=limits, on_pending=on_pending)
        self._starts = stateless if isinstance(stateless, StartsRequests) else None
        self._in_rounds = _NONE
        # What has asked in rounds on the stateless way: by 2026-07-28 it is made to be called anew in each of them.
        self._has_asked = _NONE

    def _opener(self) -> OpenSession:
        return learning(self._open_session, self._era)

    async def request(self, request: Request) -> Json:
        """As `McpClient.request`; the result of a call in a session may be `input_required`, as of a pending call."""
        params = request.params
        if request.method not in MAY_ASK or params is None:
            if request.method in LISTS and request.affinity is not None:
                return await self.list_in_session(request)
            if request.method == CLIENT_METHOD:
                return await self._take_client_event(request)
            return await self._shared.request(request)
        if "requestState" in params and is_pending_state(params["requestState"]):
            return await self._calls.retry(request)
        wants_session = request.in_session and request.started is None
        features = self._features_for_session(request, params) if wants_session else None
        if features is not None:
            try:
                return await self._calls.begin(request, features)
            except SessionRefused as exc:
                self._refuse_without_session(request, exc)  # Nothing was sent.
            except RpcError as exc:
                if not self._goes_again(request, params, exc):
                    raise (_explained(exc) if _is_unfit(exc) else exc) from exc
        result = await self._shared.request(request)
        if result.get("resultType") == "input_required" and len(self._has_asked) < IN_ROUNDS_MAX:
            self._has_asked |= {_subject(request.method, params)}
        again = request.in_session and self._learns_to_need_sessions(request, result)
        return await self.request(replace(request, started=None)) if again else result  # That one has not gone out.

    def start_request(self, request: Request, taker: ResultTaker) -> bool:
        """As `StartsRequests.start_request`, of a call that goes the stateless way."""
        params = request.params
        if self._starts is None or params is None or "requestState" in params:
            return False
        try:
            if request.in_session and self._features_for_session(request, params) is not None:
                return False
        except CallNotSent:
            return False
        return self._starts.start_request(request, taker)

    def _refuse_without_session(self, request: Request, exc: SessionRefused | None = None) -> None:
        """Raise `CallNotSent` for a call that must have a session, to a server that opens none."""
        if self._must_have and is_of_session(request.affinity):
            why = "it opens no sessions, which its entry asks for (mesh.sessions: own)"
            raise CallNotSent.about("the server", why, "" if exc is None else f": {exc}") from exc

    def _features_for_session(self, request: Request, params: Json) -> Json | None:
        """The capabilities of the session that a call shall run in; None where it goes the stateless way.

        Answers without a state of ours belong to a call that asks in rounds; a task is found again without sessions
        alone. Raises `CallNotSent` where it must have one.
        """
        if not self._by_session and not (params.get("_meta") or {}).get(CLIENT_CAPABILITIES_META_KEY):
            return None
        if params.get("requestState") is not None or params.get("inputResponses") is not None:
            return None
        if _subject(request.method, params) in self._in_rounds or declares_tasks(params):
            return None
        if not self._era.is_worth_trying(clock.now_s()):
            self._refuse_without_session(request)
            return None
        features = features_of(params, request.affinity)
        wanted = permits_requests(features) or (self._by_session and is_of_session(request.affinity))
        return features if wanted else None

    def _learns_to_need_sessions(self, request: Request, result: Json) -> bool:
        """Whether a call failed for want of a session and is made again in one; the next ones run in one anyway."""
        if result.get("isError") is not True or self._by_session:
            return False
        if not (request.in_session and is_of_session(request.affinity) and needs_session(result)):
            return False
        log.info('MCP server needs sessions, as "sessions": "own" gives it', extra={"client": repr(self._shared)})
        self._by_session = True
        return request.repeatable

    def _goes_again(self, request: Request, params: Json, error: RpcError) -> bool:
        """Whether a call that ended in a session with this error is made the stateless way now; the next ones are."""
        wants_rounds, is_unfit = _WANTS_ROUNDS in error.message, _is_unfit(error)
        subject = _subject(request.method, params)
        if (wants_rounds or is_unfit) and len(self._in_rounds) < IN_ROUNDS_MAX:
            self._in_rounds |= {subject}
        return wants_rounds or (is_unfit and (request.repeatable or subject in self._has_asked))


def _is_unfit(error: RpcError) -> bool:
    return error.code == INTERNAL_ERROR and error.message == _UNFIT_RESULT


def needs_session(result: Json) -> bool:
    """Whether a call failed because its caller has no session at the server."""
    content = result.get("content") if result.get("isError") is True else None
    texts = [one.get("text") for one in content if isinstance(one, dict)] if isinstance(content, list) else []
    return any(isinstance(text, str) and _NEEDS_SESSION in text for text in texts)


def _explained(error: RpcError) -> RpcError:
    """The error with what its caller can make of it: the SDK's words do not say that another call may go well."""
    why = "it was called in a session, where nothing can ask in rounds; further calls of it are made without one"
    return RpcError(error.code, f"{error.message}: {why}", error.data)


def _subject(method: str, params: Json) -> tuple[str, object]:
    name = params.get("name", params.get("uri"))
    return method, name if isinstance(name, str) else None
