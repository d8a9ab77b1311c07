"""What every client to an MCP server can do, whatever its transport and era: raw JSON objects in and out.

Implemented by the clients that `agent.client.connect.open_client` yields, and by the sessions behind `session_router`;
links see `McpClient` alone. The one rule: whatever goes wrong, the exception says whether the request may have been
executed, and nothing is ever sent twice once a byte of it was written.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from agent.client.event import Event
from agent.client.server_info import ServerInfo
from agent.client.streaming import LargeResult
from agent.client.streams import Updates
from agent.model import Json


class Requester(Protocol):
    """Where requests go and list changes come from. Safe for concurrent use within one event loop."""

    @property
    def lost(self) -> Event:
        """Set when the client is known broken for good (child gone, session refused). Wait with `lost.wait()`."""
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
        large: LargeResult | None = None,
    ) -> Json:
        """Send one request and return the raw `result` object.

        `headers`: `Mcp-Param-*` only (ignored on stdio). `on_notification(method, params)` is awaited for each
        notification that belongs to this request, in order, before the result is returned. `affinity`: the caller, or
        the key of its own, that this request belongs to; a server with sessions may keep one for it. `large` may take
        a large result while it comes; what is returned then only says how it ended. `params` is not changed.

        Raises:
            RpcError: The server's own JSON-RPC error.
            CallNotSent: No byte was written.
            CallTimedOut: `timeout_s` passed after bytes were written.
            CallOutcomeUnknown: Bytes were written and no answer came (`AnswerCut`: `large` has got a part of it).
            AuthRefused: 401 or 403; not executed.
            ProtocolBroken: The answer is not MCP, or broke a limit.

        Cancellation tells the server that nobody waits any more (bounded in time), then goes on.
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


class McpClient(Requester, Protocol):
    """An open way to one MCP server, as a link keeps it."""

    @property
    def server_info(self) -> ServerInfo:
        """What the other side said when the client opened (renewed when a legacy session is opened anew)."""
        ...

    def use_token(self, token: str) -> None:
        """Show another token from the next request on; nothing happens over stdio."""
        ...

    async def follow(self, updates: Updates) -> None:
        """Follow updates of resources until the stream, or the session that they were subscribed on, ends.

        Cancellation takes the subscription back, but for the URIs that another `follow` of this client has too: a new
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
