#!/usr/bin/env bash
# Finding: FastMCP 4 tells nobody that a tool came or went, though it declares that it does and documents when.
#
# Project:    fastmcp 4.2.3 (PyPI)
# What:       a tool that, while it is called, adds, disables, enables or removes another tool. FastMCP's page on tools
#             names exactly these four, within a request, as what sends notifications/tools/list_changed. FastMCP's own
#             client counts them, once opening with 2025-11-25 and once with 2026-07-28.
# Expected:   at least one notification for each of the four; or a server that declares no listChanged.
# Seen:       none, with either. On 2025-11-25 the server declares listChanged true all the same; on 2026-07-28 it
#             declares false. A notification that the tool sends itself arrives with both, so the way is open.
# So what:    who trusts the declaration and lists again only when told goes on showing tools that are gone.
# Way around: list again at intervals whatever is declared. A server's author calls ctx.send_notification.
#
# Run by hand: it downloads public packages into a temporary folder; one or two minutes. Exit status 0: as described
# above. 1: the behaviour has changed. 2: it could not be tried.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv packages
packages/bin/python -m pip install --quiet --disable-pip-version-check fastmcp==4.2.3 \
	|| { echo "could not be tried: no registry gave the packages"; exit 2; }
cat > change.py <<'PY'
import asyncio
import socket

import mcp_types
import uvicorn
from fastmcp import Client, Context, FastMCP


def extra() -> str:
    return "extra"


async def count(mode, change):
    server = FastMCP("changing")

    @server.tool
    async def act(context: Context) -> str:
        match change:
            case "added":
                server.add_tool(extra)
            case "disabled":
                server.disable(names={"extra"})
            case "enabled":
                server.enable(names={"extra"})
            case "removed":
                server.local_provider.remove_tool("extra")
            case "said":
                await context.send_notification(mcp_types.ToolListChangedNotification())
        return change

    if change != "added":
        server.add_tool(extra)
    if change == "enabled":
        server.disable(names={"extra"})
    seen = []

    async def on_message(message):
        if getattr(message, "method", None) == "notifications/tools/list_changed":
            seen.append(message)

    listener = socket.create_server(("127.0.0.1", 0))
    web = uvicorn.Server(uvicorn.Config(server.http_app(), log_level="critical"))
    serving = asyncio.create_task(web.serve([listener]))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
    async with Client(url, mode=mode, message_handler=on_message) as client:
        before = {tool.name for tool in await client.list_tools()}
        await client.call_tool("act")
        await asyncio.sleep(1)  # Nothing that would come is waited for otherwise.
        changed = {tool.name for tool in await client.list_tools()} != before
        told = f"{client.session.protocol_version} {change}: list {'differs' if changed else 'is the same'}"
        declared = client.server_capabilities.tools.list_changed
    web.should_exit = True
    await serving
    print(f"{told}, listChanged {str(declared).lower()}, notifications {len(seen)}")


async def main():
    for mode in ("legacy", "auto"):
        for change in ("added", "disabled", "enabled", "removed", "said"):
            await count(mode, change)


asyncio.run(main())
PY
seen=$(packages/bin/python -W ignore change.py 2>errors) || { cat errors; exit 1; }
echo "$seen"
[ "$seen" = "2025-11-25 added: list differs, listChanged true, notifications 0
2025-11-25 disabled: list differs, listChanged true, notifications 0
2025-11-25 enabled: list differs, listChanged true, notifications 0
2025-11-25 removed: list differs, listChanged true, notifications 0
2025-11-25 said: list is the same, listChanged true, notifications 1
2026-07-28 added: list differs, listChanged false, notifications 0
2026-07-28 disabled: list differs, listChanged false, notifications 0
2026-07-28 enabled: list differs, listChanged false, notifications 0
2026-07-28 removed: list differs, listChanged false, notifications 0
2026-07-28 said: list is the same, listChanged false, notifications 1" ] \
	|| { echo "The behaviour has changed."; exit 1; }
