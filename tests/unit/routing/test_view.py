"""What a view shows of a table: by servers, tags and globs, under the names that it gives; and nothing else."""

from dataclasses import replace

import pytest

from agent.model import Json, NodeIdentity, Offer, ServerScope, ViewSpec
from agent.routing.build import build_routes
from agent.routing.names import node_alias, public_name
from agent.routing.table import Contribution, ContributionKind, RouteKind, RouteTable
from agent.routing.view import NAMES_REMEMBERED_MAX, FoundServers, find_server, show, unlisted_server

OWN = NodeIdentity("0a" * 16, "home")


def server(
    name: str, *tools: str, tags: tuple[str, ...] = (), scope: ServerScope = ServerScope.SERVICE
) -> Contribution:
    offer = Offer(
        tools=tuple({"name": tool, "description": "as it is", "inputSchema": {"type": "object"}} for tool in tools),
        resources=({"uri": f"{name}://home", "name": "home"},),
    )
    about: Json = {"tags": list(tags)}
    return Contribution(f"server:{name}", ContributionKind.SERVER, name, OWN, scope, offer, about=about)


def mesh() -> RouteTable:
    parts = [
        server("github", "list_issues", "delete_repo", tags=("web",)),
        server("files", "read", "write", tags=("web", "ops"), scope=ServerScope.NODE),
        server("disk", "usage"),
        server("notes.md", "add", scope=ServerScope.NODE),
    ]
    return build_routes(parts, OWN, for_clients=True)


def listed(view: ViewSpec) -> list[str]:
    return [route.definition["name"] for route in show(mesh(), view).table.listed_tools()]


GITHUB = ["github__delete_repo", "github__list_issues"]
FILES = ["home__files__read", "home__files__write"]
NOTES = [public_name("home", "notes.md", "add")]


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (ViewSpec(servers=("github",)), GITHUB),
        (ViewSpec(servers=("files",)), FILES),
        (ViewSpec(servers=("home__*", "github")), [*GITHUB, *FILES, *NOTES]),
        (ViewSpec(servers=("home__notes.*",)), NOTES),
        (ViewSpec(tags=("web",)), [*GITHUB, *FILES]),
        (ViewSpec(tags=("ops",), servers=("disk",)), ["disk__usage", *FILES]),
        (ViewSpec(tools=("*__read", "github__*", "!*delete*")), ["github__list_issues", "home__files__read"]),
        (ViewSpec(servers=("nope",)), []),
        (ViewSpec(servers=("github",), alone=True), ["delete_repo", "list_issues"]),
    ],
)
def test_a_view_shows_what_it_selects(view: ViewSpec, expected: list[str]) -> None:
    assert listed(view) == expected


def test_what_a_view_does_not_select_is_in_no_part_of_its_table() -> None:
    table = show(mesh(), ViewSpec(servers=("github",))).table
    assert table.find(RouteKind.TOOL, "disk__usage") is None
    assert table.find_uri("disk://disk/home") is None
    assert table.find_uri("github://github/home") is not None
    assert list(table.parts) == ["server:github"]
    assert [route.public_name for route in table.servers.values()] == ["github"]


def test_a_server_as_itself_has_every_replica_that_the_mesh_has() -> None:
    there = NodeIdentity("0b" * 16, "there")
    own = build_routes([replace(server("disk", "usage"), node=there)], there)
    offer = Offer(tools=tuple(route.definition for route in own.listed_tools()))
    peer = Contribution("peer:there", ContributionKind.MESH_PEER, "", there, None, offer)
    whole = build_routes([server("disk", "usage"), peer], OWN, for_clients=True)
    route = show(whole, ViewSpec(servers=("disk",), alone=True)).table.tools["usage"]
    assert route.replicas == whole.tools["disk__usage"].replicas
    assert [replica.backend_key for replica in route.replicas] == ["server:disk", "peer:there"]


def test_tools_alone_select_the_servers_that_have_them_with_their_resources() -> None:
    table = show(mesh(), ViewSpec(tools=("disk__*",))).table
    assert [route.public_name for route in table.listed_resources()] == ["disk://disk/home"]


def test_an_aliased_tool_has_no_other_name_and_is_routed_by_its_public_one() -> None:
    view = ViewSpec(
        servers=("github",), aliases={"github__list_issues": "issues"}, descriptions={GITHUB[0]: "Careful."}
    )
    table = show(mesh(), view).table
    assert [route.definition["name"] for route in table.listed_tools()] == ["github__delete_repo", "issues"]
    assert table.tools["issues"].public_name == "github__list_issues"
    assert table.find(RouteKind.TOOL, "github__list_issues") is None
    assert table.tools["github__delete_repo"].definition["description"] == "Careful."


def test_an_alias_that_another_tool_has_by_right_is_not_given() -> None:
    assert listed(ViewSpec(servers=("github",), aliases={GITHUB[0]: GITHUB[1]})) == GITHUB


def test_definitions_stay_the_same_objects_while_their_sources_do() -> None:
    view = ViewSpec(servers=("github",), aliases={"github__list_issues": "issues"})
    whole = mesh()
    first = show(whole, view)
    second = show(replace(whole), view, first)
    assert second.table.tools["issues"].definition is first.table.tools["issues"].definition
    other = show(whole, replace(view, aliases={"github__list_issues": "bugs"}), second)
    assert "bugs" in other.table.tools


def test_an_address_of_the_web_is_listed_once_under_itself_and_the_other_claim_is_a_conflict() -> None:
    address = "https://docs.example.com/guide"
    offer = Offer(resources=({"uri": address, "name": "guide"},))
    parts = [
        Contribution(f"server:{name}", ContributionKind.SERVER, name, OWN, ServerScope.SERVICE, offer)
        for name in ("wiki", "docs")
    ]
    table = build_routes(parts, OWN, for_clients=True)
    assert [(route.public_name, route.owner) for route in table.listed_resources()] == [(address, "service:docs")]
    assert table.resources[f"https://wiki/{address.removeprefix('https://')}"].owner == "service:wiki"
    assert [(one.name, one.holder, one.others) for one in table.conflicts] == [
        (address, "service:docs", ("service:wiki",))
    ]
    for view in (ViewSpec(servers=("wiki",)), ViewSpec(servers=("wiki",), alone=True)):
        shown = show(table, view).table
        assert [(one.definition["uri"], one.owner) for one in shown.listed_resources()] == [(address, "service:wiki")]
        read = shown.find_uri(address)
        assert read is not None
        assert [replica.backend_key for replica in read.replicas] == ["server:wiki"]
    both = show(table, ViewSpec(servers=("wiki", "docs"))).table
    assert [(one.public_name, one.owner) for one in both.listed_resources()] == [(address, "service:docs")]
    between_nodes = build_routes(parts, OWN)
    assert address not in between_nodes.resources, "nodes of earlier releases know the form with the server's name"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("github", "github"),
        ("files", "home__files"),
        ("home__files", "home__files"),
        (f"{node_alias('home', OWN.node_id)}__files", "home__files"),
        ("notes.md", public_name("home", "notes.md")),
        ("home__notes.md", public_name("home", "notes.md")),
        ("home__github", None),
        ("nope", None),
    ],
)
def test_a_server_is_found_by_its_public_name_and_by_that_of_its_node(name: str, expected: str | None) -> None:
    table = mesh()
    away = RouteTable(away={(RouteKind.SERVER, found): route for found, route in table.servers.items()})
    for known in (table, away):
        found = find_server(known, name)
        assert (None if found is None else found.public_name) == expected


def test_what_was_found_is_found_anew_in_another_table() -> None:
    servers, table = FoundServers(), mesh()
    first = servers.find(table, "files")
    assert first is not None
    assert servers.find(table, "files") is first
    assert servers.find(RouteTable(), "files") is None
    for number in range(NAMES_REMEMBERED_MAX + 1):
        assert servers.find(table, f"n{number}") is None
    assert repr(servers) == "<FoundServers 1>", "as many as there may be, and one more"


def test_a_server_that_is_known_by_name_alone_is_found_but_not_as_one_that_is_listed() -> None:
    table = mesh()
    bare = replace(table.servers["home__files"], definition={}, listed=False)
    found = find_server(RouteTable(away={(RouteKind.SERVER, "home__files"): bare}), "home__files")
    assert found is not None
    assert not found.listed
    starting = RouteTable(unlisted=(replace(table.namespaces["home__files"], definition=bare.definition),))
    assert unlisted_server(starting, "home__files") is not None
    assert unlisted_server(starting, "github") is None
