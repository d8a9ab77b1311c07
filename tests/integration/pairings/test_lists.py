"""Pairings: each definition is what its server wrote, and clients are notified of changed lists."""

import asyncio
import json
from typing import Any

import pytest
from mcp.client import Client
from mcp.client.subscriptions import listen

from agent.model import Era, Json
from tests.integration.pairings.cells import Cell, wire
from tests.integration.servers.pairing_definitions import PROMPTS, RESOURCES, TEMPLATES, TOOLS
from tests.integration.test_unchanged import exactly
from tests.waiting import UNREPAIRED_S

# Method, member of the result, what the server wrote, and what names it.
LISTS: list[tuple[str, str, list[Json], str]] = [
    ("tools/list", "tools", TOOLS, "name"),
    ("prompts/list", "prompts", PROMPTS, "name"),
    ("resources/list", "resources", RESOURCES, "uri"),
    ("resources/templates/list", "resourceTemplates", TEMPLATES, "uriTemplate"),
]


def of_server(cell: Cell, listed: list[Json], key: str) -> dict[str, Json]:
    """The definitions of the cell's server, by the names that the server gave."""
    public = cell.uri("pair://") if key != "name" else cell.name("")
    own = "pair://" if key != "name" else ""
    return {own + found[key].removeprefix(public): found for found in listed if found[key].startswith(public)}


@pytest.mark.parametrize("listing", LISTS, ids=lambda listing: listing[0])
async def test_each_member_of_a_definition_is_what_the_server_wrote(
    cell: Cell, listing: tuple[str, str, list[Json], str]
) -> None:
    method, member, written, key = listing
    async with wire(cell) as mcp:
        answer = await mcp.raw(method, {})
    listed = of_server(cell, json.loads(answer)["result"][member], key)
    for definition in written:
        found = listed[definition[key]]
        meta = found.pop("_meta")
        assert meta.pop("mesh-agent/origin")
        assert meta == definition.get("_meta", {})
        expected = {name: value for name, value in definition.items() if name not in (key, "_meta")}
        if cell.front is Era.LEGACY and member == "tools":  # It calls no others as tasks, and these may be tasks.
            expected.setdefault("execution", {"taskSupport": "optional"})
        del found[key]
        # By spelling and order, too: 1.0 is not 1.
        assert exactly(json.dumps(found)) == exactly(json.dumps(expected))
    for name in ("inputSchema", "outputSchema"):
        if name in written[0]:
            schema = json.dumps(written[0][name], separators=(",", ":"), ensure_ascii=False).encode()
            assert schema in answer, "byte for byte"


async def test_a_list_says_how_long_it_is_good_to_clients_that_know_the_word(cell: Cell) -> None:
    async with wire(cell) as mcp:
        result = await mcp.ask("tools/list", {})
    words = {"resultType", "ttlMs", "cacheScope"}
    assert words & result.keys() == (words if cell.front is Era.MODERN else set())


async def grown(cell: Cell, changed: asyncio.Queue[str]) -> None:
    """Let the server change its lists, and wait until notices led to each new list."""
    missing = {f"notifications/{member}/list_changed": method for method, member, *_ in LISTS[:3]}
    async with wire(cell) as mcp, asyncio.timeout(UNREPAIRED_S):
        await mcp.text("grow", name=cell.room)
        while missing:
            kind = await changed.get()
            if kind in missing and cell.room.encode() in await mcp.raw(missing[kind], {}):
                del missing[kind]


async def test_a_change_of_each_list_is_announced(cell: Cell) -> None:
    changed: asyncio.Queue[str] = asyncio.Queue()

    async def hear(message: Any) -> None:
        changed.put_nowait(message.method)

    if cell.front is Era.LEGACY:
        async with Client(cell.url, mode="legacy", message_handler=hear):
            await grown(cell, changed)
        return

    async def follow(subscription: Any) -> None:
        async for event in subscription:
            changed.put_nowait(f"notifications/{type(event).__name__.removesuffix('ListChanged').lower()}/list_changed")

    kinds = dict.fromkeys(("tools_list_changed", "prompts_list_changed", "resources_list_changed"), True)
    async with Client(cell.url) as mcp, listen(mcp.session, **kinds) as subscription, asyncio.TaskGroup() as group:
        following = group.create_task(follow(subscription), name="follow")
        await grown(cell, changed)
        following.cancel()
