"""What connected links offer, as contributions to the route tables; large offers are read in threads.

Called by the mesh once a step. The one rule: all that is read here is frozen, so a thread may read it.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from agent.model import LinkView, NodeIdentity, Offer, ServerSpec
from agent.routing.build import is_read
from agent.routing.claims import read_contribution
from agent.routing.digest import offer_digest
from agent.routing.table import Contribution, ContributionKind, Imported, RouteKind, RouteTable

# Reading one entry takes 85 µs: smaller offers hold up the event loop for 40 ms at most, 10,000 tools for 0.85 s.
LARGE: Final = 500


class Contributing:
    """Makes contributions of views, each once: one whose view says the same is the very object of before.

    `made_with`: fields of every contribution.
    """

    def __init__(self, own: NodeIdentity, **made_with: Any) -> None:
        self._own, self._made_with = own, made_with
        self._known: dict[str, tuple[LinkView, Contribution]] = {}

    def __repr__(self) -> str:
        return f"<Contributing known={len(self._known)}>"

    def part(self, view: LinkView) -> Contribution:
        """That of a connected link."""
        known = self._known.get(view.key)
        made = self._made(view, known)
        self._known[view.key] = view, made
        return made

    def forget(self, key: str) -> None:
        """The link is not connected any more, or there is none."""
        self._known.pop(key, None)

    def _made(self, view: LinkView, known: tuple[LinkView, Contribution] | None) -> Contribution:
        if known is not None and (known[0] is view or _is_alike(known[0], view)):
            return known[1]
        return replace(contribution_of(view, self._own), **self._made_with)


def _is_alike(before: LinkView, view: LinkView) -> bool:
    """Whether all that `contribution_of` reads is the same."""
    return (
        before.spec is view.spec
        and before.offer is view.offer
        and before.identity is view.identity
        and before.has_tasks == view.has_tasks
        and before.about is view.about
    )


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
