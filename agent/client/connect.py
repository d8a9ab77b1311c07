"""The clients to MCP servers: one protocol, two transports, raw JSON objects in and out.

Links open a client with `enter_client` and keep it; dispatch sends every forwarded call through `McpClient.request`.
The one rule: transport and era stay hidden behind the client; `agent.client.protocol` is all that its users know.
"""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from agent.client.http.sse_connect import enter_client_by_url
from agent.client.legacy_tasks import LegacyTaskClient
from agent.client.opening import Opening
from agent.client.outbound import DIRECT, Outbound
from agent.client.protocol import McpClient
from agent.client.server_info import ListenNotSupported, ServerInfo
from agent.client.sessions.pending_call import OnPending, unheard
from agent.client.stdio.connect import open_stdio_client
from agent.model import NODE_CLIENT_NAME, Era, HttpTarget, Sessions, StdioTarget

__all__ = ["ListenNotSupported", "McpClient", "ServerInfo", "enter_client", "open_client"]


@asynccontextmanager
async def open_client(
    target: StdioTarget | HttpTarget,
    *,
    connect_timeout_s: float = 5.0,
    start_timeout_s: float = 60.0,
    client_name: str = NODE_CLIENT_NAME,
    label: str | None = None,
    sessions: Sessions = Sessions.AUTO,
    protocol: str | None = None,
    on_pending: OnPending = unheard,
    outbound: Outbound = DIRECT,
) -> AsyncGenerator[McpClient, None]:
    """Connect, negotiate the era, and yield the client; everything it holds is released on leaving.

    `connect_timeout_s` bounds a TCP connect, and is how long `server/discover` may stay unanswered before `initialize`
    is tried. `start_timeout_s` bounds all of it: children of `npx` and `uvx` download first, and a gateway may answer
    its first request only when the server behind it has started. `label` names a child in logs and errors (default:
    its command).
    `sessions`: `OWN` on a server with sessions gives every caller a dedicated one (over stdio a child process), and
    every call without an affinity too. `protocol`: the only version to speak (`agent.model`); by default what the
    server speaks, and beside 2026-07-28 sessions for callers that have one (over stdio not where `sessions` is
    `SHARED`). `on_pending` is called for calls that wait for their callers' answers. `outbound`: how a URL is dialled.

    Raises:
        Unreachable, AuthRefused, ProtocolBroken, DialRefused: Why there is no client.
    """
    opening = Opening(connect_timeout_s, start_timeout_s, client_name, label, sessions, protocol, on_pending, outbound)
    async with AsyncExitStack() as stack:
        yield await enter_client(stack, target, opening)


async def enter_client(stack: AsyncExitStack, target: StdioTarget | HttpTarget, opening: Opening) -> McpClient:
    """As `open_client`; what the client holds is released with `stack`, also after a failure.

    Not a generator inside another: each of those that stay open costs an idle link about a kilobyte.
    """
    client: McpClient
    if isinstance(target, HttpTarget):
        client = await enter_client_by_url(stack, target, opening)
    else:
        client = await stack.enter_async_context(open_stdio_client(target, opening))
    if client.server_info.era is Era.LEGACY:
        # Where calls have dedicated sessions, the session that holds a task could not be found again.
        return LegacyTaskClient(client, keeps_tasks=not opening.session_pool)
    return client
