"""Addresses outside of what an operator lets a node dial: no connection, from whatever source they come."""

import asyncio
from functools import partial
from pathlib import Path

import orjson
import pytest

from tests.attacks.clients import Holder
from tests.e2e.running import RunningNode, running_nodes
from tests.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

TOKEN = "operator-token-0123456789abcdef"


async def refused(node: RunningNode, *names: str) -> bool:
    """Whether status says of all of these why they are not dialled."""
    servers = await node.servers()
    for name in names:
        assert "MESH_DIAL_ALLOW" in (servers[name]["last_error"] or ""), servers[name]
    return True


def recorded(folder: Path) -> set[str]:
    """The backends whose refused dials are in the audit."""
    whole = next(folder.rglob("audit.jsonl")).read_bytes().split(b"\n")[:-1]  # The last line may be half written.
    records = [orjson.loads(line) for line in whole]
    return {record["backend"] for record in records if record["act"] == "dial.refused"}


async def are_recorded(folder: Path, *backends: str) -> bool:
    """Whether all of these are there: a thread writes it, soon after status says so."""
    found = recorded(folder)
    assert found >= set(backends), found
    return True


async def test_no_address_out_of_what_may_be_dialled_gets_a_connection_from_any_source(tmp_path: Path) -> None:
    connections: list[object] = []

    async def count(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer.get_extra_info("peername"))
        writer.close()

    async with await asyncio.start_server(count, "127.0.0.1", 0) as victim, running_nodes() as start:
        port = victim.sockets[0].getsockname()[1]
        settings = {"MESH_TOKEN": TOKEN, "MESH_DIAL_ALLOW": "10.0.0.0/8, fd00::/8", "MESH_DISCOVERY": "off"}
        servers = {"files": {"url": f"http://127.0.0.1:{port}/mcp"}, "named": {"url": f"http://localhost:{port}/mcp"}}
        node = await start("node", tmp_path, servers=servers, **settings)
        operator = Holder(node.base, TOKEN)
        for host in ("127.0.0.1", "[::ffff:127.0.0.1]", "[::1]", "localhost"):
            body = {"peer_name": "near", "peer_url": f"http://{host}:{port}/mcp"}
            answer = await operator.ask("POST", "/api/v1/mcp/peers", body)
            assert (answer.status, answer.body["error"]["code"]) == (403, "address_refused"), host
        await eventually(partial(refused, node, "files", "named"))
        await eventually(partial(are_recorded, tmp_path, "server:files", "server:named"))
    assert connections == []
