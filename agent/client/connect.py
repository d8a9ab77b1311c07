"""The doors to MCP servers: one protocol, two ways of transport, raw JSON objects in and out.

Links open a door with `open_door` and keep it; dispatch sends every forwarded call through `Door.request`. The one
rule: whoever gets a door need not know what is behind it; `door_protocol` says all that there is to know.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from agent.client.dial_guard import IpNetwork
from agent.client.http.connect import open_http_door
from agent.client.legacy_tasks import TaskDoor
from agent.client.protocol import Door
from agent.client.server_info import Hello, ListenNotSupported
from agent.client.sessions.pending_call import OnParked, unheard
from agent.client.stdio.connect import open_stdio_door
from agent.model import Era, HttpTarget, StdioTarget

__all__ = ["Door", "Hello", "ListenNotSupported", "open_door"]


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
    on_parked: OnParked = unheard,
) -> AsyncGenerator[Door, None]:
    """Connect, negotiate the era, and yield the door; everything it holds is released on leaving.

    `connect_timeout_s` bounds the TCP connect and, per message, the negotiation over HTTP; over stdio it is how long
    `server/discover` may stay unanswered before `initialize` is tried too. `start_timeout_s` bounds the start of a
    child as a whole (`npx` and `uvx` download first). `label` names a child in logs and errors (default: its command).
    `denied`: networks that may not be dialled, on top of those that never may. `own_sessions`: of a server with
    sessions, every client has one of its own (over stdio a child), and so has every call without an affinity.
    `on_parked` hears of calls that wait for their clients' answers.

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
            on_parked=on_parked,
        ) as http_door:
            yield _with_tasks(http_door, own_sessions=own_sessions)
        return
    async with open_stdio_door(
        target,
        probe_wait_s=connect_timeout_s,
        start_timeout_s=start_timeout_s,
        client_name=client_name,
        label=label or target.command.rpartition("/")[2],
        own_sessions=own_sessions,
        on_parked=on_parked,
    ) as stdio_door:
        yield _with_tasks(stdio_door, own_sessions=own_sessions)


def _with_tasks(door: Door, *, own_sessions: bool) -> Door:
    """Where every call may have a session of its own, nobody could say in which one its task is."""
    return TaskDoor(door, keeps_tasks=not own_sessions) if door.hello.era is Era.LEGACY else door
