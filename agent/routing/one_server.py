"""The route table of one server alone, under the names and URIs that it gave itself.

Called by `agent.server.single` for `/mcp/s/NAME`. The one rule: a route keeps its public name, by which calls are
counted, logged and balanced; only what clients list, and the URIs that they see, are the server's own.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from agent.routing.origins import told_origin
from agent.routing.table import NAME_MEMBER, Route, RouteKind, RouteTable
from agent.routing.uris import UriCodec


def find_server(table: RouteTable, name: str) -> Route | None:
    """The server of that public name (`github`, `node-b__files`), or the only one that its node calls so."""
    known = table.servers.get(name)
    if known is not None:
        return known
    called_so = [
        route
        for route in table.servers.values()
        if route.listed and told_origin(route.definition).get("server") == name
    ]
    return called_so[0] if len(called_so) == 1 else None


def table_of(table: RouteTable, server: Route) -> RouteTable:
    """What `table` has of that server."""

    def own(kind: RouteKind) -> Mapping[str, Route]:
        return MappingProxyType(
            {_own_name(route): _alone(kind, route) for route in table.listed(kind) if route.owner == server.owner}
        )

    away = {
        (kind, _own_name(route)): _alone(kind, route)
        for (kind, _), route in table.away.items()
        if route.owner == server.owner and route.listed
    }
    return RouteTable(
        tools=own(RouteKind.TOOL),
        prompts=own(RouteKind.PROMPT),
        resources=own(RouteKind.RESOURCE),
        templates=own(RouteKind.TEMPLATE),
        namespaces=table.namespaces,
        servers=MappingProxyType({server.public_name: server}),
        only=replace(server, kind=RouteKind.NAMESPACE, namespace=""),
        parts=table.parts,  # By which tasks find their way.
        away=MappingProxyType(away),
        starting=table.starting,
    )


def _alone(kind: RouteKind, route: Route) -> Route:
    """The route as its server lists it."""
    definition = route.definition | {NAME_MEMBER[kind]: _own_name(route)}
    meta = UriCodec("", route.namespace).meta(definition.get("_meta"))
    return replace(route, definition=definition | {"_meta": meta}, namespace="")


def _own_name(route: Route) -> str:
    name = told_origin(route.definition).get("tool")
    return name if isinstance(name, str) else route.public_name
