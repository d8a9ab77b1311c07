"""The shapes of routing: what a connected backend contributes, a route with its replicas, the whole table.

Built by `agent.routing.build`; read by dispatch, by the MCP endpoints and by the code that describes the node. The one
rule: a name is looked up as it stands and never parsed apart; only a URI that no route lists is read by its namespace,
and a name below a server that was never listed by its beginning.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from agent.model import PUBLIC_NAME_LEN_MAX, Json, NodeIdentity, Offer, PeerScope, ServerScope
from agent.routing.chunked import Chunked
from agent.routing.names import may_begin_with, uri_namespace
from agent.routing.uris import UriCodec


class ContributionKind(StrEnum):
    """Whose a backend is: it decides what its names look like and whether its word about origins counts."""

    SERVER = "server"
    MESH_PEER = "mesh_peer"
    PLAIN_PEER = "plain_peer"


class RouteKind(StrEnum):
    """What a route leads to. A namespace stands for the URIs that a backend may read but does not list.

    A server has its namespace as name, and its word of itself as definition (`agent.routing.about`).
    """

    TOOL = "tool"
    PROMPT = "prompt"
    RESOURCE = "resource"
    TEMPLATE = "template"
    NAMESPACE = "namespace"
    SERVER = "server"


# The member of a definition that names it, by kind; the only member that is rewritten when it is listed.
NAME_MEMBER: Final[Mapping[RouteKind, str]] = MappingProxyType(
    {
        RouteKind.TOOL: "name",
        RouteKind.PROMPT: "name",
        RouteKind.RESOURCE: "uri",
        RouteKind.TEMPLATE: "uriTemplate",
        RouteKind.SERVER: "uri",
    }
)


class ConflictReason(StrEnum):
    """Why a name, or an entry of a listing, was not taken as it came."""

    OWNER = "owner"  # two owners claim one name
    NODE_NAME = "node_name"  # two nodes claim one node name
    DEFINITION = "definition"  # replicas of one owner disagree
    HANDED_OVER = "handed_over"  # the holder is gone and another owner got its names; said once
    MISNAMED = "misnamed"  # a peer lists something under a name that its origin does not give
    FOREIGN = "foreign"  # a peer that is no gateway lists another node's things
    MALFORMED = "malformed"  # a peer tells an origin that is none
    DUPLICATE = "duplicate"  # a backend lists one name twice
    LIMIT = "limit"  # more than we take from one backend
    PINNED = "pinned"  # an operator has said which nodes may serve this name, and it is none of them


@dataclass(frozen=True, slots=True)
class Contribution:
    """One connected backend's part in the table.

    `label` is the first part of its public names: the server's name (ours) or the peer's (plain); unused for mesh
    peers, whose names say who they are. `node` is ours for a server, the peer's for a mesh peer, None for a plain one.
    `scope` and `sticky` are set for servers. `peer_scope` MESH: the peer is a gateway and may list other nodes' things.
    `has_tasks`: it announces that calls may be answered with tasks. `name_len_max`: of the names that clients see.
    `about`: its word of itself (`agent.routing.about`); a mesh peer's has no place, its servers speak for themselves.
    `blocked`: entries that are left out, by kind and their own name, and why. `pinned`: the IDs of the nodes that may
    serve a name, by name; of the others, all may.
    """

    backend_key: str
    kind: ContributionKind
    label: str
    node: NodeIdentity | None
    scope: ServerScope | None
    offer: Offer
    peer_scope: PeerScope = PeerScope.LOCAL
    sticky: bool = False
    has_tasks: bool = False
    name_len_max: int = PUBLIC_NAME_LEN_MAX
    about: Json = field(default_factory=dict)
    blocked: Mapping[tuple[RouteKind, str], str] = field(default_factory=dict)
    pinned: Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Replica:
    """One way to a route's target. `remote_name` is the name or URI that the backend itself knows.

    `node_id`: the node that runs it, None for a plain peer. `hops`: nodes that a call passes; 0 for our own servers.
    `namespace`: what the backend itself puts into this server's URIs; empty for none. `node_name`: of `node_id`.
    """

    backend_key: str
    remote_name: str
    node_id: str | None
    ours: bool
    hops: int = 1
    namespace: str = ""
    node_name: str = ""


@dataclass(frozen=True, slots=True)
class Fleet:
    """One tool on the nodes of a fleet, as one (`agent.routing.fleet`). Routes are by the names of their nodes.

    `argument`: of the call, which names nodes. `members`: those that agree on the definition that is shown. `others`:
    those whose definition differs, and which are not called. `away`: as in `agent.routing.away`. `several`: whether one
    call may ask several nodes. `namespaces`: of the URIs of each node, by its ID. `shown`: the node whose definition
    clients see, the first by name of the members, which are in no order themselves.
    """

    server: str
    tool: str
    argument: str
    members: Chunked[str, "Route"]
    others: Mapping[str, "Route"]
    away: Chunked[str, "Route"]
    several: bool
    namespaces: Chunked[str | None, str]
    shown: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """A public name (or URI, or template) and the replicas that answer for it, all with the same `digest`.

    `definition` is the backend's own object with its name replaced and `_meta[ORIGIN_META_KEY]` set; never change it.
    Unlisted routes are aliases: they resolve, and carry the definition as it is listed. `owner` is what the name
    belongs to: `service:<server>`, `node:<node_id>/<server>` or `plain:<peer>` (`plain:<peer>@<node_id>` behind a
    gateway). `sticky`: a client's calls stay on one replica. `namespace`: what we put into the URIs that come with it.
    `hides_schema`: earlier clients, with sessions, are not shown its output schema.
    `too_large`: clients are not shown it, since many read the first page alone and it would fill one.
    `away_since_s`: of a route that no connected backend offers now; monotonic seconds, None while one does. Its owner
    is empty where nothing is known of the name but that this node has only begun to look for others. `shown`: the name
    and the definition that clients of `/mcp` get in place of these; None for the same. In a table for clients, of an
    address of the web that is listed as another server's. `in_fleet`: of a tool that
    clients see once for all nodes; `fleet`: of that one. `root`: what a backend's own claim is below.
    """

    kind: RouteKind
    public_name: str
    definition: Json
    digest: str
    replicas: tuple[Replica, ...]
    listed: bool
    owner: str
    sticky: bool = False
    namespace: str = ""
    hides_schema: bool = False
    away_since_s: float | None = None
    too_large: bool = False
    shown: tuple[str, Json] | None = None
    in_fleet: bool = False
    fleet: Fleet | None = field(default=None, repr=False, compare=False)
    root: "Root | None" = field(default=None, repr=False, compare=False)

    def uris(self, replica: Replica) -> UriCodec:
        """The codec of the URIs in this replica's answers."""
        if self.fleet is not None:
            return UriCodec(self.fleet.namespaces.get(replica.node_id, self.namespace), replica.namespace)
        return UriCodec(self.namespace, replica.namespace)


@dataclass(frozen=True, slots=True)
class Conflict:
    """A name (or entry) that was not taken as claimed: its holder (empty: none), the others that wanted it, and why."""

    name: str
    holder: str
    others: tuple[str, ...]
    reason: ConflictReason


@dataclass(frozen=True, slots=True)
class LeftOutEntry:
    """An entry that no strict client could read, or no page hold: it is not listed, whichever other backend has it.

    `kind`: a `RouteKind`, empty where the rest of many is counted. `name`: as the backend calls it, else its number.
    """

    backend: str
    kind: str
    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Root:
    """A first part of public names, to which exactly one owner may be entitled.

    `of_node`: names look like `label__server__tool`; otherwise like `label__tool`. The two may share a label.
    """

    label: str
    of_node: bool


@dataclass(frozen=True, slots=True)
class Claims:
    """All that one owner claims under one root, from one backend: routes of one replica each."""

    root: Root
    owner: str
    ours: bool
    routes: tuple[Route, ...]


@dataclass(frozen=True, slots=True)
class Imported:
    """What one contribution claims, kept in the table so that an unchanged backend is not read again.

    `away`: places of servers that are away there, as in `RouteTable.unlisted`.
    """

    source: Contribution
    own: NodeIdentity
    claims: tuple[Claims, ...]
    refused: tuple[Conflict, ...]
    left_out: tuple[LeftOutEntry, ...] = ()
    away: tuple[Route, ...] = ()


def _no_routes() -> Mapping[str, Route]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class RouteTable:
    """Everything that resolves, listed or not, by public name; immutable, replaced whole.

    `namespaces`: first part of a public URI -> the backends that may know it. `servers`: the same first part -> who it
    is. `only`: of a table of one server alone, that server, which every URI is asked for. `roots`, `kept` and `parts`
    are the memory that the next build starts from. `kept`: roots of absent nodes that a namesake may not have yet ->
    until when, in monotonic seconds. `away`, `unlisted` (the public names are what theirs begin with) and `starting`:
    see `agent.routing.away`; `find` and `find_uri` read them.
    """

    tools: Mapping[str, Route] = field(default_factory=_no_routes)
    prompts: Mapping[str, Route] = field(default_factory=_no_routes)
    resources: Mapping[str, Route] = field(default_factory=_no_routes)
    templates: Mapping[str, Route] = field(default_factory=_no_routes)
    namespaces: Mapping[str, Route] = field(default_factory=_no_routes)
    servers: Mapping[str, Route] = field(default_factory=_no_routes)
    only: Route | None = None
    conflicts: tuple[Conflict, ...] = ()
    left_out: tuple[LeftOutEntry, ...] = ()
    roots: Mapping[Root, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    kept: Mapping[Root, float] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    parts: Mapping[str, Imported] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    away: Mapping[tuple[RouteKind, str], Route] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    unlisted: tuple[Route, ...] = field(default=(), repr=False)
    starting: bool = False

    def of_kind(self, kind: RouteKind) -> Mapping[str, Route]:
        """All routes of one kind by public name."""
        match kind:
            case RouteKind.TOOL:
                return self.tools
            case RouteKind.PROMPT:
                return self.prompts
            case RouteKind.RESOURCE:
                return self.resources
            case RouteKind.TEMPLATE:
                return self.templates
            case RouteKind.NAMESPACE:
                return self.namespaces
            case RouteKind.SERVER:
                return self.servers

    def listed(self, kind: RouteKind) -> tuple[Route, ...]:
        """What clients are shown of one kind, sorted by public name."""
        found = [route for route in self.of_kind(kind).values() if route.listed]
        return tuple(sorted(found, key=lambda route: route.public_name))

    def listed_tools(self) -> tuple[Route, ...]:
        """The tools that clients are shown, sorted by name."""
        return self.listed(RouteKind.TOOL)

    def listed_prompts(self) -> tuple[Route, ...]:
        """The prompts that clients are shown, sorted by name."""
        return self.listed(RouteKind.PROMPT)

    def listed_resources(self) -> tuple[Route, ...]:
        """The resources that clients are shown, sorted by URI."""
        return self.listed(RouteKind.RESOURCE)

    def listed_templates(self) -> tuple[Route, ...]:
        """The resource templates that clients are shown, sorted by template."""
        return self.listed(RouteKind.TEMPLATE)

    def places(self) -> tuple[Route, ...]:
        """What other nodes are shown of our own servers that are away."""
        return tuple(route for route in self.unlisted if route.listed)

    def find(self, kind: RouteKind, name: str) -> Route | None:
        """The route of a tool, a prompt or a template, also of one that is away. None: unknown."""
        return self.of_kind(kind).get(name) or self.away.get((kind, name)) or self._possible(kind, name)

    def find_uri(self, uri: str) -> Route | None:
        """As `resolve_uri`, also of what is away."""
        away = self.away.get((RouteKind.RESOURCE, uri))
        holder = self.away.get((RouteKind.NAMESPACE, uri_namespace(uri) or ""))
        return self.resolve_uri(uri) or away or _of_namespace(holder, uri) or self._possible(RouteKind.RESOURCE, uri)

    def _possible(self, kind: RouteKind, name: str) -> Route | None:
        """A route without a way yet: of a server that was never listed, or of anything while we have only begun."""
        by_name, space = kind in (RouteKind.TOOL, RouteKind.PROMPT), uri_namespace(name)
        for route in self.unlisted:
            if may_begin_with(name, route.public_name) if by_name else route.namespace == space:
                # Another node knows it by the same name.
                replicas = tuple(replace(replica, remote_name=name) for replica in route.replicas)
                return replace(route, kind=kind, public_name=name, replicas=replicas, listed=False)
        return Route(kind, name, {}, "", (), listed=False, owner="", away_since_s=0.0) if self.starting else None

    def resolve_uri(self, uri: str) -> Route | None:
        """The route that can read `uri`: the resource of that URI, else that of its namespace (expanded templates).

        The replicas' `remote_name` is the URI as each backend knows it. None: no route can.
        """
        known = self.resources.get(uri)
        if known is not None:
            return known
        if self.only is not None:
            return _of_namespace(self.only, uri)
        namespace = uri_namespace(uri)
        return None if namespace is None else _of_namespace(self.namespaces.get(namespace), uri)


def _of_namespace(holder: Route | None, uri: str) -> Route | None:
    """The route of a URI that `holder` has by its namespace."""
    if holder is None:
        return None
    replicas = []
    for replica in holder.replicas:
        remote = holder.uris(replica).remote(uri)
        assert remote is not None
        replicas.append(replace(replica, remote_name=remote))
    return replace(holder, kind=RouteKind.RESOURCE, public_name=uri, replicas=tuple(replicas))
