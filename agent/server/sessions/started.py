"""Calls of sessions that are answered without a task (`agent.server.started`).

Used by `agent.server.sessions.http` alone. The one rule: a call that has no task is in its session all the same, so
that its ID is taken, and its client can cancel it.
"""

from agent.authority.caller import Caller
from agent.dispatch.call import Forwarded
from agent.dispatch.dispatcher import Dispatch
from agent.lossless_json.raw import Bytes
from agent.mcp_terms import CLIENT_CAPABILITIES_META_KEY, LOG_LEVEL_META_KEY
from agent.model import AFFINITY_META_KEY, Json
from agent.server.caller_views import CallerViews
from agent.server.fast_path.connection import Connection
from agent.server.fast_path.heads import Beginning
from agent.server.preferences import Preferences
from agent.server.sessions.requests import UNSET_LOG_LEVEL
from agent.server.sessions.session import ServerSession
from agent.server.sessions.upstream import UpstreamSessions
from agent.server.started import METHOD, StartedRequest, StartsCalls, startable
from agent.server.written_results import written


class StartedInSession(StartedRequest):
    """One of them."""

    __slots__ = ("session",)

    session: ServerSession


class SessionStarts:
    """Those of one endpoint."""

    def __init__(self, *, views: CallerViews, dispatch: Dispatch, upstream: UpstreamSessions) -> None:
        self._views = views
        self._dispatch = dispatch
        self._upstream = upstream

    def __repr__(self) -> str:
        return "<SessionStarts>"

    def start(
        self,
        session: ServerSession,
        owner: StartsCalls,
        connection: Connection,
        beginning: Beginning,
        body: bytes,
        *,
        caller: Caller,
        message: Json,
        preferences: Preferences,
    ) -> StartedInSession | None:
        """Send a call without waiting; None where it has to be served in a task, and nothing was sent."""
        params = message.get("params") or {}
        route = startable(self._views, caller, params)
        if route is None or "task" in params or AFFINITY_META_KEY in (params.get("_meta") or {}):
            return None
        index, request_id = self._views.index, message["id"]
        started = StartedInSession(
            owner, connection, beginning, body, caller, request_id, params, index, route, preferences
        )
        started.session = session
        # As `in_rounds` and `with_log_level` have it.
        level, declared = session.log_level or UNSET_LOG_LEVEL, session.declared_to_servers
        meta = {LOG_LEVEL_META_KEY: level, **(params.get("_meta") or {}), CLIENT_CAPABILITIES_META_KEY: declared}
        if started.start(self._dispatch, {**params, "_meta": meta}, session.id) is None:
            return None
        session.unwaited[started.request_id] = started
        return started

    def ended(self, started: StartedInSession, forwarded: Forwarded) -> tuple[Bytes, ...]:
        """The result of one, for its client."""
        session, route = started.session, started.route
        called = session.called(forwarded.replica.backend_key, route.owner)
        if self._views.offers:
            self._upstream.follow(session, called)
        return written(METHOD, route, forwarded, modern=False)
