"""Resources, templates and prompts in the route table: named like tools, read by their namespace."""

import pytest

from agent.model import NodeIdentity, Offer, ServerScope
from agent.routing.build import build_routes, local_contributions
from agent.routing.table import Contribution, ContributionKind, RouteKind, RouteTable

OWN = NodeIdentity("0a" * 16, "home")
NODE_B = NodeIdentity("bb" * 16, "node-b")
NOTES = Offer(
    prompts=({"name": "sum up"},),
    resources=({"uri": "notes://today", "name": "Today"},),
    templates=({"uriTemplate": "notes://day/{d}", "name": "Day"},),
)


def _server(name: str, offer: Offer, scope: ServerScope = ServerScope.NODE, node: NodeIdentity = OWN) -> Contribution:
    return Contribution(f"server:{name}", ContributionKind.SERVER, name, node, scope, offer)


def _plain(name: str, offer: Offer) -> Contribution:
    return Contribution(f"peer:{name}", ContributionKind.PLAIN_PEER, name, None, None, offer)


def _listing(table: RouteTable) -> Offer:
    """What a node answers when it is asked for its lists."""
    return Offer(
        *(
            tuple(route.definition for route in table.listed(kind))
            for kind in (RouteKind.TOOL, RouteKind.PROMPT, RouteKind.RESOURCE, RouteKind.TEMPLATE)
        )
    )


def _peer(node: NodeIdentity, *servers: Contribution, link: str = "") -> Contribution:
    """A mesh peer that serves `servers`, as its own node lists them."""
    listing = _listing(build_routes(local_contributions(servers), node))
    return Contribution(f"peer:{link or node.name}", ContributionKind.MESH_PEER, "", node, None, listing)


def test_resources_templates_and_prompts_are_named_like_tools() -> None:
    table = build_routes([_server("notes", NOTES)], OWN)
    (resource,), (template,), (prompt,) = table.listed_resources(), table.listed_templates(), table.listed_prompts()
    assert resource.definition["uri"] == resource.public_name == "notes://home__notes/today"
    assert resource.definition["name"] == "Today"
    assert template.definition["uriTemplate"] == "notes://home__notes/day/{d}"
    assert prompt.public_name.startswith("home__notes__sum-up-")
    assert prompt.replicas[0].remote_name == "sum up"


@pytest.mark.parametrize("namespace", ["notes", "node-b__notes", "node-b-bbbbbbbb__notes"])
def test_an_expanded_template_is_read_from_the_backend_that_has_its_namespace(namespace: str) -> None:
    notes = _server("notes", NOTES, ServerScope.SERVICE, NODE_B)
    at_home = build_routes([notes], NODE_B).resolve_uri(f"notes://{namespace}/day/5/x")
    assert at_home is not None
    assert at_home.replicas[0].remote_name == "notes://day/5/x"
    away = build_routes([_peer(NODE_B, notes)], OWN).resolve_uri(f"notes://{namespace}/day/5/x")
    assert away is not None
    assert (away.replicas[0].backend_key, away.replicas[0].remote_name) == ("peer:node-b", "notes://notes/day/5/x")
    assert not away.listed


def test_a_listed_resource_is_read_by_its_own_route() -> None:
    table = build_routes([_server("notes", NOTES)], OWN)
    assert table.resolve_uri("notes://home__notes/today") is table.resources["notes://home__notes/today"]


@pytest.mark.parametrize("uri", ["notes://other/day/5", "notes://", "config://app", "", "notes://day/5"])
def test_a_uri_of_no_known_namespace_has_no_backend(uri: str) -> None:
    assert build_routes([_server("notes", NOTES)], OWN).resolve_uri(uri) is None


def test_a_namespace_is_shared_by_all_replicas_of_a_service_and_by_no_other_backend() -> None:
    ours = _server("notes", NOTES, ServerScope.SERVICE)
    theirs = _peer(NODE_B, _server("notes", NOTES, ServerScope.SERVICE, NODE_B))
    table = build_routes([theirs, ours, _plain("notes", NOTES)], OWN)
    found = table.resolve_uri("notes://notes/day/5")
    assert found is not None
    assert [(r.backend_key, r.remote_name) for r in found.replicas] == [
        ("server:notes", "notes://day/5"),
        ("peer:node-b", "notes://notes/day/5"),
    ]
