"""Whose a definition is: what a mesh peer says of it, whether that may be believed, and where it is named then.

Called by `agent.routing.claims` for every entry of an offer. The one rule: a path of nodes is believed only as far as
it leads through those who may have one, a node's own things from itself alone.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from agent.model import ORIGIN_META_KEY, Json, NodeIdentity, PeerScope, ServerScope
from agent.routing.names import is_valid_name, node_alias, public_name
from agent.routing.table import ConflictReason, Contribution, Root

# docs/architecture.md: three gateways between a caller and a server; longer ways are loops or mistakes.
PATH_LEN_MAX: Final = 3
# Nodes that an entry has come through by views; each is one more part of its name.
THROUGH_MAX: Final = 6
# The scope that we write for a plain peer; it has no configuration of its own that could give one.
PLAIN_SCOPE: Final = "plain"
# Whose names are kept ready: as many as a mesh has nodes, mostly.
NODES_REMEMBERED_MAX: Final = 1024
# How the owner of a node's own names begins; its node ID follows, then a slash and the server.
NODE_OWNER: Final = "node:"

# No honest node sends longer names, URIs or node IDs.
_TEXT_LEN_MAX: Final = 4096
# What things of this node have come through: one list for all of them.
_HERE: Final[list[str]] = []
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_KNOWN_SCOPES: Final = frozenset({*ServerScope, PLAIN_SCOPE}) - {ServerScope.FLEET}


class Refused(Exception):
    """An entry that is not taken, and why; it never leaves `agent.routing.claims`."""

    def __init__(self, reason: ConflictReason, name: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.name = name


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose a definition is. `path`: the nodes from its server's node to us, both ends but us included; () is here.

    `through`: the nodes that it has come through before, as far as it says so, by views that were taken for servers.
    """

    node: NodeIdentity
    server: str
    tool: str
    scope: str
    path: tuple[str, ...]
    sticky: bool = False  # its server wants a client's calls on one replica
    fleet: bool = False  # clients see its tools once for all nodes
    through: tuple[str, ...] = ()

    @classmethod
    def of_own(
        cls, own: NodeIdentity, server: str, tool: str, scope: str, *, sticky: bool, through: tuple[str, ...] = ()
    ) -> "Origin":
        """Of a server of ours. Between nodes a fleet is a server of each node, and its word is one more member."""
        fleet = scope == ServerScope.FLEET
        return cls(own, server, tool, ServerScope.NODE if fleet else scope, (), sticky, fleet, through)

    def as_json(self) -> Json:
        """The value under `ORIGIN_META_KEY`; `via` is what an importer appends the exporting node to."""
        return {
            "node": self.node.name,
            "node_id": self.node.node_id,
            "server": self.server,
            "tool": self.tool,
            "scope": str(self.scope),
            "via": list(self.path) or _HERE,
            **({"sticky": True} if self.sticky else {}),
            **({"fleet": True} if self.fleet else {}),
            **({"through": list(self.through)} if self.through else {}),
        }


@dataclass(frozen=True, slots=True)
class Naming:
    """One way to name what an origin serves: `parts` go in front of the tool's own name. `space`: they as one name."""

    root: Root
    root_owner: str
    owner: str
    parts: tuple[str, ...]
    listed: bool
    space: str


def listed_origin(definition: Json) -> Json:
    """What a listed definition says of its origin, as `Origin.as_json` writes it; empty where it says nothing."""
    meta = definition.get("_meta")
    told = meta.get(ORIGIN_META_KEY) if isinstance(meta, dict) else None
    return told if isinstance(told, dict) else {}


def received_origin(entry: Json, name: str, exporter: NodeIdentity) -> Origin | None:
    """What a mesh peer says of an entry's origin; None when it says nothing."""
    meta = entry.get("_meta")
    told = meta.get(ORIGIN_META_KEY) if isinstance(meta, dict) else None
    if told is None:
        return None
    if not isinstance(told, dict):
        raise Refused(ConflictReason.MALFORMED, name)
    words = [told.get(member) for member in ("node", "node_id", "server", "tool", "scope")]
    via = told.get("via", [])
    if not isinstance(via, list) or not all(is_text(word) for word in (*words, *via)):
        raise Refused(ConflictReason.MALFORMED, name)
    node_name, node_id, server, tool, scope = (str(word) for word in words)
    if not (is_valid_name(node_name) and is_valid_name(server) and scope in _KNOWN_SCOPES):
        raise Refused(ConflictReason.MALFORMED, name)
    path = (*(str(word) for word in via), exporter.node_id)
    fleet = told.get("fleet") is True and scope == ServerScope.NODE
    through = _texts(told.get("through"))[:THROUGH_MAX]
    node = NodeIdentity(node_id, node_name)
    return Origin(node, server, tool, scope, path, told.get("sticky") is True, fleet, through)


def come_through(entry: Json, name: str, own: NodeIdentity) -> tuple[str, ...] | None:
    """The nodes that an entry of a server says it has come through; None: this one is among them.

    Views of nodes look like servers. Two nodes that take each other's for one would list what each has from the other,
    ever longer. Raises `Refused`: through more nodes than there may be on a way.
    """
    told = listed_origin(entry)
    nodes = dict.fromkeys(_texts([*_texts(told.get("through")), *_texts(told.get("via")), told.get("node_id")]))
    if own.node_id in nodes:
        return None
    if len(nodes) > THROUGH_MAX:
        raise Refused(ConflictReason.LIMIT, name)
    return tuple(nodes)


def _texts(found: object) -> tuple[str, ...]:
    return tuple([text for text in found if is_text(text)]) if isinstance(found, list) else ()


def check_path(origin: Origin, name: str, contribution: Contribution) -> None:
    """Refuse, by raising `Refused`, what this peer may not offer."""
    exporter = contribution.node
    assert exporter is not None
    is_gateway = contribution.peer_scope is PeerScope.MESH
    direct = len(origin.path) == 1
    if origin.path[0] != origin.node.node_id or not (is_gateway or (direct and origin.scope != PLAIN_SCOPE)):
        raise Refused(ConflictReason.FOREIGN, name)
    if direct and origin.node.name != exporter.name:
        raise Refused(ConflictReason.MISNAMED, name)
    if len(origin.path) > PATH_LEN_MAX:
        raise Refused(ConflictReason.LIMIT, name)


def namings_of(origin: Origin) -> Iterable[Naming]:
    """Every naming of an origin; the first is the one that is listed, the last (for nodes) names the node by its ID."""
    server, node = origin.server, origin.node
    if origin.scope == PLAIN_SCOPE:
        # Two gateways' plain peers of one name are two things, and so is ours.
        owner = f"plain:{server}" if not origin.path else f"plain:{server}@{node.node_id}"
        yield _naming(Root(server, of_node=False), owner, owner, (server,), listed=True)
        return
    if origin.scope == ServerScope.SERVICE:
        owner = f"service:{server}"
        yield _naming(Root(server, of_node=False), owner, owner, (server,), listed=True)
    root_owner, root, alias = _roots_of(node)
    owner = f"{root_owner}/{server}"
    listed = origin.scope != ServerScope.SERVICE
    yield _naming(root, root_owner, owner, (node.name, server), listed=listed)
    yield _naming(alias, root_owner, owner, (alias.label, server), listed=False)


def _naming(root: Root, root_owner: str, owner: str, parts: tuple[str, ...], *, listed: bool) -> Naming:
    return Naming(root, root_owner, owner, parts, listed, public_name(*parts))


@lru_cache(NODES_REMEMBERED_MAX)
def _roots_of(node: NodeIdentity) -> tuple[str, Root, Root]:
    """Who owns a node's names, and the two roots of these: the same objects for all of its servers."""
    alias = node_alias(node.name, node.node_id)
    return NODE_OWNER + node.node_id, Root(node.name, of_node=True), Root(alias, of_node=True)


def is_text(value: object) -> bool:
    """Whether it may name something: not empty, not huge, and with a UTF-8 form, as every list needs."""
    if not isinstance(value, str) or not 0 < len(value) <= _TEXT_LEN_MAX:
        return False
    return value.isascii() or not _SURROGATE.search(value)
