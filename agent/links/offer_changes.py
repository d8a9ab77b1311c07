"""What is different between what a backend offered before and what it offers now, by the names of its entries.

Called by `agent.links.record` for the log. `LastOffers` remembers what backends offered whose link was closed, so that
one that left in order and returns is compared as well. The one rule: it costs no more than a small part of a listing:
of long lists the names alone are compared, and few of them are shown.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import orjson

from agent.model import Json, Offer

# A line of a log is for people.
NAMES_MAX: Final = 20
# Reading so many definitions takes about 2 ms of the loop's time.
COMPARED_MAX: Final = 500
# Of backends that are gone; a name takes 150 bytes.
REMEMBERED_MAX: Final = 100

# By name, a hash of the definition; None: not to be compared.
Names: TypeAlias = Mapping[str, int | None]


@dataclass(slots=True)
class LastOffers:
    """What backends offered when their links were closed, by key. Written by the records of one node's links."""

    _names: dict[str, Names] = field(default_factory=dict)

    def keep(self, key: str, offer: Offer) -> None:
        """Remember it, in place of the oldest where there are many."""
        self._names.pop(key, None)
        if offer.digest:
            self._names[key] = names_of(offer)
        while len(self._names) > REMEMBERED_MAX:
            del self._names[next(iter(self._names))]

    def take(self, key: str) -> Names | None:
        """What this backend offered; None where it is not known."""
        return self._names.pop(key, None)


def names_of(offer: Offer) -> Names:
    """What is compared of an offer."""
    entries = list(_entries(offer))
    few = len(entries) <= COMPARED_MAX
    return {name: _hash(entry) if few else None for name, entry in entries}


def offer_changes(before: Names, now: Names) -> dict[str, list[str]]:
    """The names that were `added`, are `gone`, or are `changed` in any other part; of many some, and how many more."""
    found = {
        "added": [name for name in now if name not in before],
        "gone": [name for name in before if name not in now],
        "changed": [name for name, what in now.items() if None not in (what, was := before.get(name)) and what != was],
    }
    return {kind: _shown(names) for kind, names in found.items() if names}


def _entries(offer: Offer) -> Iterator[tuple[str, Json]]:
    parts = ((offer.tools, "name"), (offer.prompts, "name"), (offer.resources, "uri"), (offer.templates, "uriTemplate"))
    for entries, member in parts:
        for entry in entries:
            if isinstance(entry, dict) and isinstance(name := entry.get(member), str):
                yield name, entry


def _hash(entry: Json) -> int | None:
    try:
        return hash(orjson.dumps(entry))
    except TypeError:  # Too deep for any list.
        return None


def _shown(names: Sequence[str]) -> list[str]:
    rest = len(names) - NAMES_MAX
    return [*names[:NAMES_MAX], *([f"and {rest} more"] if rest > 0 else [])]
