"""What one change of one link costs a node of many peers: it goes down, comes up, or offers something else.

The mesh, its selection and its route tables are a node's own; links neither dial nor are called, they change when they
are asked to. Run by `bench.scale`, and by a test that counts calls in the place of time. The one rule: processor time
of this process counts, which other work of the machine changes little.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from agent.control.pinning import PinMode, Pinning
from agent.control.reconciler import Mesh
from agent.control.tables import MeshHooks
from agent.links.supervisor import Supervisor
from agent.model import (
    ORIGIN_META_KEY,
    BackendSpec,
    Json,
    LinkState,
    LinkView,
    NodeIdentity,
    Offer,
    PeerSpec,
    ServerScope,
)
from agent.routing.origins import Origin
from agent.state.overrides import OverrideStore
from discovery.model import Catalog, Health, Instance, InstanceKey

CHANGES = 12
TOOLS = 3


class _StillLink:
    """A link that is up, and changes only by `change`. Its peer has tools of its own, or those of a service of all."""

    def __init__(self, spec: BackendSpec, scope: ServerScope, changed: Callable[[str], None]) -> None:
        assert isinstance(spec, PeerSpec)
        assert spec.expected_node_id is not None
        identity = NodeIdentity(spec.expected_node_id, spec.name)
        self._changed = changed
        self.first_attempt = asyncio.Event()
        self.first_attempt.set()
        self.view = LinkView(spec, LinkState.READY, offer_of(identity, scope, TOOLS), identity)

    @property
    def spec(self) -> BackendSpec:
        return self.view.spec

    def relabel(self, spec: BackendSpec, *, sighted: bool) -> None:  # noqa: ARG002 - a still link dials nothing
        self.change(spec=spec)

    def change(self, **fields: Any) -> None:
        """Change fields of the view, as `agent.links.record` does, and say so."""
        self.view = replace(self.view, **fields)
        self._changed(self.view.key)

    async def run(self) -> None:
        await asyncio.Event().wait()

    def retire(self) -> bool:
        return False


def offer_of(identity: NodeIdentity, scope: ServerScope, tools: int, release: int = 1) -> Offer:
    """What a node with one server of so many tools lists for others."""
    entries: list[Json] = []
    for number in range(tools):
        origin = Origin.of_own(identity, "kit", f"t{number}", scope, sticky=False)
        name = f"kit__t{number}" if scope is ServerScope.SERVICE else f"{identity.name}__kit__t{number}"
        schema = {"type": "object", "description": f"release {release}"}
        entries.append({"name": name, "inputSchema": schema, "_meta": {ORIGIN_META_KEY: origin.as_json()}})
    return Offer(tools=tuple(entries), digest=f"{identity.name} {tools} {release}")


def catalog_of(peers: int) -> Catalog:
    """So many nodes, all passing."""
    return Catalog(tuple(_instance(number) for number in range(peers)))


def _instance(number: int) -> Instance:
    meta = MappingProxyType({"node_id": f"{number:08x}-0000", "name": f"n{number}", "epoch": "1"})
    key = InstanceKey("dc1", f"agent-{number}", f"n{number}-{number:08x}")
    return Instance(key, f"10.{number // 62500}.{number // 250 % 250}.{number % 250 + 1}", 8000, Health.PASSING, meta)


@asynccontextmanager
async def still_mesh(peers: int, scope: ServerScope) -> AsyncGenerator[tuple[Mesh, Callable[[str], Any]], None]:
    """A mesh of so many peers, all linked and at rest; and how to get the link of one by its backend key."""
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as folder:
        hooks = MeshHooks(*(lambda _: None for _ in range(4)))

        def changed(key: str) -> None:
            mesh.link_changed(key)

        async with Supervisor(lambda spec, _: cast("Any", _StillLink(spec, scope, changed))) as supervisor:
            mesh = Mesh(
                own=NodeIdentity("id-own", "own"),
                supervisor=supervisor,
                store=OverrideStore.open(Path(folder)),
                statics=(),
                hooks=hooks,
                pinning=Pinning(Path(folder), PinMode.WARN),
            )
            mesh.take_catalog(catalog_of(peers))
            for _ in range(4):
                await mesh.step()
            yield mesh, lambda key: cast("Any", mesh.link(key))


async def cost_ms(peers: int, scope: ServerScope) -> float:
    """Milliseconds of processor time of a link's change, the median of so many."""
    samples = []
    async with still_mesh(peers, scope) as (mesh, link):
        for number in range(CHANGES):
            one = link(f"peer:n{number % 5 * peers // 7}")
            states = (LinkState.BACKOFF, LinkState.READY)
            for state in states:
                one.change(state=state)
                began_s = time.process_time()
                await mesh.step()
                samples.append(1000 * (time.process_time() - began_s))
    return statistics.median(samples)
