"""A rolling restart under steady calls: what is away for a moment is waited for, or not executed, and never unknown.

Whole nodes, stdio servers, callers of both eras on a node that has no server of its own. The one rule: whatever is
restarted, no call ends in -32602, and at the end all of them are answered again.
"""

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.client.connect import McpClient
from agent.client.protocol import Request
from agent.errors import NOT_EXECUTED, RpcError
from agent.identity.node_key import NodeKey
from agent.model import Era, Json, ServerScope, ServerSpec, StdioTarget
from discovery.model import Catalog
from tests.integration.servers import pid_server
from tests.integration.servers.nodes import RunningNode, catalog, client, instance, running_node
from tests.ports import free_port

# A minute at a tenth of a core.
pytestmark = pytest.mark.timeout(180)

CHILD = StdioTarget(sys.executable, (str(pid_server.__file__),))
KIT = ServerSpec("kit", CHILD, ServerScope.SERVICE)
CALLS: list[tuple[str, Json]] = [
    ("tools/call", {"name": "kit__pid", "arguments": {}}),
    ("tools/call", {"name": "two__kit__pid", "arguments": {}}),
    ("prompts/get", {"name": "kit__pid", "arguments": {}}),
    ("resources/read", {"uri": "pid://kit/now"}),
    (
        "completion/complete",
        {"ref": {"type": "ref/prompt", "name": "kit__pid"}, "argument": {"name": "who", "value": ""}},
    ),
]


@dataclass
class Callers:
    """Six callers, three of each era. `outcomes`: how calls ended, by error code, 0 for a result."""

    outcomes: Counter[int] = field(default_factory=Counter)
    errors: list[RpcError] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def call_on(self, mcp: McpClient) -> None:
        while not self.ended.is_set():
            for method, params in CALLS:
                try:
                    await mcp.request(Request.within(method, params, timeout_s=20))
                    self.outcomes[0] += 1
                except RpcError as exc:
                    self.outcomes[exc.code] += 1
                    self.errors.append(exc)
                self.changed.set()

    async def more(self, answers: int = 200) -> None:
        """Wait for so many more answers."""
        goal = self.outcomes[0] + answers
        async with asyncio.timeout(30):
            while self.outcomes[0] < goal:
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def calling(node: RunningNode) -> AsyncIterator[Callers]:
    async with AsyncExitStack() as stack:
        callers = Callers()
        clients = [await stack.enter_async_context(client(node.url, era)) for era in [*Era] * 3]
        async with asyncio.TaskGroup() as group:
            for mcp in clients:
                group.create_task(callers.call_on(mcp), name="caller")
            try:
                yield callers
            finally:
                callers.ended.set()


@dataclass
class Rolling:
    """`front` has no server; `two` has one, and can be started again as what it was."""

    folder: Path
    front: RunningNode
    key: NodeKey = field(default_factory=NodeKey.new)
    port: int = field(default_factory=free_port)

    def two(self) -> AbstractAsyncContextManager[RunningNode]:
        return running_node("two", self.folder / "two", servers=[KIT], key=self.key, port=self.port)

    async def pid(self, node: RunningNode) -> int:
        async with client(node.url, Era.MODERN) as mcp:
            result = await mcp.request(Request.within("tools/call", CALLS[0][1], timeout_s=20))
        return int(result["content"][0]["text"])


@asynccontextmanager
async def rolling(folder: Path) -> AsyncIterator[Rolling]:
    async with running_node("front", folder / "front") as front:
        yield Rolling(folder, front)


def only_not_executed(callers: Callers, *allowed: int) -> None:
    wrong = [(exc.code, exc.message, exc.data) for exc in callers.errors if exc.code not in (NOT_EXECUTED, *allowed)]
    assert not wrong, (callers.outcomes, wrong[:3])
    addresses = [exc.message for exc in callers.errors if " away " in exc.message and "://127" in exc.message]
    assert not addresses, addresses[:3]
    for exc in callers.errors:
        assert exc.data["outcome"] in ("not_executed", "unknown")


async def test_a_stdio_server_that_is_restarted_again_and_again_is_never_unknown(tmp_path: Path) -> None:
    async with rolling(tmp_path) as now, now.two() as two:
        await two.connected("kit")
        now.front.mesh.take_catalog(catalog(instance(two)))
        await now.front.when(lambda: "kit__pid" in now.front.tool_names())
        pids = {await now.pid(two)}
        async with calling(now.front) as callers, calling(two) as near:
            for _ in range(3):
                await callers.more()
                os.kill(await now.pid(two), signal.SIGKILL)
                await callers.more()
                await near.more()
                pids.add(await now.pid(two))
        assert len(pids) == 4
        only_not_executed(callers, -32001)
        only_not_executed(near, -32001)


@pytest.mark.parametrize("leaves", ["by the catalog", "unannounced"])
async def test_a_peer_that_is_restarted_is_never_unknown(tmp_path: Path, leaves: str) -> None:
    async with rolling(tmp_path) as now, AsyncExitStack() as stack:
        first = await stack.enter_async_context(AsyncExitStack())
        two = await first.enter_async_context(now.two())
        await two.connected("kit")
        known = catalog(instance(two))
        now.front.mesh.take_catalog(known)
        await now.front.when(lambda: "kit__pid" in now.front.tool_names())
        async with calling(now.front) as callers:
            await callers.more()
            if leaves == "by the catalog":
                now.front.mesh.take_catalog(Catalog())
                await now.front.when(lambda: "kit__pid" not in now.front.tool_names())
            await first.aclose()
            async with asyncio.timeout(30):
                while callers.outcomes[NOT_EXECUTED] < 20:
                    callers.changed.clear()
                    await callers.changed.wait()
            await stack.enter_async_context(now.two())
            now.front.mesh.take_catalog(known)
            await callers.more()
        only_not_executed(callers, -32001)
        said = {exc.message.partition(" since ")[0] for exc in callers.errors if exc.code == NOT_EXECUTED}
        assert any(text.endswith("server kit on two is away") for text in said), said
