"""Two nodes that serve https by an authority of their own: to each other, to clients, to the command line, renewed."""

import asyncio
import json
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.processes import ROOT, environment_of
from tests.e2e.running import MANAGEMENT_TOOLS, RunningNode, nodes_below, start_node
from tests.e2e.servers_files import example
from tests.integration.servers.certificates import Authority
from tests.ports import free_port
from tests.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


@dataclass
class Pair:
    """`back` has a server; `front` knows it by the embedded catalog. `cert`: what both show, in a file of its own."""

    authority: Authority
    folder: Path
    front: RunningNode
    back: RunningNode

    async def shown(self, node: RunningNode) -> str:
        """The serial number of the certificate that the node shows now."""
        context = ssl.create_default_context(cafile=str(self.authority.ca))
        _, writer = await asyncio.open_connection("127.0.0.1", node.port, ssl=context)
        serial = writer.get_extra_info("ssl_object").getpeercert()["serialNumber"]
        writer.transport.abort()  # To close it would wait for the node's goodbye, and the test for neither.
        return str(serial)

    def command(self, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "agent", *words],
            env=environment_of({"MESH_URL": self.front.base, **settings}),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority(folder / "authority")
    issued = authority.issue("127.0.0.1")
    (folder / "node.crt").write_bytes(issued.cert.read_bytes())
    (folder / "node.key").write_bytes(issued.key.read_bytes())
    settings: dict[str, Any] = {
        "MESH_LISTEN_CERT": str(folder / "node.crt"),
        "MESH_LISTEN_KEY": str(folder / "node.key"),
        "MESH_TLS_CA": str(authority.ca),
        "MESH_DISCOVERY": "embedded",
        "MESH_EMBEDDED_PORT": str(free_port()),
        "MESH_CONSUL_HTTP_CHECK": "1",
        "MESH_STATE_DIR": "",
    }

    async def start() -> Pair:
        settings["MESH_STATE_DIR"] = str(folder / "back-state")
        back = await start_node("back", folder, servers={"notes": example("notes", "service")}, **settings)
        settings["MESH_STATE_DIR"] = str(folder / "front-state")
        front = await start_node("front", folder, **settings)
        await eventually(partial(front.sees, "back"))
        await eventually(
            partial(front.counts, {"back": 3 + len(MANAGEMENT_TOOLS)})
        )  # Those of its notes are among them.
        return Pair(authority, folder, front, back)

    with nodes_below(folder):
        yield asyncio.run(start())


async def test_nodes_find_each_other_by_https_and_a_call_goes_through_both(pair: Pair) -> None:
    peer = (await pair.front.peers())["back"]
    assert peer["url"] == f"{pair.back.base}/mcp"
    assert peer["url"].startswith("https://")
    assert (await pair.front.status())["self"]["url"].startswith("https://")
    called = pair.command("tools", "call", "notes__list", "--cacert", str(pair.authority.ca), "--json")
    assert called.returncode == 0, called.stderr
    assert json.loads(called.stdout)["result"]["isError"] is False


@pytest.mark.parametrize("words", [("status",), ("tools", "ls"), ("pins", "ls"), ("events",)])
def test_commands_trust_what_they_are_given_and_nothing_else(words: tuple[str, ...], pair: Pair) -> None:
    refused = pair.command(*words)
    assert refused.returncode == 4
    assert "certificate that is refused" in refused.stderr
    assert pair.command(*words, "--cacert", str(pair.authority.ca)).returncode == 0
    assert pair.command(*words, MESH_TLS_CA=str(pair.authority.ca)).returncode == 0
    assert pair.command(*words, "--insecure").returncode == 0
    wrong = pair.command(*words, "--cacert", str(pair.folder / "nothing.pem"))
    assert wrong.returncode in (2, 4)
    assert "nothing.pem cannot be read" in wrong.stderr


async def test_a_renewed_certificate_is_shown_without_a_restart_and_a_broken_one_is_not(pair: Pair) -> None:
    before = await pair.shown(pair.back)
    key = (pair.folder / "node.key").read_bytes()
    (pair.folder / "node.key").write_bytes(b"no key")
    await eventually(partial(_said, pair.back, "TLS files refused, the certificate stays"))
    assert await pair.shown(pair.back) == before
    (pair.folder / "node.key").write_bytes(key)
    issued = pair.authority.issue("127.0.0.1")
    (pair.folder / "node.crt").write_bytes(issued.cert.read_bytes())
    (pair.folder / "node.key").write_bytes(issued.key.read_bytes())

    async def is_renewed() -> bool:
        return await pair.shown(pair.back) != before

    await eventually(is_renewed)
    assert (await pair.front.peers())["back"]["connected"]


async def test_plain_http_at_the_port_is_refused_and_nothing_else_suffers(pair: Pair) -> None:
    async with aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.ClientError):
            await http.get(f"http://127.0.0.1:{pair.front.port}/healthz")
    assert (await pair.front.status())["self"]["state"] == "ready"


async def _said(node: RunningNode, event: str) -> bool:
    return bool(node.events(event))
