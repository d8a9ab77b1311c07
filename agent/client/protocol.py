"""One request, and what every client to an MCP server can do, whatever its transport and era: raw JSON in and out.

Dispatch makes a `Request` for each attempt; links and clients pass that very object on to the transport. `McpClient` is
implemented by the clients that `agent.client.connect.open_client` yields, `Requester` also by the sessions behind
`agent.client.sessions.router`; links see `McpClient` alone. The one rule: whatever goes wrong, the exception says
whether the request may have been executed, and nothing is ever sent twice once a byte of it was written.
"""

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, runtime_checkable

from agent import clock
from agent.client.event import Event
from agent.client.server_info import OnNotification, ServerInfo
from agent.client.streaming import LargeResult
from agent.client.streams import Updates
from agent.errors import MeshError, Unreachable
from agent.model import Json


class ResultTaker(Protocol):
    """Who started a request (`StartsRequests`), and has no task that waits for its result. Never raises."""

    def take(self, result: Json) -> bool:
        """Take the result of a request that went as usual; False: no, `wait` is called then."""
        ...

    def wait(self) -> None:
        """It went otherwise, or has not gone yet: it has to be waited for, by `Started.go_on` in a task."""
        ...


class Started(Protocol):
    """A request that went out without a task.

    `changes`: how many changes of the server's lists its link had heard of. `go_on`: waits for its result, as
    `Requester.request`, in the very life of the link in which it went out.
    """

    changes: int
    go_on: "Callable[[Request], Coroutine[Any, Any, Json]] | None"

    def wait(self) -> None:
        """Have its taker wait from now on; not after it has taken the result."""
        ...


@dataclass(slots=True, eq=False)
class Request:
    """One request to one server, as every layer between dispatch and the transport passes it on, unchanged.

    `params` is never changed in place. `deadline_s` is when the answer has to be there, in loop time: absolute, so that
    no layer gives the request time anew; only the transport sets a timer by it. `headers`: `Mcp-Param-*` only, which
    its maker sees to (ignored on stdio). `affinity`: the key of the caller, or its explicit key; a server with sessions
    may have a dedicated one for it. `in_session`: that caller has a session itself, and accepts server requests while a
    call is open.
    `repeatable`: executing it twice does no harm; only known of requests with `in_session`.
    `on_notification(method, params)` is awaited for each notification that belongs to this request, in
    order, before the result is returned. `sink` may take a large result while it comes; the returned result then
    only says how it ended. `started`: it went out already, and is only waited for.

    Its `repr` shows no data of the caller.
    """

    method: str
    params: Json | None = field(repr=False)
    deadline_s: float
    headers: Mapping[str, str] | None = field(default=None, repr=False)
    affinity: str | None = field(default=None, repr=False)
    on_notification: OnNotification | None = field(default=None, repr=False)
    sink: LargeResult | None = field(default=None, repr=False)
    in_session: bool = field(default=False, repr=False)
    repeatable: bool = field(default=False, repr=False)
    started: Started | None = field(default=None, repr=False)

    @classmethod
    def within(
        cls,
        method: str,
        params: Json | None = None,
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
        affinity: str | None = None,
        on_notification: OnNotification | None = None,
        sink: LargeResult | None = None,
        in_session: bool = False,
    ) -> Self:
        """A request that begins now and may take `timeout_s` seconds."""
        deadline_s = clock.now_s() + timeout_s
        return cls(method, params, deadline_s, headers, affinity, on_notification, sink, in_session)

    def heard_by(self, on_notification: OnNotification) -> Self:
        """The same with another listener. By hand: every call passes here, and `dataclasses.replace` is slow."""
        return type(self)(
            self.method,
            self.params,
            self.deadline_s,
            self.headers,
            self.affinity,
            on_notification,
            self.sink,
            self.in_session,
            self.repeatable,
            self.started,
        )

    def left_s(self) -> float:
        """Seconds until the deadline, less than 0 after it."""
        return self.deadline_s - clock.now_s()


def shown_s(left_s: float) -> str:
    """A request's time for a message, rounded: the microseconds until it got to its client do not show."""
    return f"{max(0.0, round(left_s, 2)):g} s"


def why_lost(client: "Requester") -> Unreachable:
    """The failure of a client that is lost, with both texts."""
    failure = Unreachable(client.lost_reason)
    failure.what = client.lost_what or failure.what
    return failure


class Requester(Protocol):
    """Where requests go and list changes come from. Safe for concurrent use within one event loop."""

    @property
    def lost(self) -> Event:
        """Set when the client is known broken for good (child gone, session refused). Wait with `lost.wait()`."""
        ...

    @property
    def lost_reason(self) -> str:
        """Why `lost` is set, for operators; empty before."""
        ...

    @property
    def lost_what(self) -> str:
        """The same for clients, after the server's name (`agent.errors`); empty where it only cannot be reached."""
        ...

    async def request(self, request: Request) -> Json:
        """Send one request and return the raw `result` object.

        Raises:
            RpcError: The server's own JSON-RPC error.
            CallNotSent: No byte was written.
            CallTimedOut: The deadline passed after bytes were written.
            CallOutcomeUnknown: Bytes were written and no answer came (`AnswerCut`: the sink has got a part of it).
            AuthRefused: 401 or 403; not executed.
            ProtocolBroken: The answer is not MCP, or broke a limit.

        Cancellation notifies the server (bounded in time), then goes on.
        """
        ...

    async def listen(self, on_change: Callable[[str], None]) -> None:
        """Follow list changes until the stream ends, which raises `Unreachable`.

        `on_change` gets "listening" once the other side has acknowledged the stream (list after that, so that no
        change is missed), then "tools", "prompts" or "resources" per change.

        Raises:
            ListenNotSupported: The server has no such stream.
            Unreachable: The stream ended or broke.
            AuthRefused, ProtocolBroken: As for `request`.
        """
        ...


@runtime_checkable
class StartsRequests(Protocol):
    """A client that can send a request without waiting for its answer, which most calls need no more than."""

    def start_request(self, request: Request, taker: ResultTaker) -> bool:
        """Send it now, and note so in `request.started`; False: nothing was sent, and `request` has to be called."""
        ...


@runtime_checkable
class GivesUp(Protocol):
    """A client whose other side may have fallen silent for good, though it is kept."""

    def give_up(self) -> None:
        """Wait no longer for any answer: those who do get `CallOutcomeUnknown`. Streams that say nothing stay."""
        ...


class Quiet(Protocol):
    """What a client at rest is asked without a task, so that an idle link costs next to nothing.

    `heard` gets True when the answer says that all is as it was, False where it has to be asked the ordinary way. What
    is returned ends the wait; None: it cannot be asked so now, for there may be no connection at hand.
    """

    def prober(self) -> Callable[[Callable[[bool], None]], Callable[[], None] | None]:
        """What asks, as `McpClient.probe`, each time it is called with `heard`."""
        ...

    def list_quietly(
        self, method: str, is_known: Callable[[Json], bool], heard: Callable[[bool], None]
    ) -> Callable[[], None] | None:
        """Whether a list is one page, and that the one of the last time or one that `is_known`."""
        ...

    async def listen_quietly(
        self, on_change: Callable[[str], None], ended: Callable[[MeshError], None]
    ) -> Callable[[], None]:
        """As `McpClient.listen`, but it returns when the other side has acknowledged the stream; `ended` gets its end.

        Where the stream can only be read by a task, it raises that as `listen` does.
        """
        ...


class McpClient(Requester, Protocol):
    """An open client to one MCP server, as a link keeps it."""

    @property
    def server_info(self) -> ServerInfo:
        """What the other side said when the client opened (renewed when a legacy session is opened anew)."""
        ...

    @property
    def lists_by_session(self) -> bool:
        """Whether lists may differ between the sessions of callers: asked with a caller's affinity, they are its own.

        Such a request is answered only where that session is open.
        """
        ...

    def hear_sessions(self, on_news: Callable[[str, str], None]) -> None:
        """Call `on_news` with a caller's affinity and a method: its session announced a changed list, or has ended."""
        ...

    async def follow(self, updates: Updates) -> None:
        """Follow updates of resources until the stream, or the session that they were subscribed on, ends.

        Cancellation takes the subscription back, but for the URIs that another `follow` of this client has too: a new
        set is followed first and the old one ended then, so that no update falls between.

        Raises:
            RpcError: The server refuses all of them.
            ListenNotSupported: The server has no such stream, or grants none of them.
            Unreachable: The stream or the session ended or broke.
            AuthRefused, ProtocolBroken: As for `request`.
        """
        ...

    async def probe(self, timeout_s: float) -> None:
        """Ask for a sign of life: any JSON-RPC answer counts. Raises `LinkFailed` kinds, never `CallFailed`."""
        ...

    @property
    def quiet(self) -> Quiet | None:
        """The ways to ask without a task; None where the transport has none."""
        ...
