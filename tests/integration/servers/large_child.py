"""A stdio MCP server of nothing but the standard library whose tools give what is large: a result or a notification."""

import json
import sys
from typing import Any

# As many empty lists as fit into 4 MiB: what takes most memory where it is read.
LISTS = "[" + ",".join(["[]"] * 1_390_000) + "]"
COMPLETE = '"resultType":"complete"'


def write(*parts: str) -> None:
    sys.stdout.write("".join(('{"jsonrpc":"2.0",', *parts, "}\n")))
    sys.stdout.flush()


def answer(request: dict[str, Any]) -> tuple[str, ...]:
    match request["method"]:
        case "server/discover":
            return ('"result":{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},', COMPLETE, "}")
        case "tools/list":
            tools = [{"name": name, "inputSchema": {"type": "object"}} for name in ("give", "tell")]
            return ('"result":{"tools":', json.dumps(tools), ",", COMPLETE, "}")
        case "tools/call" if request["params"]["name"] == "tell":
            write('"method":"notifications/message","params":{"level":"info","data":', LISTS, "}")
            return ('"result":{"content":[],', COMPLETE, "}")
        case "tools/call":
            return ('"result":{"content":[],', COMPLETE, ',"structuredContent":{"rows":', LISTS, "}}")
        case _:
            return ('"error":{"code":-32601,"message":"Method not found"}',)


for line in sys.stdin:
    asked = json.loads(line)
    if asked.get("id") is not None:
        write('"id":', str(asked["id"]), ",", *answer(asked))
