"""The lists of one endpoint in pages: cursors, changes in mid-paging, what is held of old lists, both eras."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from types import MappingProxyType

import orjson
import pytest

from agent.client.capabilities import SHOWS_PAGES
from agent.errors import MCPError
from agent.model import NodeIdentity, Offer, ServerScope
from agent.routing.build import build_routes
from agent.routing.table import Contribution, ContributionKind, Route, RouteKind, RouteTable
from agent.server.lists import Definitions, ListIndex
from agent.server.pages import KEPT_MAX, KEPT_S, PAGE_BYTES_MAX, PageLimits

LIST = "tools/list"


def tool(name: str, description: str = "") -> Route:
    definition = {"name": name, "description": description}
    return Route(RouteKind.TOOL, name, definition, f"digest of {name} {description}", (), listed=True, owner="plain:p")


def prompt(name: str) -> Route:
    return Route(RouteKind.PROMPT, name, {"name": name}, f"digest of {name}", (), listed=True, owner="plain:p")


@dataclass
class Scene:
    """A list_index whose table and clock a test moves; pages of three."""

    table: RouteTable = field(default_factory=RouteTable)
    time_s: float = 100.0

    def __post_init__(self) -> None:
        self.list_index = ListIndex(
            lambda: self.table,
            Definitions(
                {"tools": [{"name": "status"}], "resources": [{"uri": "config://app"}]},
                [{"name": "search_tools"}],
                {"tools": [{"name": "show"}], "resources": [{"uri": "ui://page"}]},
            ),
            limits=PageLimits(entries_max=3),
            now_s=lambda: self.time_s,
        )

    def show(self, routes: Iterable[Route], prompts: Iterable[Route] = ()) -> None:
        """Replace the whole table."""
        self.table = RouteTable(
            tools=MappingProxyType({route.public_name: route for route in routes}),
            prompts=MappingProxyType({route.public_name: route for route in prompts}),
        )

    def raw(self, cursor: object = None, method: str = LIST, *, search: bool = False, modern: bool = True) -> bytes:
        params = {} if cursor is None else {"cursor": cursor}
        return self.list_index.listing(method, params, search=search, modern=modern)

    def page(self, cursor: object = None, *, modern: bool = True) -> tuple[list[str], str | None]:
        """Names on a page, and the next cursor."""
        result = orjson.loads(self.raw(cursor, modern=modern))
        return [entry["name"] for entry in result["tools"]], result.get("nextCursor")

    def rest(self, cursor: str | None, *, modern: bool = True) -> list[str]:
        """Names from a cursor to the end."""
        found: list[str] = []
        while True:
            names, cursor = self.page(cursor, modern=modern)
            found += names
            if cursor is None:
                return found

    def refusal(self, cursor: object, method: str = LIST, *, search: bool = False) -> str:
        with pytest.raises(MCPError) as caught:
            self.raw(cursor, method, search=search)
        assert caught.value.code == -32602
        return caught.value.message


def scene(names: str = "abcdefgh") -> Scene:
    now = Scene()
    now.show(tool(name) for name in names)
    return now


def known(now: Scene, cursor: object) -> bool:
    try:
        now.raw(cursor)
    except MCPError:
        return False
    return True


@pytest.mark.parametrize("modern", [True, False])
def test_following_the_cursors_lists_everything_once_our_own_first(modern: bool) -> None:
    now = scene()
    first, cursor = now.page(modern=modern)
    assert first == ["status", "a", "b"]
    assert now.rest(cursor, modern=modern) == list("cdefgh")


def test_pages_have_the_members_of_their_era_around_them() -> None:
    now = scene()
    modern, legacy = orjson.loads(now.raw()), orjson.loads(now.raw(modern=False))
    assert modern == {"resultType": "complete", "ttlMs": 0, "cacheScope": "private", **legacy}
    assert legacy.keys() == {"tools", "nextCursor"}


def test_a_list_that_fits_has_no_cursor_not_even_when_it_just_fits() -> None:
    for names in ("", "ab"):
        assert scene(names).page() == (["status", *names], None)
    assert orjson.loads(Scene().raw(method="resources/templates/list")) == {
        "resultType": "complete",
        "ttlMs": 0,
        "cacheScope": "private",
        "resourceTemplates": [],
    }


def test_a_client_amid_paging_sees_one_list_whatever_joins_or_leaves() -> None:
    now = scene()
    _, cursor = now.page()
    now.show(tool(name) for name in "Abdxyz")
    assert now.rest(cursor) == list("cdefgh")
    assert now.rest(None) == ["status", *"Abdxyz"]
    now.show(())
    assert now.rest(cursor) == list("cdefgh")


def test_pages_that_were_not_read_before_the_change_are_still_those_of_the_old_list() -> None:
    now = scene()
    _, second = now.page()
    _, third = now.page(second)
    now.show(tool(name, "another") for name in "abcdefgh")
    now.page()
    assert [entry["description"] for entry in orjson.loads(now.raw(second))["tools"]] == ["", "", ""]
    assert [entry["description"] for entry in orjson.loads(now.raw(third))["tools"]] == ["", "", ""]


def test_a_definition_that_changed_from_1_to_true_is_another_list() -> None:
    one, true = ({"name": "a", "inputSchema": {"default": value}} for value in (1, True))
    now = Scene()
    now.show([Route(RouteKind.TOOL, "a", one, "1", (), listed=True, owner="o")])
    now.raw()
    now.show([Route(RouteKind.TOOL, "a", true, "2", (), listed=True, owner="o")])
    assert b'"default":true' in now.raw()


def test_a_table_that_lists_the_same_keeps_bytes_and_cursors() -> None:
    routes = [tool(name) for name in "abcdefgh"]
    now = Scene()
    now.show(routes)
    before = now.raw()
    now.show(routes)
    assert now.raw() is before


def test_a_list_that_came_back_is_the_same_list_with_the_same_cursors() -> None:
    now = scene()
    _, cursor = now.page()
    now.show(())
    now.page()
    now.time_s += 2 * KEPT_S
    now.show(tool(name) for name in "abcdefgh")
    assert now.rest(cursor) == list("cdefgh")


def test_another_node_that_lists_the_same_knows_the_cursor() -> None:
    _, cursor = scene().page()
    _, cursor = scene().page(cursor)
    assert scene().rest(cursor) == list("fgh")


def test_an_old_list_is_forgotten_after_its_time_and_the_client_has_to_list_again() -> None:
    now = scene()
    _, cursor = now.page()
    now.show(())
    now.page()
    now.time_s += KEPT_S
    assert now.rest(cursor) == list("cdefgh")
    now.time_s += 1
    assert "list again without a cursor" in now.refusal(cursor)


def test_only_so_many_old_lists_are_kept_and_only_those_with_cursors() -> None:
    now = scene()
    _, cursor = now.page()
    for number in range(3 * KEPT_MAX):
        now.show([tool(f"small{number}")])
        now.page()
    assert known(now, cursor)
    cursors = []
    for number in range(KEPT_MAX + 3):
        now.show(tool(f"{number}{name}") for name in "abcdefgh")
        cursors.append(now.page()[1])
    assert not known(now, cursor)
    assert [known(now, cursor) for cursor in cursors] == [False, False, *[True] * (KEPT_MAX + 1)]


def test_an_old_list_holds_no_bytes() -> None:
    now = scene()
    _, cursor = now.page()
    now.show(())
    now.page()
    assert now.raw(cursor) == now.raw(cursor) is not now.raw(cursor)
    assert "1 kept" in repr(now.list_index._lists[LIST, False, False, False][1])


@pytest.mark.parametrize("cursor", ["", "next", 3, {"at": 1}, "0123456789abcdef.x"])
def test_what_no_list_gave_is_refused(cursor: object) -> None:
    assert "not one that this list gave" in scene().refusal(cursor)


def test_a_cursor_belongs_to_its_list_and_its_mode() -> None:
    now = Scene()
    now.show((tool(name) for name in "abcdefgh"), (prompt(name) for name in "abcdefgh"))
    _, cursor = now.page()
    for method in ("prompts/list", "resources/list", "resources/templates/list"):
        now.refusal(cursor, method)
    now.refusal(cursor, search=True)


def test_a_page_begins_where_a_page_ended_and_nowhere_else() -> None:
    now = scene()
    _, cursor = now.page()
    assert cursor is not None
    digest = cursor.partition(".")[0]
    for start in (1, 2, 4, 8, 9, 10, 999_999_999):
        assert "not one" in now.refusal(f"{digest}.{start}")
    assert now.page(f"{digest}.0")[0] == ["status", "a", "b"]
    assert now.page(f"{digest}.6")[0] == list("fgh")
    assert len(now.list_index._lists[LIST, False, False, False][1]._present._pages) == 2


def test_search_mode_lists_the_same_three_tools_whatever_is_routed() -> None:
    now = scene()
    assert [entry["name"] for entry in orjson.loads(now.raw(search=True))["tools"]] == ["status", "search_tools"]
    assert b"search_tools" not in now.raw()


@pytest.mark.parametrize("search", [False, True])
def test_tools_with_pages_are_listed_for_clients_that_show_pages_alone(search: bool) -> None:
    now = scene()
    lists, asked = now.list_index, {"search": search, "modern": True}
    assert b'"show"' not in lists.listing(LIST, {}, **asked, capabilities={"extensions": {}})
    assert b'"show"' in lists.listing(LIST, {}, **asked, capabilities=SHOWS_PAGES)
    assert b"ui://page" not in lists.listing("resources/list", {}, **asked, capabilities=SHOWS_PAGES)
    assert lists.route("tools/call", {"name": "show"}) is None, "our own, and all may call it"
    assert lists.route("resources/read", {"uri": "ui://page"}) is None


def test_other_nodes_list_no_tools_with_pages() -> None:
    own = Definitions(apps={"tools": [{"name": "show"}]})
    lists = ListIndex(RouteTable, own, for_nodes=True)
    assert b"show" not in lists.listing(LIST, {}, search=False, modern=True, capabilities=SHOWS_PAGES)


def test_sessions_are_shown_a_tool_without_the_output_schema_that_is_hidden_from_them() -> None:
    definition = {"name": "a", "outputSchema": {"type": "array"}}
    hidden = Route(RouteKind.TOOL, "a", definition, "1", (), listed=True, owner="o", hides_schema=True)
    shown = Route(RouteKind.TOOL, "b", {**definition, "name": "b"}, "2", (), listed=True, owner="o")
    now = Scene()
    now.show([hidden, shown])
    found = {modern: orjson.loads(now.raw(modern=modern))["tools"] for modern in (True, False)}
    assert [tool.get("outputSchema") for tool in found[True]] == [None, {"type": "array"}, {"type": "array"}]
    assert [tool.get("outputSchema") for tool in found[False]] == [None, None, {"type": "array"}]
    before = now.raw(modern=False)
    now.show([hidden, shown])
    assert now.raw(modern=False) is before, "another table of the same definitions changes nothing"


@pytest.mark.parametrize("modern", [True, False])
def test_what_no_page_holds_is_hidden_from_clients_alone_and_hides_nothing(modern: bool) -> None:
    own = NodeIdentity("0a" * 16, "home")
    sizes = {"a": 0, "b": PAGE_BYTES_MAX, "c": 0}
    tools = tuple({"name": name, "description": "d" * size} for name, size in sizes.items())
    server = Contribution("server:s", ContributionKind.SERVER, "s", own, ServerScope.NODE, Offer(tools=tools))
    table = build_routes([server], own)
    assert [(left.name, left.why) for left in table.left_out] == [
        ("b", "larger than a page of a list; it can be used all the same")
    ]
    first, rest = {}, {}
    for for_nodes in (False, True):
        lists = ListIndex(lambda: table, Definitions(), for_nodes=for_nodes)
        result = orjson.loads(lists.listing(LIST, {}, search=False, modern=modern))
        first[for_nodes] = [entry["name"].rpartition("_")[2] for entry in result["tools"]]
        rest[for_nodes] = "nextCursor" in result
        route = lists.route("tools/call", {"name": next(name for name in table.tools if name.endswith("_b"))})
        assert route is not None
        assert route.replicas[0].remote_name == "b"
    assert (first[False], rest[False]) == (["a", "c"], False)
    assert (first[True], rest[True]) == (["a"], True)
