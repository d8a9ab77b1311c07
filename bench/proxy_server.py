"""FastMCP's own proxy in front of a server: `python -m bench.proxy_server PORT TARGET_URL`.

What a node is compared with. It stands as its documentation shows it, under uvicorn, with nothing turned off.
"""

import sys

import uvicorn
from fastmcp.server import create_proxy
from starlette.requests import Request
from starlette.responses import PlainTextResponse


async def health(_request: Request) -> PlainTextResponse:
    """Say that the server listens."""
    return PlainTextResponse("alive")


if __name__ == "__main__":
    proxy = create_proxy(sys.argv[2], name="proxy")
    proxy.custom_route("/healthz", methods=["GET"])(health)
    uvicorn.run(proxy.http_app(path="/mcp"), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
