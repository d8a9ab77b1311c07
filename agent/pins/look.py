"""PURE: all that a node finds in one offer: what it means to the pins, what looks suspicious, and how it has changed.

Called by `agent.control.pinning`, in a thread where an offer is large: comparing thousands of long definitions takes
seconds. The one rule: what is written about an offer is bounded, however many of its definitions have changed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import orjson

from agent.model import Offer
from agent.pins.book import Judgement, Key, Pin, entries_of, judge
from agent.pins.definition import difference, digest
from agent.pins.suspicion import suspicions, telling_names
from agent.routing.table import RouteKind

# An offer with more definitions, or longer ones, is looked at in a thread. A definition takes up to half a millisecond.
LARGE: Final = 50
LARGE_BYTES: Final = 16 * 1024
# Of one offer, so many changes are reported one by one, with their differences; the others are counted.
REPORTS_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class Report:
    """About a definition that has changed: the digest of the present one, and the difference in lines."""

    digest: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Look:
    """See the module. `reports`: of the first changes that were not known; `suspected`: phrases by definition."""

    judgement: Judgement = field(default_factory=Judgement)
    reports: Mapping[Key, Report] = field(default_factory=dict)
    suspected: Mapping[Key, tuple[str, ...]] = field(default_factory=dict)


def look(pins: Mapping[Key, Pin], known: Mapping[Key, bytes], source: str, offer: Offer) -> Look:
    """Look at the whole offer of a server. `known`: the changed definitions that it had before, in canonical form."""
    judgement = judge(pins, source, offer)
    fresh = [(key, content) for key, content in judgement.changed.items() if known.get(key) != content]
    reports = {
        key: Report(digest(content), tuple(difference(pins[key].content, content)))
        for key, content in fresh[:REPORTS_MAX]
    }
    owned = {(key.source, key.name) for key in (*pins, *judgement.new) if key.kind is RouteKind.TOOL}
    elsewhere = telling_names(name for owner, name in owned if owner != source and (source, name) not in owned)
    suspected = {
        key: why for key, entry in entries_of(source, offer) if (why := tuple(suspicions(key.kind, entry, elsewhere)))
    }
    return Look(judgement, reports, suspected)


def is_large(offer: Offer) -> bool:
    """Whether looking at it may take longer than an event loop can wait."""
    entries = (*offer.tools, *offer.prompts)
    if len(entries) > LARGE:
        return True
    size = 0
    for entry in entries:
        try:
            size += len(orjson.dumps(entry))
        except TypeError:
            return True  # Nested deeply, or with numbers beyond 64 bits: whatever it is, it takes its time.
        if size > LARGE_BYTES:
            return True
    return False
