"""A call that a worker had begun and did not answer, served by the node when the worker has died.

Made by `agent.workers.crew` of what the worker's journal says. The call passes every check once more, and counts as
sent, without an answer: dispatch makes it again where that does no harm (`agent.dispatch.retry`), and else answers
that its outcome is unknown. The one rule: a call that may have been executed gets no other error than that.
"""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from agent.dispatch.call import Call, Failed
from agent.dispatch.retry import is_repeatable
from agent.errors import CallOutcomeUnknown, CallUnanswered
from agent.server.fast_path.connection import Connection, FastRequest

_WHY: Final = "the process of this node that had sent it ended before there was an answer"


@dataclass(slots=True)
class Lost:
    """One such call. `is_known`: dispatch has heard of it."""

    is_known: bool = False


LOST: Final[ContextVar[Lost | None]] = ContextVar("lost", default=None)


class RecoveredConnection(Connection):
    """The connection of such a call."""

    __slots__ = ()

    def serve_lost(self, data: bytes) -> None:
        """Serve the call that `data` begins with, and what follows it."""
        beginning = self._owner.heads.read(data)
        assert beginning is not None, "a worker has begun it"
        end = beginning.head_bytes + beginning.body_bytes
        self._held = data[end:]
        request = FastRequest(self, beginning, data[beginning.head_bytes : end], self._loop)
        self._run(request, self._known(request))

    async def _known(self, request: FastRequest) -> web.StreamResponse:
        """Its answer, if dispatch has heard of it. Raises `ConnectionError`, which ends the connection."""
        LOST.set(lost := Lost())
        response = await self._owner.handle(request)
        if not lost.is_known:  # A refusal would mean that it was not executed.
            raise ConnectionError("what has become of it cannot be said")
        return response


def lost_attempt(call: Call) -> Failed | None:
    """As `Dispatch.lost`, of a call that may be made again. Raises `CallUnanswered` for every other."""
    lost = LOST.get()
    if lost is None or lost.is_known:
        return None
    lost.is_known = True
    replicas = call.route.replicas
    if not replicas or not all(is_repeatable(call.method, call.route, one) for one in replicas):
        # Which of several the worker had chosen is not known.
        backend = replicas[0].backend_key if len(replicas) == 1 else None
        raise CallUnanswered(_WHY, backend=backend, timed_out=False, broken=False)
    # The process failed, and no server: a budget for servers that fail must not be spent on it.
    failure = CallOutcomeUnknown.for_clients(_WHY).with_nothing_sent()
    return Failed(replicas[0], failure, was_away=False)
