"""How soon clients of one node hear of what happens on another one: it joins, its offer changes, it leaves or dies.

Whole nodes, a client of each era on one of them. The one rule: the clock runs from the event itself to the client's
ear, and what it lists then is true.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.client.connect import McpClient
from agent.client.protocol import Request
from agent.model import Era, HttpTarget, ServerScope, ServerSpec
from agent.server.listen import INTERVAL_S
from discovery.model import Catalog
from tests.integration.servers.fastmcp_server import make_server
from tests.integration.servers.nodes import (
    CLIENT_TIMEOUT_S,
    RunningNode,
    catalog,
    client,
    instance,
    running_node,
    served,
)
from tests.waiting import promised_within

# What users were promised; it takes a twentieth of that on a machine with time to spare.
TOLD_WITHIN_S = 2.0
TOOL = "two__kit__echo"


@dataclass
class Ear:
    """One client: when it was notified of changed tools, and whether its list has a tool."""

    mcp_client: McpClient
    told_at_s: list[float] = field(default_factory=list)
    listening: asyncio.Event = field(default_factory=asyncio.Event)
    told: asyncio.Event = field(default_factory=asyncio.Event)

    def hear(self, what: str) -> None:
        if what == "listening":
            self.listening.set()
        elif what == "tools":
            self.told_at_s.append(asyncio.get_running_loop().time())
            self.told.set()

    async def lists(self, tool: str, *, present: bool = True) -> None:
        """Wait, from now on, until it was notified and its list is so; the promise is for a process that runs."""
        async with promised_within(TOLD_WITHIN_S):
            is_so = not present
            while is_so is not present:
                await self.told.wait()
                self.told.clear()
                listed = await self.mcp_client.request(Request.within("tools/list", {}, timeout_s=CLIENT_TIMEOUT_S))
                is_so = tool in {entry["name"] for entry in listed["tools"]}


@asynccontextmanager
async def ears(node: RunningNode) -> AsyncIterator[list[Ear]]:
    """Listening clients, one of each era."""
    async with AsyncExitStack() as stack:
        found = [Ear(await stack.enter_async_context(client(node.url, era))) for era in (Era.MODERN, Era.LEGACY)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ear.mcp_client.listen(ear.hear), name="ear") for ear in found]
            for ear in found:
                await ear.listening.wait()
            yield found
            for task in tasks:
                task.cancel()


async def both(heard: list[Ear], tool: str, *, present: bool = True) -> None:
    async with asyncio.TaskGroup() as group:
        for ear in heard:
            group.create_task(ear.lists(tool, present=present), name="lists")


def kit(url: str) -> ServerSpec:
    return ServerSpec("kit", HttpTarget(url), ServerScope.NODE)


async def test_a_join_a_changed_offer_and_a_leave_reach_clients_of_both_eras_in_time(tmp_path: Path) -> None:
    server = make_server(listen=True)
    async with (
        served(server) as url,
        running_node("one", tmp_path / "one") as one,
        running_node("two", tmp_path / "two", servers=[kit(url)]) as two,
        ears(one) as heard,
    ):
        await two.connected("kit")
        one.mesh.take_catalog(catalog(instance(two)))
        await both(heard, TOOL)

        @server.tool
        def brand_new() -> str:
            return "new"

        async with client(two.url, Era.MODERN) as mcp:
            await mcp.request(
                Request.within("tools/call", {"name": "two__kit__announce", "arguments": {}}, timeout_s=5)
            )
        await both(heard, "two__kit__brand_new")
        one.mesh.take_catalog(Catalog())
        await both(heard, TOOL, present=False)


async def test_the_death_of_a_node_reaches_clients_of_both_eras_in_time(tmp_path: Path) -> None:
    async with (
        served(make_server()) as url,
        running_node("one", tmp_path / "one") as one,
        AsyncExitStack() as stack,
        ears(one) as heard,
    ):
        two = await stack.enter_async_context(running_node("two", tmp_path / "two", servers=[kit(url)]))
        await two.connected("kit")
        one.mesh.take_catalog(catalog(instance(two)))
        await both(heard, TOOL)
        await stack.aclose()  # The catalog still has it.
        await both(heard, TOOL, present=False)


@pytest.mark.parametrize("changes", [3, 30])
async def test_a_burst_of_changes_is_announced_at_the_pace_that_was_promised(changes: int, tmp_path: Path) -> None:
    async with (
        served(make_server()) as url,
        running_node("one", tmp_path / "one") as one,
        running_node("two", tmp_path / "two", servers=[kit(url)]) as two,
        ears(one) as heard,
    ):
        await two.connected("kit")
        one.mesh.take_catalog(catalog(instance(two)))
        await both(heard, TOOL)
        for _ in range(changes):
            one.mesh.take_catalog(Catalog())
            await one.when(lambda: TOOL not in one.tool_names())
            one.mesh.take_catalog(catalog(instance(two)))
            await one.when(lambda: TOOL in one.tool_names())
        one.mesh.take_catalog(Catalog())
        await both(heard, TOOL, present=False)
        for ear in heard:
            gaps_s = [later - sooner for sooner, later in zip(ear.told_at_s, ear.told_at_s[1:], strict=False)]
            # A notice that was late on its way makes the next one look early.
            took_s = ear.told_at_s[-1] - ear.told_at_s[0]
            assert len(gaps_s) <= took_s / INTERVAL_S + 1, gaps_s
