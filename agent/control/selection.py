"""Decides which peers we want links to, from the catalog, the overrides, the static peers and our own identity.

Called by the mesh with whole snapshots on every wake. The one rule: an override beats the settings, the settings beat
the catalog, and one node gets one link, however many sources name it.

Overrides and static peers are built first (`agent.control.named_peers`). Instances with the same URL, or known to be
the same node, are folded into them; of the others, those that are suppressed or down are left out, and the rest get
names that are free.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from agent.control.candidates import (
    CatalogReader,
    DiscoveredPeer,
    Finding,
    FindingKind,
    Selection,
    Unusable,
    own_entries,
    url_key,
    with_learned,
)
from agent.control.named_peers import fold_in, identify, merge_twins, of_lost_overrides, peer_builders
from agent.model import NodeIdentity, Override, PeerSource, PeerSpec, Suppression, masked_url
from agent.routing.names import is_valid_name, node_alias, valid_name
from discovery.model import Catalog, InstanceKey

if TYPE_CHECKING:
    from agent.config.values import StaticPeer

_NOTHING_LEARNED: Final[Mapping[str, str]] = MappingProxyType({})


class LastChosen:
    """The peers that were selected last, found again under any name. `freed`: names that local servers had."""

    def __init__(self, previous: Sequence[PeerSpec], freed: Collection[str] = ()) -> None:
        self._freed = {*freed, *(spec.name for spec in previous if spec.source is not PeerSource.DISCOVERY)}
        self._by_name = {spec.name: spec for spec in previous}
        self._by_node = {spec.expected_node_id: spec for spec in previous if spec.expected_node_id is not None}
        self._plain_by_url = {url_key(spec.target.url): spec for spec in previous if spec.expected_node_id is None}
        # Of discovered peers only: an added or static peer goes when its name does.
        self.urls = frozenset(url_key(spec.target.url) for spec in previous if spec.source is PeerSource.DISCOVERY)

    def spec_of(self, candidate: DiscoveredPeer) -> PeerSpec | None:
        """What this candidate was."""
        if candidate.node_id is not None:
            return self._by_node.get(candidate.node_id)
        return self._plain_by_url.get(candidate.place)

    def holds_its_name(self, candidate: DiscoveredPeer) -> bool:
        """Whether this candidate had its preferred name."""
        spec = self._by_name.get(candidate.name)
        return spec is not None and spec is self.spec_of(candidate)

    def holds_second_name(self, candidate: DiscoveredPeer) -> bool:
        """Whether this candidate was called by its name and ID, because another peer of the catalog held its name.

        That one may come back. What a person gave the name to, and has taken away again, will not.
        """
        return candidate.name not in self._freed and self.held_second_name(candidate)

    def held_second_name(self, candidate: DiscoveredPeer) -> bool:
        """Whether this candidate was called by its name and ID, whatever held its name."""
        spec = self.spec_of(candidate)
        return spec is not None and spec.name != candidate.name and spec.name in second_names(candidate)


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
    freed: Collection[str] = (),
    reader: CatalogReader | None = None,
) -> Selection:
    """Choose the peers.

    `server_names`: the local servers, whose names peers may not take. `learned`: dialled URL (`target.url` of the
    spec) -> node ID that answered there last; keep it while any source names the URL, also when its link has been
    folded into another. `connected`: backend keys of links that are up. `previous`: the peers selected last, so
    that they keep their names; `freed`: of the local servers that are gone since. `reader`: of the catalogs before,
    which saves reading again what has not changed.
    """
    chosen = choose(
        (reader or CatalogReader()).read(catalog, own.node_id),
        own,
        overrides=overrides,
        suppressions=suppressions,
        statics=statics,
        server_names=server_names,
        learned=learned,
        connected=connected,
        previous=previous,
        freed=freed,
    )
    return replace(chosen, findings=tuple(sorted({*chosen.findings, *own_entries(catalog, own)})))


def choose(
    entries: Iterable[DiscoveredPeer | Unusable],
    own: NodeIdentity,
    *,
    overrides: Sequence[Override],
    suppressions: Sequence[Suppression],
    statics: Sequence["StaticPeer"],
    server_names: Collection[str],
    learned: Mapping[str, str],
    connected: Collection[str],
    previous: Sequence[PeerSpec],
    freed: Collection[str],
) -> Selection:
    """`select`, of entries that have been read, without what is to be said of our own entries."""
    findings: set[Finding] = set()
    last = LastChosen(previous, freed)
    found = _usable((with_learned(entry, learned) for entry in entries), own, findings)
    builders = peer_builders(overrides, statics, previous)
    up: Collection[str] = ()
    if builders:
        identify(builders, found, learned, {spec.name for spec in previous if spec.key not in connected})
        # A node that has moved is linked where it answers now, and not at the place that it has left.
        up = {spec.name for spec in previous if spec.key in connected}
        builders = merge_twins(sorted(builders, key=lambda builder: builder.name not in up), own, findings)
    # What is at these takes no node's place either.
    places = {one.url for one in suppressions if one.url is not None}
    rest = [c for c in fold_in(builders, found, findings) if c.place not in places]
    is_up = partial(_is_linked, last=last, connected=connected)
    is_proven = partial(_is_proven, last=last, learned=learned, connected=connected)
    rest = _one_per_node(rest, last, is_up, is_proven, findings)
    if suppressions:
        hidden = _suppressed(rest, suppressions, found) | _answered_by_removed(rest, suppressions)
        rest = [c for c in rest if c.key not in hidden]
    if builders:
        findings |= of_lost_overrides(builders, rest, up)
    wanted = [c for c in rest if c.up or is_up(c)]
    named = give_names(wanted, {own.name, *server_names, *(d.name for d in builders)}, last, findings)
    peers = [
        *(builder.spec() for builder in builders),
        *(c.spec if name == c.name else replace(c.spec, name=name) for c, name in named),
    ]
    discovered = {builder.name: tuple(builder.suppressions) for builder in builders if builder.suppressions}
    discovered |= {name: (hiding(c, name, learned),) for c, name in named}
    return Selection(
        peers=with_clear_aliases(peers, server_names),
        findings=tuple(sorted(findings)),
        discovered=MappingProxyType(discovered),
    )


def give_names(
    candidates: Iterable[DiscoveredPeer], reserved: Collection[str], last: LastChosen, findings: set[Finding]
) -> list[tuple[DiscoveredPeer, str]]:
    """Pair each candidate with a name of its own; `reserved` names are taken already."""
    by_name: dict[str, list[DiscoveredPeer]] = defaultdict(list)
    for candidate in candidates:
        by_name[candidate.name].append(candidate)
    taken = set(reserved)
    named: list[tuple[DiscoveredPeer, str]] = []
    waiting: list[DiscoveredPeer] = []
    for name in sorted(by_name):
        contenders = by_name[name]
        if len(contenders) > 1:
            # The node that an override of this name was for had no link of its own, and no second name.
            contenders.sort(key=lambda c: (not last.holds_its_name(c), last.held_second_name(c), c.unique, c.key))
        # Renaming a link closes it, and would do so again when a namesake has restarted.
        first = next((c for c in contenders if not last.holds_second_name(c)), None)
        if first is not None and name not in taken:
            taken.add(name)
            named.append((first, name))
            waiting += (c for c in contenders if c is not first)
        else:
            waiting += contenders
    # Only now: no peer may lose its own name to the second name of another.
    for candidate in waiting:
        name, longer = second_names(candidate)
        if name in taken or not is_valid_name(name):
            name = longer
        findings.add(Finding(candidate.name, FindingKind.NAME_TAKEN, "" if name in taken else name))
        if name not in taken:
            taken.add(name)
            named.append((candidate, name))
    return named


def second_names(candidate: DiscoveredPeer) -> tuple[str, str]:
    """Its name when the preferred one is taken, and when that is taken, too."""
    longer = valid_name(f"{candidate.name}/{candidate.unique}/{candidate.key}")
    return node_alias(candidate.name, candidate.unique), longer


def with_clear_aliases(peers: Iterable[PeerSpec], server_names: Collection[str]) -> tuple[PeerSpec, ...]:
    """The peers sorted by name; each alias means one peer only, and is no name of a peer or a server."""
    ordered = sorted(peers, key=lambda spec: spec.name)
    taken = {*server_names, *(spec.name for spec in ordered)}
    cleared: list[PeerSpec] = []
    for spec in ordered:
        aliases: list[str] = []
        for alias in spec.aliases:
            if alias not in taken and is_valid_name(alias):
                taken.add(alias)
                aliases.append(alias)
        kept = tuple(aliases)
        cleared.append(spec if kept == spec.aliases else replace(spec, aliases=kept))
    return tuple(cleared)


def _usable(
    read: Iterable[DiscoveredPeer | Unusable], own: NodeIdentity, findings: set[Finding]
) -> list[DiscoveredPeer]:
    usable: list[DiscoveredPeer] = []
    for entry in read:
        if isinstance(entry, Unusable):
            findings.update((Finding(entry.service_id, FindingKind.UNUSABLE, entry.reason), *entry.findings))
        elif entry.identity == own.node_id:
            findings.add(Finding(entry.service_id, FindingKind.OURSELVES, masked_url(entry.url)))
        else:
            usable.append(entry)
            if entry.findings:
                findings.update(entry.findings)
            if entry.name_refused:
                findings.add(Finding(entry.name_refused, FindingKind.NAME_ILLEGAL, entry.name))
    return usable


def _one_per_node(
    candidates: Sequence[DiscoveredPeer],
    last: LastChosen,
    is_up: Callable[[DiscoveredPeer], bool],
    is_proven: Callable[[DiscoveredPeer], bool],
    findings: set[Finding],
) -> list[DiscoveredPeer]:
    """Of several instances of one node, or of one URL, keep one: up before down, the latest start, the one we have.

    One that `is_proven` goes first: an entry with a copied node ID must not take that node's link away. While the link
    is not up, the other places that files and names of DNS list are dialled, too: what a catalog says may be old, or an
    address that is reached from elsewhere alone. The node is linked where it answers.
    """
    at_url = {candidate.place: candidate.identity for candidate in candidates if candidate.identity}
    groups: dict[str, list[DiscoveredPeer]] = defaultdict(list)
    for candidate in candidates:
        groups[candidate.identity or at_url.get(candidate.place) or candidate.place].append(candidate)
    kept: list[DiscoveredPeer] = []
    for group in groups.values():
        if len(group) == 1:
            kept += group
            continue
        best, *others = sorted(group, key=lambda c: (not is_proven(c), *_preference(c, last, is_up)))
        # A catalog knows more of a place, and of a node, than who lists it.
        best = next((c for c in others if c.node_id is not None and c.place == best.place), best)
        others = [c for c in group if c is not best]
        twins = {} if is_up(best) else {c.place: c for c in others if not c.key.datacenter and c.place != best.place}
        kept += [_with_word_of_catalog(best, others), *twins.values()]
        findings.update(
            Finding(other.service_id, FindingKind.SAME_NODE, best.service_id)
            for other in others
            if other not in twins.values() and not _is_agreed(other, best)
        )
    return kept


def _with_word_of_catalog(best: DiscoveredPeer, others: Iterable[DiscoveredPeer]) -> DiscoveredPeer:
    """What a file or a name of DNS lists, with what the catalog says of that node at another address."""
    known = next((c for c in others if c.node_id is not None), None)
    if best.node_id is not None or known is None:
        return best
    weight, maintenance = known.weight, known.maintenance
    spec = replace(best.spec, weight=weight, maintenance=maintenance, datacenter=known.spec.datacenter)
    return replace(best, weight=weight, maintenance=maintenance, spec=spec)


def _is_agreed(other: DiscoveredPeer, best: DiscoveredPeer) -> bool:
    """Whether it is no news that both are one node.

    One is listed where the other is, or one name of DNS lists both, the one by IPv4 and the other by IPv6.
    """
    if other.key.datacenter:
        return False
    if other.place == best.place:
        return True
    return other.key.node == best.key.node and ("://[" in other.url) is not ("://[" in best.url)


def _preference(
    candidate: DiscoveredPeer, last: LastChosen, is_up: Callable[[DiscoveredPeer], bool]
) -> tuple[bool, bool, int, bool, bool, bool, InstanceKey]:
    is_new = candidate.place not in last.urls
    is_down = is_new or not is_up(candidate)
    far = candidate.spec.datacenter != ""
    return not candidate.up, candidate.node_id is None, -candidate.epoch_number, far, is_down, is_new, candidate.key


def hiding(candidate: DiscoveredPeer, name: str, learned: Mapping[str, str]) -> Suppression:
    """What would hide this candidate, and nothing else where it has not proven to be the node that it says it is."""
    node_id, service_id = candidate.node_id, candidate.service_id
    if candidate.learned_id is not None:
        # A file or a name of DNS lists an address: what is removed is the node there, wherever it is listed next.
        return Suppression(name, candidate.learned_id, service_id)
    if node_id is not None and learned.get(candidate.url) != node_id:
        return Suppression(name, None, service_id, candidate.place)
    return candidate.hidden_by if name == candidate.name else Suppression(name, node_id, service_id)


def not_kept_away(
    entries: Iterable[DiscoveredPeer | Unusable], suppressions: Sequence[Suppression], word: str
) -> list[DiscoveredPeer]:
    """The catalog's entries of that name or service ID, linked or not, but for those that an operator has removed."""
    found = [entry for entry in entries if isinstance(entry, DiscoveredPeer)]
    places = {one.url for one in suppressions if one.url is not None}
    hidden = _suppressed(found, suppressions, found)
    return [c for c in found if word in (c.name, c.service_id) and c.key not in hidden and c.place not in places]


def of_entries(
    suppressions: Iterable[Suppression], entries: Iterable[DiscoveredPeer | Unusable], word: str
) -> set[Suppression]:
    """Those that keep away what is called so, by the words of its removal or by those that its entry has now."""
    named = [e for e in entries if isinstance(e, DiscoveredPeer) and word in (e.name, e.service_id)]
    nodes, places = {e.identity for e in named} - {None}, {e.place for e in named}
    return {s for s in suppressions if word in (s.name, s.service_id) or s.node_id in nodes or s.url in places}


def _suppressed(
    candidates: Iterable[DiscoveredPeer], suppressions: Sequence[Suppression], found: Iterable[DiscoveredPeer]
) -> set[InstanceKey]:
    """The candidates that an operator removed: the same node, or the one that now has the removed one's name.

    The name does not count while the removed node itself is in the catalog: then its namesake is another node.
    """
    present = {candidate.identity for candidate in found if candidate.identity is not None}
    nodes = {s.node_id for s in suppressions if s.node_id is not None}
    by_words = [s for s in suppressions if s.url is None and (s.node_id is None or s.node_id not in present)]
    names = {s.name for s in by_words}
    service_ids = {s.service_id for s in by_words if s.service_id is not None}
    return {c.key for c in candidates if c.node_id in nodes or c.name in names or c.service_id in service_ids}


def _answered_by_removed(candidates: Iterable[DiscoveredPeer], suppressions: Sequence[Suppression]) -> set[InstanceKey]:
    """The candidates that name no node, and at whose URL one has answered that an operator removed."""
    nodes = {s.node_id for s in suppressions} - {None}
    return {c.key for c in candidates if c.learned_id in nodes}


def _is_linked(candidate: DiscoveredPeer, *, last: LastChosen, connected: Collection[str]) -> bool:
    spec = last.spec_of(candidate)
    return spec is not None and spec.key in connected


def _is_proven(
    candidate: DiscoveredPeer, *, last: LastChosen, learned: Mapping[str, str], connected: Collection[str]
) -> bool:
    """Whether its link is up, at this very URL, and the node that it is said to be has answered there."""
    spec = last.spec_of(candidate)
    if spec is None or spec.key not in connected or spec.target.url != candidate.url:
        return False
    if candidate.node_id is None and (candidate.key.datacenter or spec.source is not PeerSource.DISCOVERY):
        return False  # A plain entry of a catalog proves nothing by a node that answers there.
    return candidate.identity is not None and learned.get(candidate.url) == candidate.identity
