// The host's bridge and the page's side of @modelcontextprotocol/ext-apps, joined in one process: what the page calls
// by its server's own names is forwarded by the bridge as it is. Prints what each step came to, as JSON.
import { Client, InMemoryTransport, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { App } from "@modelcontextprotocol/ext-apps";
import { AppBridge, getToolUiResourceUri, isToolVisibilityAppOnly } from "@modelcontextprotocol/ext-apps/app-bridge";
import { told } from "./driver.mjs";

const PAGES = { extensions: { "io.modelcontextprotocol/ui": { mimeTypes: ["text/html;profile=mcp-app"] } } };
const { url, prefix, tool, input, calls } = JSON.parse(process.argv[2]);
const found = {};

async function step(name, work) {
  try {
    found[name] = await work();
  } catch (error) {
    found[name] = told(error);
  }
}

const client = new Client({ name: "outside", version: "1" }, { capabilities: PAGES });
await client.connect(new StreamableHTTPClientTransport(new URL(url)));
const { tools } = await client.listTools();
const shown = tools.find((one) => one.name === prefix + tool);
const forPages = tools.filter((one) => one.name.startsWith(prefix) && isToolVisibilityAppOnly(one));
found["for pages alone"] = forPages.map((one) => one.name.slice(prefix.length)).sort().join(" ");

await step("page", async () => {
  const [page] = (await client.readResource({ uri: getToolUiResourceUri(shown) })).contents;
  return `${page.mimeType}, ${/<html/i.test(page.text ?? "") ? "a page" : "no page"}`;
});

const bridge = new AppBridge(client, { name: "host", version: "1" }, { serverTools: {}, serverResources: {} });
const app = new App({ name: "page", version: "1" }, {}, { autoResize: false });
const [host, view] = InMemoryTransport.createLinkedPair();
let arrived;
const result = new Promise((resolve) => (arrived = resolve));
app.ontoolresult = arrived;
await bridge.connect(host);
await app.connect(view);

const shownOf = (answer) => JSON.stringify(answer.structuredContent ?? answer.content ?? answer.contents ?? answer);
await step("result", async () => {
  await bridge.sendToolInput({ arguments: input ?? {} });
  await bridge.sendToolResult(await client.callTool({ name: prefix + tool, arguments: input ?? {} }));
  return shownOf(await result).slice(0, 400);
});
for (const { name, uri, args } of calls) {
  await step(name ?? uri, async () => {
    const answer = name ? await app.callServerTool({ name, arguments: args ?? {} }) : await app.readServerResource({ uri });
    return (answer.isError ? "isError: " : "") + shownOf(answer).slice(0, 400);
  });
}
process.stdout.write(JSON.stringify(found) + "\n");
process.exit(0);
