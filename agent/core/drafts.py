"""Peers that operators and settings name, and what the catalog adds to them.

Called by `agent.core.selection` alone, within one decision. The one rule: the catalog may add aliases and sightings to
such a peer, never change its name, its URL or a token that it was given.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from agent.core.catalog_peers import Candidate, url_key
from agent.core.selected import Finding, FindingKind, Override, Suppression
from agent.model import HttpTarget, NodeIdentity, PeerScope, PeerSource, PeerSpec

if TYPE_CHECKING:
    from agent.settings_values import StaticPeer


@dataclass(slots=True)
class Draft:
    """One such peer while it is put together. `identity`: the node that it is believed to lead to.

    `twin_urls`: where others that were merged into it would dial. `nodes`: the node IDs that the catalog knows at its
    own URL. `weight`: what the catalog says of it, 1 where it says nothing.
    """

    name: str
    target: HttpTarget
    source: PeerSource
    scope: PeerScope
    identity: str | None = None
    aliases: list[str] = field(default_factory=list)
    twin_urls: list[str] = field(default_factory=list)
    sightings: set[str] = field(default_factory=set)
    suppressions: list[Suppression] = field(default_factory=list)
    nodes: set[str] = field(default_factory=set)
    weight: int = 1

    def spec(self, peer_token: str | None) -> PeerSpec:
        """The finished peer.

        A discovered node that is named again at its own URL is still one: it gets the peer token that it would have got
        unnamed, and is held to its node ID. Of all others the link finds out by itself whether they are mesh nodes;
        a static peer, which has no token of its own, may be tried with the peer token where it asks for one.
        """
        local_token = peer_token if self.source is PeerSource.STATIC and self.scope is PeerScope.LOCAL else None
        spec = PeerSpec(
            self.name,
            self.target,
            self.source,
            self.scope,
            aliases=tuple(self.aliases),
            sighting=" | ".join(sorted(self.sightings - {""})),
            weight=self.weight,
            local_token=local_token,
        )
        # The peer token is good for what a node serves itself, so it is of no use to a gateway.
        if peer_token is None or self.target.token is not None or self.scope is PeerScope.MESH or not self.nodes:
            return spec
        expected = self.identity if self.identity in self.nodes else min(self.nodes)
        return replace(
            spec,
            target=replace(self.target, token=peer_token),
            expected_node_id=expected,
            is_mesh_node=True,
            local_token=None,
        )


def draft_peers(
    overrides: Sequence[Override], statics: Sequence["StaticPeer"], previous: Sequence[PeerSpec]
) -> list[Draft]:
    """All that is named, in the order of their right to a node: who has its link already goes first in its class."""
    present = {(spec.source, spec.name) for spec in previous}
    drafts = [
        Draft(override.name, override.target, PeerSource.OVERRIDE, override.scope)
        for override in sorted(overrides, key=lambda o: ((PeerSource.OVERRIDE, o.name) not in present, o.name))
    ]
    drafts += [
        Draft(static.name, HttpTarget(static.url), PeerSource.STATIC, PeerScope.LOCAL)
        for static in sorted(statics, key=lambda s: ((PeerSource.STATIC, s.name) not in present, s.name))
    ]
    return drafts


def identify(
    drafts: Iterable[Draft],
    found: Iterable[Candidate],
    learned: Mapping[str, str],
    down: Collection[str],
) -> None:
    """Say which node each draft leads to, as far as anybody knows. `learned`: URL -> who answered there last.

    `down`: names of peers that have a link which is not up. There the catalog knows best: the node may have been
    replaced since. A draft that was folded into another has no link, and what was learned must keep it there.
    """
    by_url = {url_key(candidate.url): candidate.node_id for candidate in found if candidate.node_id}
    for draft in drafts:
        draft.identity = learned.get(draft.target.url)
        if draft.identity is None or draft.name in down:
            draft.identity = by_url.get(url_key(draft.target.url), draft.identity)


def merge_twins(drafts: Iterable[Draft], own: NodeIdentity, findings: set[Finding]) -> list[Draft]:
    """Keep one draft per name, URL and node, the first of each, and none that leads to ourselves."""
    kept: list[Draft] = []
    by_name: dict[str, Draft] = {}
    by_url: dict[str, Draft] = {}
    by_node: dict[str, Draft] = {}
    for draft in drafts:
        if draft.identity == own.node_id:
            findings.add(Finding(draft.name, FindingKind.OURSELVES, draft.target.url))
            continue
        namesake = by_name.get(draft.name)
        twin = by_url.get(url_key(draft.target.url)) or by_node.get(draft.identity or "")
        if namesake is not None:
            if namesake is not twin:
                findings.add(Finding(draft.name, FindingKind.NAME_TAKEN, ""))
        elif twin is not None:
            by_name[draft.name] = twin
            by_url.setdefault(url_key(draft.target.url), twin)
            twin.aliases.append(draft.name)
            twin.twin_urls.append(draft.target.url)
            findings.add(Finding(draft.name, FindingKind.SAME_NODE, twin.name))
        else:
            kept.append(draft)
            by_name[draft.name] = by_url[url_key(draft.target.url)] = draft
            if draft.identity is not None:
                by_node[draft.identity] = draft
    return kept


def fold_in(drafts: Iterable[Draft], found: Iterable[Candidate]) -> list[Candidate]:
    """Add what the catalog says to the drafts that it is about; return the candidates that are about none."""
    by_url = {url_key(url): draft for draft in drafts for url in (draft.target.url, *draft.twin_urls)}
    by_node = {draft.identity: draft for draft in drafts if draft.identity is not None}
    rest: list[Candidate] = []
    for candidate in found:
        draft = by_node.get(candidate.identity or "") or by_url.get(url_key(candidate.url))
        if draft is None:
            rest.append(candidate)
            continue
        draft.aliases += [candidate.name, candidate.service_id]
        draft.sightings.add(candidate.sighting)
        if candidate.up:
            draft.weight = max(draft.weight, candidate.weight)
        if candidate.node_id is not None and url_key(candidate.url) == url_key(draft.target.url):
            draft.nodes.add(candidate.node_id)
        draft.suppressions.append(Suppression(candidate.name, candidate.node_id, candidate.service_id))
    return rest
