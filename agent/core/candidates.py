"""Reads one backend's offer into claims: the public names it would have if nobody else wanted them.

Called by `agent.core.routes` for every backend whose offer is new. The one rule: whose a name is follows from the
configuration of whoever serves it; a peer's listing is believed only where its names are those that its origins give.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from agent.core.definition_shape import check_definition
from agent.core.digest import definition_digest
from agent.core.naming import is_valid_name, node_alias, public_name, public_uri
from agent.core.route_table import (
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
)
from agent.core.uri_codec import UriCodec
from agent.model import ORIGIN_META_KEY, Json, NodeIdentity, Offer, PeerScope, ServerScope

# faults.md: as many tools (prompts, resources, templates) as one backend may have; a bound on memory and list size.
ENTRIES_MAX: Final = 10_000
# docs/architecture.md: three gateways between a caller and a server; longer ways are loops or mistakes.
PATH_LEN_MAX: Final = 3
# A peer that gets everything wrong is told so with this many examples and one LIMIT conflict for the rest.
REFUSALS_MAX: Final = 20
# The scope that we write for a plain peer; it has no configuration of its own that could give one.
PLAIN_SCOPE: Final = "plain"
# How the owner of a node's own names begins; its node ID follows, then a slash and the server.
NODE_OWNER: Final = "node:"

# Longer names, URIs and node IDs are nobody's honest ones.
_TEXT_LEN_MAX: Final = 4096
_SHOWN_LEN: Final = 100
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_KNOWN_SCOPES: Final = frozenset({*ServerScope, PLAIN_SCOPE})


class _Refused(Exception):
    """An entry that is not taken, and why; it never leaves this module."""

    def __init__(self, reason: ConflictReason, name: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.name = name


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose a definition is. `path`: the nodes from its server's node to us, both ends but us included; () is here."""

    node: NodeIdentity
    server: str
    tool: str
    scope: str
    path: tuple[str, ...]
    sticky: bool = False  # its server wants a client's calls on one replica

    def as_json(self) -> Json:
        """The value under `ORIGIN_META_KEY`; `via` is what an importer appends the exporting node to."""
        return {
            "node": self.node.name,
            "node_id": self.node.node_id,
            "server": self.server,
            "tool": self.tool,
            "scope": str(self.scope),
            "via": list(self.path),
            **({"sticky": True} if self.sticky else {}),
        }


@dataclass(frozen=True, slots=True)
class _Place:
    """One way to name what an origin serves: `parts` go in front of the tool's own name."""

    root: Root
    root_owner: str
    owner: str
    parts: tuple[str, ...]
    listed: bool


def read_contribution(contribution: Contribution, own: NodeIdentity) -> Imported:
    """All names that this backend claims, grouped by who must hold their first part, and what was refused of it."""
    reading = _Reading(contribution, own)
    for kind, entries in _entries_of(contribution.offer):
        reading.read_all(kind, entries)
    return reading.result()


def _entries_of(offer: Offer) -> Iterator[tuple[RouteKind, tuple[Json, ...]]]:
    yield RouteKind.TOOL, offer.tools
    yield RouteKind.PROMPT, offer.prompts
    yield RouteKind.RESOURCE, offer.resources
    yield RouteKind.TEMPLATE, offer.templates


class _Reading:
    """Collects the claims of one contribution. Lives for one call of `read_contribution`."""

    def __init__(self, contribution: Contribution, own: NodeIdentity) -> None:
        self._contribution = contribution
        self._own = own
        self._ours = contribution.kind is ContributionKind.SERVER
        self._claims: dict[tuple[Root, str], dict[tuple[RouteKind, str], Route]] = {}
        self._known_places: dict[tuple[str, ...], list[_Place]] = {}
        self._refused: list[Conflict] = []
        self._refused_count = 0

    def read_all(self, kind: RouteKind, entries: tuple[Json, ...]) -> None:
        """Take the entries of one kind, up to the limit, each name once."""
        seen: set[str] = set()
        for entry in entries[:ENTRIES_MAX]:
            try:
                name = _own_name(kind, entry, seen)
                origin = self._origin(entry, name)
                if origin is not None:
                    self._take(kind, entry, name, origin)
            except _Refused as refused:
                self._refuse(refused)
        if len(entries) > ENTRIES_MAX:
            self._refuse(_Refused(ConflictReason.LIMIT, f"{kind}s beyond {ENTRIES_MAX}"))

    def result(self) -> Imported:
        """The frozen outcome."""
        if self._refused_count > REFUSALS_MAX:
            name = f"{self._refused_count - REFUSALS_MAX} more entries"
            self._refused.append(Conflict(name, "", (self._contribution.backend_key,), ConflictReason.LIMIT))
        claims = tuple(
            Claims(root, owner, self._ours, tuple(routes.values())) for (root, owner), routes in self._claims.items()
        )
        return Imported(self._contribution, self._own, claims, tuple(self._refused))

    def _refuse(self, refused: _Refused) -> None:
        self._refused_count += 1
        if self._refused_count <= REFUSALS_MAX:
            self._refused.append(Conflict(refused.name, "", (self._contribution.backend_key,), refused.reason))

    def _origin(self, entry: Json, name: str) -> Origin | None:
        """Whose the entry is; None when it is none of our business. Raises _Refused for what a peer gets wrong."""
        contribution = self._contribution
        match contribution.kind:
            case ContributionKind.SERVER:
                assert contribution.scope is not None
                return Origin(self._own, contribution.label, name, contribution.scope, (), contribution.sticky)
            case ContributionKind.PLAIN_PEER:
                return Origin(self._own, contribution.label, name, PLAIN_SCOPE, ())
            case ContributionKind.MESH_PEER:
                assert contribution.node is not None
                origin = _told_origin(entry, name, contribution.node)
                if origin is None or self._own.node_id in origin.path or origin.scope == ServerScope.PRIVATE:
                    # Management tools have no origin, our own things come back through gateways, and what is private
                    # stays where it is: nothing of this is a fault.
                    return None
                _check_path(origin, name, contribution)
                return origin

    def _take(self, kind: RouteKind, entry: Json, name: str, origin: Origin) -> None:
        places = self._places_of(origin)
        listed_as = _named(kind, places[0].parts, origin.tool)
        imported = self._contribution.kind is ContributionKind.MESH_PEER
        if imported and listed_as != name:
            raise _Refused(ConflictReason.MISNAMED, name)
        meta = entry.get("_meta")
        kept = meta if isinstance(meta, dict) else {}
        if not imported:
            # Before the digest is taken: another node lists it so, and its replica must not look like another tool.
            kept = UriCodec(public_name(*places[0].parts)).meta(kept)
        try:
            check_definition(kind, entry)
            digest = definition_digest(kind, entry | {"_meta": kept})
        except ValueError as exc:
            raise _Refused(ConflictReason.MALFORMED, name) from exc
        definition = entry | {NAME_MEMBER[kind]: listed_as, "_meta": kept | {ORIGIN_META_KEY: origin.as_json()}}
        for place in places:
            remote = self._remote_parts(place, places, origin)
            inner = public_name(*(remote or places[0].parts)) if imported else ""
            replica = self._replica(name if remote is None else _named(kind, remote, origin.tool), origin, inner)
            public = listed_as if place is places[0] else _named(kind, place.parts, origin.tool)
            space = public_name(*place.parts)
            more = (place.listed, place.owner, origin.sticky, space)
            self._claim(place, Route(kind, public, definition, digest, (replica,), *more))
            # A server that lists no resource may link to one in a result.
            knower, unlisted = self._replica(inner, origin, inner), (False, *more[1:])
            self._claim(place, Route(RouteKind.NAMESPACE, space, {}, "", (knower,), *unlisted))

    def _places_of(self, origin: Origin) -> list[_Place]:
        # One server's tools share them: naming is most of the work of reading a large offer.
        key = (origin.node.node_id, origin.node.name, origin.server, origin.scope)
        places = self._known_places.get(key)
        if places is None:
            places = self._known_places[key] = list(_places(origin))
        return places

    def _claim(self, place: _Place, route: Route) -> None:
        routes = self._claims.setdefault((place.root, place.root_owner), {})
        first = routes.setdefault((route.kind, route.public_name), route)
        # A namespace comes with each entry of its server. Anything else meets only where `a_` + `b` and `a` + `_b` do.
        if first is not route and (route.kind is not RouteKind.NAMESPACE or first.owner != route.owner):
            self._refuse(_Refused(ConflictReason.DUPLICATE, route.public_name))

    def _replica(self, remote_name: str, origin: Origin, namespace: str) -> Replica:
        plain = self._contribution.kind is ContributionKind.PLAIN_PEER
        hops = 0 if self._ours else max(1, len(origin.path))
        node_id = None if plain else origin.node.node_id
        return Replica(self._contribution.backend_key, remote_name, node_id, self._ours, hops, namespace)

    def _remote_parts(self, place: _Place, places: list[_Place], origin: Origin) -> tuple[str, ...] | None:
        """How the backend is asked for this place; None: by the name it lists."""
        if len(origin.path) <= 1 or place.listed:
            return None
        # Behind a gateway the listed name of a service means any node; the alias by ID is the one that means this one.
        return places[-1].parts


def _own_name(kind: RouteKind, entry: Json, seen: set[str]) -> str:
    """The name, URI or template that the backend gives the entry; added to `seen`."""
    name = entry.get(NAME_MEMBER[kind]) if isinstance(entry, dict) else None
    if not _is_text(name):
        raise _Refused(ConflictReason.MALFORMED, name[:_SHOWN_LEN] if isinstance(name, str) else "")
    assert isinstance(name, str)
    if name in seen:
        raise _Refused(ConflictReason.DUPLICATE, name)
    seen.add(name)
    return name


def _told_origin(entry: Json, name: str, exporter: NodeIdentity) -> Origin | None:
    """What a mesh peer says of an entry's origin; None when it says nothing."""
    meta = entry.get("_meta")
    told = meta.get(ORIGIN_META_KEY) if isinstance(meta, dict) else None
    if told is None:
        return None
    if not isinstance(told, dict):
        raise _Refused(ConflictReason.MALFORMED, name)
    words = [told.get(member) for member in ("node", "node_id", "server", "tool", "scope")]
    via = told.get("via", [])
    if not isinstance(via, list) or not all(_is_text(word) for word in (*words, *via)):
        raise _Refused(ConflictReason.MALFORMED, name)
    node_name, node_id, server, tool, scope = (str(word) for word in words)
    if not (is_valid_name(node_name) and is_valid_name(server) and scope in _KNOWN_SCOPES):
        raise _Refused(ConflictReason.MALFORMED, name)
    path = (*(str(word) for word in via), exporter.node_id)
    return Origin(NodeIdentity(node_id, node_name), server, tool, scope, path, told.get("sticky") is True)


def _check_path(origin: Origin, name: str, contribution: Contribution) -> None:
    exporter = contribution.node
    assert exporter is not None
    is_gateway = contribution.peer_scope is PeerScope.MESH
    direct = len(origin.path) == 1
    if origin.path[0] != origin.node.node_id or not (is_gateway or (direct and origin.scope != PLAIN_SCOPE)):
        raise _Refused(ConflictReason.FOREIGN, name)
    if direct and origin.node.name != exporter.name:
        raise _Refused(ConflictReason.MISNAMED, name)
    if len(origin.path) > PATH_LEN_MAX:
        raise _Refused(ConflictReason.LIMIT, name)


def _places(origin: Origin) -> Iterable[_Place]:
    """Every place of an origin; the first is the one that is listed, the last (for nodes) names the node by its ID."""
    server, node = origin.server, origin.node
    if origin.scope == PLAIN_SCOPE:
        # Two gateways' plain peers of one name are two things, and so is ours.
        owner = f"plain:{server}" if not origin.path else f"plain:{server}@{node.node_id}"
        yield _Place(Root(server, of_node=False), owner, owner, (server,), listed=True)
        return
    if origin.scope == ServerScope.SERVICE:
        owner = f"service:{server}"
        yield _Place(Root(server, of_node=False), owner, owner, (server,), listed=True)
    alias = node_alias(node.name, node.node_id)
    root_owner = NODE_OWNER + node.node_id
    owner = f"{root_owner}/{server}"
    listed = origin.scope != ServerScope.SERVICE
    yield _Place(Root(node.name, of_node=True), root_owner, owner, (node.name, server), listed)
    yield _Place(Root(alias, of_node=True), root_owner, owner, (alias, server), listed=False)


def _named(kind: RouteKind, parts: tuple[str, ...], name: str) -> str:
    """The public form of a backend's own name, URI or template."""
    if kind in (RouteKind.TOOL, RouteKind.PROMPT):
        return public_name(*parts, name)
    return public_uri(public_name(*parts), name)


def _is_text(value: object) -> bool:
    """Whether it may name something: not empty, not huge, and with a UTF-8 form, as every list needs."""
    if not isinstance(value, str) or not 0 < len(value) <= _TEXT_LEN_MAX:
        return False
    return value.isascii() or not _SURROGATE.search(value)
