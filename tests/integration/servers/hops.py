"""The node that clients talk to: with the servers of a test itself, or one hop away from them.

Called by tests that expect the same over one hop and over two. The one rule: it is yielded when it offers all that is
behind it, each thing by as many replicas as there are.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from agent.model import ServerSpec
from tests.integration.servers.nodes import CALL_TIMEOUT_S, RunningNode, catalog, instance, running_node


@asynccontextmanager
async def front_of(
    folder: Path,
    *specs: ServerSpec,
    hops: int = 1,
    call_timeout_s: float = CALL_TIMEOUT_S,
    search_mode: bool | None = None,
) -> AsyncIterator[RunningNode]:
    """With one hop a node with these servers; with two a node before nodes that have one of them each.

    `search_mode`: of the node that is yielded.
    """
    async with AsyncExitStack() as stack:
        if hops == 1:
            front = await stack.enter_async_context(
                running_node(
                    "front", folder / "front", servers=specs, call_timeout_s=call_timeout_s, search_mode=search_mode
                )
            )
            await front.connected(*(spec.name for spec in specs))
            yield front
            return
        nodes = []
        for number, spec in enumerate(specs):
            node = await stack.enter_async_context(
                running_node(f"n{number}", folder / f"n{number}", servers=[spec], call_timeout_s=call_timeout_s)
            )
            await node.connected(spec.name)
            nodes.append(node)
        before = front_before(folder, *nodes, call_timeout_s=call_timeout_s, search_mode=search_mode)
        yield await stack.enter_async_context(before)


@asynccontextmanager
async def front_before(
    folder: Path, *nodes: RunningNode, call_timeout_s: float = CALL_TIMEOUT_S, search_mode: bool | None = None
) -> AsyncIterator[RunningNode]:
    """A node without servers that is linked to these and has their tools."""
    async with running_node("front", folder / "front", call_timeout_s=call_timeout_s, search_mode=search_mode) as front:
        front.mesh.take_catalog(catalog(*map(instance, nodes)))
        names = {name for node in nodes for name in node.tool_names()}
        counts = {name: sum(name in node.tool_names() for node in nodes) for name in names}
        await front.when(lambda: {name: replicas(front, name) for name in names} == counts)
        yield front


def replicas(node: RunningNode, tool: str) -> int:
    """How many a node can choose from for a tool."""
    route = node.mesh.routes.tools.get(tool)
    return 0 if route is None else len(route.replicas)
