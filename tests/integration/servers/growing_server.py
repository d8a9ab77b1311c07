"""A server whose tool `grow` adds a tool, tells of it on the stream of the call, and answers; over stdio and HTTP.

Run as a file it speaks over stdio, stateless with the argument `modern`, else in a session. The one rule: nothing but
the call's own stream ever tells of the change; there is no other stream over HTTP, and no subscription.
"""

import json
import sys
from typing import Any

CHANGED = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": {}}
MODERN = "2026-07-28"


class Growing:
    """What the server answers; one for each server."""

    def __init__(self, *, modern: bool) -> None:
        self.modern = modern
        self.grown = 0

    def answer(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        """The messages that follow a request, the response last; none for a notification."""
        request_id = message.get("id")
        if request_id is None:
            return []
        told: list[dict[str, Any]] = []
        capabilities: dict[str, Any] = {"tools": {"listChanged": True}}
        match message["method"]:
            case "server/discover" if self.modern:
                result: dict[str, Any] = {"supportedVersions": [MODERN], "capabilities": capabilities}
            case "initialize" if not self.modern:
                info = {"name": "growing", "version": "1"}
                result = {"protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": info}
            case "ping":
                result = {}
            case "tools/list":
                names = ["grow", *(f"grown-{number}" for number in range(self.grown))]
                result = {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in names]}
            case "tools/call":
                self.grown += 1
                told = [CHANGED]
                result = {"content": [{"type": "text", "text": str(self.grown)}]}
            case _:
                return [{"jsonrpc": "2.0", "id": request_id, "error": {"code": -32601, "message": "unknown"}}]
        if self.modern:
            result = {"resultType": "complete", **result}
        return [*told, {"jsonrpc": "2.0", "id": request_id, "result": result}]


def main() -> None:
    """Serve over stdio until the input ends."""
    server = Growing(modern="modern" in sys.argv)
    for line in sys.stdin:
        for message in server.answer(json.loads(line)):
            sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
