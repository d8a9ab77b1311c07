"""The way of requests that pass by their head: to their endpoint, past the middlewares, and past a task where possible.

Given to `agent.server.fast_path`. What a head says for all its requests is decided in `agent.rest.security`, and noted
there; a request of another kind passes the middlewares. The one rule: what a head was noted to allow counts only while
the tokens are those of then.
"""

from collections.abc import Awaitable

from aiohttp import web

from agent.authority.caller import serve_for
from agent.rest.envelope import envelope_middleware
from agent.rest.tokens import TokenTable
from agent.server.fast_path.connection import Connection, FastRequest, Handler, Unwaited
from agent.server.fast_path.heads import Beginning
from agent.server.fast_path.serving import Direct


class DirectWay(Direct):
    """See the module. `tokens`: of the node's clients."""

    def __init__(self, tokens: TokenTable) -> None:
        self._tokens = tokens

    def __repr__(self) -> str:
        return "<DirectWay>"

    def start(self, connection: Connection, beginning: Beginning, body: bytes) -> Unwaited | None:
        """As `Direct.start`."""
        passed, start = beginning.head.passed, beginning.head.start
        if start is None or passed is None or passed[1] is None or passed[0] is not self._tokens.generation:
            return None
        started: Unwaited | None = start(connection, beginning, body, passed[1])
        return started

    def answer(self, request: FastRequest) -> Awaitable[web.StreamResponse] | None:
        """As `Direct.answer`."""
        serve, passed = request.head.serve, request.head.passed
        if serve is None or passed is None or passed[1] is None or passed[0] is not self._tokens.generation:
            return None
        serve_for(passed[1])
        return envelope_middleware(request, serve)

    def go_on(self, request: FastRequest, handler: Handler) -> Awaitable[web.StreamResponse]:
        """As `Direct.go_on`."""
        return envelope_middleware(request, handler)
