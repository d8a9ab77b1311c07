"""The compose file in real containers: the two curl calls of the promise, scaling, Prometheus, the token.

Skipped, loudly, without a Docker daemon or the base images: a test pulls nothing. The one rule: what is claimed was
seen from outside, over published ports.
"""

from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from fastmcp import Client
from fastmcp.client.transports import StreamableHttpTransport

from tests.e2e.compose_stack import Stack, missing_for_docker, running_stack
from tests.waiting import eventually

pytestmark = [pytest.mark.docker, pytest.mark.e2e, pytest.mark.timeout(900)]

PEERS = "/api/v1/mcp/peers"
SETTLE_S = 60.0


@pytest.fixture(scope="module")
def docker_here() -> None:
    if missing := missing_for_docker():
        pytest.skip(f"NO CONTAINERS STARTED, the compose files were only read: {missing}")


@pytest.fixture
def open_stack(docker_here: None, tmp_path: Any) -> Iterator[Stack]:  # noqa: ARG001 - skips when Docker is not here
    with running_stack(tmp_path, with_token=False) as stack:
        yield stack


@pytest.fixture
def guarded_stack(docker_here: None, tmp_path: Any) -> Iterator[Stack]:  # noqa: ARG001 - as above
    with running_stack(tmp_path, with_token=True) as stack:
        yield stack


async def ask(
    method: str, url: str, body: dict[str, str] | None = None, token: str | None = None
) -> tuple[int, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    limit = aiohttp.ClientTimeout(total=15)
    async with (
        aiohttp.ClientSession(timeout=limit) as session,
        session.request(method, url, json=body, headers=headers) as response,
    ):
        return response.status, await response.json()


async def connected_peers(base: str, token: str | None = None) -> set[str]:
    status, answer = await ask("GET", base + PEERS, token=token)
    assert status == 200, answer
    return {peer["name"] for peer in answer["data"]["peers"] if peer["connected"]}


async def grown_to(base: str, count: int, token: str | None = None) -> bool:
    return len(await connected_peers(base, token)) == count


async def scraped(stack: Stack, count: int) -> bool:
    _, answer = await ask("GET", stack.base("prometheus", 9090) + "/api/v1/targets")
    targets = answer["data"]["activeTargets"]
    return len(targets) == count and all(target["health"] == "up" for target in targets)


async def all_healthy(stack: Stack, *services: str) -> bool:
    return all(stack.health(container) == "healthy" for name in services for container in stack.containers(name))


async def test_two_nodes_connect_by_the_promised_calls_scale_out_by_themselves_and_are_scraped(
    open_stack: Stack,
) -> None:
    await eventually(lambda: all_healthy(open_stack, "node1", "node2"), SETTLE_S)
    node1, node2 = open_stack.base("node1", 8000), open_stack.base("node2", 8000)

    for base, name, url in ((node1, "node-2", "http://node2:8000/mcp"), (node2, "node-1", "http://node1:8000/mcp")):
        status, answer = await ask("POST", base + PEERS, {"peer_name": name, "peer_url": url})
        assert status == 201, answer
        assert answer["message"] == f"Peer node '{name}' connected"
        promised = {
            "success": True,
            "peer_name": name,
            "peer_url": url,
            "function_count": 5,
            "message": f"Peer node '{name}' added successfully",
        }
        assert answer["data"] | promised == answer["data"]
        assert await connected_peers(base) == {name}

    async with Client(StreamableHttpTransport(f"{node1}/mcp")) as client:
        assert len(await client.list_tools()) == 5
        assert "node-2" in str(await client.call_tool("list_mcp_servers", {}))

    open_stack.compose("stop", "node2")
    await eventually(lambda: grown_to(node1, 0), SETTLE_S)
    open_stack.compose("start", "node2")
    await eventually(lambda: grown_to(node1, 1), SETTLE_S)

    assert open_stack.compose("exec", "-T", "node1", "id", "-u").strip() == "10001"
    assert '"MCP request"' in open_stack.compose("logs", "node1")

    named = open_stack.containers("node1") + open_stack.containers("node2")
    open_stack.compose("up", "--detach", "--scale", "node=3", timeout_s=300)
    assert open_stack.containers("node1") + open_stack.containers("node2") == named, "scaling replaced running nodes"
    await eventually(lambda: grown_to(node1, 4), SETTLE_S)
    await eventually(lambda: all_healthy(open_stack, "node"), SETTLE_S)
    await eventually(lambda: scraped(open_stack, 5), SETTLE_S)

    open_stack.compose("up", "--detach", "--scale", "node=1", timeout_s=300)
    await eventually(lambda: grown_to(node1, 2), SETTLE_S)


async def test_overlay_demands_its_generated_token_and_nodes_and_prometheus_use_it(guarded_stack: Stack) -> None:
    await eventually(lambda: all_healthy(guarded_stack, "node1", "node2"), SETTLE_S)
    node1 = guarded_stack.base("node1", 8000)
    token = guarded_stack.compose("exec", "-T", "node1", "cat", "/run/mesh-secrets/token").strip()
    assert len(token) >= 32

    with pytest.raises(AssertionError, match="Permission denied"):
        guarded_stack.compose("exec", "-T", "node1", "cat", "/run/mesh-secrets/prometheus-token")

    assert (await ask("GET", node1 + PEERS))[0] == 401
    assert (await ask("GET", node1 + PEERS, token="wrong" + token))[0] == 401
    await eventually(lambda: grown_to(node1, 1, token), SETTLE_S)
    await eventually(lambda: scraped(guarded_stack, 2), SETTLE_S)
