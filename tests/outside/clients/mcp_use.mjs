// mcp-use for TypeScript.
import { MCPClient } from "mcp-use";
import { drive, headers, textOf } from "./driver.mjs";

let client;
let session;
drive({
  async connect(url, token) {
    client = MCPClient.fromDict({ mcpServers: { node: { url, headers: headers(token) } } });
    session = await client.createSession("node");
  },
  tools: async () => (await session.listTools()).map((tool) => tool.name),
  async call(name, args) {
    const result = await session.callTool(name, args);
    return [result.isError ? "error" : "returned", textOf(result.content)];
  },
  close: () => client.closeAllSessions(),
});
