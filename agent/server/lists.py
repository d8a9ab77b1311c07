"""What one endpoint lists, and where it looks it up: the route table together with the management server's definitions.

Read by the ways of both eras (`agent.server.stateless`, `agent.server.sessions.requests`), so that they cannot
disagree. The one rule: a name of our own is never shadowed by a routed one, and an unknown name is refused here, by
name.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from agent.client.capabilities import shows_pages
from agent.dispatch.next_hop import own_error
from agent.dispatch.param_headers import asks_for_headers
from agent.errors import MCPError
from agent.lossless_json.unread import Unread
from agent.model import FOR_NODE_META_KEY, Json
from agent.routing.chunked import Chunked
from agent.routing.own_names import OwnNames, candidates
from agent.routing.table import Route, RouteKind, RouteTable
from agent.rpc_codes import INVALID_PARAMS
from agent.server.earlier_clients import without_output_schema
from agent.server.pages import PageLimits, Snapshots, read_cursor
from agent.server.search import ASKED, unwrapped, wants_search
from agent.server.task_requests import route_of_task
from agent.server.task_seal import TaskSeal
from agent.tasks.ids import any_tasks
from agent.turns import in_slices

# What 2026-07-28 requires of a result that may be kept and that says nothing of it: that it may not.
LIST_HINTS: Final[Json] = {"ttlMs": 0, "cacheScope": "private"}

# One entry per schema that was ever called; beyond it the memory starts anew, which only costs time.
REMEMBERED_MAX: Final = 10_000

# method -> (key of the result, kind of the routes)
LISTS: Final[Mapping[str, tuple[str, RouteKind]]] = {
    "tools/list": ("tools", RouteKind.TOOL),
    "prompts/list": ("prompts", RouteKind.PROMPT),
    "resources/list": ("resources", RouteKind.RESOURCE),
    "resources/templates/list": ("resourceTemplates", RouteKind.TEMPLATE),
}
# How the methods that name one thing name it.
_NAMED_BY: Final[Mapping[str, str]] = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}


@dataclass(frozen=True, slots=True)
class Definitions:
    """What an endpoint has of its own, beside what it routes.

    `listed`: result key ("tools", "resources", ...) -> what is always listed. `search_tools` stand for all routed ones
    in search mode. `apps`: as `listed`, of what shows pages (MCP Apps): its tools are listed for clients that do, its
    resources are read and never listed. All clients may use both by name.
    """

    listed: Mapping[str, list[Json]] = field(default_factory=dict)
    search_tools: Sequence[Json] = ()
    apps: Mapping[str, list[Json]] = field(default_factory=dict)

    def all(self, key: str) -> list[Json]:
        """All of a kind but the search tools."""
        return [*self.listed.get(key, ()), *self.apps.get(key, ())]


class ListIndex:
    """One endpoint's view. Sole writer of the snapshots of its lists.

    Long because lists, and the names that calls use, are answered from the same snapshots.
    """

    def __init__(
        self,
        routes: Callable[[], RouteTable],
        own: Definitions,
        *,
        search_mode: bool = False,
        limits: PageLimits | None = None,
        node_id: str = "",
        by_own_name: Callable[[str], object] | None = None,
        for_nodes: bool = False,
        node_routes: Callable[[], RouteTable] | None = None,
        view: str = "",
        refusal: Callable[[RouteKind, str], MCPError | None] | None = None,
        task_seal: TaskSeal | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`search_mode` is the mode of clients that ask for none.

        `limits` of one page; None: the usual ones. `node_id`: ours, by which we know our own tasks. `by_own_name`:
        called with the method of a request by a name that only its server gave; None: such names are unknown here.
        `for_nodes`: other nodes list here, what servers say of themselves too. `node_routes`: what a
        node lists here that imports all that we see; None: the same as clients. `view`: the path of the view whose
        lists these are, since cursors of one view are not another's; empty for the whole mesh. `refusal`: why
        the caller may not use what is not found here; None: what is not found is unknown. `task_seal`: binds tasks to
        their callers; None: nothing does.
        """
        self._routes = routes
        self._by_own_name = by_own_name
        self._for_nodes = for_nodes
        self._node_routes = node_routes
        self._view = view
        self._refusal = refusal
        self.task_seal = task_seal
        self._own_names: tuple[RouteTable, OwnNames] | None = None
        self._node_id = node_id
        self._own = own
        self._search_mode = search_mode
        self._own_tools = {tool["name"]: tool for tool in (*own.all("tools"), *own.search_tools)}
        self._own_uris = frozenset(resource["uri"] for resource in own.all("resources"))
        self._now_s = now_s
        self._limits = limits or PageLimits()
        # method; whether it is for sessions, for a node, with apps -> the table that was last looked at, its snapshots
        self._lists: dict[tuple[str, bool, bool, bool], tuple[RouteTable, Snapshots]] = {}
        # As below: by identity, beside the definition itself; and whether it is said that a call may be a task.
        self._of_sessions: dict[tuple[int, bool], tuple[Json, Json]] = {}
        # By whether the client shows pages.
        self._search_lists = [
            Snapshots("tools", (*tools, *own.search_tools), self._limits, view)
            for tools in (own.listed.get("tools", ()), own.all("tools"))
        ]
        self._asks_for_headers: dict[int, tuple[Json, bool]] = {}

    def wants_search(self, query: Mapping[str, str], headers: Mapping[str, str]) -> bool:
        """Whether a request with this query and these headers gets the search tools in place of all tools."""
        return bool(self._own.search_tools) and wants_search(query, headers, default=self._search_mode)

    async def unwrapped(self, method: str, params: Json) -> Json | None:
        """As `agent.server.search.unwrapped`; where there are no search tools, `call_tool` is a server's own tool."""
        if not self._own.search_tools:
            return None
        if type(asked := params.get("arguments")) is Unread:
            await in_slices(asked.find((name,) for name in ASKED))
        return unwrapped(method, params)

    def listing(self, method: str, params: Json, *, search: bool, modern: bool, capabilities: object = None) -> bytes:
        """The whole result of a list method as JSON, one page, in the shape of the client's era.

        Written once for each change of what is listed. `capabilities`: those that the client declared. Raises
        `MCPError` for a cursor that is none, or is too old.
        """
        meta = params.get("_meta")
        for_node = self._node_routes is not None and isinstance(meta, dict) and meta.get(FOR_NODE_META_KEY) is True
        with_apps = method == "tools/list" and not for_node and not self._for_nodes and shows_pages(capabilities)
        if search and method == "tools/list" and not for_node:
            snapshots = self._search_lists[with_apps]
        else:
            snapshots = self._snapshots(method, modern=modern, for_node=for_node, with_apps=with_apps)
        if params.get("cursor") is None:
            return snapshots.first_page(modern=modern)
        try:
            return snapshots.page(read_cursor(params["cursor"]), self._now_s(), modern=modern)
        except ValueError as exc:
            raise MCPError(code=INVALID_PARAMS, message="cursor: not one that this list gave") from exc
        except LookupError as exc:
            message = "cursor: the list has changed since; list again without a cursor"
            raise MCPError(code=INVALID_PARAMS, message=message) from exc

    def _snapshots(self, method: str, *, modern: bool, for_node: bool = False, with_apps: bool = False) -> Snapshots:
        """The snapshots of a list, the present one as the route table has it now."""
        table = self._node_routes() if for_node and self._node_routes is not None else self._routes()
        key, kind = LISTS[method]
        in_sessions = kind is RouteKind.TOOL and not modern
        asked = method, in_sessions, for_node, with_apps
        known = self._lists.get(asked)
        if known is not None and known[0] is table:
            return known[1]
        own = self._own.all(key) if with_apps else self._own.listed.get(key, ())
        snapshots = known[1] if known is not None else Snapshots(key, own, self._limits, self._view)
        listed = table.listed(kind)
        for_node = for_node or self._for_nodes
        if not for_node:
            listed = tuple(route for route in listed if not route.too_large)
        if kind is RouteKind.RESOURCE and for_node:
            listed += table.listed(RouteKind.SERVER) + table.places()
        snapshots.renew(self._all_in_sessions(listed, table) if in_sessions else listed, self._now_s())
        self._lists[asked] = (table, snapshots)
        return snapshots

    def _all_in_sessions(self, listed: Sequence[Route], table: RouteTable) -> tuple[Route, ...]:
        """Tools as a client of 2025-11-25 has to see them.

        It calls as a task only what says that it may be one, and knows no output schema but an object's.
        """
        has_tasks = any_tasks(table)
        return tuple(self._in_sessions(route, has_tasks=has_tasks) for route in listed)

    def _in_sessions(self, route: Route, *, has_tasks: bool) -> Route:
        definition = route.definition
        may_be_task = has_tasks and "execution" not in definition and self.makes_tasks(route)
        if not may_be_task and not route.hides_schema:
            return route
        known = self._of_sessions.get((id(definition), may_be_task))
        if known is None or known[0] is not definition:
            if len(self._of_sessions) >= REMEMBERED_MAX:
                self._of_sessions.clear()
            shown = without_output_schema(definition) if route.hides_schema else definition
            if may_be_task:
                shown = {**shown, "execution": {"taskSupport": "optional"}}
            known = self._of_sessions[id(definition), may_be_task] = definition, shown
        return replace(route, definition=known[1])

    def input_schema(self, tool_name: str) -> Json | None:
        """A tool's schema, None for an unknown tool or one without."""
        route = self._routes().find(RouteKind.TOOL, tool_name)
        known = self._own_tools.get(tool_name) or (route.definition if route is not None else {})
        schema = known.get("inputSchema")
        return schema if isinstance(schema, dict) else None

    def has_param_headers(self, schema: Json) -> bool:
        """Whether a schema asks for `Mcp-Param-*` headers; remembered by identity, definitions never change."""
        known = self._asks_for_headers.get(id(schema))
        if known is None or known[0] is not schema:
            if len(self._asks_for_headers) >= REMEMBERED_MAX:
                self._asks_for_headers.clear()
            known = self._asks_for_headers[id(schema)] = (schema, asks_for_headers(schema))
        return known[1]

    def has_tasks(self) -> bool:
        """Whether a call may be answered with a task."""
        return any_tasks(self._routes())

    def makes_tasks(self, route: Route | None) -> bool:
        """Whether a replica's backend may answer calls with tasks."""
        parts, replicas = self._routes().parts, () if route is None else route.replicas
        known = [parts[replica.backend_key].source for replica in replicas if replica.backend_key in parts]
        return any(source.has_tasks for source in known)

    def present(self, method: str, params: Json) -> Route | None:
        """As `route`, of a request that was routed before; None when its name has become unknown."""
        try:
            return self._route(method, params)
        except MCPError:
            return None

    def tool(self, params: Json) -> Route | None:
        """The route of a call of a server's tool by the name that is listed; None for all else, as for wrong shapes."""
        name = params.get("name")
        if type(name) is not str or name in self._own_tools or not isinstance(params.get("arguments"), _OBJECT_IF_ANY):
            return None
        if not isinstance(params.get("_meta"), _OBJECT_IF_ANY):
            return None
        tools = self._routes().tools
        # Each call passes here: a look-up without a call of a function.
        if type(tools) is Chunked:
            return tools.chunks[hash(name) % len(tools.chunks)].get(name)
        return tools.get(name)

    def route(self, method: str, params: Json) -> Route | None:
        """The route, which may be away; None means the management server.

        Raises `MCPError` for unknown names and wrong shapes.
        """
        route = self._route(method, params)
        if route is None or self._by_own_name is None or not is_by_own_name(method, params, route):
            return route
        # Views list aliases, and a server as itself its own names, of what is away too.
        table, name = self._routes(), params[_NAMED_BY[method]]
        if name not in table.of_kind(route.kind) and (route.kind, name) not in table.away:
            self._by_own_name(method)
        return route

    def _route(self, method: str, params: Json) -> Route | None:
        check_object(params, "_meta")
        table = self._routes()
        match method:
            case "tools/call":
                name = _text(params, "name")
                check_object(params, "arguments")
                if name in self._own_tools:
                    return None
                known = table.tools.get(name) or table.find(RouteKind.TOOL, name)
                return known or self._named_by_server(RouteKind.TOOL, name, params)
            case "prompts/get":
                name = _text(params, "name")
                check_object(params, "arguments")
                return table.find(RouteKind.PROMPT, name) or self._named_by_server(RouteKind.PROMPT, name, params)
            case "resources/read":
                uri = _text(params, "uri")
                if uri in self._own_uris:
                    return None
                return table.find_uri(uri) or self._named_by_server(RouteKind.RESOURCE, uri, params)
            case "completion/complete":
                ref = params.get("ref")
                if not isinstance(ref, dict):
                    raise MCPError(code=INVALID_PARAMS, message="ref: an object is required")
                if ref.get("type") == "ref/prompt":
                    name = _text(ref, "name")
                    return table.find(RouteKind.PROMPT, name) or self._named_by_server(RouteKind.PROMPT, name, params)
                uri = _text(ref, "uri")
                known = table.templates.get(uri) or table.resolve_uri(uri) or table.find(RouteKind.TEMPLATE, uri)
                return known or table.find_uri(uri) or self._named_by_server(RouteKind.TEMPLATE, uri, params)
            case _:
                return route_of_task(method, params, table, self._node_id, self.task_seal)

    def _named_by_server(self, kind: RouteKind, name: str, params: Json) -> Route:
        """The route of a name that is in no list, but that exactly one server gave. Raises `MCPError`."""
        named = str(kind) if kind in (RouteKind.TOOL, RouteKind.PROMPT) else "resource"
        found = () if self._by_own_name is None else self._found_by_own_name(kind, name)
        if len(found) != 1:
            why = self._why_left_out(kind, name)
            raise self._refused(kind, name) or unknown(named, name, params, candidates(found), why)
        return found[0]

    def _found_by_own_name(self, kind: RouteKind, name: str) -> Sequence[Route]:
        table = self._routes()
        if self._own_names is None or self._own_names[0] is not table:
            self._own_names = table, OwnNames.of_table(table)
        names = self._own_names[1]
        return names.find_uri(name, table) if kind is RouteKind.RESOURCE else names.find(kind, name)

    def _why_left_out(self, kind: RouteKind, name: str) -> str:
        """Why what a client may still know by this public name is in no list any more; empty for nothing known."""
        for left in self._routes().left_out:
            if left.kind == kind and name.endswith(f"{left.backend.partition(':')[2]}__{left.name}"):
                return left.why
        return ""

    def _refused(self, kind: RouteKind, name: str) -> MCPError | None:
        return None if self._refusal is None else self._refusal(kind, name)


# Not a union, which would be made for each look.
_OBJECT_IF_ANY: Final = (dict, type(None), Unread)


def check_object(params: Json, field: str) -> None:
    """Refuse a member that is neither an object nor absent."""
    if not isinstance(params.get(field), _OBJECT_IF_ANY):
        raise MCPError(code=INVALID_PARAMS, message=f"{field}: an object is required")


def is_by_own_name(method: str, params: Json, route: Route) -> bool:
    """Whether a request names what `route` leads to as its server does, not as the mesh does."""
    member = _NAMED_BY.get(method)
    return member is not None and params[member] != route.public_name


def unknown(kind: str, name: str, params: Json, meant: Sequence[str] = (), why: str = "") -> MCPError:
    """The error of a request whose name is in no list. `kind`: tool, prompt or resource.

    `meant`: the public names of those that several servers call so. `why`: it is left out.
    """
    # MCP 2026-07-28 wants the URI of a resource that is not there by this word.
    data: Json = {"uri" if kind == "resource" else "name": name}
    message = f"Unknown {kind}: {name!r}"
    if meant:
        data["candidates"] = list(meant)
        message += f"; several servers call one so: {', '.join(meant)}"
    if why:
        message += f"; it is left out: {why}"
    return MCPError(code=INVALID_PARAMS, message=message, data=own_error(params, data))


def _text(params: Mapping[str, Any], field: str) -> str:
    value = params.get(field)
    if not isinstance(value, str):
        raise MCPError(code=INVALID_PARAMS, message=f"{field}: a string is required")
    return value
