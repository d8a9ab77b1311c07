"""By which ways a name is reached: each replica of a service, ours among them, and what is away."""

from contextlib import AsyncExitStack
from pathlib import Path

from fastmcp import FastMCP

from agent.control.ping import ping
from agent.model import HttpTarget, ServerScope, ServerSpec
from tests.integration.servers.nodes import catalog, instance, running_node, served


async def test_a_ping_asks_each_replica_of_a_service_and_says_why_one_that_is_away_does_not_answer(
    tmp_path: Path,
) -> None:
    server: FastMCP = FastMCP("index")
    server.tool(lambda: "found", name="search")
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(served(server))
        spec = ServerSpec("index", HttpTarget(url), ServerScope.SERVICE)
        only = ServerSpec("only", HttpTarget(url), ServerScope.NODE)
        here = await stack.enter_async_context(running_node("here", tmp_path / "here", servers=[spec]))
        await here.connected("index")
        async with running_node("there", tmp_path / "there", servers=[spec, only]) as there:
            await there.connected("index")
            await there.connected("only")
            here.mesh.take_catalog(catalog(instance(there)))
            await here.when(lambda: "there__only__search" in here.tool_names())
            for name in ("index", "index__search"):
                ways = (await ping(here.mesh, name))["ways"]
                assert sorted(way["way"] for way in ways) == [["here", "index"], ["here", "there"]]
                assert all(way["ms"] is not None for way in ways)
        await here.when(lambda: "there__only__search" not in here.tool_names())
        for name, kind in (("there__only__search", "tool"), ("there__only", "server")):
            told = await ping(here.mesh, name)
            (way,) = told["ways"]
            assert (told["kind"], way["ms"]) == (kind, None)
            assert way["error"]
