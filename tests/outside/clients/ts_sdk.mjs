// @modelcontextprotocol/sdk, the TypeScript SDK 1.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { drive, headers, textOf } from "./driver.mjs";

let client;
drive({
  async connect(url, token) {
    client = new Client({ name: "outside", version: "1" });
    await client.connect(new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers: headers(token) } }));
  },
  // One page, as most programs on this SDK do.
  tools: async () => (await client.listTools()).tools.map((tool) => tool.name),
  async call(name, args) {
    const result = await client.callTool({ name, arguments: args });
    return [result.isError ? "error" : "returned", textOf(result.content)];
  },
  close: () => client.close(),
});
