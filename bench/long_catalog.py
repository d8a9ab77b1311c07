"""A Consul with one long list of instances, for measuring what a change of one of them costs a node.

Run as `python -m bench.long_catalog PORT COUNT`. The one rule: it answers waits as Consul does, with an index that
rises with each `PUT /change`, and does nothing else.
"""

import asyncio
import sys

import orjson
from aiohttp import web

JSON = "application/json"


def row(number: int, epoch: int) -> bytes:
    """One instance, as a node registers itself."""
    meta = {"node_id": f"id-{number}", "name": f"n{number}", "epoch": str(epoch), "scheme": "http", "mcp_path": "/mcp"}
    address = f"10.{number // 62500}.{number // 250 % 250}.{number % 250 + 1}"
    service = {"ID": f"n{number}-svc", "Port": 8000, "Address": address, "Meta": meta, "CreateIndex": number + 1}
    return orjson.dumps({"Node": {"Node": f"m{number}", "Datacenter": "dc1"}, "Service": service, "Checks": []})


class LongCatalog:
    """So many rows. `change` is the one writer of them."""

    def __init__(self, count: int) -> None:
        self._rows = [row(number, 1) for number in range(count)]
        self._index, self._epoch = 10, 1
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<LongCatalog rows={len(self._rows)} index={self._index}>"

    async def health(self, request: web.Request) -> web.Response:
        """The list, at once or when it has changed."""
        while int(request.query.get("index", "0")) == self._index:
            await self._changed.wait()
        body = b"[" + b",".join(self._rows) + b"]"
        return web.Response(body=body, content_type=JSON, headers={"X-Consul-Index": str(self._index)})

    async def change(self, _request: web.Request) -> web.Response:
        """Another instance starts anew."""
        self._epoch += 1
        number = self._epoch % len(self._rows)
        self._rows[number] = row(number, self._epoch)
        self._index += 1
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        return web.Response()


def main() -> None:
    """Serve until killed."""
    port, count = (int(text) for text in sys.argv[1:])

    async def made() -> web.Application:
        catalog = LongCatalog(count)
        app = web.Application()
        app.router.add_get("/v1/health/service/{name}", catalog.health)
        app.router.add_put("/change", catalog.change)
        app.router.add_get("/healthz", lambda _request: asyncio.sleep(0, web.Response()))
        return app

    web.run_app(made(), host="127.0.0.1", port=port, print=None, access_log=None, shutdown_timeout=0.1)


if __name__ == "__main__":
    main()
