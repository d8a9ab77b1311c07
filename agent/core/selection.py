"""Decides which peers we want links to: the catalog, what operators and settings say, and who we are.

Called by the mesh with whole snapshots on every wake. The one rule: an operator's word beats the settings, the
settings beat the catalog, and one node gets one link, whoever names it.

Overrides and static peers are drafted first. Instances that lead to the same place, or are known to be the same node,
are folded into them; of the others, those that are suppressed or down go, and the rest get names that are free.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from agent.core.catalog_peers import Candidate, Unusable, read_catalog, url_key
from agent.core.drafts import draft_peers, fold_in, identify, merge_twins
from agent.core.peer_names import LastChosen, give_names, with_clear_aliases
from agent.core.selected import Finding, FindingKind, Override, Selection, Suppression
from agent.model import HttpTarget, NodeIdentity, PeerSource, PeerSpec
from discovery.model import Catalog, InstanceKey

if TYPE_CHECKING:
    from agent.settings_values import StaticPeer

__all__ = ["Finding", "FindingKind", "Override", "Selection", "Suppression", "select", "url_key"]

_NOTHING_LEARNED: Final[Mapping[str, str]] = MappingProxyType({})


def select(
    catalog: Catalog,
    own: NodeIdentity,
    *,
    overrides: Sequence[Override] = (),
    suppressions: Sequence[Suppression] = (),
    statics: Sequence["StaticPeer"] = (),
    server_names: Collection[str] = (),
    learned: Mapping[str, str] = _NOTHING_LEARNED,
    connected: Collection[str] = (),
    previous: Sequence[PeerSpec] = (),
    peer_token: str | None = None,
) -> Selection:
    """Choose the peers.

    `server_names`: the local servers, whose names peers may not take. `learned`: dialled URL (`target.url` of the
    spec) -> node ID that answered there last; keep it while the URL is named by anybody, also when its link has been
    folded into another. `connected`: backend keys of links that are up. `previous`: the peers chosen last, so that
    names stay where they are. `peer_token` goes to discovered mesh nodes only, also
    where somebody names one again at its URL without a token.
    """
    findings: set[Finding] = set()
    last = LastChosen(previous)
    found = _usable(read_catalog(catalog, own.node_id, learned), own, findings)
    drafts = draft_peers(overrides, statics, previous)
    identify(drafts, found, learned, {spec.name for spec in previous if spec.key not in connected})
    drafts = merge_twins(drafts, own, findings)
    rest = fold_in(drafts, found)
    proven = {c.key for c in rest if _is_proven(c, last, learned, connected)}
    rest = _one_per_node(rest, last, proven, findings)
    hidden = _suppressed(rest, suppressions, found)
    wanted = [c for c in rest if c.key not in hidden and (c.up or _is_linked(c, last, connected))]
    named = give_names(wanted, {own.name, *server_names, *(d.name for d in drafts)}, last, findings)
    peers = [
        *(draft.spec(peer_token) for draft in drafts),
        *(_spec(candidate, name, peer_token) for candidate, name in named),
    ]
    discovered = {draft.name: tuple(draft.suppressions) for draft in drafts if draft.suppressions}
    discovered |= {name: (Suppression(name, c.node_id, c.service_id),) for c, name in named}
    return Selection(
        peers=with_clear_aliases(peers, server_names),
        hidden=tuple(_spec(c, c.name, peer_token) for c in sorted(rest, key=_by_name) if c.key in hidden),
        findings=tuple(sorted(findings)),
        discovered=MappingProxyType(discovered),
    )


def _usable(read: Iterable[Candidate | Unusable], own: NodeIdentity, findings: set[Finding]) -> list[Candidate]:
    usable: list[Candidate] = []
    for entry in read:
        if isinstance(entry, Unusable):
            findings.add(Finding(entry.service_id, FindingKind.UNUSABLE, entry.reason))
        elif entry.identity == own.node_id:
            findings.add(Finding(entry.service_id, FindingKind.OURSELVES, entry.url))
        else:
            usable.append(entry)
            if entry.name_refused:
                findings.add(Finding(entry.name_refused, FindingKind.NAME_ILLEGAL, entry.name))
    return usable


def _one_per_node(
    candidates: Sequence[Candidate], last: LastChosen, proven: Collection[InstanceKey], findings: set[Finding]
) -> list[Candidate]:
    """Of several instances of one node, or of one URL, keep one: up before down, the latest start, the one we have.

    One of `proven` goes first: whoever copies a node's ID into the catalog must not take its link away.
    """
    at_url = {url_key(candidate.url): candidate.identity for candidate in candidates if candidate.identity}
    groups: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        place = url_key(candidate.url)
        groups[candidate.identity or at_url.get(place) or place].append(candidate)
    kept: list[Candidate] = []
    for group in groups.values():
        best, *others = sorted(group, key=lambda c: (c.key not in proven, *_preference(c, last)))
        kept.append(best)
        findings.update(Finding(other.service_id, FindingKind.SAME_NODE, best.service_id) for other in others)
    return kept


def _preference(candidate: Candidate, last: LastChosen) -> tuple[bool, bool, int, bool, InstanceKey]:
    is_new = url_key(candidate.url) not in last.urls
    return not candidate.up, candidate.node_id is None, -candidate.epoch_number, is_new, candidate.key


def _suppressed(
    candidates: Iterable[Candidate], suppressions: Sequence[Suppression], found: Iterable[Candidate]
) -> set[InstanceKey]:
    """What an operator removed: the same node, or whatever now goes by the removed one's name.

    The name does not count while the removed node itself is in the catalog: then its namesake is another node.
    """
    present = {candidate.node_id for candidate in found if candidate.node_id is not None}
    nodes = {s.node_id for s in suppressions if s.node_id is not None}
    by_words = [s for s in suppressions if s.node_id is None or s.node_id not in present]
    names = {s.name for s in by_words}
    service_ids = {s.service_id for s in by_words if s.service_id is not None}
    return {c.key for c in candidates if c.node_id in nodes or c.name in names or c.service_id in service_ids}


def _is_linked(candidate: Candidate, last: LastChosen, connected: Collection[str]) -> bool:
    spec = last.spec_of(candidate)
    return spec is not None and spec.key in connected


def _is_proven(candidate: Candidate, last: LastChosen, learned: Mapping[str, str], connected: Collection[str]) -> bool:
    """Whether its link is up, at this very URL, and the node that it claims to be has answered there."""
    spec = last.spec_of(candidate)
    if spec is None or spec.key not in connected or spec.target.url != candidate.url:
        return False
    return candidate.node_id is not None and learned.get(candidate.url) == candidate.node_id


def _by_name(candidate: Candidate) -> tuple[str, InstanceKey]:
    return candidate.name, candidate.key


def _spec(candidate: Candidate, name: str, peer_token: str | None) -> PeerSpec:
    is_mesh_node = candidate.node_id is not None
    return PeerSpec(
        name,
        HttpTarget(candidate.url, token=peer_token if is_mesh_node else None),
        PeerSource.DISCOVERY,
        aliases=(candidate.service_id,),
        expected_node_id=candidate.node_id,
        is_mesh_node=is_mesh_node,
        sighting=candidate.sighting,
        weight=candidate.weight,
    )
