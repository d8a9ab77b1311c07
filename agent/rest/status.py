"""This node's status, servers and peers, for the REST API and the management tools alike; and their reloads.

Built by the wiring. The one rule: everything shown comes from snapshots, and no secret is in any of them.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from aiohttp import web

from agent import __version__, clock
from agent.audit.trail import NO_AUDIT, NoAudit, Trail
from agent.authority.caller import caller
from agent.config.servers_file import LeftOut
from agent.config.start_time import START_TIMEOUT_MAX_S
from agent.control.membership import MembershipView
from agent.control.operator import ask_node
from agent.control.pinning import Pinning
from agent.control.reconciler import Mesh
from agent.errors import MeshError
from agent.model import Json, LinkView, PeerSpec
from agent.rest.descriptions import (
    TEXTS_BYTES_MAX,
    describe_departed,
    describe_disabled,
    describe_discovery,
    describe_found,
    describe_link,
    describe_notes,
    describe_peer,
    describe_server,
    describe_unused_entry,
    public_names,
    said,
    servers_behind,
    split_views,
    unused_server,
)
from agent.rest.envelope import success
from agent.server.own_tools import MANAGEMENT_TOOLS, RELOADS

log = logging.getLogger(__name__)

# A reload answers with the outcome of the new connection's first attempt, or with the present state: after this long,
# which the old child may take to end, and as long as the server may take to start.
RELOAD_TIMEOUT_S: Final = 10.0
# Another node reads its own snapshots, and it is a hop away.
ASK_TIMEOUT_S: Final = 15.0
# For a reload there; how long that server may take is not known here.
ASK_RELOAD_TIMEOUT_S: Final = START_TIMEOUT_MAX_S + RELOAD_TIMEOUT_S + 5.0


class NodeStatus:
    """See the module. `state` returns starting, ready or draining; `settings`: masked rows; `audit` hears of reloads.

    `tokens`: how many have names, and what is wrong with their file. `login_hint`: what a server's login lacks.
    """

    def __init__(
        self,
        *,
        mesh: Mesh,
        membership: Callable[[], MembershipView],
        state: Callable[[], str],
        settings: Callable[[], list[tuple[str, Any, str]]],
        url: str,
        reread_servers: Callable[[], Awaitable[None]],
        left_out: Callable[[], Sequence[LeftOut]] = tuple,
        servers_fault: Callable[[], str] = str,
        tokens: Callable[[], Json] = dict,
        audit: Trail | NoAudit = NO_AUDIT,
        pinning: Pinning | None = None,
        overview_page: Callable[[], str] = str,
        login_hint: Callable[[str], str] = lambda _server: "",
    ) -> None:
        self.overview_page, self._login_hint = overview_page, login_hint
        self._tokens, self._audit, self._pinning = tokens, audit, pinning
        self._mesh, self._membership, self._state = mesh, membership, state
        self._settings, self._url = settings, url
        self._reread_servers, self._servers_fault, self._left_out = reread_servers, servers_fault, left_out
        self._started_at_s = clock.now_s()

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

    def servers(self, *, for_clients: bool = False) -> list[Json]:
        """Every configured server and every peer, with its functions; `for_clients`: failures in their words."""
        names, left_out = public_names(self._mesh.routes), self._mesh.routes.left_out
        servers, peers = split_views(self._mesh.views())
        now_s = clock.now_s()
        behind = servers_behind(self._mesh.routes, texts_bytes_max=TEXTS_BYTES_MAX if for_clients else None)
        disabled = [describe_disabled(spec) for spec in self._mesh.servers if not spec.enabled]
        unused = [unused_server(entry) for entry in self._left_out() if not entry.keeps_running]
        described = [
            self._hinted(
                describe_server(said(view) if for_clients else view, names, now_s, left_out, with_url=not for_clients)
            )
            | ({"servers": behind.get(view.key, [])} if isinstance(view.spec, PeerSpec) else {})
            for view in (*servers, *peers)
        ]
        return [*described[: len(servers)], *disabled, *unused, *described[len(servers) :]]

    def functions(self, server_name: str) -> Json:
        """The functions of one server or peer, or of a server of another node by its name in the mesh."""
        try:
            view = self._mesh.view_of(server_name)
        except MeshError:
            if found := describe_found(self._mesh.node_routes, server_name):
                return found
            raise
        described = describe_link(view, public_names(self._mesh.routes))
        if view.identity is not None:  # A node: its servers speak for themselves.
            described["servers"] = servers_behind(self._mesh.routes).get(view.key, [])
        return {"server_name": server_name, **described}

    async def ask(self, node: str, tool: str, arguments: Json) -> Json:
        """Have another node's management tool answer. Raises `MeshError`."""
        timeout_s = ASK_RELOAD_TIMEOUT_S if tool in RELOADS else ASK_TIMEOUT_S
        return await ask_node(self._mesh, node, tool, arguments, timeout_s=timeout_s)

    async def reload(self, server_name: str) -> Json:
        """Dial one server or peer anew; waits for the outcome."""
        is_server = any(server.name == server_name for server in self._mesh.servers)
        if is_server or self._mesh.find_peer(server_name) is None:
            await self._reread_servers()  # It may have been changed, or written, a moment ago.
            for entry in self._left_out():
                if server_name in (entry.name, entry.configured_name):
                    raise MeshError(f"The entry of MCP server {server_name!r} is left out: {'; '.join(entry.reasons)}")
        await self._mesh.reload(server_name, RELOAD_TIMEOUT_S)
        reloaded = self._reloaded(server_name)
        who, outcome = caller().grant.name, reloaded["status"]
        await self._audit.act("server.reload", who, server=server_name, outcome=outcome)
        log.info("server reloaded", extra={"server": server_name, "outcome": outcome, "by": who})
        return reloaded

    async def reload_all(self) -> list[Json]:
        """Read the servers file again and dial every enabled server anew."""
        await self._reread_servers()
        names = [spec.name for spec in self._mesh.servers if spec.enabled]
        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(self._reload_one_of_all(name), name=f"reload {name}")
        who = caller().grant.name
        await self._audit.act("server.reload_all", who, servers=len(names))
        log.info("all servers reloaded", extra={"servers": len(names), "by": who})
        return [self._reloaded(name) for name in names]

    async def _reload_one_of_all(self, name: str) -> None:
        with contextlib.suppress(MeshError):  # It was taken out of the configuration meanwhile; its entry says so.
            await self._mesh.reload(name, RELOAD_TIMEOUT_S)

    def _reloaded(self, name: str) -> Json:
        try:
            view = said(self._mesh.view_of(name))
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
            "function_count": len(view.offer.tools) if view.connected else 0,
            "message": "; ".join((f"Server '{name}' reloaded", *(fault.reason for fault in view.offer.faults)))
            if view.connected
            else f"Server '{name}': {_why_not(view)}",
        }

    def config(self) -> Json:
        """`config://app`: settings with their origins, secrets masked, and peers without their addresses."""
        rows = self._settings()
        return {name: {"value": _without_addresses(name, value), "origin": origin} for name, value, origin in rows}

    def health(self) -> Json:
        """`health://system`."""
        views = self._mesh.views()
        return {
            "status": "healthy" if self._state() == "ready" else self._state(),
            "servers_file_fault": self._servers_fault() or None,
            "uptime_s": round(clock.now_s() - self._started_at_s, 1),
            "links": {"connected": sum(view.connected for view in views), "all": len(views)},
            "discovery": self._discovery(),
        }

    def status(self) -> Json:
        """What `mesh-agent status` shows.

        `tools`: how many of all nodes are listed here; `function_count`: what this node serves itself, as peers count.
        """
        now_s = clock.now_s()
        own = self._mesh.own
        servers, peers = split_views(self._mesh.views())
        names = public_names(self._mesh.routes)
        return {
            "self": {
                "name": own.name,
                "node_id": own.node_id,
                "version": __version__,
                "state": self._state(),
                "maintenance": self._mesh.maintenance.own,
                "url": self._url,
                "uptime_s": round(now_s - self._started_at_s, 1),
                "discovery": self._discovery(),
                "tools": len(self._mesh.routes.listed_tools()),
                "function_count": MANAGEMENT_TOOLS + len(self._mesh.local_routes.listed_tools()),
                "servers": [
                    {
                        key: value
                        for key, value in self._hinted(describe_server(view, names, now_s)).items()
                        if key not in ("functions", "left_out")
                    }
                    for view in servers
                ],
                "tokens": self._tokens(),
                "servers_file_fault": self._servers_fault() or None,
                "servers_left_out": [describe_unused_entry(entry) for entry in self._left_out()],
            },
            "peers": [describe_peer(view, now_s) for view in peers],
            "departed": [describe_departed(one, now_s) for one in self._mesh.departed()],
            **describe_notes(self._mesh, self._pinning, self._membership()),
        }

    def _hinted(self, described: Json) -> Json:
        if "hints" in described and (hint := self._login_hint(described["name"])):
            described["hints"].append(hint)
        return described

    def _discovery(self) -> Json:
        return describe_discovery(self._membership(), len(self._mesh.catalog.instances), clock.now_s())


def _why_not(view: LinkView) -> str:
    """Why a reload has no connection to show: the last failure, or that it has not come to any end."""
    return view.last_error or f"still {view.state.value}, without an answer"


def _without_addresses(name: str, value: object) -> object:
    """A setting as clients see it: of `MESH_PEERS`, `name=url` each, the names alone."""
    is_peers = name == "peers" and isinstance(value, str)
    return ",".join(one.partition("=")[0] for one in str(value).split(",")) if is_peers else value
