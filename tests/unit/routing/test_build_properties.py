"""What holds for every mesh: order does not matter, nothing is lost in silence, replicas agree, ours stays ours."""

from dataclasses import replace
from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from agent.model import ORIGIN_META_KEY, NodeIdentity, Offer, PeerScope, ServerScope
from agent.routing.build import build_routes, local_contributions
from agent.routing.claims import read_contribution
from agent.routing.table import ConflictReason, Contribution, ContributionKind, Route, RouteKind, RouteTable

OWN = NodeIdentity("0a" * 16, "home")
# Few names, so that they collide all the time; some joined ones are equal, and one node is called like us.
NODES = st.sampled_from(
    [NodeIdentity(f"{digit}" * 32, name) for digit, name in zip("1234", ("home", "twin", "twin", "s"), strict=True)]
)
TOOLS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["t", "_t", "s__t", "long" * 20, "do it"]),
        "description": st.sampled_from(["x", "y"]),
        "inputSchema": st.just({"type": "object"}),
    }
)
RESOURCES = st.fixed_dictionaries({"uri": st.sampled_from(["n://a", "n://b/c", "m:x"]), "name": st.just("n")})
OFFERS = st.builds(
    Offer,
    st.lists(TOOLS, max_size=3).map(tuple),
    st.lists(TOOLS, max_size=1).map(tuple),
    st.lists(RESOURCES, max_size=2).map(tuple),
    st.just(({"uriTemplate": "n://d/{x}", "name": "n"},)) | st.just(()),
)
SERVER_NAMES = st.sampled_from(["s", "s_", "twin"])


def _server(node: NodeIdentity, name: str, scope: ServerScope, offer: Offer) -> Contribution:
    return Contribution(f"server:{name}", ContributionKind.SERVER, name, node, scope, offer)


def _exported(node: NodeIdentity, sees: list[Contribution], scope: PeerScope) -> Contribution:
    shown = sees if scope is PeerScope.MESH else list(local_contributions(sees))
    table = build_routes(shown, node)
    resources = (RouteKind.RESOURCE, RouteKind.SERVER)  # Nodes tell each other of servers among those.
    parts = ((RouteKind.TOOL,), (RouteKind.PROMPT,), resources, (RouteKind.TEMPLATE,))
    offer = Offer(*(tuple(route.definition for kind in kinds for route in table.listed(kind)) for kinds in parts))
    return Contribution("peer:x", ContributionKind.MESH_PEER, "", node, None, offer, scope)


def _servers(node: NodeIdentity) -> st.SearchStrategy[list[Contribution]]:
    one = st.builds(_server, st.just(node), SERVER_NAMES, st.sampled_from(ServerScope), OFFERS)
    return st.lists(one, max_size=2, unique_by=lambda c: c.backend_key)


def _mesh_peers(node: NodeIdentity) -> st.SearchStrategy[Contribution]:
    return st.builds(_exported, st.just(node), _servers(node), st.sampled_from(PeerScope))


def _gateways(node: NodeIdentity) -> st.SearchStrategy[Contribution]:
    behind = st.lists(NODES.filter(lambda n: n != node).flatmap(_mesh_peers), max_size=2).map(_numbered)
    return st.builds(_exported, st.just(node), behind, st.just(PeerScope.MESH))


def _numbered(peers: list[Contribution]) -> list[Contribution]:
    return [replace(peer, backend_key=f"peer:{n}") for n, peer in enumerate(peers)]


PLAIN = st.builds(
    Contribution,
    st.just("peer:p"),
    st.just(ContributionKind.PLAIN_PEER),
    SERVER_NAMES,
    st.none(),
    st.none(),
    OFFERS,
)
PEERS = st.lists(NODES.flatmap(_mesh_peers) | NODES.flatmap(_gateways) | PLAIN, max_size=4).map(_numbered)
MESHES = st.builds(lambda own, peers: [*own, *peers], _servers(OWN), PEERS)
KINDS = list(RouteKind)


def _routes(table: RouteTable) -> list[Route]:
    return list(chain.from_iterable(table.of_kind(kind).values() for kind in KINDS))


@given(MESHES, MESHES, st.randoms(use_true_random=False))
def test_the_table_does_not_depend_on_the_order_of_the_contributions(
    before: list[Contribution], after: list[Contribution], rng: object
) -> None:
    previous = build_routes(before, OWN)
    table = build_routes(after, OWN, previous)
    shuffled = list(after)
    rng.shuffle(shuffled)  # type: ignore[attr-defined] # hypothesis types it as object-like Random
    assert build_routes(shuffled, OWN, previous) == table
    assert build_routes(after, OWN, table) == _settled(table, build_routes(shuffled, OWN, table))


def _settled(table: RouteTable, again: RouteTable) -> RouteTable:
    """Building again changes nothing but that a hand-over is said no more."""
    said = tuple(conflict for conflict in table.conflicts if conflict.reason is not ConflictReason.HANDED_OVER)
    assert again.conflicts == said
    for kind in KINDS:
        assert again.of_kind(kind) == table.of_kind(kind)
    return again


@given(MESHES, MESHES)
def test_every_claim_is_served_or_its_conflict_is_said(before: list[Contribution], after: list[Contribution]) -> None:
    table = build_routes(after, OWN, build_routes(before, OWN))
    said = {(other, conflict.name) for conflict in table.conflicts for other in conflict.others}
    for contribution in after:
        for claimed in read_contribution(contribution, OWN).claims:
            for route in claimed.routes:
                replica = route.replicas[0]
                holder = table.of_kind(route.kind).get(route.public_name)
                assert (
                    (holder is not None and replica in holder.replicas)
                    or (claimed.owner, claimed.root.label) in said
                    or (route.owner, route.public_name) in said
                    or (replica.backend_key, route.public_name) in said
                )


@given(MESHES, MESHES)
def test_replicas_of_a_route_agree_and_belong_to_its_owner(
    before: list[Contribution], after: list[Contribution]
) -> None:
    table = build_routes(after, OWN, build_routes(before, OWN))
    claimed = {
        (route.kind, route.public_name, route.replicas[0]): route
        for contribution in after
        for claims in read_contribution(contribution, OWN).claims
        for route in claims.routes
    }
    for route in _routes(table):
        assert route.replicas
        for replica in route.replicas:
            claim = claimed[route.kind, route.public_name, replica]
            assert (claim.digest, claim.owner) == (route.digest, route.owner)
            assert _served_by(claim) == _served_by(route)


def _served_by(route: Route) -> object:
    """The server and the name there; two servers' things are never one, however alike."""
    origin = route.definition.get("_meta", {}).get(ORIGIN_META_KEY, {})
    return origin.get("server"), origin.get("tool")


@given(MESHES, MESHES)
def test_names_under_our_own_node_lead_to_our_own_servers_only(
    before: list[Contribution], after: list[Contribution]
) -> None:
    table = build_routes(after, OWN, build_routes(before, OWN))
    for kind in (RouteKind.TOOL, RouteKind.PROMPT):
        for name, route in table.of_kind(kind).items():
            if name.startswith(("home__", "home-0a0a0a0a__")):
                assert [replica.node_id for replica in route.replicas] == [OWN.node_id]


@given(MESHES)
def test_a_name_is_kept_by_its_holder_while_the_holder_claims_it(mesh: list[Contribution]) -> None:
    """The backend that came first keeps the name when all others join."""
    for contribution in mesh:
        alone = build_routes([contribution], OWN)
        joined = build_routes(mesh, OWN, alone)
        for kind in KINDS:
            for name, route in alone.of_kind(kind).items():
                assert joined.of_kind(kind)[name].owner == route.owner


@given(MESHES)
def test_a_public_name_is_the_same_on_every_node_that_hears_of_it(mesh: list[Contribution]) -> None:
    """A node's own listing and that of a node that imports it name the same things alike."""
    own = [contribution for contribution in mesh if contribution.kind is ContributionKind.SERVER]
    at_home = build_routes(local_contributions(own), OWN)
    other = NodeIdentity("99" * 16, "elsewhere")
    away = build_routes([_exported(OWN, own, PeerScope.LOCAL)], other)
    for kind in KINDS:
        listed = {route.public_name: route.digest for route in at_home.listed(kind)}
        assert {route.public_name: route.digest for route in away.listed(kind)} == listed
