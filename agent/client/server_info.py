"""What a client knows of the other side, and what both transports share about listening to it.

Made by the HTTP and the stdio client while they open, read by links and dispatch through `agent.client.connect`. The
one rule: everything here is the other side's own claim, so it is trusted no further than the spec that was dialled.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from agent.errors import CallFailed, MeshError, RpcError, Unreachable
from agent.model import DRAINING, MESH_EXTENSION, Era, Json
from agent.rpc_codes import METHOD_NOT_FOUND
from agent.tasks.ids import announces_tasks

# A server acknowledges a subscription before anything else; one that has not by then never will.
ACKNOWLEDGE_TIMEOUT_S: Final = 10.0

OnNotification: TypeAlias = Callable[[str, Json], Awaitable[None]]
# Takes a server request; returns the reply to send at once, None when it comes later.
OnServerRequest: TypeAlias = Callable[[Json], bytes | None]


class ListenNotSupported(MeshError):
    """The other side has no stream of list changes; lists must be read again from time to time."""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """The other side's `server/discover` or `initialize` result.

    `mesh` is its entry under `MESH_EXTENSION` (capabilities.extensions when modern, .experimental when legacy) where
    that is an object, else None. `keeps_sessions`: it can tell sessions apart, and this is one.
    """

    era: Era
    protocol_version: str
    capabilities: Json
    server_info: Json
    instructions: str | None
    mesh: Json | None
    keeps_sessions: bool = False

    @property
    def card(self) -> Json | None:
        """What it says of itself as a node, also where that is not believed (`mesh` is None then)."""
        return mesh_entry(self.era, self.capabilities)

    @property
    def lists_may_differ(self) -> bool:
        """Whether a session may have lists of its own: the server tells it apart, and says that a list may change."""
        features = [self.capabilities.get(name) for name in ("tools", "prompts", "resources")]
        says = any(isinstance(feature, dict) and feature.get("listChanged") is True for feature in features)
        return self.keeps_sessions and says

    @property
    def has_tasks(self) -> bool:
        """Whether calls may be answered with tasks, or be made as such."""
        if self.era is Era.MODERN:
            return announces_tasks(self.capabilities)
        place: object = self.capabilities
        for name in ("tasks", "requests", "tools", "call"):
            place = place.get(name) if isinstance(place, dict) else None
        return isinstance(place, dict)


def mesh_entry(era: Era, capabilities: Json) -> Json | None:
    """Our extension's object in `capabilities`, or None; legacy servers strip `extensions`, hence the two places."""
    place = capabilities.get("extensions" if era is Era.MODERN else "experimental")
    entry = place.get(MESH_EXTENSION) if isinstance(place, dict) else None
    return entry if isinstance(entry, dict) else None


def is_leaving(server_info: ServerInfo) -> bool:
    """Whether it is a node that is draining: it still answers, but not for long."""
    return server_info.mesh is not None and server_info.mesh.get(DRAINING) is True


def listen_failure(exc: RpcError | CallFailed) -> ListenNotSupported | Unreachable:
    """A refused or ended stream as the failure of `McpClient.listen`."""
    if isinstance(exc, CallFailed):
        return Unreachable(str(exc))
    if exc.code == METHOD_NOT_FOUND:
        return ListenNotSupported(exc.message)
    return Unreachable(f"the stream of list changes was refused: {exc.message[:200]}")
