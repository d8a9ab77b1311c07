"""Calls of clients that are answered without a task: sent, and answered when their result comes, in two callbacks.

Made by the servers of both eras for a call that may go as most do. What takes longer than `WAITED_FOR_S`, ends
otherwise, or has lost its client, goes on in a task, as every other request. The one rule: whichever way a call goes,
its client, its server, the log and the figures see the same.
"""

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, Self

import orjson

from agent.authority.caller import Caller, serve_for
from agent.dispatch.call import Forwarded
from agent.dispatch.dispatcher import Dispatch
from agent.errors import MCPError
from agent.lossless_json.raw import Bytes, RawObject
from agent.model import Json
from agent.routing.table import Replica, Route
from agent.server.caller_views import CallerViews
from agent.server.fast_path.connection import Connection, FastRequest, Handler
from agent.server.fast_path.heads import Beginning
from agent.server.forward import is_as_clients_see_it
from agent.server.lists import ListIndex
from agent.server.preferences import Preferences
from agent.server.request_log import logged, write_usual
from agent.server.search import CALL_TOOL

if TYPE_CHECKING:
    from agent.dispatch.started_call import StartedCall

# Pings, deadlines and doubts about a server are the tasks' business, and are due after seconds.
WAITED_FOR_S: Final = 0.5
METHOD: Final = "tools/call"


class StartedCalls:
    """Those of one endpoint and era that nothing waits for yet. One timer for all.

    `since_s`: when each has begun; who answers one, or has it waited for, takes it out.
    """

    def __init__(self) -> None:
        self.since_s: dict[StartedRequest, float] = {}  # The longest waiting comes first.
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<StartedCalls {len(self.since_s)}>"

    def add(self, request: "StartedRequest", now_s: float) -> None:
        """It has gone out."""
        self.since_s[request] = now_s
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(now_s + WAITED_FOR_S, self._look)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now_s, self._timer = loop.time(), None
        for request, since_s in tuple(self.since_s.items()):
            if since_s + WAITED_FOR_S > now_s:
                self._timer = loop.call_at(since_s + WAITED_FOR_S, self._look)
                return
            request.leave()


class StartedRequest:
    """One of them; of its call, the one who takes the result (`agent.dispatch.started_call.CallTaker`).

    `index`: where its route was found. `call`: set when it has gone out.
    """

    __slots__ = (
        "_beginning",
        "_body",
        "_connection",
        "_owner",
        "_started_s",
        "call",
        "caller",
        "index",
        "params",
        "preferences",
        "request_id",
        "route",
    )

    def __init__(  # noqa: PLR0917 - a class that is called with names takes twice as long, and most calls pass here
        self,
        owner: "StartsCalls",
        connection: Connection,
        beginning: Beginning,
        body: bytes,
        caller: Caller,
        request_id: str | int,
        params: Json,
        index: ListIndex,
        route: Route,
        preferences: Preferences,
    ) -> None:
        self._owner, self._connection, self._beginning, self._body = owner, connection, beginning, body
        self.caller, self.request_id, self.params = caller, request_id, params
        self.index, self.route, self.preferences = index, route, preferences
        self.call: StartedCall | None = None
        self._started_s = time.monotonic()

    def __repr__(self) -> str:
        return f"<StartedRequest {self.route.public_name}>"

    def start(self, dispatch: Dispatch, asked: Json | None = None, session_id: str | None = None) -> Self | None:
        """Send it; None where it has to be served in a task from the beginning, and nothing was sent.

        `asked`: its params with what its session adds.
        """
        params = self.params if asked is None else asked
        present = partial(self.index.present, METHOD, params)
        self.call = dispatch.start(METHOD, self.route, params, self, present=present, session_id=session_id)
        if self.call is None:
            return None
        self._owner.started_calls.add(self, self.call.attempt.started_s)
        return self

    def line(self) -> logged:
        """Its line in the log, begun."""
        return logged(METHOD, self.params, self.request_id, of=self.caller, began_s=self._started_s)

    def take(self, result: RawObject, replica: Replica) -> bool:
        """As `CallTaker`."""
        if not is_as_clients_see_it(self.route, result, replica):
            return False
        try:
            parts = self._owner.written(self, Forwarded(result, replica))
        except MCPError:  # Raised once more where it is an answer.
            return False
        head = b'{"jsonrpc":"2.0","id":' + orjson.dumps(self.request_id) + b',"result":'
        if not self._connection.answer(b"".join((head, *parts, b"}"))):
            return False
        self._owner.started_calls.since_s.pop(self, None)
        self.call = None  # It refers to this; else only the garbage collector would free them.
        write_usual((METHOD, self.params, self.request_id), self.caller, replica.backend_key, self._started_s)
        return True

    def wait(self) -> None:
        """As `CallTaker`."""
        self._owner.started_calls.since_s.pop(self, None)
        self._connection.go_on(self._beginning, self._body, self._handler_of)

    def leave(self) -> None:
        """As `agent.server.fast_path.connection.Unwaited`."""
        assert self.call is not None, "it has gone out"
        self.call.leave()

    def _handler_of(self, request: FastRequest) -> Handler:
        serve_for(self.caller)  # For all tasks of the call: what had it wait may be of another caller.
        return self._owner.go_on(request, self)


def startable(views: CallerViews, caller: Caller, params: Json) -> Route | None:
    """The route of a call that may go as most do; None for any other, and where a caller's limits have to be asked."""
    if views.offers or caller.allowance is not None or caller.recorder.records_calls:
        return None
    route = views.index.tool(params)
    if route is None or route.fleet is not None or route.away_since_s is not None:
        return None
    name = params["name"]
    return None if route.public_name != name or name == CALL_TOOL else route


class StartsCalls(Protocol):
    """The server of an era, as what it has started needs it."""

    started_calls: StartedCalls

    def written(self, started: StartedRequest, forwarded: Forwarded) -> tuple[Bytes, ...]:
        """The result as its client gets it, in parts."""
        ...

    def go_on(self, request: FastRequest, started: StartedRequest) -> Handler:
        """Begin to go on with it; what is returned answers it, in a task."""
        ...
