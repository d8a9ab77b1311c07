"""What a client of one node gets of servers that live on others: the same as from the servers themselves, in both eras.

On the shared mesh, which its nodes joined with nothing but the catalog's address.
"""

from typing import Any

import orjson
import pytest
from fastmcp.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from mcp_types import PromptReference, ResourceTemplateReference

from agent.examples import dice, notes
from agent.model import ORIGIN_META_KEY
from tests.e2e.by_hand import legacy_tools, modern_request
from tests.e2e.meshes import SHARED_PROMPTS, SHARED_RESOURCES, SHARED_TEMPLATES, SHARED_TOOLS, SharedMesh
from tests.e2e.running import ERAS, MANAGEMENT_TOOLS

# The first of them has the shared mesh to start.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120), pytest.mark.parametrize("era", ERAS)]


async def test_every_node_lists_the_tools_of_all(mesh: SharedMesh, era: str) -> None:
    for node in mesh.nodes:
        async with node.client(era) as client:
            assert client.protocol_version == {"auto": "2026-07-28", "legacy": "2025-11-25"}[era]
            assert {tool.name for tool in await client.list_tools()} == MANAGEMENT_TOOLS | SHARED_TOOLS


async def test_tools_of_peers_are_called_over_stdio_and_http(mesh: SharedMesh, era: str) -> None:
    async with mesh.plain.client(era) as client:
        title = f"from {era}"
        await client.call_tool("desk__notes__add", {"title": title, "text": "ünïcödé ✓"})
        read = await client.call_tool("desk__notes__read", {"title": title})
        assert read.structured_content["text"] == "ünïcödé ✓"
        told = await client.call_tool("hall__clock__convert", {"time": "2026-11-22T12:00:00Z", "zone": "Asia/Taipei"})
        assert told.structured_content == {"time": "2026-11-22T20:00:00+08:00", "zone": "Asia/Taipei"}
        rolled = await client.call_tool("dice__roll", {"seed": 7, "count": 3})
        assert rolled.structured_content == dice.roll(seed=7, count=3)
        tree = {"label": "root", "children": [{"label": "樹", "children": []}]}
        assert (await client.call_tool("kit__plant", {"tree": tree})).structured_content == tree


async def test_a_uri_longer_than_usual_headers_leads_to_its_server(mesh: SharedMesh, era: str) -> None:
    uri = "notes://desk__notes/note/" + "ü" * 4_000
    async with mesh.plain.client(era) as client:
        with pytest.raises(MCPError) as unknown:
            await client.read_resource(uri)
    assert "no resource 'notes://note/%C3%BC%C3%BC" in unknown.value.error.message


async def test_structured_results_and_their_text_pass_unchanged(mesh: SharedMesh, era: str) -> None:
    async with mesh.plain.client(era) as client:
        result = await client.call_tool("kit__add", {"terms": [1, 2, 3]})
    assert result.structured_content == {"total": 6, "terms": [1, 2, 3]}
    assert orjson.loads(result.content[0].text) == {"total": 6, "terms": [1, 2, 3]}
    assert result.data.total == 6


async def test_errors_of_a_tool_are_results_and_unknown_names_are_errors(mesh: SharedMesh, era: str) -> None:
    async with mesh.plain.client(era) as client:
        with pytest.raises(ToolError, match="because of the rain"):
            await client.call_tool("kit__fail", {"reason": "because of the rain"})
        refused = await client.call_tool("desk__notes__read", {"title": "no such note"}, raise_on_error=False)
        assert refused.is_error
        assert refused.content[0].text == "there is no note 'no such note'"
        with pytest.raises(MCPError) as unknown:
            await client.call_tool("kit__no_such_tool", {})
        assert unknown.value.error.code == -32602
        with pytest.raises(MCPError) as not_there:
            await client.read_resource("notes://desk__notes/note/none")
        assert not_there.value.error.code != 0


async def test_progress_of_a_peers_tool_arrives_in_order_and_before_the_result(mesh: SharedMesh, era: str) -> None:
    steps: list[tuple[float, float | None, str | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        steps.append((progress, total, message))

    async with mesh.plain.client(era) as client:
        result = await client.call_tool("kit__count", {"to": 5}, progress_handler=note)
        assert result.content[0].text == "counted"
        assert steps == [(n, 5, f"step {n}") for n in range(1, 6)]


async def test_prompts_of_peers_are_listed_and_filled_in(mesh: SharedMesh, era: str) -> None:
    async with mesh.plain.client(era) as client:
        assert {prompt.name for prompt in await client.list_prompts()} == SHARED_PROMPTS
        greeting = await client.get_prompt("kit__greet", {"name": "Ada", "tone": "formal"})
        assert greeting.messages[0].content.text == "Greet Ada in a formal way."
        summary = await client.get_prompt("desk__notes__summarise", {"topic": "birds"})
        assert summary.messages[0].content.text.startswith("Summarise what these notes say about birds")


async def test_resources_and_templates_of_peers_are_listed_and_read(mesh: SharedMesh, era: str) -> None:
    async with mesh.plain.client(era) as client:
        listed = {str(resource.uri) for resource in await client.list_resources()}
        assert listed == SHARED_RESOURCES
        templates = {template.uri_template for template in await client.list_resource_templates()}
        assert templates == SHARED_TEMPLATES
        (motd,) = await client.read_resource("kit://kit/motd")
        assert (str(motd.uri), motd.text) == ("kit://kit/motd", "be kind")
        (item,) = await client.read_resource("kit://kit/item/seven")
        assert (str(item.uri), orjson.loads(item.text)) == ("kit://kit/item/seven", {"key": "seven"})
        title = f"resource {era}"
        await client.call_tool("desk__notes__add", {"title": title, "text": "as a resource"})
        (note,) = await client.read_resource(f"notes://desk__notes/note/resource%20{era}")
        assert note.text == "as a resource"
        (own,) = await client.read_resource("health://system")
        assert orjson.loads(own.text)["status"] == "healthy"


async def test_arguments_of_peers_prompts_and_templates_are_completed(mesh: SharedMesh, era: str) -> None:
    async with mesh.plain.client(era) as client:
        prompt = PromptReference(type="ref/prompt", name="kit__greet")
        found = await client.complete(prompt, {"name": "tone", "value": "fr"})
        assert found.values == ["friendly", "frosty"]
        template = ResourceTemplateReference(type="ref/resource", uri="kit://kit/item/{key}")
        found = await client.complete(template, {"name": "key", "value": "key"})
        assert found.values == ["key-1", "key-2"]


async def test_definitions_are_those_of_the_server_byte_for_byte(mesh: SharedMesh, era: str) -> None:
    through = {tool["name"]: tool for tool in await listed_tools(mesh.plain.url, era)}
    # The node talks to the kit in the modern era, so that is where the bytes come from.
    modern = await listed_tools(mesh.kit_url, "auto")
    assert len(modern) == 5
    for definition in modern:
        assert without_ours(through[f"kit__{definition['name']}"]) == without_ours(definition), definition["name"]
    # The SDK writes members of a schema in another order to a client of the other era; they must be the same ones.
    for definition in await listed_tools(mesh.kit_url, era):
        shown = through[f"kit__{definition['name']}"]
        assert [orjson.loads(part) for part in without_ours(shown)] == [
            orjson.loads(part) for part in without_ours(definition)
        ]
    offered = notes.SERVER.answer("tools/list", {})["tools"]
    for definition in offered:
        shown = through[f"desk__notes__{definition['name']}"]
        assert without_ours(shown) == without_ours(definition)


async def test_origin_of_a_tool_tells_server_and_own_name(mesh: SharedMesh, era: str) -> None:
    through = {tool["name"]: tool for tool in await listed_tools(mesh.plain.url, era)}
    assert (
        through["kit__add"]["_meta"][ORIGIN_META_KEY] | {"server": "kit", "tool": "add"}
        == (through["kit__add"]["_meta"][ORIGIN_META_KEY])
    )


async def listed_tools(url: str, era: str) -> list[dict[str, Any]]:
    """The raw list, as it goes over the wire in that era."""
    if era == "auto":
        tools: list[dict[str, Any]] = (await modern_request(url, "tools/list"))["tools"]
        return tools
    return await legacy_tools(url)


def without_ours(definition: dict[str, Any]) -> tuple[bytes, bytes]:
    """The bytes of a definition without its name, and of its `_meta` without what the mesh says about its origin."""
    meta = {key: value for key, value in definition.get("_meta", {}).items() if key != ORIGIN_META_KEY}
    rest = {key: value for key, value in definition.items() if key not in ("_meta", "name")}
    return orjson.dumps(rest), orjson.dumps(meta)


async def test_node_with_no_servers_knows_where_each_tool_lives(mesh: SharedMesh, era: str) -> None:
    async with mesh.plain.client(era) as client:
        known = (await client.call_tool("list_mcp_servers", {})).structured_content
        assert {server["name"]: server["status"] for server in known["servers"]} == {
            "desk": "connected",
            "hall": "connected",
        }
        functions = (await client.call_tool("get_mcp_server_functions", {"server_name": "hall"})).structured_content
        assert {(f["name"], f["mesh_name"]) for f in functions["functions"]} == {
            ("now", "hall__clock__now"),
            ("convert", "hall__clock__convert"),
            ("roll", "dice__roll"),
            *((name, None) for name in MANAGEMENT_TOOLS),
        }
        available = (await client.call_tool("get_available_mcp_servers", {})).structured_content
        assert available == {"servers": ["desk", "hall"], "count": 2}
