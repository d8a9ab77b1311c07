"""What operators may read and ask of this node, for the REST API and the management tools alike.

Built by the wiring. The one rule: everything shown comes from snapshots, and no secret is in any of them.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web

from agent import __version__
from agent.api.describe import (
    describe_conflicts,
    describe_disabled,
    describe_functions,
    describe_peer,
    describe_server,
    public_names,
    split_views,
)
from agent.api.envelope import success
from agent.api.management import MANAGEMENT_TOOLS
from agent.errors import MeshError, RpcError
from agent.membership import MembershipView
from agent.mesh import Mesh
from agent.model import Json

# A reload answers with the outcome of the new connection's first attempt, or after this long with what is known.
RELOAD_TIMEOUT_S: Final = 10.0
# Another node needs as long for a reload as we do, and a hop.
ASK_TIMEOUT_S: Final = RELOAD_TIMEOUT_S + 5.0


class Desk:
    """See the module. `state` tells starting, ready or draining; `settings` are masked rows."""

    def __init__(
        self,
        *,
        mesh: Mesh,
        membership: Callable[[], MembershipView],
        state: Callable[[], str],
        settings: Callable[[], list[tuple[str, Any, str]]],
        url: str,
        reread_servers: Callable[[], None],
    ) -> None:
        self._mesh = mesh
        self._membership = membership
        self._state = state
        self._settings = settings
        self._url = url
        self._reread_servers = reread_servers
        self._started_at_s = _now_s()

    def routes(self) -> list[web.RouteDef]:
        """What to add to the application."""
        return [
            web.get("/api/v1/mcp/servers", self.get_servers),
            web.get("/api/v1/mcp/status", self.get_status),
        ]

    async def get_servers(self, _request: web.Request) -> web.Response:
        """GET /api/v1/mcp/servers."""
        servers = self.servers()
        return success({"servers": servers}, f"Found {len(servers)} MCP server(s)")

    async def get_status(self, _request: web.Request) -> web.Response:
        """GET /api/v1/mcp/status."""
        return success(self.status(), f"Node '{self._mesh.own.name}' is {self._state()}")

    def servers(self) -> list[Json]:
        """Every configured server and every peer, with its functions."""
        names = public_names(self._mesh.routes)
        servers, peers = split_views(self._mesh.views())
        now_s = _now_s()
        disabled = [describe_disabled(spec) for spec in self._mesh.servers if not spec.enabled]
        return [*(describe_server(view, names, now_s) for view in servers), *disabled] + [
            describe_server(view, names, now_s) for view in peers
        ]

    def functions(self, server_name: str) -> Json:
        """The functions of one server or peer."""
        view = self._mesh.view_of(server_name)
        names = public_names(self._mesh.routes)
        functions = describe_functions(view, names) if view.connected else []
        status = "connected" if view.connected else view.state.value
        return {"server_name": server_name, "status": status, "functions": functions, "function_count": len(functions)}

    async def ask(self, node: str, tool: str, arguments: Json) -> Json:
        """Have another node's management tool answer, over the link to it."""
        view = self._mesh.find_node(node)
        link = self._mesh.link(view.key) if view is not None else None
        if link is None:
            raise MeshError(f"There is no node named {node!r} among this node's peers.")
        try:
            result = await link.request("tools/call", {"name": tool, "arguments": arguments}, timeout_s=ASK_TIMEOUT_S)
        except RpcError as exc:
            raise MeshError(f"Node {node!r}: {exc.message}") from exc
        told = result.get("structuredContent")
        if result.get("isError") is True or not isinstance(told, dict):
            texts = [str(part.get("text", "")) for part in result.get("content") or () if isinstance(part, dict)]
            raise MeshError(f"Node {node!r}: {' '.join(texts) or 'it gave no answer'}")
        return told

    async def reload(self, server_name: str) -> Json:
        """Dial one server or peer anew; waits for the outcome."""
        is_server = any(server.name == server_name for server in self._mesh.servers)
        if is_server or self._mesh.find_peer(server_name) is None:
            self._reread_servers()  # It may have been changed, or written, a moment ago.
        await self._mesh.reload(server_name, RELOAD_TIMEOUT_S)
        return self._reloaded(server_name)

    async def reload_all(self) -> list[Json]:
        """Read the servers file again and dial every enabled server anew."""
        self._reread_servers()
        names = [spec.name for spec in self._mesh.servers if spec.enabled]
        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(self._reload_one_of_all(name), name=f"reload {name}")
        return [self._reloaded(name) for name in names]

    async def _reload_one_of_all(self, name: str) -> None:
        with contextlib.suppress(MeshError):  # It was taken out of the configuration meanwhile, as its entry will say.
            await self._mesh.reload(name, RELOAD_TIMEOUT_S)

    def _reloaded(self, name: str) -> Json:
        try:
            view = self._mesh.view_of(name)
        except MeshError as exc:
            return {
                "server_name": name,
                "success": False,
                "status": "gone",
                "function_count": 0,
                "message": str(exc),
            }
        return {
            "server_name": name,
            "success": view.connected,
            "status": "connected" if view.connected else view.state.value,
            "function_count": view.function_count if view.connected else 0,
            "message": f"Server '{name}' reloaded" if view.connected else f"Server '{name}': {view.last_error}",
        }

    def config(self) -> Json:
        """`config://app`: settings with their origins, masked."""
        return {name: {"value": value, "origin": origin} for name, value, origin in self._settings()}

    def health(self) -> Json:
        """`health://system`."""
        views = self._mesh.views()
        return {
            "status": "healthy" if self._state() == "ready" else self._state(),
            "uptime_s": round(_now_s() - self._started_at_s, 1),
            "links": {"connected": sum(view.connected for view in views), "all": len(views)},
            "discovery": self._discovery(),
        }

    def status(self) -> Json:
        """What `mesh-agent status` shows.

        `tools`: how many of all nodes are listed here; `function_count`: what this node serves itself, as peers count.
        """
        now_s = _now_s()
        own = self._mesh.own
        servers, peers = split_views(self._mesh.views())
        names = public_names(self._mesh.routes)
        return {
            "self": {
                "name": own.name,
                "node_id": own.node_id,
                "version": __version__,
                "state": self._state(),
                "url": self._url,
                "uptime_s": round(now_s - self._started_at_s, 1),
                "discovery": self._discovery(),
                "tools": len(self._mesh.routes.listed_tools()),
                "function_count": MANAGEMENT_TOOLS + len(self._mesh.local_routes.listed_tools()),
                "servers": [
                    {key: value for key, value in describe_server(view, names, now_s).items() if key != "functions"}
                    for view in servers
                ],
            },
            "peers": [describe_peer(view, now_s) for view in peers],
            "conflicts": describe_conflicts([self._mesh.routes, self._mesh.local_routes]),
            "findings": [
                {"name": f.name, "kind": f.kind.value, "detail": f.detail} for f in self._mesh.selection.findings
            ],
        }

    def _discovery(self) -> Json:
        view = self._membership()
        answered = view.source.last_answer_at_s
        return {
            "mode": view.mode,
            "reason": view.reason,
            "url": view.url,
            "up": view.source.up,
            "registered": view.registrar.registered,
            "last_error": view.source.last_error or view.registrar.last_error,
            "catalog_age_s": None if answered is None else round(_now_s() - answered, 1),
            "holding_removals": view.source.holding_removals,
            "instances": len(self._mesh.catalog.instances),
        }


def _now_s() -> float:
    return asyncio.get_running_loop().time()
