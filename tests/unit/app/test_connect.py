"""Certificates of Consul's CA as files: each that follows is written, and the last one stays while Consul is away."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web
from aiohttp.test_utils import TestServer

from agent.app.connect import ConnectFiles
from agent.config.load import load_settings
from tests.waiting import eventually


@dataclass
class Agent:
    """What a Consul agent says of certificates: a waiting query hears of another one. `is_away`: it answers 500."""

    number: int = 1
    is_away: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    refused: asyncio.Event = field(default_factory=asyncio.Event)

    def rotate(self) -> None:
        self.number += 1
        self.changed.set()

    async def leaf(self, request: web.Request) -> web.Response:
        if int(request.query.get("index", "0")) >= self.number:
            await self.changed.wait()
        self.changed.clear()
        if self.is_away:
            self.refused.set()
            return web.Response(status=500, text="rpc error: no leader")
        said = {"CertPEM": f"cert {self.number}", "PrivateKeyPEM": f"key {self.number}"}
        said |= {"ServiceURI": "spiffe://x/svc/mcp-node", "ValidBefore": "2027-01-01T00:00:00Z"}
        return web.json_response(said, headers={"X-Consul-Index": str(self.number)})

    async def roots(self, _request: web.Request) -> web.Response:
        listed = [{"RootCert": f"root {number}"} for number in range(1, self.number + 1)]
        return web.json_response({"Roots": listed}, headers={"X-Consul-Index": "1"})


@asynccontextmanager
async def kept(folder: Path) -> AsyncIterator[tuple[Agent, Path]]:
    """An agent, and the files that a node keeps of its certificates."""
    agent, app = Agent(), web.Application()
    app.router.add_get("/v1/agent/connect/ca/leaf/mcp-node", agent.leaf)
    app.router.add_get("/v1/agent/connect/ca/roots", agent.roots)
    async with TestServer(app) as server:
        settings = load_settings(
            {"consul_connect": "1"}, {"HOME": str(folder), "CONSUL_HTTP_ADDR": f"http://127.0.0.1:{server.port}"}
        )
        files = await ConnectFiles.of(settings, folder)
        assert files is not None
        async with asyncio.TaskGroup() as tasks:
            keeping = tasks.create_task(files.keep(), name="keep")
            yield agent, folder / "connect"
            keeping.cancel()
            agent.changed.set()


def holds(folder: Path, leaf: str, roots: str) -> bool:
    return (folder / "leaf.pem").read_text() == leaf and (folder / "roots.pem").read_text() == roots


async def test_each_certificate_that_follows_is_written_with_the_roots_of_all(tmp_path: Path) -> None:
    async with kept(tmp_path) as (agent, folder):
        assert holds(folder, "key 1\ncert 1\n", "root 1\n")
        agent.rotate()

        async def is_replaced() -> bool:
            return holds(folder, "key 2\ncert 2\n", "root 1\nroot 2\n")

        await eventually(is_replaced)
        assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


async def test_the_last_certificate_stays_while_consul_gives_none_and_the_next_one_is_taken(tmp_path: Path) -> None:
    async with kept(tmp_path) as (agent, folder):
        agent.is_away = True
        agent.rotate()
        await agent.refused.wait()
        assert holds(folder, "key 1\ncert 1\n", "root 1\n")
        agent.is_away = False
        agent.rotate()

        async def is_replaced() -> bool:
            return holds(folder, "key 3\ncert 3\n", "root 1\nroot 2\nroot 3\n")

        await eventually(is_replaced)
