#!/usr/bin/env bash
# Finding: a definition called "$id" below $defs makes the TypeScript SDK 1 refuse a whole list of tools.
#
# Project:    @modelcontextprotocol/sdk 1.32.2 with ajv 8.17.1, which compiles every output schema while it lists
# What:       client.listTools() of a server, one of whose tools has an output schema with $defs: {A, $id} and a
#             reference to #/$defs/A. JSON Schema (2020-12, 8.2.4) lets definitions have any name.
# Expected:   both tools are listed, as they are when the second definition is called B.
# Seen:       "id.replace is not a function", and no tool at all: the other tool is lost too.
# So what:    a gateway that passes such a schema on takes every other server's tools from such clients.
# Way around: leave such an output schema out for clients before 2026-07-28.
#
# Run by hand: it downloads small public packages into a temporary folder. Exit status 0: as described above. 1: the
# behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund @modelcontextprotocol/sdk@1.32.2 ajv@8.17.1 >/dev/null
cat > list.mjs <<'JS'
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { InMemoryTransport } from "@modelcontextprotocol/sdk/inMemory.js";
import { Server } from "@modelcontextprotocol/sdk/server/index.js";
import { ListToolsRequestSchema } from "@modelcontextprotocol/sdk/types.js";

const plain = { name: "plain", inputSchema: { type: "object" } };
const schema = (name) => ({
  type: "object",
  properties: { a: { $ref: "#/$defs/A" } },
  $defs: { A: { type: "string" }, [name]: { type: "string" } },
});

async function listed(name) {
  const server = new Server({ name: "s", version: "1" }, { capabilities: { tools: {} } });
  const tools = [plain, { name: "odd", inputSchema: { type: "object" }, outputSchema: schema(name) }];
  server.setRequestHandler(ListToolsRequestSchema, async () => ({ tools }));
  const [here, there] = InMemoryTransport.createLinkedPair();
  const client = new Client({ name: "c", version: "1" });
  await Promise.all([server.connect(there), client.connect(here)]);
  try {
    return (await client.listTools()).tools.map((tool) => tool.name).join(",");
  } catch (error) {
    return `refused: ${error.message}`;
  } finally {
    await client.close();
  }
}

console.log(`a definition called B: ${await listed("B")}`);
console.log(`a definition called $id: ${await listed("$id")}`);
JS
seen=$(node list.mjs)
echo "$seen"
[ "$seen" = 'a definition called B: plain,odd
a definition called $id: refused: id.replace is not a function' ] || { echo "The behaviour has changed."; exit 1; }
