// @modelcontextprotocol/client, the TypeScript SDK 2.
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { drive, headers, textOf } from "./driver.mjs";

let client;
drive({
  async connect(url, token) {
    client = new Client({ name: "outside", version: "1" });
    await client.connect(new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers: headers(token) } }));
  },
  async tools() {
    const names = [];
    let cursor;
    do {
      const page = await client.listTools(cursor ? { cursor } : undefined);
      names.push(...page.tools.map((tool) => tool.name));
      cursor = page.nextCursor;
    } while (cursor);
    return names;
  },
  async call(name, args) {
    const result = await client.callTool({ name, arguments: args });
    return [result.isError ? "error" : "returned", textOf(result.content)];
  },
  close: () => client.close(),
});
