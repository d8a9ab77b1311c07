"""Compares the desired links with the actual ones, and names the steps from one to the other.

Called by the mesh with whole maps; the supervisor carries the actions out. The one rule: applying the actions makes
actual equal desired, and another comparison then gives none.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from agent.model import BackendSpec, PeerSource, PeerSpec, ServerSpec

NOT_WANTED: Final = "it is no longer wanted"


@dataclass(frozen=True, slots=True)
class OpenLink:
    """Start a missing link."""

    spec: BackendSpec

    @property
    def key(self) -> str:
        """The backend key."""
        return self.spec.key


@dataclass(frozen=True, slots=True)
class CloseLink:
    """End a link. `reason` completes the sentence "closed, because ..."."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class RenewLink:
    """Close, then open: the target has changed, or which node is expected there."""

    spec: BackendSpec

    @property
    def key(self) -> str:
        """The backend key."""
        return self.spec.key


@dataclass(frozen=True, slots=True)
class RelabelLink:
    """Replace the spec of a link that stays up: only its description changed.

    `sighted`: the catalog reported a change, which cuts a back-off short.
    """

    spec: BackendSpec
    sighted: bool = False

    @property
    def key(self) -> str:
        """The backend key."""
        return self.spec.key


Action: TypeAlias = OpenLink | CloseLink | RenewLink | RelabelLink


def reconcile(desired: Mapping[str, BackendSpec], actual: Mapping[str, BackendSpec]) -> tuple[Action, ...]:
    """Name the steps from `actual` to `desired`, both by backend key: closes first, each group sorted by key."""
    closes = [CloseLink(key, NOT_WANTED) for key in sorted(actual.keys() - desired.keys())]
    changes: list[Action] = []
    # Nearly all are the same objects.
    for key in sorted(key for key, spec in desired.items() if spec is not actual.get(key, spec)):
        wanted, present = desired[key], actual[key]
        if wanted == present:
            continue
        if _same_link(wanted, present):
            changes.append(RelabelLink(wanted, sighted=_sighted(wanted, present)))
        else:
            changes.append(RenewLink(wanted))
    opens = [OpenLink(desired[key]) for key in sorted(desired.keys() - actual.keys())]
    return (*closes, *changes, *opens)


def _same_link(wanted: BackendSpec, present: BackendSpec) -> bool:
    """Whether the open client serves the new spec as well as the old one."""
    match wanted, present:
        case PeerSpec(), PeerSpec():
            same = replace(
                present,
                aliases=wanted.aliases,
                sighting=wanted.sighting,
                source=wanted.source,
                weight=wanted.weight,  # Read anew for each call.
                maintenance=wanted.maintenance,
                datacenter=wanted.datacenter,
            )
            by_catalog_alone = wanted.source is present.source is PeerSource.DISCOVERY
            if not by_catalog_alone and len({wanted.expected_node_id, present.expected_node_id} - {None}) <= 1:
                # An operator names what the catalog knows, or no longer does. The link has the proof of the node that
                # answered.
                same = replace(same, expected_node_id=wanted.expected_node_id, is_mesh_node=wanted.is_mesh_node)
            return wanted == same
        case ServerSpec(), ServerSpec():
            # Time limits are read anew for each call and each dial, stickiness with the routes; a changed scope only
            # renames, but its routes must not mix.
            return wanted == replace(
                present,
                call_timeout_s=wanted.call_timeout_s,
                start_timeout_s=wanted.start_timeout_s,
                sticky=wanted.sticky,
            )
        case _:
            return False


def _sighted(wanted: BackendSpec, present: BackendSpec) -> bool:
    if not (isinstance(wanted, PeerSpec) and isinstance(present, PeerSpec)):
        return False
    # An empty sighting means that the catalog has no good news: no reason to dial.
    return wanted.sighting not in ("", present.sighting)
