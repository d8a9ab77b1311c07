"""The serving half of a worker: the endpoint, checks and fast path of the node, for connections that it was given.

Made by `agent.workers.process`. The one rule: a connection is the worker's from request to request; at each boundary it
goes back to the node, with every byte that has come, unless the next request is a call that a worker may serve.
"""

import asyncio
import mmap
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import web

from agent import clock
from agent.errors import MeshError
from agent.model import HEADER_BYTES_MAX, LinkView
from agent.rest.direct import DirectWay
from agent.rest.envelope import envelope_middleware
from agent.rest.security import (
    EdgePolicy,
    security_headers,
    security_middleware,
    usual_header_lines,
)
from agent.rest.tokens import TokenTable
from agent.routing.table import Route, RouteTable
from agent.server.endpoint import Endpoint, build_endpoint
from agent.server.fast_path.connection import Connection, FastRequest, HandlerOf, ServedElsewhere
from agent.server.fast_path.heads import Beginning
from agent.server.fast_path.serving import FastServer
from agent.server.pages import PageLimits
from agent.server.preferences import ERRORS, NOTICES, Preferences
from agent.server.sessions.sealed_id import seal_keys
from agent.server.write_deadline import write_deadline_middleware
from agent.state.ended_sessions import EndedSessions
from agent.subscriptions.registry import Counts
from agent.subscriptions.resources import ClientUpdates, ResourceUpdates
from agent.subscriptions.sessions import SessionUpdates
from agent.subscriptions.tasks import TaskUpdates
from agent.workers.dispatch import TURN, Turn, WorkerDispatch, is_for_the_node
from agent.workers.gate import PATH, Gate
from agent.workers.journal import ROOM_BYTES, Place
from agent.workers.passage import Given
from agent.workers.picture import (
    SILENT_S,
    CallCancelled,
    Picture,
    SessionBegun,
    SessionOver,
    Setup,
    Tools,
)
from agent.workers.tally import Back

if TYPE_CHECKING:
    from agent.server.node_operations import NodeOperations

# An answer that its client has not read yet is waited for so long before its connection is looked at again.
_UNREAD_AGAIN_S: Final = 0.05
_HEADER: Final = "mcp-session-id"


@dataclass(slots=True)
class Origin:
    """What a worker remembers of a connection, in `Connection.moved`."""

    number: int
    returns: int
    is_for_node: bool = False


class JournaledConnection(Connection, asyncio.BufferedProtocol):
    """A connection whose requests come right into the journal of the worker, and that is shut down when it ends.

    The node has a descriptor of it as well, so that to close this one ends nothing. `place`: its place in the journal;
    `in_task`: the last request, where it was served in a task, until it is known how long its answer was.
    """

    __slots__ = ("in_task", "is_given_back", "place")

    def __init__(self, owner: FastServer, journal: mmap.mmap, number: int) -> None:
        super().__init__(owner)
        self.place = Place(journal, number, self._turn.write)
        self._write = self.place.write
        self.is_given_back = False
        self.in_task: FastRequest | None = None

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - as `asyncio.BufferedProtocol`
        """As `asyncio.BufferedProtocol`. There is room, as no more than that is read before it goes to the node."""
        place = self.place
        return place.room[place.filled :] if place.filled else place.room

    def buffer_updated(self, nbytes: int) -> None:
        """As `asyncio.BufferedProtocol`."""
        place = self.place
        begun, place.filled = place.filled, place.filled + nbytes
        self.data_received(place.room[begun : place.filled].tobytes())
        if place.filled == ROOM_BYTES and self.transport is not None:
            self.transport.pause_reading()

    def connection_lost(self, exc: BaseException | None) -> None:
        """As `asyncio.Protocol`."""
        if not self.is_given_back and self.transport is not None:
            with suppress(OSError):
                self.transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        super().connection_lost(exc)

    def _run(self, request: FastRequest, answer: Awaitable[web.StreamResponse] | None = None) -> None:
        super()._run(request, answer)
        self.in_task = request
        assert self._request is not None, "it is handled in a task"
        self._request.add_done_callback(partial(self._has_ended, request))

    def _has_ended(self, request: FastRequest, _task: object) -> None:
        if self.in_task is request:
            self.settle()

    def settle(self) -> None:
        """Note how long the answer to the last request was, which has ended, if aiohttp has written it."""
        request, self.in_task = self.in_task, None
        writer = None if request is None else request.writer_made
        # Of one that is lost the place may be another connection's by now.
        if writer is not None and not self._ending and self.transport is not None:
            self.place.wrote(writer.output_size)


class WorkerServer(FastServer):
    """The fast path of a worker. A request that turns out to be the node's goes there with its connection."""

    async def handle(self, request: FastRequest) -> web.StreamResponse:
        """As `FastServer.handle`. Raises `ServedElsewhere`."""
        TURN.set(turn := Turn())
        return await _unless_not_here(super().handle(request), turn)

    def go_on(self, request: FastRequest, handler_of: HandlerOf) -> Awaitable[web.StreamResponse]:
        """As `FastServer.go_on`. Raises `ServedElsewhere`."""
        TURN.set(turn := Turn())
        return _unless_not_here(super().go_on(request, handler_of), turn)


async def _unless_not_here(answer: Awaitable[web.StreamResponse], turn: Turn) -> web.StreamResponse:
    response = await answer
    if turn.not_here and not response.prepared:
        raise ServedElsewhere
    return response


class Serving:
    """See the module. `tell`: sends a frame to the node.

    Long because its connections, and what it has heard of the node, decide together which requests it serves.
    """

    def __init__(
        self, setup: Setup, dispatch: WorkerDispatch, journal: mmap.mmap, tell: Callable[[Back], None]
    ) -> None:
        self._setup = setup
        self._journal = journal
        self._tell = tell
        self._routes = RouteTable(tools={})
        self._tools: dict[str, Route] = {}
        self._links: Mapping[str, LinkView] = {}
        self._secrets: Sequence[bytes] = ()
        self._sessions: set[str] = set()
        self._ended = EndedSessions()
        self.tokens: Final = TokenTable(closed=setup.is_closed)
        self._policy = EdgePolicy(
            host_names=setup.host_names, origins=frozenset(), tokens=self.tokens, metrics_public=False
        )
        self.gate: Final = Gate(self._policy)
        self.gate.sessions = self._sessions
        self._heard_s = clock.now_s()
        self.used_sessions: set[str] = set()
        self._by_number: dict[int, JournaledConnection] = {}
        self.is_leaving, self._arriving = False, 0
        self._gone: list[int] = []  # Before they had arrived.
        self.endpoint: Final = self._endpoint(setup, dispatch)
        self._runner: web.AppRunner | None = None
        self._server: WorkerServer | None = None

    def __repr__(self) -> str:
        return f"<Serving {len(self._by_number)} connections, {len(self._tools)} tools>"

    async def start(self) -> None:
        """Serve what is given from now on."""
        app = web.Application(
            middlewares=[write_deadline_middleware, envelope_middleware, security_middleware(self._policy)]
        )
        app.on_response_prepare.append(security_headers(self._policy))
        app.on_response_prepare.append(self._last_answer)
        # All callers that come here may use all of it, so one head means one way.
        self.endpoint.add_to(app, partial(self.endpoint.handle, is_usual=True))
        runner = self._runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, auto_decompress=False, max_field_size=HEADER_BYTES_MAX
        )
        await runner.setup()
        assert runner.server is not None
        server = self._server = WorkerServer(
            app,
            runner.server,
            PATH,
            self._usual_lines,
            DirectWay(self._policy),
        )
        server.elsewhere = self._elsewhere

    async def stop(self) -> None:
        """End what is left."""
        if self._server is not None:
            await self._server.shutdown(0.0)
        if self._runner is not None:
            await self._runner.cleanup()

    # Connections

    @property
    def count(self) -> int:
        """How many connections there are."""
        return len(self._by_number) + self._arriving

    async def take(self, given: Given) -> None:
        """Serve a connection from now on."""
        server = self._server
        assert server is not None, "it was started"
        if given.descriptor is None:  # Nothing has become of it yet, so the node goes on with it.
            self._tell(Back(given.number, given.returns + 1))
            return
        loop, connection = asyncio.get_running_loop(), JournaledConnection(server, self._journal, given.number)
        connection.moved = Origin(given.number, given.returns)
        self._arriving += 1
        try:
            await loop.connect_accepted_socket(lambda: connection, socket.socket(fileno=given.descriptor))
        except OSError:
            self._gone.append(given.number)
            return
        finally:
            self._arriving -= 1
        self._by_number[given.number] = connection
        # In this very turn of the loop, so that nothing is read of it before.
        connection.buffer_updated(given.size)

    def closed(self) -> list[int]:
        """The numbers of those that have ended since this was called last."""
        over = [number for number, one in self._by_number.items() if one.transport is None]
        for number in over:
            del self._by_number[number]
        gone, self._gone = self._gone, []
        return over + gone

    def close_idle(self, count: int, idle_s: float) -> None:
        """As `FastServer.close_idle`."""
        if self._server is not None:
            self._server.close_idle(count, idle_s)

    def leave(self) -> None:
        """Give back what is idle, now; the rest ends with its answer."""
        self.is_leaving = True
        for connection in list(self._by_number.values()):
            if connection.idle_since_s is not None and connection.transport is not None:
                self._give_back(connection, connection.hold())

    def _elsewhere(self, connection: Connection, beginning: Beginning | None, data: bytes) -> bool:
        assert isinstance(connection, JournaledConnection), "it was taken here"
        origin: Origin = connection.moved
        if not self._may_serve():
            self._give_back(connection, data)
            return True
        if beginning is not None and not origin.is_for_node and self._takes(connection, beginning, data):
            if (session_id := beginning.head.by_name.get(_HEADER)) is not None:
                self.used_sessions.add(session_id)
            return False
        origin.returns += not origin.is_for_node
        self._give_back(connection, data)
        return True

    def _takes(self, connection: JournaledConnection, beginning: Beginning, data: bytes) -> bool:
        """Whether to serve the request that has come, which then is begun. More than one is the node's to serve."""
        if beginning.head_bytes + beginning.body_bytes != len(data) or not self.gate.takes(beginning.head, data):
            return False
        if connection.in_task is not None:
            connection.settle()
        return connection.place.begin()

    def _may_serve(self) -> bool:
        return not self.is_leaving and clock.now_s() - self._heard_s < SILENT_S

    def _give_back(self, connection: JournaledConnection, data: bytes) -> None:
        origin: Origin = connection.moved

        def give(_descriptor: int) -> bool:
            connection.settle()
            connection.is_given_back = True
            self._by_number.pop(origin.number, None)
            self._tell(Back(origin.number, origin.returns))
            return True

        if not connection.give_away(give):
            origin.is_for_node = True
            connection.hold(data)
            asyncio.get_running_loop().call_later(_UNREAD_AGAIN_S, self._look_again, connection)

    def _look_again(self, connection: Connection) -> None:
        if connection.request is None and connection.transport is not None:
            connection.data_received(b"")

    def _usual_lines(self, request: web.Request | None) -> str | None:
        """As `CommonLines`. None where an answer may not go out at once; one of a call without a task always may."""
        if self.is_leaving or (request is not None and is_for_the_node()):
            return None
        return usual_header_lines(request)

    async def _last_answer(self, _request: web.Request, response: web.StreamResponse) -> None:
        if self.is_leaving:
            response.force_close()
            response.headers["Connection"] = "close"

    # The node's word

    def heard(self) -> None:
        """The node lives."""
        self._heard_s = clock.now_s()

    def show(self, picture: Picture) -> None:
        """Take the state of now."""
        self._secrets = picture.secrets
        self._links = picture.links
        self.tokens.replace(picture.tokens, picture.named)
        self.gate.know(self._tools, self._links)

    def change_tools(self, tools: Tools) -> None:
        """Take the tools of now."""
        self._tools = {
            name: route for name, route in (self._tools | dict(tools.changed)).items() if name not in tools.gone
        }
        self._routes = RouteTable(tools=self._tools)
        self.gate.know(self._tools, self._links)

    def change_sessions(self, news: SessionBegun | SessionOver | CallCancelled) -> None:
        """Take what has become of a session at the node."""
        match news:
            case SessionBegun():
                self._sessions.add(news.session_id)
            case SessionOver():
                self._sessions.discard(news.session_id)
                for end in tuple(self._ended.elsewhere) if news.ended else ():
                    end(news.session_id)
            case CallCancelled():
                self.endpoint.sessions.cancel(news.session_id, news.request_id)

    def _endpoint(self, setup: Setup, dispatch: WorkerDispatch) -> Endpoint:
        uncounted = Counts(lambda _number: None, lambda: None)
        updates = ClientUpdates(
            ResourceUpdates(_no_link, uncounted),
            TaskUpdates(_no_link, uncounted, own_node_id=setup.own.node_id),
            SessionUpdates(_no_link, uncounted),
        )
        return build_endpoint(
            PATH,
            identity=setup.own,
            node_status=cast("NodeOperations", _AtTheNode()),
            routes=lambda: self._routes,
            dispatch=dispatch,
            list_changed=_nothing,
            session_event=_nothing,
            session_keys=lambda: seal_keys(self._secrets, setup.service_name),
            updates=updates,
            limits=PageLimits(setup.list_page_size),
            preferences=Preferences(NOTICES[setup.notices], ERRORS[setup.errors]),
            ended_ids=self._ended,
        )


class _AtTheNode:
    """What the management tools would use of the node, had a worker any."""

    def __getattr__(self, name: str) -> Any:
        raise MeshError(f"{name} is the node's to say")


def _no_link(_key: str) -> None:
    """Nothing is followed here."""


def _nothing(_word: str) -> None:
    """The node counts its sessions."""
