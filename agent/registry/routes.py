"""The registry of the mesh's servers (MCP Registry API v0.1, read only), the card of this node, and `/llms.txt`.

Registered by the wiring; the edge judges who may read (`agent.authority.routes`: `read`), and with
`MESH_REGISTRY_PUBLIC` lets anyone. Each answer is made of the route table of its moment, so it lists what really runs.
The one rule: a caller sees the servers that its token shows; where none is needed, private servers are left out.
"""

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from agent import __version__
from agent.control.reconciler import Mesh
from agent.model import Json, ServerScope
from agent.registry.card import CARD_TYPE, CATALOG_TYPE, catalog, llms_text, server_card
from agent.registry.entries import PageRefused, namespace_of, page_of, server_entries, version_of
from agent.rest.envelope import json_response
from agent.routing.table import RouteTable

SERVERS_PATH: Final = "/v0.1/servers"
CARD_PATHS: Final = ("/.well-known/mcp/server-card.json", "/mcp/server-card")
CATALOG_PATH: Final = "/.well-known/ai-catalog.json"
LLMS_PATH: Final = "/llms.txt"
_NOT_FOUND: Final = {"error": "Server not found"}
# A client has to send this, and its user to know it.
_HEADERS: Final[tuple[Json, ...]] = (
    {
        "name": "Authorization",
        "description": "A token of this mesh",
        "isRequired": True,
        "isSecret": True,
        "value": "Bearer {token}",
        "variables": {"token": {"description": "A token of this mesh", "isRequired": True, "isSecret": True}},
    },
)


@dataclass(frozen=True, slots=True)
class Published:
    """What the node's settings say of it. `wants_token`: whether clients of MCP need one of this node's own.

    `public_url`: in front of `/mcp`; None for what the client used. `is_public`: whether readers need no token.
    """

    public_url: str | None
    service_name: str
    is_public: bool
    wants_token: Callable[[], bool]


class RegistryRoutes:
    """Handlers. `seen`: the table of clients as the present caller sees it."""

    def __init__(self, mesh: Mesh, seen: Callable[[], RouteTable], published: Published) -> None:
        self._mesh, self._seen, self._published = mesh, seen, published
        self._since = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def routes(self) -> list[web.RouteDef]:
        """What to add to the application. A name may come with its slash as it is, or as %2F."""
        one = f"{SERVERS_PATH}/{{name:.+}}/versions"
        return [
            web.get(SERVERS_PATH, self.list_servers),
            web.get(one, self.list_versions),
            web.get(f"{one}/{{version}}", self.show),
            *(web.get(path, self.card) for path in CARD_PATHS),
            web.get(CATALOG_PATH, self.catalog),
            web.get(LLMS_PATH, self.llms),
        ]

    async def list_servers(self, request: web.Request) -> web.Response:
        """GET /v0.1/servers."""
        return _page(self._entries(request), request.query)

    async def list_versions(self, request: web.Request) -> web.Response:
        """GET /v0.1/servers/{name}/versions: the one that runs."""
        found = version_of(self._entries(request), request.match_info["name"], "latest")
        return json_response(_NOT_FOUND, 404) if found is None else _page([found], {})

    async def show(self, request: web.Request) -> web.Response:
        """GET /v0.1/servers/{name}/versions/{version}, `latest` too."""
        found = version_of(self._entries(request), request.match_info["name"], request.match_info["version"])
        return json_response(_NOT_FOUND, 404) if found is None else json_response(found)

    async def card(self, request: web.Request) -> web.Response:
        """GET /.well-known/mcp/server-card.json, and below the endpoint, where the draft reserves a place for it."""
        return web.json_response(server_card(self._entries(request)), content_type=CARD_TYPE)

    async def catalog(self, request: web.Request) -> web.Response:
        """GET /.well-known/ai-catalog.json: where programs look for the cards of a domain."""
        return web.json_response(catalog(self._entries(request)), content_type=CATALOG_TYPE)

    async def llms(self, request: web.Request) -> web.Response:
        """GET /llms.txt."""
        entries = self._entries(request)
        text = llms_text(self._base(request), entries, node=self._mesh.own.name, version=__version__)
        return web.Response(text=text, content_type="text/plain", charset="utf-8")

    def _base(self, request: web.Request) -> str:
        return self._published.public_url or str(request.url.origin())

    def _entries(self, request: web.Request) -> list[Json]:
        published = self._published
        table = self._seen()
        count = sum(route.listed for route in table.servers.values())
        whole = {"description": f"{count} MCP servers behind one endpoint", "version": __version__}
        return server_entries(
            table,
            base=self._base(request),
            namespace=namespace_of(published.public_url, published.service_name),
            headers=_HEADERS if published.wants_token() else (),
            whole=whole,
            since=self._since,
            hidden=self._private(table) if published.is_public else frozenset(),
        )

    def _private(self, table: RouteTable) -> frozenset[str]:
        """The owners of this node's private servers."""
        keys = {spec.key for spec in self._mesh.servers if spec.scope is ServerScope.PRIVATE}
        return frozenset(
            route.owner
            for route in table.servers.values()
            if any(replica.ours and replica.backend_key in keys for replica in route.replicas)
        )


def _page(entries: list[Json], query: Mapping[str, Any]) -> web.Response:
    try:
        return json_response(page_of(entries, query))
    except PageRefused as exc:
        return json_response({"error": str(exc)}, 400)
