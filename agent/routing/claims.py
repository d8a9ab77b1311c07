"""Reads one backend's offer into claims: the public names it would have if no other backend wanted them.

Called by `agent.routing.build` for every backend whose offer is new. The one rule: the configuration of
the node that serves a name decides who owns it; a peer's listing is believed only where its names are those that its
origins give.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final

from agent.lossless_json.raw import write_definition
from agent.model import ORIGIN_META_KEY, PUBLIC_NAME_LEN_MAX, Json, NodeIdentity, ServerScope
from agent.routing.about import ABOUT_META_KEY, about_entry, is_about, read_about, says_away
from agent.routing.away import place_of
from agent.routing.definitions import LeftOut, mended
from agent.routing.digest import definition_digest
from agent.routing.names import is_name_of, public_name, public_uri, shown_name
from agent.routing.origins import (
    PLAIN_SCOPE,
    Naming,
    Origin,
    Refused,
    check_path,
    come_through,
    is_text,
    namings_of,
    received_origin,
)
from agent.routing.output_schemas import is_object_schema
from agent.routing.table import (
    NAME_MEMBER,
    Claims,
    Conflict,
    ConflictReason,
    Contribution,
    ContributionKind,
    Imported,
    LeftOutEntry,
    Replica,
    Root,
    Route,
    RouteKind,
)
from agent.routing.uris import UriCodec, is_fetched_by_clients

# As many tools (prompts, resources, templates) as one backend may have; a bound on memory and list size.
ENTRIES_MAX: Final = 10_000
# Of a definition as JSON. The reference client takes no event of more than 1 MiB, and a page of a list may be one; this
# leaves room for its envelope.
ENTRY_BYTES_MAX: Final = 1_000_000
# The conflicts of a peer that gets everything wrong are this many examples and one LIMIT conflict for the rest.
REFUSALS_MAX: Final = 20

_SHOWN_LEN: Final = 100
# The definition of each namespace: one for all of them.
_NOTHING: Final[Json] = {}


def read_contribution(contribution: Contribution, own: NodeIdentity) -> Imported:
    """All names that this backend claims, grouped by who must hold their first part, and what was refused of it."""
    reading = _Reading(contribution, own)
    for kind, entries in _entries_of(contribution):
        reading.read_all(kind, entries)
    return reading.result()


def _entries_of(contribution: Contribution) -> Iterator[tuple[RouteKind, Sequence[Json]]]:
    offer, resources = contribution.offer, contribution.offer.resources
    yield RouteKind.TOOL, offer.tools
    yield RouteKind.PROMPT, offer.prompts
    if contribution.kind is ContributionKind.MESH_PEER:
        yield RouteKind.RESOURCE, [entry for entry in resources if not is_about(entry)]
        yield RouteKind.SERVER, [entry for entry in resources if is_about(entry)]
    else:
        yield RouteKind.RESOURCE, resources
        yield RouteKind.SERVER, (about_entry(contribution.label, contribution.about),)
    yield RouteKind.TEMPLATE, offer.templates


class _Reading:
    """Collects the claims of one contribution. Lives for one call of `read_contribution`."""

    def __init__(self, contribution: Contribution, own: NodeIdentity) -> None:
        self._contribution = contribution
        self._own = own
        self._ours = contribution.kind is ContributionKind.SERVER
        self._claims: dict[tuple[Root, str], dict[tuple[RouteKind, str], Route]] = {}
        self._known_namings: dict[tuple[str, ...], list[Naming]] = {}
        self._refused: list[Conflict] = []
        self._refused_count = 0
        self._left_out: list[LeftOutEntry] = []
        self._left_out_count = 0
        self._away: list[Route] = []

    def read_all(self, kind: RouteKind, entries: Sequence[Json]) -> None:
        """Take the entries of one kind, up to the limit, each name once."""
        seen: set[str] = set()
        room = ENTRIES_MAX
        for place, entry in enumerate(entries, 1):
            name = f"number {place}"
            try:
                name = _own_name(kind, entry, seen)
                origin = self._origin(entry, name)
                if origin is None:
                    continue  # What we do not import takes no place: a node lists its management tools, too.
                if not room:
                    self._refuse(Refused(ConflictReason.LIMIT, f"{kind}s beyond {ENTRIES_MAX}"))
                    break
                room -= 1
                self._take(kind, entry, name, origin)
            except Refused as refused:
                self._refuse(refused)
            except LeftOut as exc:
                self._leave_out(kind, name, str(exc))

    def result(self) -> Imported:
        """The frozen outcome."""
        if self._refused_count > REFUSALS_MAX:
            name = f"{self._refused_count - REFUSALS_MAX} more entries"
            self._refused.append(Conflict(name, "", (self._contribution.backend_key,), ConflictReason.LIMIT))
        if self._left_out_count > REFUSALS_MAX:
            more = f"{self._left_out_count - REFUSALS_MAX} more entries"
            self._left_out.append(LeftOutEntry(self._contribution.backend_key, "", more, "as those"))
        claims = tuple(
            [Claims(root, owner, self._ours, tuple(routes.values())) for (root, owner), routes in self._claims.items()]
        )
        refused, left_out = tuple(self._refused), tuple(self._left_out)
        return Imported(self._contribution, self._own, claims, refused, left_out, tuple(self._away))

    def _refuse(self, refused: Refused) -> None:
        self._refused_count += 1
        if self._refused_count <= REFUSALS_MAX:
            self._refused.append(Conflict(refused.name, "", (self._contribution.backend_key,), refused.reason))

    def _leave_out(self, kind: RouteKind, name: str, why: str) -> None:
        self._left_out_count += 1
        if self._left_out_count <= REFUSALS_MAX:
            self._left_out.append(LeftOutEntry(self._contribution.backend_key, kind, name[:_SHOWN_LEN], why))

    def _origin(self, entry: Json, name: str) -> Origin | None:
        """Whose the entry is; None when it is none of our business. Raises Refused for what a peer gets wrong."""
        contribution = self._contribution
        match contribution.kind:
            case ContributionKind.SERVER:
                assert contribution.scope is not None
                if (through := come_through(entry, name, self._own)) is None:
                    return None
                label, scope = contribution.label, contribution.scope
                return Origin.of_own(self._own, label, name, scope, sticky=contribution.sticky, through=through)
            case ContributionKind.PLAIN_PEER:
                if (through := come_through(entry, name, self._own)) is None:
                    return None
                return Origin(self._own, contribution.label, name, PLAIN_SCOPE, (), through=through)
            case ContributionKind.MESH_PEER:
                assert contribution.node is not None
                origin = received_origin(entry, name, contribution.node)
                if origin is None or self._own.node_id in origin.path or origin.scope == ServerScope.PRIVATE:
                    # Management tools have no origin, our own things come back through gateways, and what is private
                    # stays where it is: nothing of this is a fault.
                    return None
                check_path(origin, name, contribution)
                return origin

    def _take(self, kind: RouteKind, entry: Json, name: str, origin: Origin) -> None:
        namings = self._namings_of(origin)
        self._check_pin(origin, namings[0].parts[0], name)
        listed_as = _named(kind, namings[0].parts, origin.tool)
        name = listed_as if name == listed_as else name  # One text in place of two, as nearly all of nodes are.
        imported = self._contribution.kind is ContributionKind.MESH_PEER
        if imported and not _may_be_named(name, kind, namings[0].parts, origin.tool):
            raise Refused(ConflictReason.MISNAMED, name)
        if imported and kind is RouteKind.SERVER and says_away(entry):
            if len(origin.path) == 1:  # Beyond a gateway others know better.
                about = read_about(entry["_meta"][ABOUT_META_KEY])
                self._away += [self._place(naming, origin, about) for naming in namings]
            return
        if (why := self._contribution.blocked.get((kind, name))) is not None:
            raise LeftOut(why)
        entry = mended(kind, entry, partial(self._leave_out, kind, name))
        meta = entry.get("_meta")
        kept = meta if isinstance(meta, dict) else {}
        if not imported:
            # Before the digest is taken: another node lists it so, and its replica must not look like another tool.
            kept = UriCodec(namings[0].space).meta(kept)
        is_server = kind is RouteKind.SERVER
        kept = _about_kept(kept, is_server=is_server)
        # Replicas of a service may be of different releases, so what they say of themselves need not agree.
        digest = "" if is_server else definition_digest(kind, entry | {"_meta": kept})
        definition = entry | {NAME_MEMBER[kind]: listed_as, "_meta": kept | {ORIGIN_META_KEY: origin.as_json()}}
        listed_shown = self._shown(kind, namings[0], origin, listed_as)
        seen = definition if listed_shown == listed_as else definition | {NAME_MEMBER[kind]: listed_shown}
        too_large = len(write_definition(definition)) > ENTRY_BYTES_MAX
        if too_large:
            self._leave_out(kind, name, "larger than a page of a list; it can be used all the same")
        # One that clients of 2026-07-28 compile is compiled by earlier ones as well, if they know its kind.
        hides_schema = "outputSchema" in definition and not is_object_schema(definition["outputSchema"])
        # Most of its names lead to the same two: the entry itself, and what knows others of its server.
        direct = self._replicas(name, origin, namings[0].space if imported else "")
        for naming in namings:
            remote, (replica, knower) = self._remote_parts(naming, namings, origin), direct
            if remote is not None:
                replica, knower = self._replicas(_named(kind, remote, origin.tool), origin, public_name(*remote))
            named = listed_as if naming is namings[0] else _named(kind, naming.parts, origin.tool)
            space = naming.space
            public = space if is_server else named
            more = (naming.listed, naming.owner, origin.sticky, space, hides_schema, None, too_large)
            by_limit = self._shown(kind, naming, origin, public)
            shown = None if by_limit == public and seen is definition else (by_limit, seen)
            in_fleet = origin.fleet and kind is RouteKind.TOOL
            route = Route(kind, public, definition, digest, replica, *more, shown, in_fleet, root=naming.root)
            self._claim(naming, route)
            # A server that lists no resource may link to one in a result.
            rest = (knower, False, *more[1:4])
            self._claim(naming, Route(RouteKind.NAMESPACE, space, _NOTHING, "", *rest, root=naming.root))

    def _check_pin(self, origin: Origin, root: str, name: str) -> None:
        """Refuse, by raising `Refused`, what is served under a name that is pinned to other nodes.

        A gateway that tells of a pinned node has to be one itself: its word is all that there is.
        """
        nodes, contribution = self._contribution.pinned.get(root), self._contribution
        if nodes is None:
            return
        told = {origin.node.node_id, contribution.node.node_id if contribution.node is not None else ""}
        if origin.scope != ServerScope.SERVICE or not told <= nodes:
            raise Refused(ConflictReason.PINNED, name)

    def _place(self, naming: Naming, origin: Origin, about: Json) -> Route:
        replica = self._replica("", origin, public_name(*naming.parts))
        definition = {"_meta": {ORIGIN_META_KEY: origin.as_json(), ABOUT_META_KEY: about}}
        return place_of(naming.parts, naming.owner, definition, replica)

    def _shown(self, kind: RouteKind, naming: Naming, origin: Origin, public: str) -> str:
        """The form of a public name that clients see; of an address of the web the address itself."""
        if kind in (RouteKind.RESOURCE, RouteKind.TEMPLATE):
            return origin.tool if naming.listed and is_fetched_by_clients(origin.tool) else public
        len_max = self._contribution.name_len_max
        # One below the limit was not cut, and is the same in both forms.
        if kind not in (RouteKind.TOOL, RouteKind.PROMPT) or len(public) <= min(len_max, PUBLIC_NAME_LEN_MAX - 1):
            return public
        return shown_name(*naming.parts, origin.tool, len_max=len_max)

    def _namings_of(self, origin: Origin) -> list[Naming]:
        # One server's tools share them: naming is most of the work of reading a large offer.
        key = (origin.node.node_id, origin.node.name, origin.server, origin.scope)
        namings = self._known_namings.get(key)
        if namings is None:
            namings = self._known_namings[key] = list(namings_of(origin))
        return namings

    def _claim(self, naming: Naming, route: Route) -> None:
        routes = self._claims.setdefault((naming.root, naming.root_owner), {})
        first = routes.setdefault((route.kind, route.public_name), route)
        # A namespace comes with each entry of its server. Anything else meets only where `a_` + `b` and `a` + `_b` do.
        if first is not route and (route.kind is not RouteKind.NAMESPACE or first.owner != route.owner):
            self._refuse(Refused(ConflictReason.DUPLICATE, route.public_name))

    def _replica(self, remote_name: str, origin: Origin, namespace: str) -> Replica:
        plain = self._contribution.kind is ContributionKind.PLAIN_PEER
        hops = 0 if self._ours else max(1, len(origin.path))
        node_id = None if plain else origin.node.node_id
        node_name = "" if plain else origin.node.name
        return Replica(self._contribution.backend_key, remote_name, node_id, self._ours, hops, namespace, node_name)

    def _replicas(self, name: str, origin: Origin, inner: str) -> tuple[tuple[Replica, ...], tuple[Replica, ...]]:
        """Those of a name's route, and of its namespace."""
        return (self._replica(name, origin, inner),), (self._replica(inner, origin, inner),)

    def _remote_parts(self, naming: Naming, namings: list[Naming], origin: Origin) -> tuple[str, ...] | None:
        """How the backend is asked for this naming; None: by the name it lists."""
        if len(origin.path) <= 1 or naming.listed:
            return None
        # Behind a gateway the listed name of a service means any node; the alias by ID is the one that means this one.
        return namings[-1].parts


def _about_kept(meta: Json, *, is_server: bool) -> Json:
    """A `_meta` with what an entry about a server may say, and no other entry."""
    if is_server:
        return {ABOUT_META_KEY: read_about(meta.get(ABOUT_META_KEY))}
    return (
        {member: value for member, value in meta.items() if member != ABOUT_META_KEY}
        if ABOUT_META_KEY in meta
        else meta
    )


def _own_name(kind: RouteKind, entry: Any, seen: set[str]) -> str:
    """The name, URI or template that the backend gives the entry; added to `seen`."""
    if not isinstance(entry, dict):
        raise LeftOut("no object")
    name = entry.get(NAME_MEMBER[kind])
    if not is_text(name):
        raise LeftOut(f"no {NAME_MEMBER[kind]} that could be listed")
    assert isinstance(name, str)
    if name in seen:
        raise Refused(ConflictReason.DUPLICATE, name)
    seen.add(name)
    return name


def _may_be_named(name: str, kind: RouteKind, parts: tuple[str, ...], own: str) -> bool:
    """Whether a peer may list a thing so; one that is a gateway may have another limit for names than we."""
    if kind in (RouteKind.TOOL, RouteKind.PROMPT):
        return is_name_of(name, *parts, own)
    return name == _named(kind, parts, own) or (name == own and is_fetched_by_clients(own))


def _named(kind: RouteKind, parts: tuple[str, ...], name: str) -> str:
    """The public form of a backend's own name, URI or template."""
    if kind in (RouteKind.TOOL, RouteKind.PROMPT):
        return public_name(*parts, name)
    return public_uri(public_name(*parts), name)
