"""Equal definitions are one object: replicas of a service list the same tools, and each link would hold its own.

Used where definitions are read (`agent.links.listing`), and what servers say of themselves (`agent.routing.about`). The
one rule: only what has the same bytes is shared, and nothing that is shared is ever changed in place.
"""

import hashlib
from typing import Final

from agent.lossless_json.raw import write_definition
from agent.model import Json

# The oldest make room; what links still hold stays with them. Half a megabyte of ordinary tools.
KNOWN_MAX: Final = 512
# A larger one is hardly met twice, and 512 of them should not be kept for links that are gone.
BYTES_MAX: Final = 4096
# Where an entry says so.
_UNEQUAL: Final = "_meta"

_known: Final[dict[bytes, Json]] = {}


def once_in_parts(entry: Json) -> Json:
    """An entry that says which node has it, as none of another node's is, with its equal parts as one object each."""
    return {name: once(part) if isinstance(part, dict) and name != _UNEQUAL else part for name, part in entry.items()}


def once(value: Json) -> Json:
    """The first of the objects that are written in the same bytes; another one where it is too large to be kept."""
    try:
        data = write_definition(value)
    except TypeError:
        return value  # Nested too deep to be written.
    if len(data) > BYTES_MAX:
        return value
    key = hashlib.blake2b(data, digest_size=16).digest()
    known = _known.get(key)
    if known is None:
        if len(_known) >= KNOWN_MAX:
            del _known[next(iter(_known))]
        known = _known[key] = value
    return known
