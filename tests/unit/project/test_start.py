"""What a node imports before it is ready, and a command before it has answered.

Each of these packages costs a part of a second, and a node's memory for good. Imports are looked at, not times: the
machine may be busy.
"""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from aiohttp import web

from agent.mcp_terms import LATEST_MODERN_VERSION

COSTLY = (
    "fastmcp",
    "mcp",
    "mcp_types",
    "pydantic",
    "pydantic_core",
    "rich",
    "cryptography",
    "consul",
    "requests",
    "msgspec",
)


@pytest.mark.parametrize("module", ["agent.app.node", "agent.cli.run", "agent.cli.status"])
def test_a_start_imports_neither_fastmcp_nor_the_sdk_nor_pydantic(module: str) -> None:
    program = f"import sys, {module}; print([name for name in {COSTLY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[]"


# Of a command that talks to no MCP endpoint; the client that nodes use stands on aiohttp, and the standard library's on
# e-mail and TLS.
QUICK = (*COSTLY, "aiohttp", "asyncio", "agent.app.node", "agent.client", "http.client", "email", "ssl")
# Of one that says or lists what a node told it.
PLAIN = (*QUICK, "shutil")
# Of one that says no more than it knows: a dataclass alone costs as much as all of it.
BARE = (*PLAIN, "agent.config", "dataclasses", "logging", "orjson", "socket")


async def _answer(request: web.Request) -> web.Response:
    """A node that has one tool and no peers."""
    if request.path != "/mcp":
        return web.json_response({"success": True, "data": {}, "message": "done"})
    message = await request.json()
    results = {
        "server/discover": {"supportedVersions": [LATEST_MODERN_VERSION], "capabilities": {"tools": {}}},
        "tools/list": {"tools": [{"name": "add", "inputSchema": {"type": "object"}}]},
        "tools/call": {"content": [{"type": "text", "text": "5"}], "structuredContent": {"message": "done"}},
    }
    result = {"resultType": "complete", **results[message["method"]]}
    return web.json_response({"jsonrpc": "2.0", "id": message["id"], "result": result})


@pytest.mark.parametrize(
    ("command", "absent"),
    [
        ("version", BARE),
        ("--help", BARE),
        ("status", PLAIN),
        ("peers ls", PLAIN),
        ("peers add b http://127.0.0.1:1/mcp", QUICK),
        ("peers rm b", PLAIN),
        ("servers ls", PLAIN),
        ("servers logout crm", QUICK),
        ("servers reload", COSTLY),
        ("servers reload clock", COSTLY),
        ("servers import --dry-run --from none.json", COSTLY),
        ("tools ls", COSTLY),
        ("tools call add a=2", COSTLY),
        ("config show", COSTLY),
        ("config check", COSTLY),
        ("token ls", COSTLY),
        ("audit verify none.jsonl", COSTLY),
    ],
)
async def test_a_command_imports_no_more_than_it_needs(command: str, absent: tuple[str, ...], tmp_path: Path) -> None:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", _answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        program = (
            "import atexit, sys\nknown = set(sys.modules)\n"
            f"atexit.register(lambda: print([n for n in {absent!r} if n in set(sys.modules) - known]))\n"
            f"from agent.cli.parser import main\nsys.exit(main({command.split()!r}))"
        )
        environ = {"MESH_URL": f"http://127.0.0.1:{runner.addresses[0][1]}", "HOME": str(tmp_path)}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", program),
            stdout=asyncio.subprocess.PIPE,
            env={**environ, "MESH_SERVERS_FILE": str(tmp_path / "servers.json")},
        )
        out, _ = await process.communicate()
        assert out.decode().splitlines()[-1] == "[]"
        assert process.returncode == (
            2 if command.startswith(("servers import", "config check", "token", "audit")) else 0
        )
    finally:
        await runner.cleanup()
