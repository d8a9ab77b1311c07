"""The way of requests that pass by their head: to their endpoint, past the middlewares, and past a task where possible.

Given to `agent.server.fast_path`. What a head says for all its requests is decided in `agent.rest.security`, and noted
there; a request of another kind passes the middlewares. The one rule: what a head was noted to allow counts only while
the tokens are those of then.
"""

from collections.abc import Awaitable

from aiohttp import web

from agent.authority.caller import serve_for
from agent.rest.envelope import envelope_middleware
from agent.rest.security import EdgePolicy, Verdict, judged_by_proof, note_proof
from agent.server.fast_path.connection import Connection, FastRequest, HandlerOf, Unwaited
from agent.server.fast_path.heads import Beginning
from agent.server.fast_path.serving import Direct


class DirectWay(Direct):
    """See the module."""

    def __init__(self, policy: EdgePolicy) -> None:
        self._policy = policy
        self._tokens = policy.tokens

    def __repr__(self) -> str:
        return "<DirectWay>"

    def start(self, connection: Connection, beginning: Beginning, body: bytes) -> Unwaited | None:
        """As `Direct.start`."""
        head = beginning.head
        passed, start = head.passed, head.start
        if start is None or passed is None or passed[0] is not self._tokens.generation:
            return None
        caller = passed[1]
        if caller is None:  # Another node's: its proof counts once, however it is served then.
            connection.judged = judged = judged_by_proof(beginning.proof, head, self._policy)
            if judged is None or judged.verdict is not Verdict.ALLOWED:
                return None
            caller = judged.caller
        started: Unwaited | None = start(connection, beginning, body, caller)
        return started

    def answer(self, request: FastRequest) -> Awaitable[web.StreamResponse] | None:
        """As `Direct.answer`."""
        serve, passed = request.head.serve, request.head.passed
        if serve is None or passed is None or passed[1] is None or passed[0] is not self._tokens.generation:
            return None
        serve_for(passed[1])
        return envelope_middleware(request, serve)

    def go_on(self, request: FastRequest, handler_of: HandlerOf) -> Awaitable[web.StreamResponse]:
        """As `Direct.go_on`."""
        if request.judged is not None:
            note_proof(request, request.judged)
        return envelope_middleware(request, handler_of(request))
