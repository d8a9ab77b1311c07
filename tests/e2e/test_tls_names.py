"""Nodes that show certificates to each other: a name in the SAN is bound to the node that has the key."""

import asyncio
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.running import RunningNode, nodes_below, start_again, start_node, stop_node
from tests.e2e.servers_files import example
from tests.integration.servers.certificates import Authority
from tests.ports import free_port
from tests.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


@dataclass
class Pair:
    """`back` has a certificate that names it; that of `front` is replaced by the test."""

    authority: Authority
    folder: Path
    front: RunningNode
    back: RunningNode

    async def why_not(self, node: RunningNode, peer: str) -> str:
        """Why the node has no link to the peer."""
        found = (await node.peers())[peer]
        assert not found["connected"], found
        return str(found["last_error"])


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    folder = tmp_path
    authority = Authority(folder / "authority")
    (folder / "back.pem").write_bytes(authority.issue("back", "127.0.0.1").both.read_bytes())
    (folder / "front.pem").write_bytes(authority.issue("elsewhere", "127.0.0.1").both.read_bytes())
    ports = {"front": free_port(), "back": free_port()}

    async def start(name: str, other: str, **more: Any) -> RunningNode:
        pem = str(folder / f"{name}.pem")
        settings: dict[str, Any] = {
            "MESH_LISTEN_CERT": pem,
            "MESH_LISTEN_CA": str(authority.ca),
            "MESH_TLS_CA": str(authority.ca),
            "MESH_TLS_CERT": pem,
            "MESH_DISCOVERY": "off",
            "MESH_PEER_TOKEN": "of-the-mesh-0123456789abcdef",
            "MESH_PEERS": f"{other}=https://127.0.0.1:{ports[other]}/mcp",
            "MESH_STATE_DIR": str(folder / f"{name}-state"),
        }
        return await start_node(name, folder, port=ports[name], **settings, **more)

    async def both() -> Pair:
        back = await start("back", "front", servers={"notes": example("notes", "service")})
        return Pair(authority, folder, await start("front", "back"), back)

    with nodes_below(folder):
        yield asyncio.run(both())


async def test_a_certificate_for_another_name_makes_no_link_in_either_direction_until_it_is_replaced(
    pair: Pair,
) -> None:
    async def refused() -> bool:
        dialled = await pair.why_not(pair.back, "front")
        dialling = await pair.why_not(pair.front, "back")
        assert "says that it is node front: its certificate is for DNS:elsewhere" in dialled
        assert "it refuses us: its certificate is for DNS:elsewhere, and not for node front" in dialling
        return True

    await eventually(refused)
    context = ssl.create_default_context(cafile=str(pair.authority.ca))
    async with aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.ClientError):  # Nor is a client heard without any certificate.
            await http.get(f"{pair.back.base}/healthz", ssl=context)
    await stop_node(pair.front)
    issued = pair.authority.issue("front", "127.0.0.1")
    (pair.folder / "front.pem").write_bytes(issued.both.read_bytes())
    pair.front = await start_again(pair.front)

    async def linked() -> bool:
        return bool((await pair.front.peers())["back"]["connected"])

    await eventually(linked)
