"""Reads the offers of backends with many tools in a thread, so that calls go on while one of them joins.

Called by the mesh before it builds its tables. The one rule: what is read is only handed over; the table that is built
of it is the same as if it had been read there, and takes none that has changed meanwhile.
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final

from agent.core.candidates import read_contribution
from agent.core.route_table import Contribution, Imported
from agent.core.routes import is_read
from agent.model import NodeIdentity, Offer

# To read one entry takes 85 µs, so smaller offers hold the loop for 40 ms at most, and 10,000 tools would for 0.85 s.
LARGE: Final = 500


async def read_large(
    contributions: Iterable[Contribution], own: NodeIdentity, known: Mapping[str, Imported]
) -> Mapping[str, Imported]:
    """`known` with what was read of the large offers that are new; the very same object when there are none."""
    new = [
        part
        for part in contributions
        if _size(part.offer) > LARGE and not is_read(part, own, known.get(part.backend_key))
    ]
    read = {part.backend_key: await asyncio.to_thread(read_contribution, part, own) for part in new}
    return {**known, **read} if read else known


def _size(offer: Offer) -> int:
    return len(offer.tools) + len(offer.prompts) + len(offer.resources) + len(offer.templates)
