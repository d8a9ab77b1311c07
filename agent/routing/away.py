"""Names that are away: known until lately, of backends that may come back, or of those that were never listed yet.

Called by the mesh with every new route table, and by dispatch for the words of a refusal. The one rule: only an
operator, or the backend itself, makes a known name unknown at once; time does so after `AWAY_FOR_S`.

A name that vanishes stays with those of its replicas whose backend is wanted, or has left by itself. A connected server
says by its list what it has; a connected node does not, for a server of its own may be away there: it is asked. It
also lists its own servers that are away (`agent.routing.about`), so that a node which has just come knows of them.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from types import MappingProxyType
from typing import Final

from agent.model import Json, NodeIdentity, PeerSpec, ServerScope, ServerSpec
from agent.routing.about import ABOUT_URI, away_entry
from agent.routing.names import name_beginning, node_alias, public_name, public_uri
from agent.routing.origins import Origin, namings_of
from agent.routing.remembered import remembered
from agent.routing.table import ContributionKind, Imported, Replica, Route, RouteKind, RouteTable

# Longer than a restart or an upgrade takes; after that an agent had better look at the list again.
AWAY_FOR_S: Final = 600.0
# What names that come and go may cost: some hundred bytes each, and the definitions of those that are still wanted.
AWAY_MAX: Final = 10_000

# Of a peer that was never linked, before its name.
_PEER_OWNER: Final = "peer:"

# What a name can be away as.
KINDS: Final = tuple(RouteKind)


@dataclass(frozen=True, slots=True)
class Absence:
    """What may come back. `expected`: the keys of backends that are wanted, or have left by themselves.

    `gone`: of these the ones that are not wanted. Of names that only they have, no more is kept than whose they are.
    `unlisted`: our own servers and peers that have listed nothing yet, each with the time since when, in monotonic
    seconds. `down`: our own servers that list nothing now. `starting`: this node has not tried all of its first links
    yet, so what it does not know may exist.
    """

    expected: frozenset[str] = frozenset()
    unlisted: tuple[tuple[ServerSpec | PeerSpec, float], ...] = ()
    starting: bool = False
    down: tuple[tuple[ServerSpec, float], ...] = ()
    gone: frozenset[str] = frozenset()

    def leaves_as_is(self, before: "Absence") -> bool:
        """Whether no name changes by it: that more is expected than before makes none unknown."""
        mine, theirs = ((one.unlisted, one.down, one.starting) for one in (self, before))
        return mine == theirs and before.expected <= self.expected and self.gone <= before.gone


def with_away(before: RouteTable, after: RouteTable, absence: Absence, own: NodeIdentity, now_s: float) -> RouteTable:
    """`after` with the names that are away; `before` is the table that it replaces, or `after` itself."""
    kinds = {key: part.source.kind for key, part in after.parts.items()}
    away: dict[tuple[RouteKind, str], Route] = {}
    made: dict[int, Json] = {}
    for (kind, name), route in [*before.away.items(), *_vanished(before, after, now_s)]:
        since_s = route.away_since_s
        assert since_s is not None
        if now_s - since_s >= AWAY_FOR_S or name in after.of_kind(kind):
            continue
        if (kept := awaited_part(route, absence, kinds, made)) is not None:
            away[kind, name] = kept
    away = dict(islice(away.items(), max(0, len(away) - AWAY_MAX), None))
    places = [place for spec, since_s in absence.unlisted for place in places_of(spec, since_s, own)]
    unlisted = (
        *_kept_as_they_are(places, before.unlisted),
        *told(before, after.parts, after.parts, absence.expected, now_s),
    )
    return replace(after, away=MappingProxyType(away), unlisted=unlisted, starting=absence.starting)


def awaited_owners(
    before: RouteTable, kinds: Mapping[str, ContributionKind], absence: Absence, now_s: float
) -> dict[str, float]:
    """Owners of names of whose backends some may come back, or bring them back: until when that is awaited.

    `before`: the table up to now; `kinds`: of the backends that are connected now, by key.
    """
    awaited: dict[str, float] = {}
    for route in [*before.away.values(), *before.namespaces.values()]:
        if any(may_return(replica, absence.expected, kinds) for replica in route.replicas):
            since_s = now_s if route.away_since_s is None else route.away_since_s
            awaited[route.owner] = max(awaited.get(route.owner, 0.0), since_s + AWAY_FOR_S)
    return {owner: until_s for owner, until_s in awaited.items() if until_s > now_s}


def is_over(table: RouteTable, now_s: float) -> bool:
    """Whether the name that has been away longest has been so for long enough."""
    return any(now_s - (route.away_since_s or 0.0) >= AWAY_FOR_S for route in islice(table.away.values(), 1))


def without_private(absence: Absence) -> Absence:
    """What other nodes may hear of: of a peer's names they know as much as we, of servers only by us."""
    public = tuple(entry for entry in absence.down if entry[0].scope is not ServerScope.PRIVATE)
    return replace(absence, unlisted=public, down=())


def away_words(route: Route, now_s: float, unheard_since_s: float | None = None) -> str:
    """Why a call of this route cannot be sent to any backend now; never an address.

    `unheard_since_s`: of one that is listed, and has not answered since then.
    """
    if not route.owner:
        return "this node is starting, and does not know yet who has it"
    began_s = unheard_since_s if route.away_since_s is None else route.away_since_s
    since_s = 0 if began_s is None else max(0, int(now_s - began_s))
    only = route.replicas[0] if len(route.replicas) == 1 else None
    return f"{server_words(route, only)} is away since {since_s} s"


def server_words(route: Route, replica: Replica | None) -> str:
    """What clients know the server of a route as, on the node of `replica`: "server fx on node-b"."""
    if route.owner.startswith(_PEER_OWNER):
        return f"peer {route.owner.removeprefix(_PEER_OWNER)}"
    server = route.owner.partition(":")[2].rpartition("/")[2].partition("@")[0]
    if replica is None or route.owner.startswith("plain:"):
        return f"server {server}"
    return f"server {server} on {replica.node_name or replica.backend_key.partition(':')[2]}"


def _vanished(before: RouteTable, after: RouteTable, now_s: float) -> Iterable[tuple[tuple[RouteKind, str], Route]]:
    for kind in KINDS:
        known = before.of_kind(kind)
        for name in known.keys() - after.of_kind(kind).keys():
            yield (kind, name), replace(known[name], away_since_s=now_s)


def awaited_part(
    route: Route, absence: Absence, kinds: Mapping[str, ContributionKind], made: dict[int, Json]
) -> Route | None:
    """The route of a name that is away with what may come back of it; None for nothing. `made`: see `remembered`."""
    kept = tuple([one for one in route.replicas if may_return(one, absence.expected, kinds)])
    if not kept:
        return None
    if len(kept) != len(route.replicas):
        route = replace(route, replicas=kept)
    return remembered(route, made) if all(one.backend_key in absence.gone for one in kept) else route


def may_return(replica: Replica, expected: Collection[str], kinds: Mapping[str, ContributionKind]) -> bool:
    """Whether what a backend had may be there again. `kinds`: of the backends that are connected, by key."""
    connected_as = kinds.get(replica.backend_key)
    return replica.backend_key in expected and connected_as in (None, ContributionKind.MESH_PEER)


def places_of(spec: ServerSpec | PeerSpec, since_s: float, own: NodeIdentity) -> Iterator[Route]:
    """Routes that say whose the names are; theirs are what those begin with. The first of a server is listed for nodes.

    A peer's own name is what those of a plain one begin with, and those of a node that is called so.
    """
    if isinstance(spec, PeerSpec):
        # No hop: it is sent nothing before it was listed.
        unlinked = Replica(spec.key, "", spec.expected_node_id, ours=False, hops=0)
        names = [spec.name]
        if spec.expected_node_id is not None:
            names.append(node_alias(spec.name, spec.expected_node_id))
        for name in names:
            yield place_of((name,), f"{_PEER_OWNER}{spec.name}", {}, unlinked, since_s=since_s)
        return
    origin = Origin.of_own(own, spec.name, ABOUT_URI, spec.scope, sticky=spec.sticky)
    namings = list(namings_of(origin))
    uri = public_uri(public_name(*namings[0].parts), ABOUT_URI)
    definition = away_entry(uri, spec.name, origin.as_json(), spec.tags)
    replica = Replica(spec.key, "", own.node_id, ours=True, hops=0, node_name=own.name)
    for naming in namings:
        listed = naming is namings[0]
        yield place_of(naming.parts, naming.owner, definition, replica, since_s=since_s, listed=listed)


def place_of(
    parts: tuple[str, ...],
    owner: str,
    definition: Json,
    replica: Replica,
    *,
    since_s: float | None = None,
    listed: bool = False,
) -> Route:
    """What stands for all names that begin with `parts`, while none of them is known."""
    beginning, namespace = name_beginning(*parts), public_name(*parts)
    kind = RouteKind.NAMESPACE
    return Route(kind, beginning, definition, "", (replica,), listed, owner, namespace=namespace, away_since_s=since_s)


def _kept_as_they_are(places: Iterable[Route], before: Iterable[Route]) -> Iterator[Route]:
    """The same, by the very objects of before where they are equal: lists are written anew for other ones."""
    known = {(place.public_name, place.owner): place for place in before}
    for place in places:
        same = known.get((place.public_name, place.owner))
        yield same if same == place else place


def told(
    before: RouteTable,
    telling: Mapping[str, Imported],
    parts: Collection[str],
    expected: Collection[str],
    now_s: float,
) -> Iterator[Route]:
    """What connected nodes say is away there; and while one is not connected and may come back, what it last said.

    `telling`: those of the `parts` that say so, at least.
    """
    known = {(place.public_name, place.replicas): place for place in before.unlisted if place.replicas[0].hops > 0}
    for part in telling.values():
        for place in part.away:
            yield known.get((place.public_name, place.replicas)) or replace(place, away_since_s=now_s)
    for place in known.values():
        key, since_s = place.replicas[0].backend_key, place.away_since_s or now_s
        if key in expected and key not in parts and now_s - since_s < AWAY_FOR_S:
            yield place
