// @ai-sdk/mcp, the client of Vercel's AI SDK.
import { createMCPClient } from "@ai-sdk/mcp";
import { drive, headers, textOf } from "./driver.mjs";

let client;
drive({
  async connect(url, token) {
    client = await createMCPClient({ transport: { type: "http", url, headers: headers(token) } });
  },
  tools: async () => Object.keys(await client.tools()),
  async call(name, args) {
    const tools = await client.tools();
    const result = await tools[name].execute(args, { toolCallId: "1", messages: [] });
    return [result.isError ? "error" : "returned", textOf(result.content)];
  },
  close: () => client.close(),
});
