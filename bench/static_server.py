"""A file behind aiohttp's own static route: `python -m bench.static_server PORT FOLDER`.

The least that a list can cost. Serves whatever is in the folder at `/files/<name>`.
"""

import sys

from aiohttp import web


async def health(_request: web.Request) -> web.Response:
    """Say that the server listens."""
    return web.Response()


if __name__ == "__main__":
    app = web.Application()
    app.add_routes([web.get("/healthz", health), web.static("/files", sys.argv[2])])
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)
