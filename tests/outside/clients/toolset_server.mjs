// A dynamic toolset on @modelcontextprotocol/sdk 1, as its examples have sessions: one McpServer for each of them, over
// HTTP at the port that is given. `open` adds a tool and a resource to the session that calls it.
import { randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";

const sessions = new Map();

function toolset() {
  const server = new McpServer({ name: "toolset", version: "1" });
  server.registerTool("open", { description: "Open the toolset." }, async () => {
    server.registerTool("inner", { description: "One of the toolset." }, async () => said("from the inside"));
    server.registerResource("note", "note://inside", {}, async (uri) => ({ contents: [{ uri: uri.href, text: "a note" }] }));
    return said("opened");
  });
  server.registerResource("readme", "note://readme", {}, async (uri) => ({ contents: [{ uri: uri.href, text: "read" }] }));
  return server;
}

const said = (text) => ({ content: [{ type: "text", text }] });

createServer(async (request, response) => {
  const known = sessions.get(request.headers["mcp-session-id"]);
  if (known) return known.handleRequest(request, response);
  const transport = new StreamableHTTPServerTransport({
    sessionIdGenerator: randomUUID,
    onsessioninitialized: (id) => sessions.set(id, transport),
    onsessionclosed: (id) => sessions.delete(id),
  });
  await toolset().connect(transport);
  return transport.handleRequest(request, response);
}).listen(Number(process.argv[2]), "127.0.0.1");
