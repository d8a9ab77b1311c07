"""Nodes that cost next to nothing, many in a process: `python -m bench.stub_nodes PORT[,PORT...] PEER_TOKEN MS FIRST`.

They listen on loopback, or on the address that is the last word. Each proves who it is, and answers for one tool of a
fleet by itself, after MS milliseconds, so that what asks twenty of them is measured and not they. Their names count
from FIRST. The handshake, the proofs and the HTTP side are those of real nodes. SIGUSR1 ends every connection.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from agent.app.drain import runner_of
from agent.app.plan import MCP_PATH
from agent.identity.keeper import AssociationKeeper
from agent.identity.mesh_secret import mesh_secrets
from agent.identity.node_key import NodeKey
from agent.model import ORIGIN_META_KEY, PEER_PATH, Json, NodeIdentity, ServerScope
from agent.rest.handshake import HandshakeRoute, OwnAddresses
from agent.rest.security import EdgePolicy, security_headers, security_middleware, usual_header_lines
from agent.rest.tokens import TokenTable
from agent.routing.origins import Origin
from agent.server.own_tools import with_card
from agent.server.request import read_body
from bench.canned_server import DISCOVERED, SCHEMA, silent_stream

SERVER, TOOL = "echo", "echo"


async def main() -> None:
    """Serve until killed."""
    ports, secrets, delay_s = sys.argv[1].split(","), mesh_secrets([sys.argv[2]], ()), int(sys.argv[3]) / 1000
    host = sys.argv[5] if len(sys.argv) > 5 else "127.0.0.1"
    for number, port in enumerate(ports, int(sys.argv[4])):
        app = _node(f"n{number}", secrets, delay_s)
        runner = runner_of(app, fast_path=MCP_PATH, common=usual_header_lines)
        await runner.setup()
        await web.TCPSite(runner, host, int(port)).start()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _end_connections)
    await asyncio.Event().wait()


def _end_connections() -> None:
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(path.name))) as one:
            one.shutdown(socket.SHUT_RDWR if one.getpeername() else 0)  # A listener has none: an error, as any file.


def _node(name: str, secrets: tuple[bytes, ...], delay_s: float) -> web.Application:
    key = NodeKey.new()
    identity, names = NodeIdentity(key.node_id, name), frozenset({name})
    keeper = AssociationKeeper(key, secrets, time.monotonic)
    policy = EdgePolicy(names, frozenset(), TokenTable(), metrics_public=True, associations=keeper)
    app = web.Application(middlewares=[security_middleware(policy)])
    app.on_response_prepare.append(security_headers(policy))
    answer = partial(_answer, identity=identity, delay_s=delay_s)
    app.add_routes(HandshakeRoute(keeper, OwnAddresses(names, frozenset())).routes())
    app.add_routes([web.post(MCP_PATH, answer), web.post(PEER_PATH, answer), web.get("/healthz", _health)])
    return app


async def _health(_request: web.Request) -> web.Response:
    return web.Response()


async def _answer(request: web.Request, *, identity: NodeIdentity, delay_s: float) -> web.StreamResponse:
    body = await read_body(request)
    assert isinstance(body, bytes)
    message: dict[str, Any] = orjson.loads(body)
    match message["method"]:
        case "tools/call":
            await asyncio.sleep(delay_s)
            text = message["params"]["arguments"]["text"]
            result: Json = {"content": [{"type": "text", "text": text}], "resultType": "complete"}
        case "tools/list":
            origin = Origin.of_own(identity, SERVER, TOOL, ServerScope.FLEET, sticky=False)
            named = {"name": f"{identity.name}__{SERVER}__{TOOL}", "description": "Return the text that was given."}
            entry = {**named, "inputSchema": SCHEMA, "_meta": {ORIGIN_META_KEY: origin.as_json()}}
            result = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private", "tools": [entry]}
        case "server/discover":
            result = with_card(DISCOVERED, identity, "extensions")
        case "subscriptions/listen":
            return await silent_stream(request, message)
        case _:
            error = {"jsonrpc": "2.0", "id": message.get("id"), "error": {"code": -32601, "message": "unknown"}}
            return web.Response(body=orjson.dumps(error), status=404, content_type="application/json")
    answer = orjson.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result})
    return web.Response(body=answer, content_type="application/json")


if __name__ == "__main__":
    asyncio.run(main())
