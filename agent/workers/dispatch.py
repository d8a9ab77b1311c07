"""A worker's dispatch: calls whose every replica can be called from here; all others are the node's.

Made by `agent.workers.process`. A call that nothing has executed goes to the node as well, which may wait for another
route, dial a backend, or refuse it. The one rule: what may have been executed is never given to the node.
"""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from agent.client.server_info import OnNotification
from agent.client.streaming import ResultStream
from agent.dispatch.call import Forwarded
from agent.dispatch.dispatcher import Dispatch
from agent.dispatch.renewals import Present
from agent.dispatch.started_call import CallTaker, StartedCall
from agent.errors import CallRefused, NoLongerOffered
from agent.model import Json
from agent.routing.table import Route
from agent.workers.gate import CALL
from agent.workers.links import WorkerLinks


@dataclass(slots=True)
class Turn:
    """One request at a worker. `not_here`: the node is to serve it."""

    not_here: bool = False


TURN: Final[ContextVar[Turn | None]] = ContextVar("turn", default=None)


def _for_the_node() -> None:
    if (turn := TURN.get()) is not None:
        turn.not_here = True


def is_for_the_node() -> bool:
    """Whether the node is to serve the present request, so that nothing may be answered here."""
    turn = TURN.get()
    return turn is not None and turn.not_here


class WorkerDispatch(Dispatch):
    """See the module. `links`: set before the first call."""

    links: WorkerLinks

    async def forward(
        self,
        method: str,
        route: Route,
        params: Json,
        on_notification: OnNotification | None = None,
        *,
        session_id: str | None = None,
        on_attempt: Callable[[str], None] = lambda _backend: None,
        on_delivered: Callable[[bool], None] = lambda _is_error: None,
        on_trace: Callable[[str], None] = lambda _trace: None,
        sink: ResultStream | None = None,
        present: Present | None = None,  # noqa: ARG002 - the node waits, not a worker
        param_headers: Mapping[str, str] | None = None,
    ) -> Forwarded:
        """As `Dispatch.forward`; where it says that nothing was executed, the present turn is the node's."""
        if method != CALL or not self._may_call(route, session_id):
            _for_the_node()
            raise CallRefused(f"{route.public_name} was not executed: it is for another process")
        try:
            return await super().forward(
                method,
                route,
                params,
                on_notification,
                session_id=session_id,
                on_attempt=on_attempt,
                on_delivered=on_delivered,
                on_trace=on_trace,
                sink=sink,
                param_headers=param_headers,
            )
        except (CallRefused, NoLongerOffered):
            _for_the_node()
            raise

    def start(
        self,
        method: str,
        route: Route,
        params: Json,
        taker: CallTaker,
        *,
        present: Present | None,  # noqa: ARG002 - the node waits, not a worker
        session_id: str | None = None,
    ) -> StartedCall | None:
        """As `Dispatch.start`."""
        if method != CALL or not self._may_call(route, session_id):
            return None
        return super().start(method, route, params, taker, present=None, session_id=session_id)

    async def go_on(
        self,
        started: StartedCall,
        on_notification: OnNotification | None,
        *,
        on_attempt: Callable[[str], None],
        on_delivered: Callable[[bool], None],
        on_trace: Callable[[str], None],
        sink: ResultStream | None,
    ) -> Forwarded:
        """As `Dispatch.go_on`; where it says that nothing was executed, the present turn is the node's."""
        try:
            return await super().go_on(
                started, on_notification, on_attempt=on_attempt, on_delivered=on_delivered, on_trace=on_trace, sink=sink
            )
        except (CallRefused, NoLongerOffered):
            _for_the_node()
            raise

    def _may_call(self, route: Route, session_id: str | None) -> bool:
        """Whether each replica that the node is linked with can be called from here; one that cannot is opened."""
        links = [self.links.link(replica.backend_key) for replica in route.replicas]
        ready = True
        for link in links:
            if link is None:
                return False
            if not link.is_open:
                link.called()
                ready = False
            elif session_id is not None and not link.serves_sessions:
                return False
        return ready
