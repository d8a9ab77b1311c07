"""The registry of a running mesh: what a token lists, in the shapes of the MCP Registry API, and what editors read.

Nodes: `inner` with named tokens; `open` beside it, whose registry is public under a URL of its own; `alone` without
tokens. The one rule: what the registry names, a client of MCP reaches by the URL that stands there.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from fastmcp import Client
from fastmcp.client.transports import StreamableHttpTransport
from jsonschema import Draft202012Validator

from tests.attacks.clients import entry, token_of, write_tokens
from tests.e2e.running import RunningNode, nodes_below, start_node
from tests.e2e.servers_files import example
from tests.ports import free_port
from tests.registry_schemas import SERVER_CARD, SERVER_LIST, SERVER_RESPONSE
from tests.waiting import all_of, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

TOKENS = {
    "reader": entry("reader", "read", "mcp"),
    "client": entry("client", "mcp"),
    "narrow": entry("narrow", "read", "mcp", tools=["notes__*"]),
}
PUBLIC_URL = "https://mesh.example.com/tools"
EDITOR = "vscode-file://vscode-app"
CARDS = ("/.well-known/mcp/server-card.json", "/mcp/server-card")
OWN = "local.mcp-node"


@dataclass(frozen=True)
class Pair:
    inner: RunningNode
    open: RunningNode
    alone: RunningNode


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("registry")
    mesh = {
        "MESH_DISCOVERY": "embedded",
        "MESH_EMBEDDED_PORT": str(free_port()),
        "MESH_TOKENS_FILE": str(write_tokens(folder / "tokens.json", TOKENS)),
        "MESH_TOKEN": "of-operators-0123456789",
        "MESH_PEER_TOKEN": "one-mesh-for-all-nodes-of-a-test",
    }
    servers: dict[str, dict[str, Any]] = {
        "inner": {"notes": example("notes", "service")},
        "open": {"dice": example("dice", "service"), "diary": example("notes", "private")},
    }
    more = {"inner": {}, "open": {"MESH_REGISTRY_PUBLIC": "1", "MESH_PUBLIC_URL": PUBLIC_URL}}

    async def start() -> Pair:
        found = await all_of(
            start_node(name, folder / name, servers=own, **mesh, **more[name]) for name, own in servers.items()
        )
        diary = {"diary": example("notes", "private")}
        alone = await start_node("alone", folder / "alone", servers=diary, MESH_DISCOVERY="off")
        await all_of(eventually(partial(node.offers, "notes__add", "dice__roll")) for node in found)
        await eventually(partial(alone.offers, "alone__diary__add"))
        return Pair(*found, alone)

    with nodes_below(folder):
        yield asyncio.run(start())


async def get(node: RunningNode, path: str, holder: str | None = None, **headers: str) -> tuple[int, Any, Any]:
    if holder is not None:
        headers["Authorization"] = f"Bearer {token_of(holder)}"
    async with aiohttp.ClientSession() as http, http.get(node.base + path, headers=headers) as response:
        is_json = "json" in response.content_type
        return (
            response.status,
            await (response.json(content_type=None) if is_json else response.text()),
            response.headers,
        )


def names(listed: dict[str, Any]) -> list[str]:
    Draft202012Validator(SERVER_LIST).validate(listed)
    return [one["server"]["name"] for one in listed["servers"]]


async def test_a_reader_finds_the_servers_of_all_nodes_and_reaches_each_by_its_entry(pair: Pair) -> None:
    status, listed, _ = await get(pair.inner, "/v0.1/servers", "reader")
    assert status == 200
    assert names(listed) == [f"{OWN}/dice", f"{OWN}/mesh.all", f"{OWN}/notes"]
    for one in listed["servers"]:
        (remote,) = one["server"]["remotes"]
        assert remote["headers"][0]["name"] == "Authorization"
        async with Client(StreamableHttpTransport(remote["url"], auth=token_of("reader"))) as client:
            assert await client.list_tools()


async def test_one_server_is_found_by_its_name_with_the_slash_in_either_form(pair: Pair) -> None:
    for name in (f"{OWN}/notes", quote(f"{OWN}/notes", safe="")):
        status, found, _ = await get(pair.inner, f"/v0.1/servers/{name}/versions/latest", "reader")
        assert status == 200
        Draft202012Validator(SERVER_RESPONSE).validate(found)
        version = found["server"]["version"]
        assert (await get(pair.inner, f"/v0.1/servers/{name}/versions/{version}", "reader"))[1] == found
        listed = (await get(pair.inner, f"/v0.1/servers/{name}/versions", "reader"))[1]
        assert listed["servers"] == [found]
        assert (await get(pair.inner, f"/v0.1/servers/{name}/versions/99", "reader"))[:2] == (
            404,
            {"error": "Server not found"},
        )
    assert (await get(pair.inner, "/v0.1/servers/nothing/versions/latest", "reader"))[0] == 404


async def test_pages_search_and_refusals_are_those_of_the_registry(pair: Pair) -> None:
    first = (await get(pair.inner, "/v0.1/servers?limit=2", "reader"))[1]
    rest = (await get(pair.inner, f"/v0.1/servers?cursor={first['metadata']['nextCursor']}", "reader"))[1]
    assert names(first) + names(rest) == [f"{OWN}/dice", f"{OWN}/mesh.all", f"{OWN}/notes"]
    assert names((await get(pair.inner, "/v0.1/servers?search=NOTES", "reader"))[1]) == [f"{OWN}/notes"]
    for query in ("cursor=none", "limit=0"):
        status, refused, _ = await get(pair.inner, f"/v0.1/servers?{query}", "reader")
        assert (status, list(refused)) == (400, ["error"])


async def test_a_token_sees_the_servers_that_it_shows_and_one_without_read_none(pair: Pair) -> None:
    listed = (await get(pair.inner, "/v0.1/servers", "narrow"))[1]
    assert names(listed) == [f"{OWN}/mesh.all", f"{OWN}/notes"]
    for path in ("/v0.1/servers", f"/v0.1/servers/{OWN}/notes/versions/latest", "/llms.txt", CARDS[0]):
        assert (await get(pair.inner, path, "client"))[0] == 403
        assert (await get(pair.inner, path))[0] == 401


async def test_an_editor_reads_a_public_registry_without_a_token_from_any_page(pair: Pair) -> None:
    status, listed, headers = await get(pair.open, "/v0.1/servers", Origin=EDITOR)
    assert status == 200
    assert headers["Access-Control-Allow-Origin"] == "*"
    assert names(listed) == [f"com.example.mesh/{name}" for name in ("dice", "mesh.all", "notes")]
    assert all(one["server"]["remotes"][0]["url"].startswith(PUBLIC_URL) for one in listed["servers"])
    asked = {
        "Origin": EDITOR,
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "authorization",
    }
    async with aiohttp.ClientSession() as http, http.options(f"{pair.open.base}/v0.1/servers", headers=asked) as answer:
        assert answer.status == 204
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert "GET" in answer.headers["Access-Control-Allow-Methods"]
        assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]


async def test_a_public_registry_opens_nothing_else(pair: Pair) -> None:
    for path in ("/api/v1/mcp/servers", "/mcp", "/metrics", "/v0.1", "/v0.1/serversx", "/mcp/local"):
        assert (await get(pair.open, path))[0] in (401, 404), path
        assert (await get(pair.open, path, Origin=EDITOR))[0] == 403, path
    assert (await get(pair.inner, "/v0.1/servers", "reader", Origin=EDITOR))[0] == 403
    async with aiohttp.ClientSession() as http, http.post(f"{pair.open.base}/v0.1/servers") as answer:
        assert answer.status == 401


async def test_the_card_says_who_the_mesh_is_and_what_it_speaks(pair: Pair) -> None:
    for path in CARDS:
        status, card, headers = await get(pair.open, path)
        assert status == 200
        assert headers["Content-Type"].startswith("application/mcp-server-card+json")
        Draft202012Validator(SERVER_CARD).validate(card)
        assert card["name"] == "com.example.mesh/mesh.all"
        (remote,) = card["remotes"]
        assert remote["url"] == f"{PUBLIC_URL}/mcp"
        assert remote["supportedProtocolVersions"][0] == "2026-07-28"


async def test_the_catalog_of_the_domain_has_the_card_of_each_server(pair: Pair) -> None:
    status, listed, headers = await get(pair.open, "/.well-known/ai-catalog.json", Origin=EDITOR)
    assert status == 200
    assert headers["Content-Type"].startswith("application/ai-catalog+json")
    assert headers["Access-Control-Allow-Origin"] == "*"
    found = [one["identifier"] for one in listed["entries"]]
    assert found == [f"urn:air:mesh.example.com:mcp:{name}" for name in ("mesh.all", "dice", "notes")]
    assert (await get(pair.inner, "/.well-known/ai-catalog.json"))[0] == 401


async def test_the_text_for_agents_names_each_server_with_its_endpoint(pair: Pair) -> None:
    status, text, _ = await get(pair.open, "/llms.txt")
    assert status == 200
    assert text.startswith("# MCP Mesh Agent\n")
    assert f"- [com.example.mesh/notes]({PUBLIC_URL}/mcp/s/notes): " in text
    assert "diary" not in text


async def test_a_private_server_is_listed_where_the_registry_is_not_for_all(pair: Pair) -> None:
    assert "diary" not in str((await get(pair.open, "/v0.1/servers", "reader"))[1])
    listed = (await get(pair.alone, "/v0.1/servers"))[1]
    assert names(listed) == [f"{OWN}/alone__diary", f"{OWN}/mesh.all"]
    assert all("headers" not in one["server"]["remotes"][0] for one in listed["servers"])
