"""A server over stdio whose tools are what a file says at the time: the path is its only argument.

It needs the standard library alone. The one rule: it never announces a change.
"""

import json
import sys
from pathlib import Path
from typing import Any


def result_of(asked: dict[str, Any]) -> dict[str, Any] | None:
    match asked["method"]:
        case "initialize":
            info = {"serverInfo": {"name": "fickle", "version": "1"}, "capabilities": {"tools": {}}}
            return {"protocolVersion": "2025-06-18", **info}
        case "ping":
            return {}
        case "tools/list":
            return {"tools": json.loads(Path(sys.argv[1]).read_text())}
        case "tools/call":
            return {"content": [{"type": "text", "text": f"{asked['params']['name']} was called"}]}
    return None


if __name__ == "__main__":
    for line in sys.stdin:
        asked = json.loads(line)
        if "id" in asked:
            result = result_of(asked)
            told = {"error": {"code": -32601, "message": "Method not found"}} if result is None else {"result": result}
            sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": asked["id"], **told}) + "\n")
            sys.stdout.flush()
