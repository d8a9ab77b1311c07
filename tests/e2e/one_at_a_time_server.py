"""A server of nothing but the standard library that does one thing at a time, as most hand-written ones do.

Run by itself over stdio, with a port as its argument over HTTP (one connection at a time). While its tool waits it
answers nothing, no ping either; that a wait has begun, the file says that WAIT_BEGUN names. The one rule: the answer
to a call is the process ID.
"""

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

SCHEMA = {"type": "object", "properties": {"seconds": {"type": "number"}}, "required": ["seconds"]}


def answer_to(asked: dict[str, Any]) -> dict[str, Any] | None:
    """The whole answer to a message; None to a notification."""
    if "id" not in asked:
        return None
    result: dict[str, Any] | None = None
    match asked["method"]:
        case "initialize":
            info = {"serverInfo": {"name": "slow", "version": "1"}, "capabilities": {"tools": {}}}
            result = {"protocolVersion": "2025-06-18", **info}
        case "ping":
            result = {}
        case "tools/list":
            result = {"tools": [{"name": "wait", "inputSchema": SCHEMA}]}
        case "tools/call":
            seconds = asked["params"]["arguments"]["seconds"]
            if seconds and (begun := os.environ.get("WAIT_BEGUN")):
                Path(begun).touch()
            time.sleep(seconds)
            result = {"content": [{"type": "text", "text": str(os.getpid())}]}
    told = {"error": {"code": -32601, "message": "Method not found"}} if result is None else {"result": result}
    return {"jsonrpc": "2.0", "id": asked["id"], **told}


class Handler(BaseHTTPRequestHandler):
    """HTTP/1.0: each connection ends with its answer, so that the next one gets its turn."""

    def do_GET(self) -> None:
        """There is no stream."""
        self.send_error(405)

    def do_POST(self) -> None:
        """Answer one message."""
        answer = answer_to(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        body = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(202 if answer is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
    for line in sys.stdin:
        if (told := answer_to(json.loads(line))) is not None:
            sys.stdout.write(json.dumps(told) + "\n")
            sys.stdout.flush()
