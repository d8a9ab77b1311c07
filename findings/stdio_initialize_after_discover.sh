#!/usr/bin/env bash
# Finding: after server/discover the TypeScript SDK 2 serves initialize on the same pipe, the Python SDK 2 does not.
#
# Project:    @modelcontextprotocol/server 2.4.0 (npm), serveStdio(), and mcp 2.3.0 (PyPI), MCPServer.run(), over stdio
# What:       server/discover of MCP 2026-07-28, which both answer with supportedVersions ["2026-07-28"] only; then
#             initialize for 2025-11-25, server/discover and tools/list; and the same with a tools/list in between.
# Expected:   one meaning. A server that did not name 2025-11-25 among its versions refuses to initialize for it.
# Seen:       Python refuses (-32022) and goes on with 2026-07-28. TypeScript takes the discover for a mere look: it
#             serves initialize, and speaks nothing but 2025-11-25 from then on; server/discover, which it has just
#             answered, is -32601. Only another request of 2026-07-28 settles it; after that it refuses, too.
# So what:    a client that looks first and then decides gets its old session from one SDK, and an error from the
#             other; and the versions that a server names are not all that it speaks.
# Way around: after an answered discover never initialize on the same pipe; start another process for it.
#
# Run by hand: it downloads public packages into a temporary folder; a minute. Exit status 0: as described above. 1: the
# behaviour has changed. 2: it could not be tried.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
python3 -m venv packages
{ npm install --silent --no-audit --no-fund @modelcontextprotocol/server@2.4.0 >/dev/null \
	&& packages/bin/python -m pip install --quiet --disable-pip-version-check mcp==2.3.0; } \
	|| { echo "could not be tried: no registry gave the packages"; exit 2; }
cat > serve.mjs <<'JS'
import { McpServer } from "@modelcontextprotocol/server";
import { serveStdio } from "@modelcontextprotocol/server/stdio";

serveStdio(() => {
  const server = new McpServer({ name: "s", version: "1" });
  server.registerTool("one", { description: "One." }, async () => ({ content: [{ type: "text", text: "1" }] }));
  return server;
});
JS
cat > serve.py <<'PY'
from mcp.server.mcpserver import MCPServer

server = MCPServer("s")


@server.tool()
def one() -> str:
    return "1"


server.run()
PY
cat > ask.py <<'PY'
import json
import subprocess
import sys

INFO = {"name": "c", "version": "1"}
ABOUT = "io.modelcontextprotocol/"
META = {ABOUT + "protocolVersion": "2026-07-28", ABOUT + "clientInfo": INFO, ABOUT + "clientCapabilities": {}}
INITIALIZE = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": INFO}
ORDERS = (
    ("server/discover", "initialize", "server/discover", "tools/list"),
    ("server/discover", "tools/list", "initialize", "server/discover"),
)


def outcome(answer):
    if "error" in answer:
        return str(answer["error"]["code"])
    result = answer["result"]
    if "supportedVersions" in result:
        return " ".join(result["supportedVersions"])
    # Results of 2026-07-28 say of which type they are, those of 2025-11-25 do not.
    return result.get("protocolVersion") or ("2026-07-28" if "resultType" in result else "2025-11-25")


def ask(name, *command):
    for order in ORDERS:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        said = []
        for number, method in enumerate(order):
            params = INITIALIZE if method == "initialize" else {"_meta": META}
            message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
            said.append(f"{method} {outcome(json.loads(process.stdout.readline()))}")
        process.stdin.close()
        process.wait(10)
        print(f"{name}: {', '.join(said)}")


ask("TypeScript", "node", "serve.mjs")
ask("Python", sys.executable, "serve.py")
PY
seen=$(timeout 100 packages/bin/python ask.py)
echo "$seen"
[ "
$seen" = "
TypeScript: server/discover 2026-07-28, initialize 2025-11-25, server/discover -32601, tools/list 2025-11-25
TypeScript: server/discover 2026-07-28, tools/list 2026-07-28, initialize -32022, server/discover 2026-07-28
Python: server/discover 2026-07-28, initialize -32022, server/discover 2026-07-28, tools/list 2026-07-28
Python: server/discover 2026-07-28, tools/list 2026-07-28, initialize -32022, server/discover 2026-07-28" ] \
	|| { echo "The behaviour has changed."; exit 1; }
