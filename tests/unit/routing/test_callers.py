"""The route table of one caller: what its sessions offer, in place of what those servers offer all."""

from dataclasses import replace

from agent.model import NodeIdentity, Offer, ServerScope
from agent.routing.build import build_routes
from agent.routing.callers import table_of_caller
from agent.routing.fleet import with_fleets
from agent.routing.table import Contribution, ContributionKind

OWN = NodeIdentity("id-1", "here")


def contribution(server: str, *tools: str) -> Contribution:
    offer = Offer(tuple({"name": tool, "inputSchema": {"type": "object"}} for tool in tools), digest=",".join(tools))
    return Contribution(f"server:{server}", ContributionKind.SERVER, server, OWN, ServerScope.SERVICE, offer)


def test_a_caller_has_its_own_offer_of_one_server_and_what_all_have_of_the_others() -> None:
    table = build_routes([contribution("vault", "unlock"), contribution("shop", "buy")], OWN, for_clients=True)
    gained = contribution("vault", "unlock", "secret").offer
    mine = table_of_caller(table, {"server:vault": gained}, OWN, for_clients=True)
    assert [route.public_name for route in mine.listed_tools()] == ["shop__buy", "vault__secret", "vault__unlock"]
    assert [route.public_name for route in table.listed_tools()] == ["shop__buy", "vault__unlock"]
    assert mine.tools["vault__secret"].replicas[0].remote_name == "secret"
    assert mine.roots == table.roots


def test_a_name_that_stays_with_a_server_that_is_away_stays_so_in_the_table_of_a_caller() -> None:
    shop = contribution("shop", "buy")
    rival = Contribution("peer:shop", ContributionKind.PLAIN_PEER, "shop", None, None, shop.offer)
    before = build_routes([contribution("vault", "unlock"), remote(shop)], OWN, for_clients=True)
    (owner,) = [owner for root, owner in before.roots.items() if root.label == "shop" and not root.of_node]
    now = [contribution("vault", "unlock"), rival]
    table = build_routes(now, OWN, before, 5.0, awaited={owner: 600.0}, for_clients=True)
    assert "shop__buy" not in table.tools
    gained = contribution("vault", "unlock", "secret").offer
    mine = table_of_caller(table, {"server:vault": gained}, OWN, for_clients=True)
    assert "shop__buy" not in mine.tools
    assert "vault__secret" in mine.tools


def remote(of: Contribution) -> Contribution:
    """The server of another node, as that lists it."""
    there = NodeIdentity("id-2", "there")
    table = build_routes([replace(of, node=there)], there)
    offer = Offer(tuple(route.definition for route in table.listed_tools()), digest="there")
    return Contribution("peer:there", ContributionKind.MESH_PEER, "there", there, None, offer)


def test_what_a_session_gained_on_one_node_of_a_fleet_is_one_more_of_its_tools() -> None:
    disk = replace(contribution("disk", "usage"), scope=ServerScope.FLEET)
    table = build_routes([disk], OWN, for_clients=True)
    gained = contribution("disk", "usage", "secret").offer
    mine = with_fleets(table_of_caller(table, {"server:disk": gained}, OWN, for_clients=True), ())
    assert [route.public_name for route in mine.listed_tools()] == ["disk__secret", "disk__usage"]
    assert mine.tools["disk__secret"].definition["inputSchema"]["required"] == ["node"]
