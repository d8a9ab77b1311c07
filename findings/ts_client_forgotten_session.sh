#!/usr/bin/env bash
# Finding: the TypeScript SDK's client never begins a new session when the server has forgotten the old one.
#
# Project:    @modelcontextprotocol/client 2.4.0, and @modelcontextprotocol/sdk 1.32.2 (npm)
# What:       a client of a server with sessions lists tools; the server forgets its sessions, as a restart does, and
#             answers the next request with 404. MCP 2025-11-25 (Transports, Session Management): the client must then
#             initialize anew, without a session ID.
# Expected:   that request, by itself; or an error that says what happened, and connect() to begin anew.
# Seen:       no such request, however often it lists. The error's code is CLIENT_HTTP_NOT_IMPLEMENTED (SDK 1: 404),
#             onclose is not called, and connect() with the same transport is refused. SDK 2 connects the same client
#             with a new transport; SDK 1 wants close() first.
# So what:    a program that makes its client once loses the server for good at the server's first restart.
# Way around: after any error that is no answer, close() and connect() with a new transport. A gateway that keeps its
#             callers' sessions over a restart spares them this.
#
# Run by hand: it downloads small public packages into a temporary folder. Exit status 0: as described above. 1: the
# behaviour has changed. 2: it could not be tried.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund @modelcontextprotocol/client@2.4.0 @modelcontextprotocol/sdk@1.32.2 \
	>/dev/null || { echo "could not be tried: no registry gave the packages"; exit 2; }
cat > forget.mjs <<'JS'
import { randomUUID } from "node:crypto";
import { createServer } from "node:http";
import * as sdk2 from "@modelcontextprotocol/client";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const sessions = new Set();
const seen = [];

// A server with sessions, with no more than is asked of it here.
const server = createServer(async (request, response) => {
  let body = "";
  for await (const part of request) body += part;
  if (request.method !== "POST") return response.writeHead(405).end();
  const { id = null, method } = JSON.parse(body);
  seen.push(method);
  const send = (status, answer, headers = {}) =>
    response.writeHead(status, { "content-type": "application/json", ...headers })
      .end(JSON.stringify({ jsonrpc: "2.0", id, ...answer }));
  if (method === "initialize") {
    const session = randomUUID();
    sessions.add(session);
    const serverInfo = { name: "s", version: "1" };
    const result = { protocolVersion: "2025-11-25", capabilities: { tools: {} }, serverInfo };
    return send(200, { result }, { "mcp-session-id": session });
  }
  if (!sessions.has(request.headers["mcp-session-id"]))
    return send(404, { error: { code: -32001, message: "Session not found" } });
  if (id === null) return response.writeHead(202).end();
  return send(200, { result: { tools: [{ name: "one", inputSchema: { type: "object" } }] } });
});
await new Promise((done) => server.listen(0, "127.0.0.1", done));
const url = new URL(`http://127.0.0.1:${server.address().port}/mcp`);

async function step(what, doing) {
  const before = seen.length;
  let outcome;
  try {
    const result = await doing();
    outcome = result ? result.tools.map((tool) => tool.name).join(",") : "done";
  } catch (error) {
    outcome = error.code ? `error ${error.code}` : `error: ${error.message.split(/[!.]/)[0]}`;
  }
  console.log(`  ${what}: ${outcome} (sent: ${seen.slice(before).join(", ") || "nothing"})`);
}

async function trial(name, client, transport) {
  console.log(name);
  let closed = "no";
  client.onclose = () => (closed = "yes");
  const first = transport();
  await step("connect", () => client.connect(first));
  await step("list", () => client.listTools());
  sessions.clear();
  await step("list, forgotten", () => client.listTools());
  await step("list again", () => client.listTools());
  console.log(`  onclose called: ${closed}`);
  await step("connect, same transport", () => client.connect(first));
  await step("connect, new transport", () => client.connect(transport()));
  await step("list", () => client.listTools());
  await step("close", () => client.close());
  await step("connect, new transport", () => client.connect(transport()));
  await step("list", () => client.listTools());
  await client.close();
}

const info = { name: "c", version: "1" };
await trial("SDK 2", new sdk2.Client(info), () => new sdk2.StreamableHTTPClientTransport(url));
await trial("SDK 1", new Client(info), () => new StreamableHTTPClientTransport(url));
server.closeAllConnections();
server.close();
JS
seen=$(node forget.mjs)
echo "$seen"
[ "$seen" = "SDK 2
  connect: done (sent: initialize, notifications/initialized)
  list: one (sent: tools/list)
  list, forgotten: error CLIENT_HTTP_NOT_IMPLEMENTED (sent: tools/list)
  list again: error CLIENT_HTTP_NOT_IMPLEMENTED (sent: tools/list)
  onclose called: no
  connect, same transport: error: StreamableHTTPClientTransport already started (sent: nothing)
  connect, new transport: done (sent: initialize, notifications/initialized)
  list: one (sent: tools/list)
  close: done (sent: nothing)
  connect, new transport: done (sent: initialize, notifications/initialized)
  list: one (sent: tools/list)
SDK 1
  connect: done (sent: initialize, notifications/initialized)
  list: one (sent: tools/list)
  list, forgotten: error 404 (sent: tools/list)
  list again: error 404 (sent: tools/list)
  onclose called: no
  connect, same transport: error: Already connected to a transport (sent: nothing)
  connect, new transport: error: Already connected to a transport (sent: nothing)
  list: error 404 (sent: tools/list)
  close: done (sent: nothing)
  connect, new transport: done (sent: initialize, notifications/initialized)
  list: one (sent: tools/list)" ] || { echo "The behaviour has changed."; exit 1; }
