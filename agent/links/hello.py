"""What a door tells of the other side, and the one failure that only a door knows.

Made by the HTTP and the stdio door while they open, read by links and dispatch through `agent.links.door`. The one
rule: everything here is the other side's own word, so nothing may be trusted further than the spec that was dialled.
"""

from dataclasses import dataclass

from agent.errors import MeshError
from agent.model import MESH_EXTENSION, Era, Json


class ListenNotSupported(MeshError):
    """The other side has no stream of list changes; lists must be read again from time to time."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What the other side said of itself when the door opened.

    `mesh` is its entry under `MESH_EXTENSION` (capabilities.extensions when modern, .experimental when legacy) where
    that is an object, else None.
    """

    era: Era
    protocol_version: str
    capabilities: Json
    server_info: Json
    instructions: str | None
    mesh: Json | None


def mesh_entry(era: Era, capabilities: Json) -> Json | None:
    """Our extension's object in `capabilities`, or None; legacy servers strip `extensions`, hence the two places."""
    place = capabilities.get("extensions" if era is Era.MODERN else "experimental")
    entry = place.get(MESH_EXTENSION) if isinstance(place, dict) else None
    return entry if isinstance(entry, dict) else None
