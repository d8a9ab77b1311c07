"""What a change of one instance of a long catalog costs the event loop of a node: the longest piece of work in it.

The watch, the mesh with its links' table, and the catalog on disk are a node's own; the catalog comes over HTTP from
`bench.long_catalog`, and links neither dial nor are called. Run by `bench.scale`, and by a test that holds the limit,
as `python -m bench.catalog_change INSTANCES CHANGES STATE`, STATE of all links; prints a list of costs. The one rule:
processor time of the loop's own thread counts, which other work of the machine changes little.
"""

import asyncio
import sys
import tempfile
import time
from contextlib import AsyncExitStack, aclosing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import aiohttp
import orjson

from agent.control.pinning import PinMode, Pinning
from agent.control.reconciler import Mesh
from agent.control.tables import MeshHooks
from agent.late import settle_memory
from agent.links.supervisor import Supervisor
from agent.model import BackendSpec, LinkState, LinkView, NodeIdentity, PeerSpec
from agent.state.catalog_cache import CatalogCache
from agent.state.overrides import OverrideStore
from bench.processes import long_catalog_server
from discovery.consul.client import open_client
from discovery.consul.environment import ConsulSettings
from discovery.consul.watch import ConsulWatch

SERVICE = "mcp-node"
# From a change's arrival at its link to the next change: what follows of one, as its text on disk, is over by then.
BETWEEN_S = 1.0


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one change, in seconds of processor time of the loop's thread: its longest turn, and all of its turns."""

    longest_s: float
    whole_s: float


class MeasuredLoop(asyncio.SelectorEventLoop):
    """Notes the processor time of each of its turns; a turn runs all that is ready, and holds up all else."""

    def __init__(self) -> None:
        super().__init__()
        self.turns_s: list[float] = []

    def _run_once(self) -> None:
        began_s = time.thread_time()
        super()._run_once()  # type: ignore[misc] # of the base class, without a public name
        self.turns_s.append(time.thread_time() - began_s)

    def cost_and_forget(self) -> Cost:
        """What has happened since the last time."""
        turns_s, self.turns_s = self.turns_s, []
        return Cost(max(turns_s, default=0.0), sum(turns_s))


class _Link:
    """The table's entry of a peer that is in one state for ever; `relabelled` is set when its entry has changed."""

    def __init__(self, spec: BackendSpec, state: LinkState, relabelled: asyncio.Event) -> None:
        self._relabelled = relabelled
        self.first_attempt = asyncio.Event()
        self.first_attempt.set()
        self.relabel(spec, sighted=False, state=state)

    def relabel(self, spec: BackendSpec, *, sighted: bool, state: LinkState | None = None) -> None:
        if sighted:
            self._relabelled.set()
        self.spec = spec
        node_id = spec.expected_node_id if isinstance(spec, PeerSpec) else None
        identity = NodeIdentity(node_id, spec.name) if node_id else None
        self.view = LinkView(spec, self.view.state if state is None else state, identity=identity)

    async def run(self) -> None:
        await asyncio.Event().wait()

    def retire(self) -> bool:
        return False


async def costs_of_changes(instances: int, changes: int, state: LinkState) -> list[Cost]:
    """The cost of each of so many changes, one after the other, in a process of its own. `state`: of all links."""
    command = [sys.executable, "-m", __name__, str(instances), str(changes), state.value]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    written, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"measuring changes exited with {process.returncode}")
    return [Cost(**cost) for cost in orjson.loads(written)]


def main() -> None:
    """See the module."""
    instances, changes, state = sys.argv[1:]
    loop = MeasuredLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        costs = runner.run(_measured(loop, int(instances), int(changes), LinkState(state)))
    sys.stdout.write(orjson.dumps([asdict(cost) for cost in costs]).decode())


async def _measured(loop: MeasuredLoop, instances: int, changes: int, state: LinkState) -> list[Cost]:
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(long_catalog_server(instances))
        client = await stack.enter_async_context(open_client(ConsulSettings(url=url)))
        operator = await stack.enter_async_context(aiohttp.ClientSession(url))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mesh-bench-")))
        done = asyncio.Event()
        supervisor = Supervisor(lambda spec, _: cast("Any", _Link(spec, state, done)))
        await stack.enter_async_context(supervisor)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        mesh = _mesh(supervisor, folder)
        cache = CatalogCache(folder)

        async def follow() -> None:
            async with aclosing(ConsulWatch(client, SERVICE).watch()) as catalogs:
                async for catalog in catalogs:
                    mesh.take_catalog(catalog)
                    cache.take(url, SERVICE, catalog)

        running = [tasks.create_task(one, name="measured") for one in (mesh.run(), cache.keep(), follow())]
        while len(supervisor.actual) < instances:
            await asyncio.sleep(0.1)
        await asyncio.sleep(BETWEEN_S)
        settle_memory()  # As a node does.
        await asyncio.sleep(0)  # That is none of the first change's.
        costs = []
        for _ in range(changes):
            done.clear()
            loop.cost_and_forget()
            (await operator.put("/change")).release()
            await done.wait()
            await asyncio.sleep(BETWEEN_S)
            costs.append(loop.cost_and_forget())
        for task in running:
            task.cancel()
    return costs


def _mesh(supervisor: Supervisor, folder: Path) -> Mesh:
    hooks = MeshHooks(*(lambda _: None for _ in range(4)))
    own = NodeIdentity("id-own", "own")
    pinning = Pinning(folder, PinMode.WARN)
    store = OverrideStore.open(folder)
    return Mesh(own=own, supervisor=supervisor, store=store, statics=(), hooks=hooks, pinning=pinning)


if __name__ == "__main__":
    main()
