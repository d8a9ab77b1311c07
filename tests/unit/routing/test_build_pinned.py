"""Names that an operator has given to some nodes: what others offer under them is refused, and said."""

from dataclasses import replace

from agent.model import NodeIdentity, Offer, PeerScope, ServerScope
from agent.routing.build import build_routes, local_contributions
from agent.routing.table import ConflictReason, Contribution, ContributionKind, RouteTable

OWN = NodeIdentity("0a" * 16, "home")
OWNER = NodeIdentity("bb" * 16, "owner")
OTHER = NodeIdentity("cc" * 16, "other")
PINS = {"pay": frozenset({OWNER.node_id})}


def pay(node: NodeIdentity, scope: ServerScope = ServerScope.SERVICE) -> Contribution:
    offer = Offer(tools=({"name": "send", "inputSchema": {"type": "object"}},))
    return Contribution("server:pay", ContributionKind.SERVER, "pay", node, scope, offer)


def peer(node: NodeIdentity, *servers: Contribution, scope: PeerScope = PeerScope.LOCAL) -> Contribution:
    """A node, and what it lists."""
    table = build_routes(servers if scope is PeerScope.MESH else local_contributions(servers), node)
    listing = Offer(tools=tuple(route.definition for route in table.listed_tools()))
    kind, key = ContributionKind.MESH_PEER, f"peer:{node.name}"
    return Contribution(key, kind, "", node, None, listing, peer_scope=scope)


def built(*parts: Contribution) -> RouteTable:
    return build_routes([replace(part, pinned=PINS) for part in parts], OWN)


def served_by(table: RouteTable) -> list[str]:
    return [replica.backend_key for route in table.listed_tools() for replica in route.replicas]


def refused(table: RouteTable) -> set[str]:
    return {other for c in table.conflicts if c.reason is ConflictReason.PINNED for other in c.others}


def test_a_pinned_name_is_served_by_its_nodes_alone() -> None:
    table = built(peer(OWNER, pay(OWNER)), peer(OTHER, pay(OTHER)))
    assert served_by(table) == ["peer:owner"]
    assert refused(table) == {"peer:other"}


def test_while_its_nodes_are_away_the_name_goes_to_no_other_not_even_a_plain_peer_or_this_node() -> None:
    plain = Contribution("peer:pay", ContributionKind.PLAIN_PEER, "pay", None, None, pay(OTHER).offer)
    for part in (peer(OTHER, pay(OTHER)), plain, pay(OWN)):
        table = built(part)
        assert served_by(table) == []
        assert refused(table) == {part.backend_key}


def test_a_node_that_calls_itself_as_the_service_does_not_get_its_name() -> None:
    posing = NodeIdentity("dd" * 16, "pay")
    table = built(peer(posing, pay(posing, ServerScope.NODE)))
    assert [route.public_name for route in table.listed_tools() if route.public_name.startswith("pay__")] == []
    assert refused(table) == {"peer:pay"}


def test_a_gateways_word_of_a_pinned_node_counts_where_it_is_pinned_itself() -> None:
    gateway = peer(OTHER, peer(OWNER, pay(OWNER)), scope=PeerScope.MESH)
    assert served_by(built(gateway)) == []
    pinned = {"pay": frozenset({OWNER.node_id, OTHER.node_id})}
    assert served_by(build_routes([replace(gateway, pinned=pinned)], OWN)) == ["peer:other"]


def test_names_that_are_not_pinned_go_where_they_went() -> None:
    notes = replace(pay(OTHER), backend_key="server:notes", label="notes")
    assert served_by(built(peer(OTHER, notes))) == ["peer:other"]
    own_of_node = peer(OTHER, pay(OTHER, ServerScope.NODE))
    assert [route.public_name for route in built(own_of_node).listed_tools()] == ["other__pay__send"]
