"""A FastMCP server that published clients meet directly and behind a node: `python -m tests.outside.plain_server`.

`--port N` serves streamable HTTP of both eras, without it stdio; `--tools N` adds as many tools, `--page N` limits a
page, `--after S` begins only then. The one rule: it is the same server on both ways, so that a difference is the
node's.
"""

import argparse
import asyncio
import time

import uvicorn
from fastmcp import FastMCP
from fastmcp.exceptions import ToolError
from fastmcp.tools import Tool


def make_server(tools: int, page: int | None) -> FastMCP:
    """Build it."""
    server: FastMCP = FastMCP("plain", list_page_size=page)

    @server.tool(annotations={"readOnlyHint": True, "idempotentHint": True})
    def echo(text: str) -> str:
        """Say it again."""
        return f"echo: {text}"

    @server.tool
    def refuse(reason: str) -> str:
        """Fail."""
        raise ToolError(f"refused: {reason}")

    @server.tool
    async def wait(seconds: float) -> str:
        """Answer later."""
        await asyncio.sleep(seconds)
        return f"waited {seconds:g} s"

    def fill(text: str = "") -> str:
        return text

    # A copy each: making a tool of a function takes ten milliseconds.
    pattern = Tool.from_function(fill, description="One of many.")
    for number in range(tools):
        server.add_tool(pattern.model_copy(update={"name": f"filler_{number:03}"}))
    return server


def main() -> None:
    """Serve until the end of stdin, or for ever."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument("--tools", type=int, default=0)
    parser.add_argument("--page", type=int)
    parser.add_argument("--after", type=float, default=0.0)
    options = parser.parse_args()
    time.sleep(options.after)
    server = make_server(options.tools, options.page)
    if options.port is None:
        server.run("stdio", show_banner=False)
    else:
        uvicorn.run(server.http_app(), host="127.0.0.1", port=options.port, log_level="error", ws="none")


if __name__ == "__main__":
    main()
