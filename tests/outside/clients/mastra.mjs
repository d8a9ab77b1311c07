// @mastra/mcp, whose names begin with the server's name in its configuration.
import { MCPClient } from "@mastra/mcp";
import { drive, headers, textOf } from "./driver.mjs";

let client;
let known = {};
drive({
  async connect(url, token) {
    const server = { url: new URL(url), requestInit: { headers: headers(token) } };
    client = new MCPClient({ id: `outside-${Date.now()}`, servers: { m: server }, timeout: 60000 });
    known = await client.listTools();
    if (Object.keys(known).length === 0) throw new Error("connected, 0 tools");
  },
  async tools() {
    known = await client.listTools();
    return Object.keys(known);
  },
  async call(name, args) {
    const result = await known[`m_${name}`].execute(args, {});
    const text = textOf(result?.content) || JSON.stringify(result);
    return [result?.isError ? "error" : "returned", text];
  },
  close: () => client.disconnect(),
});
