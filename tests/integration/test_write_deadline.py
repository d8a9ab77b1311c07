"""Clients that send requests and read no answers, on connections of a real node."""

import asyncio
import json
import socket
from pathlib import Path

import pytest

from agent.model import Json
from tests.integration.servers.nodes import running_node

CALL: Json = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/list",
    "params": {
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        }
    },
}


def http(body: Json, **headers: str) -> bytes:
    data = json.dumps(body).encode()
    sent = {
        "Host": "127.0.0.1",
        "Accept": "application/json, text/event-stream",
        "Content-Type": "application/json",
        "Content-Length": str(len(data)),
    } | {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
    return f"POST /mcp HTTP/1.1\r\n{lines}\r\n".encode() + data


MODERN = http(CALL, MCP_Protocol_Version="2026-07-28", Mcp_Method="tools/list")
# Refused at once, in a few hundred bytes: an unknown session.
REFUSED = http({"jsonrpc": "2.0", "id": 1, "method": "ping"}, Mcp_Session_Id="nobody")


@pytest.mark.parametrize("asked", [MODERN, REFUSED], ids=["results", "refusals"])
async def test_a_client_that_reads_none_of_many_small_answers_is_dropped(
    asked: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("agent.server.write_deadline.WRITE_TIMEOUT_S", 0.2)
    loop = asyncio.get_running_loop()
    async with running_node("one", tmp_path) as node, asyncio.timeout(30):
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            port = int(node.url.split(":")[2].split("/")[0])
            await loop.sock_connect(client, ("127.0.0.1", port))
            with pytest.raises(ConnectionError):  # noqa: PT012 -- the kernel takes some requests before we are dropped
                while True:
                    await loop.sock_sendall(client, asked * 100)
    assert "MCP client stopped reading, dropped" in caplog.messages
