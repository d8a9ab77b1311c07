// A client of the TypeScript SDK, 1 or 2, before toolset_server.mjs: what it opens is there for it, and for no other.
// Prints what each step came to, as JSON.
import { Client as Client2, StreamableHTTPClientTransport as Transport2 } from "@modelcontextprotocol/client";
import { Client as Client1 } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport as Transport1 } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { ToolListChangedNotificationSchema } from "@modelcontextprotocol/sdk/types.js";
import { textOf, told } from "./driver.mjs";

const { url, prefix, sdk } = JSON.parse(process.argv[2]);
const found = {};

async function step(name, work) {
  try {
    found[name] = await work();
  } catch (error) {
    found[name] = told(error);
  }
}

async function connected() {
  const [Client, Transport] = sdk === 1 ? [Client1, Transport1] : [Client2, Transport2];
  const client = new Client({ name: "outside", version: "1" });
  await client.connect(new Transport(new URL(url)));
  return client;
}

const [one, other] = [await connected(), await connected()];
let changed;
const notice = new Promise((resolve) => (changed = resolve));
one.setNotificationHandler(sdk === 1 ? ToolListChangedNotificationSchema : "notifications/tools/list_changed", changed);
const tools = async (client) =>
  (await client.listTools()).tools.map((tool) => tool.name).filter((name) => name.startsWith(prefix) && !/mcp_server/.test(name)).map((name) => name.slice(prefix.length)).sort().join(" ");
const call = async (client, name) => textOf((await client.callTool({ name: prefix + name, arguments: {} })).content);

await step("before", () => tools(one));
await step("opened", () => call(one, "open"));
await step("notice", async () => {
  await Promise.race([notice, new Promise((_, fail) => setTimeout(() => fail(new Error("no notice within 10 s")), 10_000))]);
  return "told";
});
await step("after", () => tools(one));
await step("called", () => call(one, "inner"));
await step("resource", async () => {
  const { resources } = await one.listResources();
  const { uri } = resources.find((resource) => resource.name === "note") ?? {};
  return uri ? (await one.readResource({ uri })).contents[0].text : "not listed";
});
await step("other", () => tools(other));
process.stdout.write(JSON.stringify(found) + "\n");
process.exit(0);
