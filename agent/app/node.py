"""The wiring: turns settings into a running node, and a signal into an orderly end.

Made by `agent.app.start`. The one rule: nothing decides here; parts are built, handed to each other, started in order
and stopped in the opposite one.
"""

import asyncio
import logging
import os
import random
import socket
import time
from collections.abc import Container, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from aiohttp import web

from agent import __version__, clock
from agent.app import plan as plans
from agent.app.access import Access
from agent.app.configured_files import ConfiguredFiles, Readers
from agent.app.connect import ConnectFiles
from agent.app.drain import StopSignals, drain, last_answer, runner_of, serving_of
from agent.app.first_bytes import start_site
from agent.app.listener_tls import ListenerTls, judge_of_callers, outbound_of
from agent.app.parts import Parts
from agent.app.refused_dials import audited
from agent.app.sockets import display_host, listened_host
from agent.app.workers import Workers
from agent.audit.files import FILE_NAME
from agent.audit.trail import Trail
from agent.client.dial_guard import GuardedResolver, refusal_of_url
from agent.client.http.prover import Credentials
from agent.client.oauth.authorizer import Authorizers
from agent.config.load import Settings, shown
from agent.config.servers_file import ServersFile
from agent.control.membership import Membership, MembershipPlan, own_address
from agent.control.operator import OverrideService
from agent.control.pinning import PinMode, Pinning
from agent.control.reconciler import Mesh
from agent.control.sources import Sources
from agent.control.tables import MeshHooks
from agent.dispatch.dispatcher import Dispatch
from agent.dispatch.ended_sessions import EndedSessionsNotices
from agent.identity.keeper import AssociationKeeper
from agent.identity.mesh_secret import catalog_keys, mesh_secrets
from agent.late import settle_memory
from agent.links.dial import Dial, Dialling, dialler, knocker
from agent.links.link import Link
from agent.links.record import LinkHooks
from agent.links.session_offers import SessionOffers
from agent.links.supervisor import Supervisor
from agent.logs import kept_lines
from agent.model import PEER_PATH, BackendSpec, NodeIdentity
from agent.page.feed import MeshFeed
from agent.page.overview import document
from agent.page.routes import PageRoutes
from agent.page.sources import sources_of
from agent.registry.routes import RegistryRoutes
from agent.rest.audit import AuditApi
from agent.rest.diagnosis import DiagnosisApi
from agent.rest.direct import DirectWay
from agent.rest.envelope import envelope_middleware
from agent.rest.handshake import HandshakeRoute
from agent.rest.logins import Logins
from agent.rest.openapi import OpenApi
from agent.rest.peers import PeersApi
from agent.rest.pins import PinsApi
from agent.rest.probes import Probes
from agent.rest.security import security_headers, security_middleware, usual_header_lines
from agent.rest.server_logins import ServerLoginsApi
from agent.rest.status import NodeStatus
from agent.routing.table import RouteKind
from agent.server.caller_views import PartOfTable
from agent.server.endpoint import Endpoint, build_endpoint
from agent.server.pages import PageLimits
from agent.server.preferences import ERRORS, NOTICES, Preferences
from agent.server.sessions.sealed_id import seal_keys
from agent.server.views import Views
from agent.server.write_deadline import write_deadline_middleware
from agent.state.catalog_cache import CatalogCache
from agent.state.ended_sessions import EndedSessions
from agent.state.identity import NodeState
from agent.state.known_names import KnownNames
from agent.state.logins import LoginStore
from agent.state.maintenance import SavedMaintenance
from agent.state.mesh_secret import own_secret
from agent.state.overrides import OverrideStore
from agent.subscriptions.resources import ClientUpdates
from discovery.embedded.server import CatalogGuard
from discovery.model import CatalogUnavailable

log = logging.getLogger(__name__)


class Node:
    """A running node. Its `state` is starting, ready or draining; everything else is built in `run`.

    Long because it is the only wiring: each part is made here, and handed to the others that need it.
    """

    def __init__(
        self,
        settings: Settings,
        identity: NodeIdentity,
        state: NodeState,
        listening: socket.socket,
        servers: ServersFile,
        *,
        connect: ConnectFiles | None = None,
    ) -> None:
        self._settings, self._connect = settings, connect
        self._identity = identity
        self._node_state = state
        self._socket = listening
        self._port: int = listening.getsockname()[1]
        self._addresses = plans.own_addresses(settings, identity, listening.getsockname()[:2])
        self._rng = random.Random()  # noqa: S311 - jitter, nothing secret
        self._metrics = plans.metrics(settings, identity)
        path = settings.audit_file or state.folder / FILE_NAME
        lost, refused = self._metrics.audit_lost, self._metrics.refused
        self._audit = Trail(path, records_calls=settings.audit_calls, lost=lost, refused=refused)
        self._pinning = Pinning(state.folder, PinMode(settings.pinning), self._audit.note)
        self._access = Access(settings, self._audit, self._end_of_revoked)
        secrets = mesh_secrets(settings.peer_tokens, settings.tokens) or (own_secret(settings.state_dir),)
        self._associations = AssociationKeeper(state.key, secrets, time.monotonic)
        self._files = ConfiguredFiles(settings, identity.name, servers, secrets)
        leaf = None if connect is None else connect.tls
        self._tls = ListenerTls(settings.listen_tls, leaf)
        self._listed = plans.listed_sources(settings)
        self._outbound = outbound_of(settings, os.environ, leaf)
        self._endpoints: list[Endpoint] = []
        self._log_lines = kept_lines()
        self._logins = Logins(identity.node_id, time.monotonic)
        self._ended = EndedSessions(state.folder)
        self._ended_notices = EndedSessionsNotices(lambda: self._supervisor.links())  # noqa: PLW0108 - made later
        self._ended.here = self._ended_notices.note
        self._offers = SessionOffers()
        self._workers = Workers(settings, identity, state)
        self.state = "starting"

    async def run(self) -> int:
        """Start, serve until a signal, stop; returns the exit code."""
        signals, plan = StopSignals(), self._plan()
        if plan.mode == "consul" or plan.consul.explicit:
            with suppress(CatalogUnavailable):  # An outage: the membership reports it and tries again.
                await own_address(plan, plan.consul)  # Refused before anything starts.
        store, self._known_names = OverrideStore.open(self._node_state.folder), KnownNames(self._node_state.folder)
        async with Supervisor(self._make_link) as supervisor, asyncio.TaskGroup() as tasks:
            self._supervisor = supervisor
            self._authorizers = Authorizers(LoginStore(self._node_state.folder), self._outbound, tasks)
            self._updates = ClientUpdates.of_node(self._identity.node_id, supervisor.link, self._metrics)
            self._dispatch = Dispatch(
                node_id=self._identity.node_id,
                link=supervisor.link,
                recorder=self._metrics,
                call_timeout_s=self._settings.call_timeout_s,
                rng=self._rng,
                own_weight=self._settings.weight,
                states=self._workers.states,
                is_listed=lambda backend: backend in self._mesh.routes.parts,
            )
            hooks, heard, knock = self._mesh_hooks(), self._dispatch.renewals.routes_changed, knocker(self._dialling)
            self._mesh = Mesh(
                own=self._identity,
                supervisor=supervisor,
                store=store,
                statics=self._settings.peers,
                hooks=hooks,
                waits_for_catalog=plan.mode != "off",
                name_len_max=self._settings.name_len_max,
                pinned=self._settings.service_nodes,
                remembered=self._known_names.load(clock.now_s()),
                client_names=plans.client_names(self._settings),
                pinning=self._pinning,
            )
            mesh, counted = self._mesh, (self._metrics.dialled, self._metrics.link_reconnected, self._updates.watches)
            self._associations.heard = mesh.heard_of
            told = (mesh.link_changed, *counted, mesh.links_settled, self._offers)
            self._link_hooks = LinkHooks(*told, heard=heard, knock=knock)
            self._override_service = OverrideService(self._mesh, store, tasks)
            self._sources = sources = Sources(mesh.take_catalog, self._node_state.folder, mesh.answers)
            self._membership = Membership(
                plan,
                plans.node_registration(self._settings, self._identity, self._port, self._node_state.epoch),
                sources.take_home,
                CatalogCache(self._node_state.folder),
                maintenance=SavedMaintenance(self._node_state.folder, mesh.take_own_maintenance),
                others=sources,
            )
            self._files.begin(self._readers_of_files())
            runner = await self._start_serving()
            standing = self._standing(tasks, runner)
            member, self.state = tasks.create_task(self._membership.run(), name="membership"), "ready"
            signals.reload = self._files.ask
            settle_memory()
            own = self._identity
            self._audit.note("node.started", "node", version=__version__, name=own.name)
            log.info("node ready", extra={"node": own.name, "url": self._url(), "node_id": own.node_id})
            try:
                await signals.asked.wait()
            except asyncio.CancelledError:
                # A part of the node failed and takes the rest along: no drain, but nothing is left open.
                await runner.cleanup()
                raise
            await self._stop_serving(runner, member, signals)
            self._audit.note("node.stopped", "node")
            self._authorizers.close()
            for task in standing:
                task.cancel()
        return signals.exit_code

    def _standing(self, tasks: asyncio.TaskGroup, runner: web.AppRunner) -> list[asyncio.Task[None]]:
        """Start what runs until the end."""
        return [
            tasks.create_task(self._audit.run(), name="audit"),
            tasks.create_task(self._workers.run(serving_of(runner)), name="workers"),
            *([] if self._settings.tokens_file is None else [tasks.create_task(self._access.keep(), name="tokens")]),
            *([] if self._connect is None else [tasks.create_task(self._connect.keep(), name="certificates")]),
            tasks.create_task(self._mesh.run(), name="mesh"),
            tasks.create_task(self._known_names.keep(), name="known names"),
            tasks.create_task(self._ended_notices.run(), name="ended sessions"),
            tasks.create_task(self._pinning.keep(self._mesh.wake), name="pins"),
            tasks.create_task(self._metrics.watch_loop_lag(), name="event loop lag"),
            tasks.create_task(self._feed.run(), name="feed of the page"),
            *(tasks.create_task(e.notices.run(), name=f"notices {e.path}") for e in self._endpoints),
            *(tasks.create_task(self._sources.follow(*one), name=one[0]) for one in self._listed),
            tasks.create_task(self._files.watch(), name="configured files"),
            tasks.create_task(self._files.reread_when_asked(), name="reload"),
        ]

    async def _start_serving(self) -> web.AppRunner:
        looks: dict[str, Any] = {
            "mesh": self._mesh,
            "membership": lambda: self._membership.view,
            "state": self._readiness,
            "url": self._url(),
            "left_out": lambda: self._files.servers.left_out,
            "servers_fault": lambda: self._files.servers_fault,
            "pinning": self._pinning,
        }
        node_status = NodeStatus(
            **looks,
            settings=lambda: shown(self._settings),
            reread_servers=self._files.read_servers,
            tokens=self._access.status,
            audit=self._audit,
            overview_page=document,
            login_hint=self._authorizers.hint,
        )
        build = partial(
            build_endpoint,
            identity=self._identity,
            node_status=node_status,
            dispatch=self._dispatch,
            list_changed=self._metrics.list_changed,
            session_event=self._metrics.session_event,
            session_keys=lambda: seal_keys(self._files.secrets, self._settings.service_name),
            updates=self._updates,
            offers=self._offers,
            draining=lambda: self.state == "draining",
            ended_ids=self._ended,
        )
        limits, search = PageLimits(self._settings.list_page_size), self._settings.tool_mode == "search"
        preferences = Preferences(NOTICES[self._settings.notices], ERRORS[self._settings.errors])
        single = partial(build, limits=limits, preferences=preferences, by_own_name=self._metrics.named_by_server)
        for_mesh = partial(single, search_mode=search, instructions=self._settings.instructions)
        by_nodes = PartOfTable(lambda: self._mesh.node_routes, self._mesh.shown)
        self._endpoints = [
            for_mesh(plans.MCP_PATH, routes=lambda: self._mesh.routes, node_routes=by_nodes.whole, part=by_nodes),
            # Peers list all tools, whichever mode this node's own clients get, and have our own names from our lists.
            build(PEER_PATH, routes=lambda: self._mesh.local_routes),
        ]
        self._views = Views(
            lambda: self._mesh.routes, by_nodes, lambda: self._files.views.views, single=single, build=for_mesh
        )
        probes = Probes(state=self._readiness, metrics=self._metrics, refresh=self._refresh_metrics)
        # Outermost first: a refusal of the security checks comes in the envelope, and no answer waits for ever.
        oauth, parts = self._access.oauth, (self._settings, self._identity, self._access.table, self._associations)
        policy = plans.edge_policy(*parts, oauth=oauth, on_auth_failure=self._metrics.auth_failed, logins=self._logins)
        app = web.Application(middlewares=[write_deadline_middleware, envelope_middleware, security_middleware(policy)])
        app.on_response_prepare.extend((security_headers(policy), last_answer(lambda: self.state == "draining")))
        self._views.add_to(app, self._endpoints[0])
        self._views.add_limited(app, self._endpoints[1], lambda: self._mesh.local_routes, build)
        peers, audit = PeersApi(self._mesh, self._override_service, self._audit), AuditApi(self._audit)
        pins = PinsApi(self._pinning, self._mesh.settled, self._audit)
        self._feed = MeshFeed(sources_of(self._metrics.history, self._dispatch, self._override_service, **looks))
        page = PageRoutes(self._feed, self._logins, is_secure=self._settings.scheme == "https")
        logins = ServerLoginsApi(self._mesh, self._authorizers, self._audit)
        for part in (*self._more_routes(), peers, pins, audit, logins, node_status, probes, oauth, page, OpenApi(app)):
            app.add_routes(part.routes())
        others = self._mesh, self._dispatch, self._metrics, self._access, self._associations
        self._workers.prepare(Parts(policy, self._endpoints[0], *others))
        direct = DirectWay(policy)
        runner = runner_of(app, fast_path=plans.MCP_PATH, common=self._usual_lines, direct=direct)
        await runner.setup()
        known, tls = partial(plans.addresses_of_peers, self._mesh.views), self._tls.context
        refused, elsewhere = self._metrics.connection_refused, self._workers.crew
        await start_site(runner, self._socket, tls, known=known, refused=refused, elsewhere=elsewhere)
        return runner

    def _usual_lines(self, request: web.Request | None) -> str | None:
        return None if self.state == "draining" else usual_header_lines(request)

    async def _stop_serving(self, runner: web.AppRunner, member: asyncio.Task[None], signals: StopSignals) -> None:
        """Not ready, end streams, deregister, let peers learn of it, drain."""
        log.info("node draining", extra={"node": self._identity.name})
        self.state, self._files.is_leaving = "draining", True
        # A link whose stream of list changes ends discovers that we drain: of a static peer no catalog says so.
        for endpoint in self._endpoints:
            endpoint.close_streams()
        self._views.close_streams()
        self._feed.close()
        self._log_lines.close()
        self._workers.leave()
        await drain(runner, self._socket, member, signals, self._cut_off, others=self._workers.finished)
        log.info("node stopped", extra={"node": self._identity.name})

    def _cut_off(self) -> None:
        for endpoint in self._endpoints:
            endpoint.sessions.cut_off()
        self._views.cut_off()
        self._workers.cut_off()

    # Parts

    def _mesh_hooks(self) -> MeshHooks:
        changed = (self._mesh_changed, self._local_changed, self._offer_changed)
        also, dispatch = (self._routes_changed, self._fleets_changed), self._dispatch
        return MeshHooks(*changed, dispatch.forget, *also, dispatch.drain, dispatch.far)

    def _make_link(self, spec: BackendSpec, dials: asyncio.Semaphore) -> Link:
        return Link(spec, dials, own=self._identity, hooks=self._link_hooks, rng=self._rng, dial=self._dial)

    @cached_property
    def _dial(self) -> Dial:
        return audited(dialler(self._dialling), self._audit.note)

    @cached_property
    def _dialling(self) -> Dialling:
        credentials = Credentials(self._node_state.key, self._associations.valid_secrets, self._identity.name)
        of_node = (self._outbound, self._addresses, self._authorizers.of)
        return Dialling(credentials, self._metrics.pending_call, *of_node)

    def _readers_of_files(self) -> Readers:
        return Readers(
            mesh=self._mesh,
            membership=self._membership,
            metrics=self._metrics,
            access=self._access,
            associations=self._associations,
            tls=self._tls,
            views_changed=lambda: self._views.routes_changed(),  # noqa: PLW0108 - made later
            tokens_changed=self._workers.nudge,
        )

    def _more_routes(self) -> tuple[HandshakeRoute, DiagnosisApi, RegistryRoutes]:
        """The routes for other nodes, for finding out what is wrong, and for what reads registries."""
        judge = judge_of_callers(self._settings, self._mesh.name_of)
        handshake = HandshakeRoute(self._associations, self._addresses, judge)
        diagnosis = DiagnosisApi(self._mesh, self._log_lines, lambda: shown(self._settings))
        return handshake, diagnosis, plans.registry(self._settings, self._access, self._mesh, self._views.seen)

    def _plan(self) -> MembershipPlan:
        """How to take part in discovery; an embedded catalog is for the nodes of this mesh alone."""
        guard = CatalogGuard(
            keys=lambda: catalog_keys(self._associations.valid_secrets()),
            resolver=GuardedResolver,
            refuses=refusal_of_url,
        )
        bind_host = listened_host(self._socket, self._settings.host)
        return replace(plans.membership_plan(self._settings, self._port), bind_host=bind_host, embedded_guard=guard)

    def _readiness(self) -> str:
        """Starting, while first attempts to link are open; ready or draining."""
        return "starting" if self.state == "ready" and self._mesh.starting else self.state

    def _url(self) -> str:
        return f"{self._settings.scheme}://{display_host(self._settings.host)}:{self._port}/mcp"

    # Events

    def _mesh_changed(self, kinds: Iterable[RouteKind]) -> None:
        self._endpoints[0].notices.changed(kinds)

    def _fleets_changed(self, kinds: frozenset[RouteKind]) -> None:
        self._endpoints[0].notices.fleets_changed(kinds)

    def _end_of_revoked(self, bindings: Container[str]) -> None:
        for endpoint in self._endpoints:
            endpoint.end_of_revoked(bindings)
        self._views.end_of_revoked(bindings)
        self._feed.end_of_revoked(bindings)
        self._log_lines.end_of_revoked(bindings)
        self._workers.nudge()

    def _local_changed(self, kinds: Iterable[RouteKind]) -> None:
        self._endpoints[1].notices.changed(kinds)

    def _routes_changed(self) -> None:
        self._known_names.take(self._mesh.node_routes)
        self._views.routes_changed()
        self._updates.routes_changed()
        self._dispatch.renewals.routes_changed()
        self._ended_notices.routes_changed()
        self._workers.nudge()

    def _offer_changed(self, digest: str) -> None:
        self._membership.describe_ourselves(offer_digest=digest)

    def _refresh_metrics(self) -> None:
        self._metrics.observe(self._mesh, self._membership.view, self._dispatch.balance())
        self._metrics.definitions(self._pinning.changed_count, self._pinning.suspected_count)
