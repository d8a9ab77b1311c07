"""A stdio server of one tool, one prompt and one resource that starts at once and answers each with its process ID.

Run as a child of nodes in tests that end it. It speaks a version of before 2026-07-28, one message at a time.
"""

import json
import os
import sys
from typing import Any

SCHEMA = {"type": "object"}
TEXT = {"type": "text", "text": str(os.getpid())}
RESULTS: dict[str, dict[str, Any]] = {
    "initialize": {
        "protocolVersion": "2025-06-18",
        "capabilities": {"tools": {}, "prompts": {}, "resources": {}, "completions": {}},
        "serverInfo": {"name": "pid", "version": "1"},
    },
    "ping": {},
    "tools/list": {"tools": [{"name": "pid", "inputSchema": SCHEMA, "annotations": {"idempotentHint": True}}]},
    "prompts/list": {"prompts": [{"name": "pid", "arguments": [{"name": "who"}]}]},
    "resources/list": {"resources": [{"name": "pid", "uri": "pid://now"}]},
    "resources/templates/list": {"resourceTemplates": []},
    "tools/call": {"content": [TEXT]},
    "prompts/get": {"messages": [{"role": "user", "content": TEXT}]},
    "resources/read": {"contents": [{"uri": "pid://now", "text": TEXT["text"]}]},
    "completion/complete": {"completion": {"values": [TEXT["text"]]}},
}

if __name__ == "__main__":
    for line in sys.stdin:
        asked = json.loads(line)
        if "id" in asked and "method" in asked:
            known = RESULTS.get(asked["method"])
            told = {"error": {"code": -32601, "message": "Method not found"}} if known is None else {"result": known}
            sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": asked["id"], **told}) + "\n")
            sys.stdout.flush()
