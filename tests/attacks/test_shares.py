"""A token whose clients take all that a server has room for: clients of other tokens are served all the same."""

import asyncio
import sys
from pathlib import Path

import orjson

from agent.client.sessions.shares import quota
from agent.client.stdio.connect import CHILD_LIMITS
from agent.config.tokens_file import check_tokens
from agent.model import ServerScope, ServerSpec, Sessions, StdioTarget
from agent.rest.tokens import TokenTable
from tests.attacks.clients import Holder, entry, token_of
from tests.integration.servers.nodes import running_node
from tests.waiting import eventually

TOKENS = {"flood": entry("flood", "mcp"), "other": entry("other", "mcp")}

# A server with sessions, of the standard library alone. Each child notes that it was asked to wait, which it does.
SERVER = """
import json, os, pathlib, sys
tool = {"inputSchema": {"type": "object"}}
for line in sys.stdin:
    asked = json.loads(line)
    match asked.get("method"):
        case "initialize":
            info = {"name": "waits", "version": "1"}
            answer = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": info}
        case "tools/list":
            answer = {"tools": [{"name": name, **tool} for name in ("wait", "answer")]}
        case "tools/call" if asked["params"]["name"] == "wait":
            pathlib.Path(sys.argv[1], str(os.getpid())).touch()
            continue
        case "tools/call":
            answer = {"content": [{"type": "text", "text": "answered"}]}
        case _:
            answer = None
    if "id" in asked:
        said = {"result": answer} if answer is not None else {"error": {"code": -32601, "message": "unknown"}}
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], **said}), flush=True)
"""


async def test_no_token_takes_all_children_of_a_server_whatever_its_clients_do(tmp_path: Path) -> None:
    waiting = tmp_path / "waiting"
    waiting.mkdir()
    command = StdioTarget(sys.executable, ("-c", SERVER, str(waiting)))
    spec = ServerSpec("kids", command, ServerScope.SERVICE, sessions=Sessions.OWN)
    table = TokenTable((), check_tokens(orjson.dumps({"tokens": TOKENS}).decode(), Path("tokens.json")), closed=True)
    most = quota(CHILD_LIMITS.sessions_max)

    async def all_wait() -> bool:
        return len(list(waiting.iterdir())) == most

    async with running_node("one", tmp_path, servers=[spec], tokens=table) as node, asyncio.TaskGroup() as tasks:
        await node.connected("kids")

        async def wait_for_ever() -> None:
            client = Holder(node.base, token_of("flood"))
            await client.begin()
            await client.legacy("tools/call", name="kids__wait", arguments={})

        flood = [tasks.create_task(wait_for_ever(), name="flood") for _ in range(2 * CHILD_LIMITS.sessions_max)]
        await eventually(all_wait)
        other = Holder(node.base, token_of("other"))
        await other.begin()
        for _ in range(3):
            reply = await other.legacy("tools/call", name="kids__answer", arguments={})
            assert reply.result["content"][0]["text"] == "answered"
        assert len(list(waiting.iterdir())) == most
        for task in flood:
            task.cancel()
