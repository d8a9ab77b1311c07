"""What the connected links contribute to the route tables; a link's contribution is made anew when its view changes.

Kept by `agent.control.reconciler`, which asks twice in each step. The one rule: a contribution is a function of a view,
which is frozen, so one that was made of the very same view is still right.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from agent.model import LinkView, NodeIdentity, ServerSpec
from agent.routing.table import Contribution, ContributionKind


class Contributions:
    """See the module. Sole writer: `of`, in the mesh's loop. `pinned` and `name_len_max` as in `Contribution`."""

    def __init__(self, own: NodeIdentity, name_len_max: int, pinned: Mapping[str, frozenset[str]]) -> None:
        self._own, self._name_len_max, self._pinned = own, name_len_max, pinned
        self._made: dict[str, tuple[LinkView, Contribution]] = {}

    def __repr__(self) -> str:
        return f"<Contributions of={list(self._made)}>"

    def of(self, views: Iterable[LinkView]) -> list[Contribution]:
        """Those of all connected links, by backend key."""
        connected = sorted((view for view in views if view.connected), key=lambda view: view.key)
        before = self._made
        self._made = {view.key: self._kept(before.get(view.key), view) for view in connected}
        return [part for _, part in self._made.values()]

    def _kept(self, before: tuple[LinkView, Contribution] | None, view: LinkView) -> tuple[LinkView, Contribution]:
        if before is not None and before[0] is view:
            return before
        made = contribution_of(view, self._own)
        return view, replace(made, name_len_max=self._name_len_max, pinned=self._pinned)


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
