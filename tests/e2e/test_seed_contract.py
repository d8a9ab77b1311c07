"""The contract's two curl calls and the answers that it prints, field by field, between two plain nodes.

Run with the real curl where there is one. The one rule: fields may be added, none renamed, dropped or changed.
"""

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import aiohttp
import orjson
import pytest

from tests.e2e.running import MANAGEMENT_TOOLS, RunningNode, nodes_below, start_node
from tests.waiting import all_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]

PEERS = "/api/v1/mcp/peers"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningNode, RunningNode]]:
    """`node1` and `node2`, plain and without discovery."""
    folder = tmp_path_factory.mktemp("seed")

    async def start_both() -> tuple[RunningNode, RunningNode]:
        one, two = await all_of(start_node(name, folder / name, MESH_DISCOVERY="off") for name in ("node1", "node2"))
        return one, two

    with nodes_below(folder):
        yield asyncio.run(start_both())


def curl(method: str, url: str, body: dict[str, str] | None = None) -> Any:
    """What `curl -X METHOD url -H ... -d ...` prints, as JSON."""
    program = shutil.which("curl")
    if program is None:
        return asyncio.run(_without_curl(method, url, body))
    command = [program, "--silent", "--show-error", "--max-time", "20", "-X", method, url]
    if body is not None:
        command += ["-H", "Content-Type: application/json", "-d", orjson.dumps(body).decode()]
    return orjson.loads(subprocess.run(command, check=True, capture_output=True, timeout=30).stdout)


async def _without_curl(method: str, url: str, body: dict[str, str] | None) -> Any:
    async with aiohttp.ClientSession() as session, session.request(method, url, json=body) as response:
        return await response.json()


def test_two_plain_nodes_are_linked_by_the_two_calls_and_parted_again(
    pair: tuple[RunningNode, RunningNode],
) -> None:
    for here, there in (pair, pair[::-1]):
        name = f"{there.name[:4]}-{there.name[4:]}"
        added = curl("POST", here.base + PEERS, {"peer_name": name, "peer_url": there.url})
        assert_has(
            added,
            {
                "success": True,
                "data": {
                    "success": True,
                    "peer_name": name,
                    "peer_url": there.url,
                    "function_count": 5,
                    "message": f"Peer node '{name}' added successfully",
                },
                "message": f"Peer node '{name}' connected",
            },
        )
    one, two = pair
    listed = curl("GET", one.base + PEERS)
    assert_has(
        listed,
        {
            "success": True,
            "data": {
                "peers": [
                    {
                        "name": "node-2",
                        "url": two.url,
                        "description": f"Peer node at {two.url}",
                        "connected": True,
                        "function_count": 5,
                    }
                ]
            },
            "message": "Found 1 peer node(s)",
        },
    )
    servers = curl("GET", one.base + "/api/v1/mcp/servers")
    assert servers["success"] is True
    # jq '.data.servers[] | select(.name=="node-2")'
    (selected,) = [server for server in servers["data"]["servers"] if server["name"] == "node-2"]
    assert selected["status"] == "connected"
    assert {function["name"] for function in selected["functions"]} == MANAGEMENT_TOOLS
    for here, name in ((one, "node-2"), (two, "node-1")):
        removed = curl("DELETE", f"{here.base}{PEERS}/{name}")
        assert_has(
            removed,
            {
                "success": True,
                "data": {
                    "success": True,
                    "peer_name": name,
                    "message": f"Peer node '{name}' removed successfully",
                },
                "message": f"Peer node '{name}' disconnected",
            },
        )
        assert_has(curl("GET", here.base + PEERS), {"data": {"peers": []}, "message": "Found 0 peer node(s)"})


def assert_has(answer: Any, promised: Any, at: str = "") -> None:
    """Every promised field is there with its value and its type; lists have the same length."""
    assert type(answer) is type(promised), (at, answer)
    if isinstance(promised, dict):
        for key, value in promised.items():
            assert key in answer, f"{at}.{key} is missing in {answer}"
            assert_has(answer[key], value, f"{at}.{key}")
    elif isinstance(promised, list):
        assert len(answer) == len(promised), (at, answer)
        for number, value in enumerate(promised):
            assert_has(answer[number], value, f"{at}[{number}]")
    else:
        assert answer == promised, at


def test_checker_of_shapes_sees_what_is_missing_or_different() -> None:
    promised = {"a": {"b": [1]}, "c": True}
    assert_has({"a": {"b": [1], "more": 1}, "c": True}, promised)
    for wrong in ({"a": {"b": [2]}, "c": True}, {"a": {"b": []}, "c": True}, {"a": {"b": [1]}}, {"a": {}, "c": 1}):
        with pytest.raises(AssertionError):
            assert_has(wrong, promised)


async def test_plain_node_offers_the_five_tools_and_the_two_resources(pair: tuple[RunningNode, RunningNode]) -> None:
    async with pair[0].client() as client:
        assert {tool.name for tool in await client.list_tools()} == MANAGEMENT_TOOLS
        assert {str(resource.uri) for resource in await client.list_resources()} == {"config://app", "health://system"}
        (config,) = await client.read_resource("config://app")
        assert orjson.loads(config.text)["node_name"] == {"value": "node1", "origin": "environment MESH_NODE_NAME"}


async def test_a_client_without_pages_sees_no_sixth_tool_and_gets_the_mesh_in_words(
    pair: tuple[RunningNode, RunningNode],
) -> None:
    async with pair[0].client() as client:
        assert "show_mesh" not in {tool.name for tool in await client.list_tools()}
        text = (await client.call_tool("show_mesh", {})).content[0].text
    assert text.startswith("Node node1 is healthy: 0 of 0 servers and peers are connected."), text


async def test_nothing_is_a_redirect_and_both_slashes_work(pair: tuple[RunningNode, RunningNode]) -> None:
    for path in ("/mcp", "/mcp/", "/mcp/local", "/mcp/local/"):
        async with pair[0].client() as client:
            client.transport.url = pair[0].base + path
            assert len(await client.list_tools()) == 5, path
