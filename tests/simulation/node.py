"""One simulated node: the real discovery loops, mesh, links and dispatch of a node over a simulated network.

What is real: `ConsulWatch`, `ConsulRegistrar`, `Mesh` with its selector and reconcile, `OverrideService`, `Supervisor`,
`Link` with its lifecycle and probes, route tables, and `Dispatch`. What is not: HTTP, the proof of identity, files, and
everything of Consul. The one rule: nothing here decides; parts are wired as `agent.app.node` wires them.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from agent.control.operator import OverrideService
from agent.control.reconciler import Mesh
from agent.control.tables import MeshHooks
from agent.dispatch.dispatcher import Dispatch
from agent.errors import (
    NOT_EXECUTED,
    OUTCOME_UNKNOWN,
    CallRefused,
    CallUnanswered,
    DialledOurselves,
    IdentityRefused,
    NoLongerOffered,
    RpcError,
)
from agent.links.crowd import Crowd
from agent.links.dial import OpenClient
from agent.links.link import Link
from agent.links.record import LinkHooks
from agent.links.supervisor import Supervisor
from agent.model import (
    OWN_ERROR_KEY,
    BackendSpec,
    HttpTarget,
    Json,
    NodeIdentity,
    PeerSpec,
    ServerScope,
    ServerSpec,
)
from agent.routing.names import node_alias
from agent.routing.table import RouteKind, RouteTable
from agent.rpc_codes import INTERNAL_ERROR, INVALID_PARAMS
from agent.state.overrides import OverrideStore
from discovery.consul.registration import ConsulRegistrar
from discovery.consul.watch import ConsulWatch
from discovery.model import Registration
from tests.simulation.lying_catalog import Agent
from tests.simulation.network import SimulatedClient

if TYPE_CHECKING:
    from discovery.consul.client import ConsulClient
    from tests.simulation.world import World

SERVICE = "mcp-node"
READ, WRITE = "kit__read", "kit__write"
CALL_TIMEOUT_S = 10.0
_SCHEMA = {"type": "object", "properties": {"id": {"type": "string"}}}
TOOLS: list[Json] = [
    {"name": "read", "inputSchema": _SCHEMA, "annotations": {"readOnlyHint": True}},
    {"name": "write", "inputSchema": _SCHEMA},
]


class NoRecorder:
    """A `Recorder` that counts nothing."""

    spans = None

    def call_started(self) -> None:
        """One more call in flight."""

    def call_finished(self, backend: str, tool: str, outcome: str, seconds: float, trace_id: str = "") -> None:
        """One call less."""

    def retried(self, backend: str) -> None:
        """A call is sent again."""

    def retry_refused(self) -> None:
        """The budget forbids it."""

    def ejected(self, backend: str, reason: str) -> None:
        """A replica gets no calls."""


class _Store(OverrideStore):
    """What operators said, in memory: how it gets onto a disk is tested elsewhere."""

    async def _keep(self, kept: Any) -> None:
        self._kept = kept


@dataclass(eq=False)
class Kit:
    """The MCP server of one node: executes calls, and counts how often each was."""

    name: str
    executed: dict[str, list[str]]
    rng: random.Random
    identity: NodeIdentity | None = None
    alive: bool = True
    hangs: bool = False
    leaving: bool = False
    clients: dict[SimulatedClient, None] = field(default_factory=dict)

    def reached_by(self, name: str) -> None:
        """A server keeps no links of its own."""

    async def serve(self, method: str, params: Json) -> Json:
        """Execute one request."""
        if method == "tools/list":
            return {"tools": TOOLS}
        await asyncio.sleep(self.rng.uniform(0.0, 0.02))
        self.executed.setdefault(params["arguments"]["id"], []).append(self.name)
        await asyncio.sleep(self.rng.uniform(0.0, 0.02))
        return {"content": [{"type": "text", "text": self.name}]}


class SteppingMesh(Mesh):
    """A mesh whose steps are looked at, each of them; not all make another route table."""

    def __init__(self, stepped: Callable[[], None], **parts: Any) -> None:
        super().__init__(**parts)
        self._looks = stepped

    def _note_step(self, generation: int) -> None:
        super()._note_step(generation)
        self._looks()


class SimulatedNode:
    """See the module. One object for all lives of a node; `run` is one life.

    Long because it is the wiring of one whole node.
    """

    def __init__(self, world: "World", number: int) -> None:
        self.world = world
        self.number = number
        self.name = f"n{number}"
        self.identity = NodeIdentity(f"id-{number:04d}", self.name)
        self.epoch = 0
        self.port = 8000
        self.alive = self.hangs = self.leaving = False
        self.clients: dict[SimulatedClient, None] = {}
        self.agent = Agent(world.consul, f"agent-{number}")
        self.kit = Kit(f"kit-{number}", world.executed, world.rng)
        self.store = _Store(cast("Any", None), _empty())
        self.specs: dict[str, PeerSpec] = {}
        self.mesh: Mesh
        self.orders: OverrideService
        self.dispatch: Dispatch
        self.supervisor: Supervisor
        self.watch: ConsulWatch
        self.registrar: ConsulRegistrar
        self.rng = random.Random(world.rng.random())

    def __repr__(self) -> str:
        return f"<SimulatedNode {self.name} alive={self.alive} hangs={self.hangs}>"

    @property
    def url(self) -> str:
        """Where it is now."""
        return f"http://10.0.{self.number // 250}.{self.number % 250 + 1}:{self.port}/mcp"

    @property
    def service_id(self) -> str:
        """What the catalog calls it."""
        return node_alias(self.name, self.identity.node_id)

    @property
    def registration(self) -> Registration:
        """What it registers."""
        meta = {"node_id": self.identity.node_id, "name": self.name, "epoch": str(self.epoch)}
        address, _, _ = self.url.removeprefix("http://").partition(":")
        return Registration(self.service_id, SERVICE, self.port, address, MappingProxyType(meta))

    @asynccontextmanager
    async def life(self) -> AsyncGenerator[None, None]:
        """One life, until the block is left; what it has open ends with it."""
        self.epoch += 1
        self.specs.clear()
        client = cast("ConsulClient", self.agent)
        self.registrar = ConsulRegistrar(client, self.registration)
        answers = lambda one: self.mesh.answers(one)  # noqa: E731, PLW0108 - made below
        self.watch = ConsulWatch(client, SERVICE, own=self.registrar, answers=answers)
        self.dispatch = Dispatch(
            node_id=self.identity.node_id,
            link=lambda key: self.supervisor.link(key),  # noqa: PLW0108 - made below
            recorder=NoRecorder(),
            call_timeout_s=CALL_TIMEOUT_S,
            rng=self.rng,
            is_listed=lambda backend: backend in self.mesh.routes.parts,
        )
        crowd = Crowd()
        self.link_hooks = LinkHooks(
            self._link_changed,
            _ignored,
            self._lost,
            settled=self._settled,
            crowd=crowd,
            heard=self.dispatch.renewals.routes_changed,
        )
        async with Supervisor(self._make_link) as self.supervisor, asyncio.TaskGroup() as tasks:
            self.mesh = SteppingMesh(
                lambda: self.world.rules.stepped(self),
                own=self.identity,
                supervisor=self.supervisor,
                store=self.store,
                statics=(),
                hooks=self._hooks(),
                waits_for_catalog=True,
            )
            self.orders = OverrideService(self.mesh, self.store, tasks)
            self.mesh.take_servers([ServerSpec("kit", HttpTarget(self._kit_url), ServerScope.SERVICE)])
            self.alive, self.leaving = True, False
            self.world.network.at[self.url] = self
            self.world.network.at[self._kit_url] = self.kit
            self.members = [
                tasks.create_task(self.registrar.keep(), name=f"{self.name} registrar"),
                tasks.create_task(self._follow(), name=f"{self.name} watch"),
            ]
            loop_task = tasks.create_task(self.mesh.run(), name=f"{self.name} mesh")
            try:
                yield
            finally:
                self.alive = False
                for open_client in list(self.clients):
                    open_client.hear_reset()
                for task in (*self.members, loop_task):
                    task.cancel()

    async def leave(self) -> None:
        """SIGTERM: streams end, the registration is taken back, calls are finished (`agent.app.drain`)."""
        self.leaving = True
        for open_client in list(self.clients):
            open_client.end_streams()
        for task in self.members:
            task.cancel()
        was_well, disturbances = self.agent.is_well, self.world.disturbances
        await self.registrar.leave()
        # A clock that jumps ahead takes the time that there is for it, and a token may be deleted meanwhile.
        self.world.rules.left(self, was_well=was_well and self.world.disturbances == disturbances)
        await asyncio.sleep(0.5)

    def move(self) -> None:
        """Be at another address from the next life on."""
        self.world.network.at.pop(self.url, None)
        self.port += 1

    # What other nodes see

    def reached_by(self, name: str) -> None:
        """Another node has got through to us."""
        if self.alive:
            other = self.world.nodes[name]
            self.mesh.heard_of(other.identity.node_id)
            self.world.rules.reached(self, other)

    async def serve(self, method: str, params: Json) -> Json:
        """Answer as a node's local endpoint does."""
        routes = self.mesh.local_routes
        if method == "tools/list":
            return {"tools": [route.definition for route in routes.listed_tools()]}
        route = routes.find(RouteKind.TOOL, params["name"])
        if route is None:
            raise RpcError(INVALID_PARAMS, "unknown tool", {OWN_ERROR_KEY: True})
        try:
            return (await self.dispatch.forward(method, route, params, present=self._local(params["name"]))).result
        except (CallRefused, CallUnanswered, NoLongerOffered) as exc:
            raise as_answer(exc) from exc

    async def call(self, tool: str, call_id: str) -> str:
        """Call a tool of the mesh as a client of this node does; returns the outcome that the client gets."""
        route = self.mesh.routes.find(RouteKind.TOOL, tool)
        if route is None:
            return "unknown tool"
        params = {"name": tool, "arguments": {"id": call_id}}
        try:
            await self.dispatch.forward(
                "tools/call", route, params, present=lambda: self.mesh.routes.find(RouteKind.TOOL, tool)
            )
        except (CallRefused, NoLongerOffered):
            return "not_executed"
        except CallUnanswered:
            return "unknown"
        return "ok"

    # Within

    @property
    def _kit_url(self) -> str:
        return f"http://{self.kit.name}/mcp"

    def _local(self, name: str) -> Any:
        return lambda: self.mesh.local_routes.find(RouteKind.TOOL, name)

    async def _follow(self) -> None:
        async with aclosing(self.watch.watch()) as catalogs:
            async for catalog in catalogs:
                self.mesh.take_catalog(catalog)

    def _make_link(self, spec: BackendSpec, dials: asyncio.Semaphore) -> Link:
        if isinstance(spec, PeerSpec):
            self.specs[spec.key] = spec
            self.world.rules.loads.begun(self.name, spec.target.url)
        return Link(spec, dials, own=self.identity, hooks=self.link_hooks, rng=self.rng, dial=self._opened)

    async def _opened(self, stack: AsyncExitStack, spec: BackendSpec, own: NodeIdentity) -> OpenClient:
        """As `agent.links.dial.opened`, for a network that proves by itself who is where."""
        assert isinstance(spec.target, HttpTarget)
        client = await stack.enter_async_context(self.world.network.opened(self, spec.target.url))
        host = self.world.network.at[spec.target.url]
        if isinstance(spec, PeerSpec) and host.identity is not None:
            if host.identity.node_id == own.node_id:
                raise DialledOurselves("it is this node itself")
            if spec.expected_node_id not in (None, host.identity.node_id):
                raise IdentityRefused("another node is there")
        return OpenClient(cast("Any", client), host.identity)

    def _lost(self, key: str) -> None:
        self.world.rules.loads.lost(self, key)

    def _link_changed(self, key: str) -> None:
        self.mesh.link_changed(key)

    async def _settled(self) -> None:
        await self.mesh.links_settled()

    def _hooks(self) -> MeshHooks:
        return MeshHooks(
            mesh_changed=_ignored,
            local_changed=self._local_changed,
            offer_changed=_ignored,
            backend_gone=self._gone,
            routes_changed=self._routes_changed,
            drained=self.dispatch.drain,
            far=self.dispatch.far,
        )

    def _local_changed(self, kinds: Any) -> None:
        if kinds:
            for open_client in self.clients:
                open_client.hear_change()

    def _gone(self, key: str) -> None:
        self.dispatch.forget(key)
        if any(key in group.healths for group in self.dispatch._stats._groups.values()):
            self.world.rules.broken("what is gone keeps its ejection", f"{self.name}: {key}")
        spec = self.specs.pop(key, None)
        if spec is not None:
            departed = next((one for one in self.mesh.departed() if f"peer:{one.name}" == key), None)
            self.world.rules.removed(self, spec, up=departed is not None and not departed.failed)

    def _routes_changed(self) -> None:
        self.dispatch.renewals.routes_changed()


def as_answer(failure: CallRefused | CallUnanswered | NoLongerOffered) -> RpcError:
    """A node's own error, as `agent.server.forward` writes it for another node."""
    own: Json = {OWN_ERROR_KEY: True}
    match failure:
        case NoLongerOffered():
            return RpcError(INVALID_PARAMS, "unknown tool", own)
        case CallRefused():
            return RpcError(NOT_EXECUTED, str(failure), own | {"outcome": "not_executed"})
        case CallUnanswered():
            code = INTERNAL_ERROR if failure.broken else OUTCOME_UNKNOWN
            return RpcError(code, str(failure), own | {"outcome": "unknown", "timed_out": failure.timed_out})


def replicas_of(routes: RouteTable, tool: str) -> list[str | None]:
    """The nodes that a route may choose from."""
    route = routes.tools.get(tool)
    return [] if route is None else [replica.node_id for replica in route.replicas]


def _empty() -> Any:
    from agent.state.overrides import _Kept  # noqa: PLC0415 - its private shape, for a store without a file

    return _Kept()


def _ignored(_what: object) -> None:
    pass
