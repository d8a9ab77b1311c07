// @langchain/mcp-adapters.
import { MultiServerMCPClient } from "@langchain/mcp-adapters";
import { drive, headers } from "./driver.mjs";

let client;
let known = {};
const list = async () => {
  known = Object.fromEntries((await client.getTools()).map((tool) => [tool.name, tool]));
  return Object.keys(known);
};
drive({
  async connect(url, token) {
    client = new MultiServerMCPClient({ mcpServers: { node: { transport: "http", url, headers: headers(token) } } });
    await list();
  },
  tools: list,
  async call(name, args) {
    const result = await known[name].invoke(args);
    return ["returned", typeof result === "string" ? result : JSON.stringify(result)];
  },
  close: () => client.close(),
});
