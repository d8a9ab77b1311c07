"""FastMCP's own proxy in front of a server: `python -m bench.proxy_server PORT TARGET_URL [one]`.

What a node is compared with. It stands as its documentation shows it, under uvicorn, with nothing turned off; with
`one`, all its clients share one client of the server, which is connected for as long as the proxy runs.
"""

import asyncio
import sys

import uvicorn
from fastmcp import Client, FastMCP
from fastmcp.server import create_proxy
from starlette.requests import Request
from starlette.responses import PlainTextResponse


async def health(_request: Request) -> PlainTextResponse:
    """Say that the server listens."""
    return PlainTextResponse("alive")


async def serve(proxy: FastMCP, port: int) -> None:
    """Serve until killed."""
    proxy.custom_route("/healthz", methods=["GET"])(health)
    app = proxy.http_app(path="/mcp")
    await uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning")).serve()


async def main(port: int, url: str, *, over_one_client: bool) -> None:
    """Make the proxy, of the kind that is asked for, and serve."""
    if not over_one_client:
        await serve(create_proxy(url, name="proxy"), port)
        return
    async with Client(url) as client:  # One that is connected is shared.
        await serve(create_proxy(client, name="proxy"), port)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], over_one_client=sys.argv[3:] == ["one"]))
