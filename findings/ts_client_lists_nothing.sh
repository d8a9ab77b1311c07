#!/usr/bin/env bash
# Finding: a client of the TypeScript SDK 2 that is not connected lists no tools, without an error.
#
# Project:    @modelcontextprotocol/client 2.4.0 (npm)
# What:       listTools(), listPrompts() and listResources() of a client that was never connected; then the same client
#             after connect() has failed, and after a server with one tool was listed and close() was called.
# Expected:   "Not connected", which callTool() of the same client raises, and SDK 1.32.2 for the lists, too.
# Seen:       empty lists. An empty list is documented for a server without that capability, and a client without a
#             server knows of no capability. Only console.debug says a word, and blames the server.
# So what:    a program whose connection failed or was closed takes every tool for gone, and goes on without a fault.
# Way around: look at client.transport first, or make the client with enforceStrictCapabilities: true.
#
# Run by hand: it downloads small public packages into a temporary folder. Exit status 0: as described above. 1: the
# behaviour has changed. 2: it could not be tried.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund @modelcontextprotocol/client@2.4.0 @modelcontextprotocol/server@2.4.0 \
	@modelcontextprotocol/sdk@1.32.2 >/dev/null || { echo "could not be tried: no registry gave the packages"; exit 2; }
cat > serve.mjs <<'JS'
import { McpServer } from "@modelcontextprotocol/server";
import { StdioServerTransport } from "@modelcontextprotocol/server/stdio";

const server = new McpServer({ name: "s", version: "1" });
server.registerTool("one", { description: "One." }, async () => ({ content: [{ type: "text", text: "1" }] }));
await server.connect(new StdioServerTransport());
JS
cat > list.mjs <<'JS'
import { Client } from "@modelcontextprotocol/client";
import { StdioClientTransport } from "@modelcontextprotocol/client/stdio";
import { Client as Client1 } from "@modelcontextprotocol/sdk/client/index.js";

console.debug = () => {};
const running = (...args) => new StdioClientTransport({ command: process.execPath, args, stderr: "ignore" });

async function said(asking) {
  try {
    const answer = await asking;
    return JSON.stringify((answer.tools ?? answer.prompts ?? answer.resources).map((one) => one.name));
  } catch (error) {
    return error.message;
  }
}

async function show(when, client) {
  const asked = [client.listTools(), client.listPrompts(), client.listResources()];
  const lists = await Promise.all(asked.map(said));
  console.log(`${when}: ${lists.join(" ")}; call: ${await said(client.callTool({ name: "one" }))}`);
}

const client = new Client({ name: "c", version: "1" });
await show("never connected", client);
await client.connect(running("-e", "process.exit(1)")).catch((error) => console.log(`connect: ${error.message}`));
await show("connect failed", client);
await client.connect(running("serve.mjs"));
console.log(`connected: ${await said(client.listTools())}`);
await client.close();
await show("closed", client);
await show("strict", new Client({ name: "c", version: "1" }, { enforceStrictCapabilities: true }));
await show("SDK 1", new Client1({ name: "c", version: "1" }));
JS
seen=$(node list.mjs)
echo "$seen"
[ "$seen" = 'never connected: [] [] []; call: Not connected
connect: Connection closed
connect failed: [] [] []; call: Not connected
connected: ["one"]
closed: [] [] []; call: Not connected
strict: Not connected Not connected Not connected; call: Not connected
SDK 1: Not connected Not connected Not connected; call: Not connected' ] \
	|| { echo "The behaviour has changed."; exit 1; }
