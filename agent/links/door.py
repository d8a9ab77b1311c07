"""The doors to MCP servers: one protocol, two ways of transport, raw JSON objects in and out.

Links open a door with `open_door` and keep it; dispatch sends every forwarded call through `Door.request`. The one
rule: whatever goes wrong, the exception says whether the request may have been executed, and nothing is ever sent
twice once a byte of it was written.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from agent.dial_guard import IpNetwork
from agent.links.flag import Flag
from agent.links.hello import Hello, ListenNotSupported
from agent.links.http_door import open_http_door
from agent.links.listening import Updates
from agent.links.stdio_open import open_stdio_door
from agent.model import HttpTarget, Json, StdioTarget

__all__ = ["Door", "Hello", "ListenNotSupported", "open_door"]


class Door(Protocol):
    """An open way to one MCP server. Safe for concurrent use within one event loop."""

    @property
    def hello(self) -> Hello:
        """What the other side said when the door opened (renewed when a legacy session is opened anew)."""
        ...

    @property
    def lost(self) -> Flag:
        """Set when the door is known broken for good (child gone, session refused). Wait with `lost.wait()`."""
        ...

    @property
    def lost_reason(self) -> str:
        """Why `lost` is set, fit for an error message; empty before."""
        ...

    async def request(
        self,
        method: str,
        params: Json | None = None,
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
        on_notification: Callable[[str, Json], Awaitable[None]] | None = None,
        affinity: str | None = None,
    ) -> Json:
        """Send one request and return the raw `result` object.

        `headers`: `Mcp-Param-*` only (ignored on stdio). `on_notification(method, params)` is awaited for each
        notification that belongs to this request, in order, before the result is returned. `affinity`: the client, or
        the key of its own, that this request belongs to; a server with sessions may keep one for it. `params` is not
        changed.

        Raises:
            RpcError: The server's own JSON-RPC error.
            CallNotSent: No byte was written.
            CallTimedOut: `timeout_s` passed after bytes were written.
            CallOutcomeUnknown: Bytes were written and no answer came.
            AuthRefused: 401 or 403; not executed.
            ProtocolBroken: The answer is not MCP, or broke a limit.

        Cancellation tells the server that nobody waits any more (bounded in time), then goes on.
        """
        ...

    def use_token(self, token: str) -> None:
        """Show another token from the next request on; nothing happens over stdio."""
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

    async def follow(self, updates: Updates) -> None:
        """Follow updates of resources until the stream, or the session that they were subscribed on, ends.

        Cancellation takes the subscription back, but for the URIs that another `follow` of this door has too: a new
        set is followed first and the old one ended then, so that no update falls between.

        Raises:
            RpcError: The server refuses all of them, in its own words.
            ListenNotSupported: The server has no such stream, or grants none of them.
            Unreachable: The stream or the session ended or broke.
            AuthRefused, ProtocolBroken: As for `request`.
        """
        ...

    async def probe(self, timeout_s: float) -> None:
        """Ask for a sign of life: any JSON-RPC answer counts. Raises `LinkFailed` kinds, never `CallFailed`."""
        ...


@asynccontextmanager
async def open_door(
    target: StdioTarget | HttpTarget,
    *,
    connect_timeout_s: float = 5.0,
    start_timeout_s: float = 60.0,
    client_name: str = "mcp-mesh-agent",
    label: str | None = None,
    denied: Sequence[IpNetwork] = (),
    own_sessions: bool = False,
) -> AsyncGenerator[Door, None]:
    """Connect, negotiate the era, and yield the door; everything it holds is released on leaving.

    `connect_timeout_s` bounds the TCP connect and, per message, the negotiation over HTTP; over stdio it is how long
    `server/discover` may stay unanswered before `initialize` is tried too. `start_timeout_s` bounds the start of a
    child as a whole (`npx` and `uvx` download first). `label` names a child in logs and errors (default: its command).
    `denied`: networks that may not be dialled, on top of those that never may. `own_sessions`: of a server with
    sessions, every client has one of its own (over stdio a child), and so has every call without an affinity.

    Raises:
        Unreachable, AuthRefused, ProtocolBroken, DialRefused: Why there is no door.
    """
    if isinstance(target, HttpTarget):
        async with open_http_door(
            target,
            connect_timeout_s=connect_timeout_s,
            client_name=client_name,
            denied=denied,
            own_sessions=own_sessions,
        ) as http_door:
            yield http_door
        return
    async with open_stdio_door(
        target,
        probe_wait_s=connect_timeout_s,
        start_timeout_s=start_timeout_s,
        client_name=client_name,
        label=label or target.command.rpartition("/")[2],
        own_sessions=own_sessions,
    ) as stdio_door:
        yield stdio_door
