"""Notifies servers of client events besides calls: a client's session ended, or its roots changed.

Called by the session table and by the HTTP side of sessions. A server that then requests the roots gets them from the
client, over its standing stream. The one rule: no request waits for these notifications, and however often a client's
roots change, each server gets one notification at a time.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeAlias

from agent.client.affinity import affinity_key
from agent.client.capabilities import declared_features
from agent.dispatch.call import Forwarded
from agent.dispatch.client_events import CalledBackend, UpstreamEvents
from agent.errors import OUTCOME_UNKNOWN, MCPError, MeshError, RpcError
from agent.lossless_json.unread import Unread
from agent.model import DEADLINE_META_KEY, ClientEvent, Json
from agent.routing.table import Replica
from agent.server.sessions.elicitation import AskedClient, in_rounds
from agent.server.sessions.session import ServerSession

log = logging.getLogger(__name__)

# Roots are listed by a program, without a user; later server requests wait for the next call.
ROOTS_PATIENCE_S: Final = 30.0
# Many sessions may end at once; the other nodes need not be notified of all of them at the same moment.
NOTIFIED_AT_ONCE_MAX: Final = 16
# Of more, servers are not notified, and release what they keep when it has been idle for its time.
WAITING_MAX: Final = 1_000

StartTask: TypeAlias = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]


class SessionNotifications:
    """The client events of one endpoint."""

    def __init__(self, events: UpstreamEvents) -> None:
        self._events = events
        self._room = asyncio.Semaphore(NOTIFIED_AT_ONCE_MAX)
        self._waiting = 0

    async def session_ended(self, session: ServerSession) -> None:
        """Let servers release what they keep for the client of a session that is over."""
        if self._waiting >= WAITING_MAX:
            return
        self._waiting += 1
        try:
            for target in session.called_backends:
                async with self._room:
                    await _logged(self._notify(session, target, ClientEvent.ENDED, {}))
        finally:
            self._waiting -= 1

    def roots_changed(self, session: ServerSession, start_task: StartTask) -> None:
        """Notify servers that may have requested the client's roots that these have changed."""
        session.roots_unreported = True
        if session.chore is None or session.chore.done():
            session.chore = start_task(self._notify_of_roots(session), "notify servers of changed roots")

    async def _notify_of_roots(self, session: ServerSession) -> None:
        while session.roots_unreported:
            session.roots_unreported = False
            declared = session.declared_to_servers
            if "roots" in declared_features(declared):
                for target in session.called_backends:
                    await _logged(self._roots_at(session, target, declared))

    async def _roots_at(self, session: ServerSession, target: CalledBackend, declared: Json) -> None:
        async def send(params: Json) -> Forwarded:
            event = {**params, "canBeAsked": session.stream is not None}
            return await self._notify(session, target, ClientEvent.ROOTS_CHANGED, event)

        async def tell(message: bytes) -> None:
            session.tell(message)

        async def ask(method: str, params: Json) -> Json | Unread:
            return await session.ask(tell, method, params)

        deadline = {"_meta": {DEADLINE_META_KEY: int(ROOTS_PATIENCE_S * 1000)}}
        await in_rounds(send, deadline, AskedClient(declared, ask))

    async def _notify(
        self, session: ServerSession, target: CalledBackend, event: ClientEvent, params: Json
    ) -> Forwarded:
        key = affinity_key({}, session.id)
        assert key is not None, "a session has one"
        try:
            result = await self._events.tell(target, key, event, params)
        except MeshError as exc:
            raise as_mcp_error(exc) from exc
        return Forwarded(result, Replica(target.backend, target.server, None, ours=False))


def as_mcp_error(exc: MeshError) -> MCPError:
    """Why an event was not accepted, as the protocol's error."""
    if isinstance(exc, RpcError):
        return MCPError(code=exc.code, message=exc.message, data=exc.data)
    return MCPError(code=OUTCOME_UNKNOWN, message=exc.words("the server"), data={"outcome": "unknown"})


async def _logged(notifying: Coroutine[Any, Any, object]) -> None:
    """Log a failure, as no caller waits for the outcome."""
    try:
        await notifying
    except MCPError as exc:
        log.debug("MCP server was not notified of a client event", extra={"reason": exc.message})
    except Exception:  # A bug of ours must not take the group of sessions, and so the node, down.
        log.exception("MCP server was not notified of a client event")
