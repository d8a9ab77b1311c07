"""What connected links offer, as contributions to the route tables; large offers are read in threads.

Called by the mesh once a step. The one rule: all that is read here is frozen, so a thread may read it.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace
from operator import attrgetter, is_
from typing import Any, Final

from agent.model import LinkView, NodeIdentity, Offer, ServerSpec
from agent.routing.build import is_read
from agent.routing.claims import read_contribution
from agent.routing.digest import offer_digest
from agent.routing.table import Contribution, ContributionKind, Imported, RouteKind, RouteTable

# Reading one entry takes 85 µs: smaller offers hold up the event loop for 40 ms at most, 10,000 tools for 0.85 s.
LARGE: Final = 500
# All that `contribution_of` reads. The view itself is another one whenever an answer took longer.
_READ: Final = attrgetter("spec", "offer", "identity", "has_tasks", "about")


class Contributing:
    """Makes contributions of views, each once: one whose view says the same is the very object of before.

    `made_with`: fields of every contribution.
    """

    def __init__(self, own: NodeIdentity, **made_with: Any) -> None:
        self._own, self._made_with = own, made_with
        self._known: dict[str, tuple[tuple[object, ...], Contribution]] = {}

    def __repr__(self) -> str:
        return f"<Contributing known={len(self._known)}>"

    def part(self, view: LinkView) -> Contribution:
        """That of a connected link."""
        made = self._known[view.key] = self._made(view, self._known.get(view.key))
        return made[1]

    def forget(self, key: str) -> None:
        """The link is not connected any more, or there is none."""
        self._known.pop(key, None)

    def _made(
        self, view: LinkView, known: tuple[tuple[object, ...], Contribution] | None
    ) -> tuple[tuple[object, ...], Contribution]:
        read = _READ(view)
        if known is not None and all(map(is_, known[0], read)):
            return known
        return read, replace(contribution_of(view, self._own), **self._made_with)


def contribution_of(view: LinkView, own: NodeIdentity) -> Contribution:
    """A connected link's contribution to the route tables."""
    if isinstance(view.spec, ServerSpec):
        spec = view.spec
        return Contribution(
            view.key,
            ContributionKind.SERVER,
            spec.name,
            own,
            spec.scope,
            view.offer,
            sticky=spec.sticky,
            has_tasks=view.has_tasks,
            about={**view.about, "tags": list(spec.tags)} if spec.tags else view.about,
        )
    kind = ContributionKind.PLAIN_PEER if view.identity is None else ContributionKind.MESH_PEER
    about = view.about if view.identity is None else {}
    return Contribution(
        view.key,
        kind,
        view.spec.name,
        view.identity,
        None,
        view.offer,
        view.spec.scope,
        has_tasks=view.has_tasks,
        about=about,
    )


def table_digest(table: RouteTable) -> str:
    """A digest of all that a table lists; an equal digest saves other nodes a listing."""
    resources = (*table.listed_resources(), *table.listed(RouteKind.SERVER), *table.places())
    listed = (table.listed_tools(), table.listed_prompts(), resources, table.listed_templates())
    return offer_digest(*([route.definition for route in routes] for routes in listed))


async def read_large(
    contributions: Iterable[Contribution], own: NodeIdentity, known: Mapping[str, Imported]
) -> Mapping[str, Imported]:
    """`known` and the new large offers, read in threads; the very same object when there are none."""
    new = [
        part
        for part in contributions
        if size_of(part.offer) > LARGE and not is_read(part, own, known.get(part.backend_key))
    ]
    read = {part.backend_key: await asyncio.to_thread(read_contribution, part, own) for part in new}
    return {**known, **read} if read else known


def size_of(offer: Offer) -> int:
    """How many entries it has."""
    return len(offer.tools) + len(offer.prompts) + len(offer.resources) + len(offer.templates)
