"""Builds the route table from what the connected backends contribute.

Called by the mesh whenever a link's offer or standing changes, once for each endpoint. The one rule: the result never
depends on the order of the contributions, and nothing loses a name in silence.

First the roots (the first parts of names) are given to one owner each, so that one stranger never holds half of
another's names; then the claims under a held root are joined name by name. A node that goes away while a namesake is
there keeps its root for a while, so that a restart gives no names away.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final, TypeAlias

from agent.model import ORIGIN_META_KEY, NodeIdentity, ServerScope
from agent.routing.away import is_over
from agent.routing.claims import read_contribution
from agent.routing.names import node_alias
from agent.routing.origins import NODE_OWNER
from agent.routing.table import (
    NAME_MEMBER,
    Claims,
    Conflict,
    ConflictReason,
    Contribution,
    ContributionKind,
    Imported,
    Replica,
    Root,
    Route,
    RouteKind,
    RouteTable,
)

__all__ = [
    "Conflict",
    "ConflictReason",
    "Contribution",
    "ContributionKind",
    "Replica",
    "Route",
    "RouteKind",
    "RouteTable",
    "build_routes",
    "changed_kinds",
    "local_contributions",
]

_Named: TypeAlias = dict[str, Route]

# Longer than a restart, an upgrade or a repair takes. Until then a namesake's things go by its name and ID.
KEPT_FOR_S: Final = 3600.0
_NONE_AWAITED: Final[Mapping[str, float]] = MappingProxyType({})
# What a peer that claims ever new names may cost.
KEPT_MAX: Final = 1000


def build_routes(
    contributions: Sequence[Contribution],
    own: NodeIdentity,
    previous: RouteTable | None = None,
    now_s: float = 0.0,
    known: Mapping[str, Imported] | None = None,
    *,
    awaited: Mapping[str, float] = _NONE_AWAITED,
    for_clients: bool = False,
) -> RouteTable:
    """Join all contributions into one table; `previous` says which backend holds which name, and saves work.

    `own` is this node; names under its own name are never another node's. Backend keys must be unique. `now_s`:
    monotonic seconds; `is_outdated` says when time alone changes the table. `known`: what was read of offers already,
    by backend key; None: what `previous` was made of. `awaited`: owners of names who are away and may come back, each
    with the time until which no other gets the names of their servers. `for_clients`: list tools and prompts by the
    names that clients see; those between nodes resolve all the same.
    """
    before = RouteTable() if previous is None else previous
    known = before.parts if known is None else known
    parts = {part.backend_key: imported(part, own, known.get(part.backend_key)) for part in contributions}
    assert len(parts) == len(contributions)
    claims = [claimed for part in parts.values() for claimed in part.claims]
    kept = kept_roots(claims, own, before, now_s) | awaited_roots(claims, before, awaited)
    roots, root_conflicts = share_roots(claims, own, before.roots, kept)
    held = (claimed for claimed in claims if roots[claimed.root] == claimed.owner)
    tables, name_conflicts = _join(held, before)
    handed = handed_over(tables, before, root_conflicts)
    if for_clients:
        name_conflicts += [conflict for kind in NAME_MEMBER for conflict in show(kind, tables[kind])]
    refused = (conflict for part in parts.values() for conflict in part.refused)
    return RouteTable(
        tools=MappingProxyType(tables[RouteKind.TOOL]),
        prompts=MappingProxyType(tables[RouteKind.PROMPT]),
        resources=MappingProxyType(tables[RouteKind.RESOURCE]),
        templates=MappingProxyType(tables[RouteKind.TEMPLATE]),
        namespaces=MappingProxyType(tables[RouteKind.NAMESPACE]),
        servers=MappingProxyType(tables[RouteKind.SERVER]),
        conflicts=tuple(sorted({*root_conflicts, *name_conflicts, *handed, *refused}, key=conflict_order)),
        left_out=tuple(left for key in sorted(parts) for left in parts[key].left_out),
        roots=MappingProxyType(roots),
        kept=MappingProxyType(kept),
        parts=MappingProxyType(parts),
    )


def is_outdated(table: RouteTable, now_s: float) -> bool:
    """Whether an absent node's names have been kept, or a name been away, for long enough."""
    return is_over(table, now_s) or any(until_s <= now_s for until_s in table.kept.values())


def local_contributions(contributions: Sequence[Contribution]) -> tuple[Contribution, ...]:
    """What `/mcp/local` serves: our own servers that are not private."""
    return tuple(
        part for part in contributions if part.kind is ContributionKind.SERVER and part.scope is not ServerScope.PRIVATE
    )


def changed_kinds(
    before: RouteTable,
    after: RouteTable,
    names: Mapping[RouteKind, Collection[str]] | None = None,
    *,
    tasks: bool = True,
) -> frozenset[RouteKind]:
    """The kinds whose lists look different to a client, origins included (gateways go by them).

    Lists in sessions also show which tools may be tasks, which depends on the backends that serve them. `names`: all
    others are as they were; None: any may differ. `tasks`: whether any backend has, or had.
    """
    looked_at = {kind: None if names is None else names.get(kind, ()) for kind in RouteKind}
    changed = {kind for kind, some in looked_at.items() if _looks(before, kind, some) != _looks(after, kind, some)}
    some = looked_at[RouteKind.TOOL]
    if tasks and _may_be_tasks(before, some) != _may_be_tasks(after, some):
        changed.add(RouteKind.TOOL)
    return frozenset(changed)


def _may_be_tasks(table: RouteTable, names: Collection[str] | None) -> set[str]:
    """The listed tools that a backend with tasks has."""
    parts = table.parts
    return {
        route.public_name
        for route in _listed(table, RouteKind.TOOL, names)
        if any(part.source.has_tasks for one in route.replicas if (part := parts.get(one.backend_key)) is not None)
    }


def _looks(table: RouteTable, kind: RouteKind, names: Collection[str] | None) -> dict[str, object]:
    return {route.public_name: route.definition for route in _listed(table, kind, names)}


def _listed(table: RouteTable, kind: RouteKind, names: Collection[str] | None) -> Iterator[Route]:
    routes = table.of_kind(kind)
    some = routes.values() if names is None else (routes[name] for name in names if name in routes)
    return (route for route in some if route.listed)


def is_read(contribution: Contribution, own: NodeIdentity, known: Imported | None) -> bool:
    """Whether `known` is what would be read of the contribution."""
    return known is not None and known.own == own and _same(known.source, contribution)


def imported(contribution: Contribution, own: NodeIdentity, known: Imported | None) -> Imported:
    """Read an offer, or take what was read of the same one."""
    if known is not None and is_read(contribution, own, known):
        return known
    return read_contribution(contribution, own)


def _same(one: Contribution, other: Contribution) -> bool:
    same_offer = one.offer is other.offer or (one.offer.digest != "" and one.offer.digest == other.offer.digest)
    return same_offer and replace(one, offer=other.offer, backend_key=other.backend_key) == other


def kept_roots(claims: Sequence[Claims], own: NodeIdentity, before: RouteTable, now_s: float) -> dict[Root, float]:
    """The node names that stay with an absent node: those that a namesake wanted when it went.

    A name that no other node wanted is free at once, for a node that was set up anew has another ID.
    """
    present = {(claimed.root, claimed.owner) for claimed in claims}
    never_gone = NODE_OWNER + own.node_id
    wanted = {
        conflict.name: conflict.holder for conflict in before.conflicts if conflict.reason is ConflictReason.NODE_NAME
    }
    kept: dict[Root, float] = {}
    for root, owner in before.roots.items():
        if not root.of_node or owner == never_gone or (root, owner) in present:
            continue
        until_s = before.kept.get(root)
        if until_s is None and wanted.get(root.label) == owner:
            until_s = now_s + KEPT_FOR_S
        if until_s is not None and until_s > now_s:
            kept[root] = until_s
    return dict(sorted(kept.items(), key=lambda entry: entry[1])[:KEPT_MAX])


def awaited_roots(claims: Sequence[Claims], before: RouteTable, awaited: Mapping[str, float]) -> dict[Root, float]:
    """The names that stay with servers that are away, but for those that a server of our own claims."""
    present = {claimed.owner for claimed in claims}
    ours = {claimed.root for claimed in claims if claimed.ours}
    return {
        root: awaited[owner]
        for root, owner in before.roots.items()
        if owner in awaited and not root.of_node and owner not in present and root not in ours
    }


def share_roots(
    claims: Sequence[Claims], own: NodeIdentity, before: Mapping[Root, str], kept: Collection[Root]
) -> tuple[dict[Root, str], list[Conflict]]:
    """Give every root of `claims`, and our own, one owner; `kept` ones stay with theirs."""
    candidates: dict[Root, dict[str, bool]] = defaultdict(dict)
    own_owner = NODE_OWNER + own.node_id
    # Reserved even while none of our servers runs: a namesake must not get calls that are meant for this machine.
    for name in (own.name, node_alias(own.name, own.node_id)):
        candidates[Root(name, of_node=True)][own_owner] = True
    for root in kept:
        candidates[root][before[root]] = False
    for claimed in claims:
        owners = candidates[claimed.root]
        owners[claimed.owner] = owners.get(claimed.owner, False) or claimed.ours
    roots: dict[Root, str] = {}
    conflicts: list[Conflict] = []
    for root, owners in candidates.items():
        present = before.get(root)
        holder = _holder(owners, present)
        roots[root] = holder
        if len(owners) > 1:
            reason = ConflictReason.NODE_NAME if root.of_node else ConflictReason.OWNER
            conflicts.append(Conflict(root.label, holder, tuple(sorted(owners.keys() - {holder})), reason))
        if present is not None and present != holder:
            conflicts.append(Conflict(root.label, holder, (present,), ConflictReason.HANDED_OVER))
    return roots, conflicts


def _holder(owners: Mapping[str, bool], present: str | None) -> str:
    """The owner of a name: its present one, else one of our own, else the first by name. `owners`: owner -> ours."""
    if present in owners:
        assert present is not None
        return present
    return min(owners, key=lambda owner: (not owners[owner], owner))


def _join(claims: Iterable[Claims], before: RouteTable) -> tuple[dict[RouteKind, _Named], list[Conflict]]:
    """Join claims of one name into one route each."""
    tables: dict[RouteKind, _Named] = {kind: {} for kind in RouteKind}
    shared: dict[RouteKind, dict[str, list[Route]]] = {kind: defaultdict(list) for kind in RouteKind}
    for claimed in claims:
        for route in claimed.routes:
            first = tables[route.kind].setdefault(route.public_name, route)
            if first is not route:
                shared[route.kind][route.public_name].append(route)
    conflicts: list[Conflict] = []
    for kind, table in tables.items():
        known = before.of_kind(kind)
        for name, more in shared[kind].items():
            table[name], found = settle([table[name], *more], known.get(name))
            conflicts += found
    return tables, conflicts


def handed_over(
    tables: Mapping[RouteKind, _Named], before: RouteTable, root_conflicts: Iterable[Conflict]
) -> Iterator[Conflict]:
    """Names whose owner is another one than before, unless that was said of their whole root."""
    said = {(c.others[0], c.holder) for c in root_conflicts if c.reason is ConflictReason.HANDED_OVER}
    for kind, table in tables.items():
        for name, earlier in before.of_kind(kind).items():
            now = table.get(name)
            if now is None or now.owner == earlier.owner:
                continue
            if (root_owner(earlier.owner), root_owner(now.owner)) not in said:
                yield Conflict(name, now.owner, (earlier.owner,), ConflictReason.HANDED_OVER)


def show(kind: RouteKind, table: _Named) -> Iterator[Conflict]:
    """List what has another name for clients by that; its name between nodes becomes an alias."""
    for name, route in sorted((name, route) for name, route in table.items() if route.shown is not None):
        assert route.shown is not None
        shown_name, definition = route.shown
        if shown_name != name and shown_name in table:
            # A name that another owner made up: both keep theirs. An address of the web is listed once; a view without
            # the other server lists it as this one's, by what is kept as `shown`.
            if route.listed and kind in (RouteKind.RESOURCE, RouteKind.TEMPLATE):
                table[name] = replace(route, listed=False)
                yield Conflict(shown_name, table[shown_name].owner, (route.owner,), ConflictReason.OWNER)
            continue
        table[name] = replace(route, definition=definition, listed=route.listed and shown_name == name, shown=None)
        table[shown_name] = replace(route, public_name=shown_name, definition=definition, shown=None)


def root_owner(owner: str) -> str:
    """Who has to hold the root of a name that belongs to `owner`."""
    return owner.partition("/")[0] if owner.startswith(NODE_OWNER) else owner


def settle(claims: list[Route], present: Route | None) -> tuple[Route, list[Conflict]]:
    """Make one route of several claims to its name."""
    conflicts: list[Conflict] = []
    name = claims[0].public_name
    owners: dict[str, bool] = {}
    for claim in claims:
        owners[claim.owner] = owners.get(claim.owner, False) or claim.replicas[0].ours
    owner = _holder(owners, None if present is None else present.owner)
    if len(owners) > 1:
        conflicts.append(Conflict(name, owner, tuple(sorted(owners.keys() - {owner})), ConflictReason.OWNER))
    known = present if present is not None and present.owner == owner else None
    by_digest: dict[str, list[Route]] = defaultdict(list)
    for claim in sorted((claim for claim in claims if claim.owner == owner), key=_nearest_first):
        by_digest[claim.digest].append(claim)
    digest = _agreed_digest(by_digest, known)
    if len(by_digest) > 1:
        others = {c.replicas[0].backend_key for other, group in by_digest.items() if other != digest for c in group}
        holder = by_digest[digest][0].replicas[0].backend_key
        conflicts.append(Conflict(name, holder, tuple(sorted(others)), ConflictReason.DEFINITION))
    return _joined(by_digest[digest], known), conflicts


def settled_on(known: Route, gone: Iterable[Route], come: Iterable[Route], rest: Iterable[Route]) -> Route | None:
    """What `settle` makes of claims that agree, from what it made of those before: without some, and with others.

    `rest`: all that there are now, looked at where a word of one is enough. None: it has to be settled again, for they
    may agree no more, or another one is shown.
    """
    replicas, origin, by_origin = known.replicas, _origin(known), known.kind is not RouteKind.NAMESPACE
    for claim in gone:
        rest_of = replicas_without(replicas, claim.replicas[0])
        if rest_of is None or claim.shown is not None or (by_origin and _origin(claim) == origin):
            return None
        replicas = rest_of
    listed, sticky = known.listed, known.sticky
    for claim in come:
        agrees = claim.owner == known.owner and claim.digest == known.digest and claim.namespace == known.namespace
        if not agrees or claim.shown is not None or (by_origin and _origin(claim) == origin):
            return None
        replicas = replicas_with(replicas, claim.replicas[0])
        listed, sticky = listed or claim.listed, sticky or claim.sticky
    if not replicas:
        return None
    listed = listed and any(claim.listed for claim in rest)
    sticky = sticky and any(claim.sticky for claim in rest)
    return replace(known, replicas=replicas, listed=listed, sticky=sticky)


def _agreed_digest(by_digest: Mapping[str, list[Route]], known: Route | None) -> str:
    """Which of several definitions a name stands for; each group is sorted, the nearest replica first."""

    def order(digest: str) -> tuple[int, bool, int, str]:
        group = by_digest[digest]
        # What a node itself lists of its servers beats what a gateway remembers of it.
        hops = group[0].replicas[0].hops if group[0].owner.startswith(NODE_OWNER) else 0
        nodes = {claim.replicas[0].node_id for claim in group}
        return hops, known is None or known.digest != digest, -len(nodes), digest

    return min(by_digest, key=order)


def _joined(agreed: list[Route], known: Route | None) -> Route:
    # The shown origin stays while it is there, so that a list does not change whenever a replica joins.
    shown = next((c for c in agreed if known is not None and _origin(c) == _origin(known)), agreed[0])
    replicas = tuple(claim.replicas[0] for claim in agreed)
    listed = any(claim.listed for claim in agreed)
    sticky = any(claim.sticky for claim in agreed)  # One node whose server needs it is enough.
    return replace(shown, replicas=replicas, listed=listed, sticky=sticky)


def _origin(route: Route) -> object:
    return route.definition.get("_meta", {}).get(ORIGIN_META_KEY)


def _nearest_first(claim: Route) -> tuple[int, str, str, str]:
    return nearness(claim.replicas[0])


def replicas_with(replicas: tuple[Replica, ...], one: Replica) -> tuple[Replica, ...]:
    """Replicas in order of `nearness`, and one more."""
    place = bisect_left(replicas, nearness(one), key=nearness)
    return (*replicas[:place], one, *replicas[place:])


def replicas_without(replicas: tuple[Replica, ...], one: Replica) -> tuple[Replica, ...] | None:
    """Replicas in order of `nearness` without one of them; None: it is not there."""
    place = bisect_left(replicas, nearness(one), key=nearness)
    is_in = place < len(replicas) and replicas[place] == one
    return replicas[:place] + replicas[place + 1 :] if is_in else None


def nearness(replica: Replica) -> tuple[int, str, str, str]:
    """The order of a route's replicas: the nearest first."""
    return replica.hops, replica.node_id or "", replica.backend_key, replica.remote_name


def conflict_order(conflict: Conflict) -> tuple[str, str, str, tuple[str, ...]]:
    return conflict.name, conflict.reason, conflict.holder, conflict.others
