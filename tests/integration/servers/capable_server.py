"""A real server, of both eras, whose tools depend on what its client declared; as a file it speaks stdio.

`page` has a page for clients that show such, as servers on ext-apps' `getUiCapability` have it; `form`, `model` and
`later` are there for clients that can be asked so. Stdio is of the era that its client begins with; with the argument
`session` it knows sessions alone. The one rule: what a call's client declared is that call's text.
"""

import json
import sys
from typing import Any

import anyio
from mcp.server.lowlevel import Server
from mcp.server.lowlevel import server as lowlevel_server
from mcp.server.runner import serve_loop
from mcp.server.stdio import stdio_server
from mcp_types import RequestParams

from agent.model import Json

UI = "io.modelcontextprotocol/ui"
HTML: Json = {"mimeTypes": ["text/html;profile=mcp-app"]}
PAGE = "ui://capable/page.html"


def capable_server() -> Server[Any]:
    """The server itself."""
    server: Server[Any] = Server("capable", version="1")
    server.middleware.append(_answer)
    for method in ("tools/list", "tools/call"):
        server.add_request_handler(method, RequestParams, _unreached)
    return server


async def _answer(ctx: Any, call_next: Any) -> Any:
    if ctx.method not in ("tools/list", "tools/call"):
        return await call_next(ctx)
    known = ctx.session.client_capabilities
    declared: Json = {} if known is None else known.model_dump(exclude_none=True, by_alias=True)
    if ctx.method == "tools/call":
        return {"content": [{"type": "text", "text": json.dumps(declared)}]}
    return {"tools": _tools(declared)}


def _tools(declared: Json) -> list[Json]:
    shown = UI in declared.get("extensions", {})
    page: Json = {"_meta": {"ui": {"resourceUri": PAGE}}} if shown else {}
    asked = [
        name
        for name, feature in (("form", "elicitation"), ("model", "sampling"), ("where", "roots"))
        if feature in declared
    ]
    return [
        {"name": "page", "inputSchema": {"type": "object"}, **page},
        *({"name": name, "inputSchema": {"type": "object"}} for name in asked),
    ]


async def _unreached(_ctx: Any, _params: RequestParams) -> Json:
    raise AssertionError("the middleware answers first")


async def _serve() -> None:
    server = capable_server()
    async with stdio_server() as (reads, writes):
        await server.run(reads, writes, server.create_initialization_options())


if __name__ == "__main__":
    if "session" in sys.argv:
        # The SDK's loop of both eras is exchanged for the one that serves sessions alone.
        lowlevel_server.serve_dual_era_loop = serve_loop
    anyio.run(_serve)
