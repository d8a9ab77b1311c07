"""The peers that an operator or the settings name, put together with what the catalog knows of the same ones.

Called by `agent.control.selection`. The one rule: which node a URL leads to is known from who answered there;
what the catalog says of it counts only where the link is down.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.control.candidates import DiscoveredPeer, Finding, FindingKind, url_key
from agent.model import HttpTarget, NodeIdentity, Override, PeerScope, PeerSource, PeerSpec, Suppression, masked_url
from agent.peer_kind import PeerKind

if TYPE_CHECKING:
    from agent.config.values import StaticPeer


@dataclass(slots=True)
class PeerBuilder:
    """An added, static or discovered peer while it is put together.

    `identity`: the node that it is believed to lead to. `twin_urls`: where others that were merged into it would dial.
    `weight`: that of the catalog, 1 where it has none.
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
    weight: int = 1
    maintenance: str = ""
    kind: PeerKind | None = None

    @property
    def is_server(self) -> bool:
        """Whether it is a plain server by an operator's word, and no node whatever is known of its URL."""
        return self.kind is PeerKind.SERVER

    def spec(self) -> PeerSpec:
        """The finished peer. Whether it is a node, and which, its link finds out: what the catalog says binds none."""
        return PeerSpec(
            self.name,
            self.target,
            self.source,
            self.scope,
            aliases=tuple(self.aliases),
            sighting=" | ".join(sorted(self.sightings - {""})),
            weight=self.weight,
            maintenance=self.maintenance,
            is_mesh_node=self.kind is PeerKind.NODE,
            kind=self.kind,
        )


def peer_builders(
    overrides: Sequence[Override], statics: Sequence["StaticPeer"], previous: Sequence[PeerSpec]
) -> list[PeerBuilder]:
    """Overrides, then static peers, in the order of their claim to a node; in each class those with a link first."""
    if not overrides and not statics:
        return []
    present = {(spec.source, spec.name) for spec in previous}
    builders = [
        PeerBuilder(override.name, override.target, PeerSource.OVERRIDE, override.scope, kind=override.kind)
        for override in sorted(overrides, key=lambda o: ((PeerSource.OVERRIDE, o.name) not in present, o.name))
    ]
    builders += [
        PeerBuilder(static.name, HttpTarget(static.url), PeerSource.STATIC, PeerScope.LOCAL)
        for static in sorted(statics, key=lambda s: ((PeerSource.STATIC, s.name) not in present, s.name))
    ]
    return builders


def identify(
    builders: Iterable[PeerBuilder],
    found: Iterable[DiscoveredPeer],
    learned: Mapping[str, str],
    down: Collection[str],
) -> None:
    """Set the node that each builder leads to, as far as it is known.

    `learned`: URL -> node ID that answered there last. `down`: names of peers that have a link which is not up. There
    the node may have been replaced since, if the catalog says so; nothing else is believed of what that says about a
    URL. A builder that was folded into another has no link, and `learned` must keep it there.
    """
    by_url = {candidate.place: candidate.node_id for candidate in found if candidate.node_id}
    for builder in (one for one in builders if not one.is_server):
        builder.identity = learned.get(builder.target.url)
        if builder.name in down and by_url.get(url_key(builder.target.url), builder.identity) != builder.identity:
            builder.identity = None


def merge_twins(builders: Iterable[PeerBuilder], own: NodeIdentity, findings: set[Finding]) -> list[PeerBuilder]:
    """Keep one builder per name, URL and node, the first of each, and none that leads to ourselves."""
    kept: list[PeerBuilder] = []
    by_name: dict[str, PeerBuilder] = {}
    by_url: dict[tuple[str, bool], PeerBuilder] = {}
    by_node: dict[str, PeerBuilder] = {}
    for builder in builders:
        place = url_key(builder.target.url), builder.is_server
        if builder.identity == own.node_id:
            findings.add(Finding(builder.name, FindingKind.OURSELVES, builder.target.shown))
            continue
        namesake = by_name.get(builder.name)
        twin = by_url.get(place) or by_node.get(builder.identity or "")
        if namesake is not None:
            if namesake is not twin:
                findings.add(Finding(builder.name, FindingKind.NAME_TAKEN, ""))
        elif twin is not None:
            by_name[builder.name] = twin
            by_url.setdefault(place, twin)
            twin.kind = twin.kind or builder.kind
            twin.aliases.append(builder.name)
            twin.twin_urls.append(builder.target.url)
            findings.add(Finding(builder.name, FindingKind.SAME_NODE, twin.name))
        else:
            kept.append(builder)
            by_name[builder.name] = by_url[place] = builder
            if builder.identity is not None:
                by_node[builder.identity] = builder
    return kept


def fold_in(
    builders: Sequence[PeerBuilder], found: Sequence[DiscoveredPeer], findings: set[Finding]
) -> Sequence[DiscoveredPeer]:
    """Add each candidate to the builder of the same node or URL; return the candidates that have none.

    A node of the catalog has its own link where an operator has its URL for a plain server.
    """
    if not builders:
        return found
    places = [(url_key(url), builder) for builder in builders for url in (builder.target.url, *builder.twin_urls)]
    nodes_by_url = {place: builder for place, builder in places if not builder.is_server}
    by_url = dict(places) | nodes_by_url
    by_node = {builder.identity: builder for builder in builders if builder.identity is not None}
    rest: list[DiscoveredPeer] = []
    for candidate in found:
        at_url = by_url if candidate.node_id is None else nodes_by_url
        builder = by_node.get(candidate.identity or "") or at_url.get(candidate.place)
        if builder is None:
            rest.append(candidate)
            continue
        known = map(url_key, (builder.target.url, *builder.twin_urls))
        if builder.source is PeerSource.OVERRIDE and candidate.up and candidate.place not in known:
            findings.add(Finding(builder.name, FindingKind.OTHER_URL, masked_url(candidate.url)))
        builder.aliases += [candidate.name, candidate.service_id]
        builder.sightings.add(candidate.sighting)
        if candidate.up:
            builder.weight = max(builder.weight, candidate.weight)
            builder.maintenance = candidate.maintenance
        # A node and its name are suppressed where it has proven to be this peer; else the entry alone.
        proven = candidate.node_id in (None, builder.identity)
        name, node_id = (candidate.name, candidate.node_id) if proven else (candidate.service_id, None)
        builder.suppressions.append(Suppression(name, node_id, candidate.service_id))
    return rest


def of_lost_overrides(
    builders: Iterable[PeerBuilder], rest: Iterable[DiscoveredPeer], up: Collection[str]
) -> set[Finding]:
    """An operator's URL where nothing answers, or another node, while discovery knows one of that name elsewhere."""
    named = {one.name: one for one in builders if one.source is PeerSource.OVERRIDE and not one.is_server}
    found: set[Finding] = set()
    for node in rest:
        builder = named.get(node.name)
        if builder is None or node.node_id is None or not node.up:
            continue
        if node.name not in up:
            found.add(Finding(node.name, FindingKind.OTHER_URL, masked_url(node.url)))
        elif builder.identity is not None:
            found.add(Finding(node.name, FindingKind.OTHER_NODE, _other_node(builder, node)))
    return found


def _other_node(builder: PeerBuilder, meant: DiscoveredPeer) -> str:
    """What an operator has to know whose URL leads to another node than its name means."""
    there = f"{builder.aliases[0]!r}" if builder.aliases else f"the node {builder.identity}"
    return (
        f"at {builder.target.shown} answers {there}, which is linked by this name; discovery knows {meant.name!r} at "
        f"{masked_url(meant.url)}: `mesh-agent peers reset {meant.name}` undoes it"
    )
