"""PURE: the pins of a node, and what a server's offer means to them.

Used by `agent.control.pinning`, kept on disk by `agent.state.pins`. A pin is the definition that was first seen of a
tool or prompt, or that an operator approved later. The one rule: only an operator replaces a pin; what a server lists
makes new ones, and changes none.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from agent.model import Json, Offer
from agent.pins.definition import canonical, digest
from agent.routing.table import NAME_MEMBER, RouteKind

FIRST_SIGHT: Final = "first sight"
# Of one node. The definitions are a few kilobytes each, in memory and on disk.
PINS_MAX: Final = 50_000


class Key(NamedTuple):
    """A tool or prompt of one server or plain peer, by the names that these have at home."""

    source: str
    kind: RouteKind
    name: str


@dataclass(frozen=True, slots=True)
class Pin:
    """`content`: the canonical definition. `since`: RFC 3339. `by`: `FIRST_SIGHT`, or the name of who approved it."""

    content: bytes
    since: str
    by: str

    @property
    def digest(self) -> str:
        """As `agent.pins.definition.digest`."""
        return digest(self.content)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What an offer means. `new`: not pinned yet; `changed`: pinned otherwise; both as canonical JSON.

    `unpinned`: what has no canonical form, or no room, and why.
    """

    new: Mapping[Key, bytes] = field(default_factory=dict)
    changed: Mapping[Key, bytes] = field(default_factory=dict)
    unpinned: Mapping[Key, str] = field(default_factory=dict)


def judge(pins: Mapping[Key, Pin], source: str, offer: Offer) -> Judgement:
    """Compare all tools and prompts of an offer with the pins of its server."""
    new: dict[Key, bytes] = {}
    changed: dict[Key, bytes] = {}
    unpinned: dict[Key, str] = {}
    for key, entry in entries_of(source, offer):
        try:
            content = canonical(key.kind, entry)
        except (ValueError, RecursionError) as exc:
            unpinned[key] = f"no canonical JSON: {exc}"
            continue
        pin = pins.get(key)
        if pin is None and len(pins) + len(new) >= PINS_MAX:
            unpinned[key] = f"more than {PINS_MAX} pins"
        elif pin is None:
            new[key] = content
        elif pin.content != content:
            changed[key] = content
    return Judgement(new, changed, unpinned)


def entries_of(source: str, offer: Offer) -> Iterable[tuple[Key, Json]]:
    """The tools and prompts of an offer with a name each; of several with one name the first, as in route tables."""
    seen: set[Key] = set()
    for kind, entries in ((RouteKind.TOOL, offer.tools), (RouteKind.PROMPT, offer.prompts)):
        for entry in entries:
            name = entry.get(NAME_MEMBER[kind]) if isinstance(entry, dict) else None
            if isinstance(name, str) and (key := Key(source, kind, name)) not in seen:
                seen.add(key)
                yield key, entry
