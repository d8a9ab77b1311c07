"""The stage of the matrix, a process of its own: two nodes, and a server of each era and transport.

Started by the fixture in conftest.py. It writes the endpoints of its nodes as a line of JSON and lives until its input
ends. The one rule: `back` runs all servers, `front` has none and knows them by its link to `back`.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from agent.model import Era, HttpTarget, ServerScope, ServerSpec, Sessions, StdioTarget
from tests.integration.servers import warm
from tests.integration.servers.hops import front_before
from tests.integration.servers.hosting import Front, http_app, serving
from tests.integration.servers.nodes import running_node
from tests.integration.servers.pairing_server import PairingServer

ROOT = Path(__file__).parents[3]


@asynccontextmanager
async def served(era: Era) -> AsyncIterator[ServerSpec]:
    """A server over HTTP."""
    refused = 400 if era is Era.LEGACY else None
    async with http_app(PairingServer(era).server) as app, serving(Front(app, refuse_modern=refused)) as base:
        yield ServerSpec(f"{era}-http", HttpTarget(f"{base}/mcp"), ServerScope.SERVICE)


def child(era: Era, *, own: bool = False) -> ServerSpec:
    """A server over stdio, shared by its callers or with children of their own."""
    target = StdioTarget(
        sys.executable, (*warm.COMMAND, "tests.integration.servers.pairing_server", era), cwd=str(ROOT)
    )
    name = f"{era}-own" if own else f"{era}-stdio"
    return ServerSpec(name, target, ServerScope.SERVICE, sessions=Sessions.OWN if own else Sessions.AUTO)


async def main() -> None:
    """Run until the input ends."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        stack.enter_context(warm.warm_servers())
        servers = [await stack.enter_async_context(served(era)) for era in Era]
        servers += [*map(child, Era), child(Era.LEGACY, own=True)]
        back = await stack.enter_async_context(running_node("back", folder / "back", servers=servers))
        await back.connected(*(spec.name for spec in servers))
        front = await stack.enter_async_context(front_before(folder, back))
        sys.stdout.write(json.dumps({"own": back.url, "peer": front.url}) + "\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
