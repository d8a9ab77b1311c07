"""A node dies without a goodbye and comes back: what its peers and their clients see, on both catalogs.

The one rule: calls that others can answer never fail.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from mcp.client.subscriptions import ToolsListChanged, listen
from mcp_types import ServerNotification, ToolListChangedNotification

from tests.e2e.meshes import CatalogKind
from tests.e2e.running import MANAGEMENT_TOOLS, RunningNode, StartNode
from tests.e2e.servers_files import example
from tests.e2e.steady_calls import steady_calls
from tests.ports import free_port
from tests.waiting import all_of, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

# A dead process is seen by the end of its streams, at once; probes alone would take longer than this. What is left is
# the pace of a busy test machine.
SEEN_WITHIN_S = 8.0
# The tools of the clock and the dice, and the management tools.
COUNTS = {"b": 3 + len(MANAGEMENT_TOOLS), "c": 1 + len(MANAGEMENT_TOOLS)}


@asynccontextmanager
async def told_of_changes(node: RunningNode, era: str) -> AsyncGenerator[asyncio.Event, None]:
    """A connected client; the event is set whenever it is notified that the tools changed."""
    told = asyncio.Event()

    async def take(message: ServerNotification | Exception) -> None:
        if isinstance(message, ToolListChangedNotification):
            told.set()

    async def follow() -> None:
        async with listen(client.session, tools_list_changed=True) as subscription:
            following.set()
            async for event in subscription:
                if isinstance(event, ToolsListChanged):
                    told.set()

    following = asyncio.Event()
    async with node.client(era, message_handler=take) as client, asyncio.TaskGroup() as group:
        reader = group.create_task(follow(), name="follow") if era == "auto" else None
        if reader is not None:
            await following.wait()
        try:
            yield told
        finally:
            if reader is not None:
                reader.cancel()


async def within(event: asyncio.Event, timeout_s: float) -> None:
    async with asyncio.timeout(timeout_s):
        await event.wait()
    event.clear()


async def test_killed_node_is_dropped_at_once_and_taken_back_when_it_returns(
    catalog: CatalogKind, start: StartNode, tmp_path: Path
) -> None:
    settings = catalog.fresh()
    servers = {"a": None, "b": {"clock": example("clock"), "dice": example("dice", "service")}}
    servers["c"] = {"dice": example("dice", "service")}
    a, b, c = await all_of(start(name, tmp_path / name, servers=own, **settings) for name, own in servers.items())
    for node, others in ((a, "bc"), (b, "ac"), (c, "ab")):
        await eventually(partial(node.sees, *others))
        await eventually(partial(node.offers, "b__clock__now", "dice__roll"))
    # A tool of two nodes is listed as soon as one of them has it; here it must not go with the one that is killed.
    await eventually(partial(a.counts, {"b": COUNTS["b"], "c": COUNTS["c"]}))
    async with told_of_changes(a, "auto") as modern, told_of_changes(a, "legacy") as legacy:
        b.kill()
        await b.process.wait()
        async with steady_calls(a, "dice__roll") as tally:
            await within(modern, SEEN_WITHIN_S)
            await within(legacy, SEEN_WITHIN_S)
            for node in (a, c):
                await eventually(partial(has_lost_b, node), SEEN_WITHIN_S)
            assert (await c.peers())["a"]["connected"]
            await tally.grows()
            await start(b)
            await within(modern, 30)
            await within(legacy, 30)
            for node, others in ((a, "bc"), (b, "ac"), (c, "ab")):
                await eventually(partial(node.sees, *others))
                await eventually(partial(node.offers, "b__clock__now", "dice__roll"))
            await tally.grows()
        assert tally.failures == []
    async with a.client() as client:
        assert (await client.call_tool("b__clock__now", {})).structured_content["zone"] == "UTC"


async def has_lost_b(node: RunningNode) -> bool:
    return await node.tool_names() == {"dice__roll"} and not (await node.peers())["b"]["connected"]


async def test_calls_go_on_while_the_process_that_serves_the_embedded_catalog_dies(
    start: StartNode, tmp_path: Path
) -> None:
    settings = {"MESH_DISCOVERY": "embedded", "MESH_EMBEDDED_PORT": str(free_port())}
    first = await start("first", tmp_path / "first", servers={"clock": example("clock")}, **settings)
    await eventually(partial(serves_catalog, first))
    second, third = await all_of(
        start(name, tmp_path / name, servers={"notes": example("notes")}, **settings) for name in ("second", "third")
    )
    await eventually(partial(second.sees, "first", "third"))
    await eventually(partial(third.sees, "first", "second"))
    await eventually(partial(second.offers, "third__notes__list"))
    async with steady_calls(second, "third__notes__list") as tally:
        await tally.grows()
        first.kill()
        await first.process.wait()
        fourth = await start("fourth", tmp_path / "fourth", **settings)
        await eventually(partial(fourth.offers, "second__notes__list", "third__notes__list"))
        await eventually(partial(registered, second, third, fourth))
        for node in (second, third):
            await eventually(partial(has_links_to, node, {"second", "third", "fourth"} - {node.name}))
        await tally.grows()
    assert tally.failures == []
    assert sum([await serves_catalog(node) for node in (second, third, fourth)]) == 1


async def has_links_to(node: RunningNode, names: set[str]) -> bool:
    return {name for name, peer in (await node.peers()).items() if peer["connected"]} == names


async def serves_catalog(node: RunningNode) -> bool:
    return bool(node.events("embedded catalog: serving, for one machine only"))


async def registered(*nodes: RunningNode) -> bool:
    found = [await node.discovery() for node in nodes]
    return all(one["up"] and one["registered"] for one in found)
