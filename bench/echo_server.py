"""A FastMCP server with one echo tool over HTTP: `python -m bench.echo_server PORT`. What a hop is compared with."""

import sys

import uvicorn
from fastmcp import FastMCP
from starlette.requests import Request
from starlette.responses import PlainTextResponse

server: FastMCP = FastMCP("echo")


@server.tool
def echo(text: str) -> str:
    """Return the text."""
    return text


@server.custom_route("/healthz", methods=["GET"])
async def health(_request: Request) -> PlainTextResponse:
    """Say that the server listens."""
    return PlainTextResponse("alive")


if __name__ == "__main__":
    uvicorn.run(server.http_app(path="/mcp"), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
