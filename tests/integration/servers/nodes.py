"""Whole nodes in the test's own process: mesh, links, both endpoints and the REST API on a real port.

Wired as `agent.app.node` does it, without signals, clients' tokens and discovery: a test hands catalogs over itself.
The one rule: everything is waited for by steps of the mesh, never by the clock.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from fastmcp import FastMCP
from mcp.server.lowlevel import Server

from agent import clock
from agent.app.drain import runner_of
from agent.app.plan import MCP_PATH
from agent.client.connect import McpClient, open_client
from agent.client.http.open_pool import open_pool
from agent.client.http.prover import Credentials
from agent.client.http.session import HttpSessionClient
from agent.config.values import StaticPeer
from agent.control.membership import MembershipView
from agent.control.operator import OverrideService
from agent.control.reconciler import Mesh
from agent.control.tables import MeshHooks
from agent.dispatch.dispatcher import Dispatch
from agent.dispatch.ended_sessions import EndedSessionsNotices
from agent.errors import MeshError
from agent.identity.addresses import OwnAddresses
from agent.identity.keeper import AssociationKeeper
from agent.identity.node_key import NodeKey
from agent.links.dial import Dialling, dialler
from agent.links.link import Link
from agent.links.record import LinkHooks
from agent.links.session_offers import SessionOffers
from agent.links.supervisor import Supervisor
from agent.metrics import Metrics
from agent.model import (
    PUBLIC_NAME_LEN_MAX,
    BackendSpec,
    Era,
    HttpTarget,
    Json,
    LinkView,
    NodeIdentity,
    ServerSpec,
    ViewSpec,
)
from agent.rest.direct import DirectWay
from agent.rest.envelope import envelope_middleware
from agent.rest.handshake import HandshakeRoute
from agent.rest.peers import PeersApi
from agent.rest.security import EdgePolicy, security_headers, security_middleware, usual_header_lines
from agent.rest.status import NodeStatus
from agent.rest.tokens import TokenTable
from agent.routing.client_names import AS_BETWEEN_NODES, ClientNames
from agent.routing.table import RouteKind
from agent.server.caller_views import PartOfTable
from agent.server.endpoint import Endpoint, build_endpoint
from agent.server.pages import PageLimits
from agent.server.sessions.sealed_id import seal_keys
from agent.server.views import Views
from agent.server.write_deadline import write_deadline_middleware
from agent.state.ended_sessions import EndedSessions
from agent.state.known_names import KnownNames
from agent.state.overrides import OverrideStore
from agent.subscriptions.resources import ClientUpdates
from discovery.model import Catalog, Instance, InstanceKey
from tests.integration.servers.hosting import http_app, serving
from tests.waiting import UNREPAIRED_S

# No promise of a node: calls and clients of a test run in the node's own loop, and wait for the same core.
CALL_TIMEOUT_S = CLIENT_TIMEOUT_S = 30.0
SECRET = b"one mesh for all nodes of a test"


@dataclass
class RunningNode:
    """A node and what a test may look at. `told` lists what clients of `/mcp` heard, `digests` our offers."""

    identity: NodeIdentity
    key: NodeKey
    base: str
    mesh: Mesh
    node_status: NodeStatus
    orders: OverrideService
    dispatch: Dispatch
    supervisor: Supervisor
    metrics: Metrics
    endpoints: list[Endpoint]
    digests: list[str]
    mesh_task: asyncio.Task[None]
    servers_file: list[ServerSpec]
    begin_to_drain: Callable[[], None]
    updates: ClientUpdates
    named_views: dict[str, ViewSpec]
    views: Views
    runner: web.AppRunner

    @property
    def url(self) -> str:
        return f"{self.base}/mcp"

    @property
    def local_url(self) -> str:
        return f"{self.base}/mcp/local"

    async def when(self, condition: Callable[[], Any]) -> None:
        """Wait for steps of the mesh until `condition` holds; what it asks of a link that is not there yet does not."""
        async with asyncio.timeout(UNREPAIRED_S):
            while True:
                with contextlib.suppress(MeshError):
                    if condition():
                        return
                await self.mesh._stepped.wait()

    async def connected(self, *names: str) -> None:
        """Wait until links to these are up, and the routes have what they offer."""
        await self.when(lambda: all(self.is_up(name) for name in names))
        await self.mesh.links_settled()

    def is_up(self, name: str) -> bool:
        return any(view.spec.name == name and view.connected for view in self.mesh.views())

    def view(self, name: str) -> LinkView:
        return self.mesh.view_of(name)

    def tool_names(self) -> list[str]:
        return [route.public_name for route in self.mesh.routes.listed_tools()]

    async def rest(self, method: str, path: str, body: Any = None) -> tuple[int, Json]:
        """Call the REST API; returns the status and the whole envelope."""
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, f"{self.base}/api/v1/mcp{path}", json=body) as response,
        ):
            return response.status, await response.json()

    async def add_peer(self, name: str, url: str, **more: Any) -> tuple[int, Json]:
        return await self.rest("POST", "/peers", {"peer_name": name, "peer_url": url, **more})


@asynccontextmanager
async def running_node(
    name: str,
    folder: Path,
    *,
    servers: Iterable[ServerSpec] = (),
    statics: Sequence[StaticPeer] = (),
    key: NodeKey | None = None,
    port: int = 0,
    secret: bytes = SECRET,
    limits: PageLimits | None = None,
    search_mode: bool | None = None,
    call_timeout_s: float = CALL_TIMEOUT_S,
    name_len_max: int = PUBLIC_NAME_LEN_MAX,
    views: Mapping[str, ViewSpec] | None = None,
    fleet_writes: Sequence[str] = (),
    short_names: bool = False,
    tokens: TokenTable | None = None,
) -> AsyncIterator[RunningNode]:
    """Run a node until the context ends; its state goes to `folder`. `limits`: of the pages of its lists.

    `key`: of a node that was there before, `secret`: of its mesh.

    `search_mode`: as in `build_endpoint`, for `/mcp`. `call_timeout_s`: as the setting. `name_len_max`: of the names
    that its clients see. `views`: those that an operator has named.
    `fleet_writes`, `short_names`: as the settings. `tokens`: of its clients; None: they need none.
    """
    key = key or NodeKey.new()
    identity = NodeIdentity(key.node_id, name)
    wiring = _Wiring(
        identity,
        key,
        secret,
        list(servers),
        limits,
        search_mode,
        call_timeout_s,
        name_len_max,
        dict(views or {}),
        ClientNames(name_len_max, tuple(fleet_writes), short_names),
        tokens=tokens or TokenTable(),
    )
    async with wiring.running(folder, tuple(statics), port) as node:
        yield node


def _each(*callbacks: Callable[[], None]) -> Callable[[], None]:
    def call() -> None:
        for callback in callbacks:
            callback()

    return call


@dataclass
class _Wiring:
    identity: NodeIdentity
    key: NodeKey
    secret: bytes
    servers: list[ServerSpec]
    limits: PageLimits | None = None
    search_mode: bool | None = None
    call_timeout_s: float = CALL_TIMEOUT_S
    name_len_max: int = PUBLIC_NAME_LEN_MAX
    named_views: dict[str, ViewSpec] = field(default_factory=dict)
    client_names: ClientNames = AS_BETWEEN_NODES
    tokens: TokenTable = field(default_factory=TokenTable)
    endpoints: list[Endpoint] = field(default_factory=list)
    views: list[Views] = field(default_factory=list)
    local_part: dict[str, Any] = field(default_factory=dict)
    digests: list[str] = field(default_factory=list)
    offers: SessionOffers = field(default_factory=SessionOffers)
    draining: bool = False
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    @asynccontextmanager
    async def running(self, folder: Path, statics: tuple[StaticPeer, ...], port: int) -> AsyncIterator[RunningNode]:
        metrics, store = Metrics("test"), OverrideStore.open(folder)
        counted = metrics.dialled, metrics.link_reconnected
        dial = dialler(Dialling(Credentials(self.key, lambda: (self.secret,)), metrics.pending_call))

        def make_link(spec: BackendSpec, dials: asyncio.Semaphore) -> Link:
            heard = (mesh.link_changed, *counted, updates.watches, mesh.links_settled)
            return Link(spec, dials, own=self.identity, hooks=LinkHooks(*heard, self.offers), rng=self.rng, dial=dial)

        async with Supervisor(make_link) as supervisor, asyncio.TaskGroup() as tasks:
            updates = ClientUpdates.of_node(self.identity.node_id, supervisor.link, metrics)
            known = KnownNames(folder)
            ended, notices = EndedSessions(folder), EndedSessionsNotices(supervisor.links)
            ended.here = notices.note

            def keep_names() -> None:
                known.take(mesh.node_routes)
                notices.routes_changed()

            dispatch = Dispatch(
                node_id=self.identity.node_id,
                link=supervisor.link,
                recorder=metrics,
                call_timeout_s=self.call_timeout_s,
                rng=self.rng,
            )
            mesh = Mesh(
                own=self.identity,
                supervisor=supervisor,
                store=store,
                statics=statics,
                name_len_max=self.name_len_max,
                remembered=known.load(clock.now_s()),
                client_names=self.client_names,
                hooks=self._hooks(dispatch, updates, keep_names),
            )
            orders = OverrideService(mesh, store, tasks)
            node_status = self._status(mesh)
            mesh.take_servers(self.servers)
            self._build_endpoints(mesh, node_status, dispatch, metrics, updates, ended_ids=ended)
            runner, base = await self._serve([*PeersApi(mesh, orders).routes(), *node_status.routes()], port)
            mesh_task = tasks.create_task(mesh.run(), name="mesh")
            standing = [mesh_task, tasks.create_task(known.keep(), name="known names")]
            standing += [tasks.create_task(e.notices.run(), name="notices") for e in self.endpoints]
            standing.append(tasks.create_task(notices.run(), name="ended sessions"))
            try:
                yield RunningNode(
                    self.identity,
                    self.key,
                    base,
                    mesh,
                    node_status,
                    orders,
                    dispatch,
                    supervisor,
                    metrics,
                    self.endpoints,
                    self.digests,
                    mesh_task,
                    self.servers,
                    self._begin_to_drain,
                    updates,
                    self.named_views,
                    self.views[0],
                    runner,
                )
            finally:
                await runner.cleanup()
                for task in standing:
                    task.cancel()

    def _status(self, mesh: Mesh) -> NodeStatus:
        async def reread_servers() -> None:
            mesh.take_servers(self.servers)

        return NodeStatus(
            mesh=mesh,
            membership=MembershipView,
            state=lambda: "ready",
            settings=lambda: [("port", "8000", "default")],
            url="http://127.0.0.1/mcp",
            reread_servers=reread_servers,
        )

    def _hooks(self, dispatch: Dispatch, updates: ClientUpdates, keep_names: Callable[[], None]) -> MeshHooks:
        renewals = dispatch.renewals.routes_changed
        routes_changed = _each(updates.routes_changed, renewals, self._routes_changed, keep_names)
        changed = (self._changed(0), self._changed(1), self.digests.append)
        return MeshHooks(*changed, dispatch.forget, routes_changed, self._fleets_changed)

    def _changed(self, number: int) -> Callable[[Iterable[RouteKind]], None]:
        # The endpoints are built after the mesh that tells them.
        return lambda kinds: self.endpoints[number].notices.changed(kinds)  # noqa: PLW0108 - looked up when called

    def _fleets_changed(self, kinds: frozenset[RouteKind]) -> None:
        self.endpoints[0].notices.fleets_changed(kinds)

    def _routes_changed(self) -> None:
        for views in self.views:
            views.routes_changed()

    def _begin_to_drain(self) -> None:
        self.draining = True
        for endpoint in self.endpoints:
            endpoint.close_streams()
        for views in self.views:
            views.close_streams()

    def _build_endpoints(
        self,
        mesh: Mesh,
        node_status: NodeStatus,
        dispatch: Dispatch,
        metrics: Metrics,
        updates: ClientUpdates,
        *,
        ended_ids: EndedSessions,
    ) -> None:
        build = partial(
            build_endpoint,
            identity=self.identity,
            node_status=node_status,
            dispatch=dispatch,
            list_changed=metrics.list_changed,
            session_event=metrics.session_event,
            session_keys=lambda: seal_keys((self.secret,), "mcp-node"),
            draining=lambda: self.draining,
            limits=self.limits,
            updates=updates,
            ended_ids=ended_ids,
            offers=self.offers,
        )
        single = partial(build, by_own_name=metrics.named_by_server)
        of_mesh = partial(single, search_mode=self.search_mode, instructions="merged")
        by_nodes = PartOfTable(lambda: mesh.node_routes, mesh.shown)
        self.endpoints += [
            of_mesh("/mcp", routes=lambda: mesh.routes, node_routes=by_nodes.whole, part=by_nodes),
            build("/mcp/local", routes=lambda: mesh.local_routes),
        ]
        self.local_part = {"routes": lambda: mesh.local_routes, "build": build}
        self.views.append(Views(lambda: mesh.routes, by_nodes, lambda: self.named_views, single=single, build=of_mesh))

    async def _serve(self, rest: list[web.RouteDef], port: int) -> tuple[web.AppRunner, str]:
        names = frozenset({self.identity.name})
        keeper = AssociationKeeper(self.key, (self.secret,), time.monotonic)
        policy = EdgePolicy(names, frozenset(), self.tokens, metrics_public=False, associations=keeper)
        middlewares = [write_deadline_middleware, envelope_middleware, security_middleware(policy)]
        app = web.Application(middlewares=middlewares)
        app.on_response_prepare.append(security_headers(policy))
        app.add_routes(HandshakeRoute(keeper, OwnAddresses(names, frozenset())).routes())
        of_mesh, local = self.endpoints
        self.views[0].add_to(app, of_mesh)
        self.views[0].add_limited(app, local, **self.local_part)
        app.add_routes(rest)
        direct = DirectWay(policy)
        runner = runner_of(app, fast_path=MCP_PATH, common=usual_header_lines, direct=direct, shutdown_timeout_s=2)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port, reuse_address=True)
        await site.start()
        return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"


@asynccontextmanager
async def served(server: FastMCP | Server[Any]) -> AsyncIterator[str]:
    """A server under uvicorn; gives its MCP URL."""
    async with http_app(server) as app, serving(app) as base:
        yield f"{base}/mcp"


@asynccontextmanager
async def client(url: str, era: Era) -> AsyncIterator[McpClient]:
    """A raw MCP client of either era; what it gets is what was on the wire."""
    if era is Era.MODERN:
        async with open_client(HttpTarget(url), connect_timeout_s=CLIENT_TIMEOUT_S) as mcp_client:
            assert mcp_client.server_info.era is Era.MODERN
            yield mcp_client
        return
    with open_pool(HttpTarget(url), connect_timeout_s=CLIENT_TIMEOUT_S) as pool:
        legacy = HttpSessionClient(pool, "test", CLIENT_TIMEOUT_S)
        await legacy.open()
        try:
            yield legacy
        finally:
            await legacy.close()


def instance(node: RunningNode, **meta: str) -> Instance:
    """What a catalog says about a node."""
    host, _, port = node.base.removeprefix("http://").partition(":")
    own = node.identity
    known = {"node_id": own.node_id, "name": own.name, "scheme": "http", "epoch": "1", "mcp_path": "/mcp"}
    return Instance(InstanceKey("dc1", "m", f"{own.name}-{own.node_id[:8]}"), host, int(port), meta=known | meta)


def catalog(*instances: Instance) -> Catalog:
    return Catalog(tuple(sorted(instances, key=lambda one: one.key)))
