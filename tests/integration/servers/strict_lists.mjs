// Lists everything at a URL as one of the TypeScript SDK's clients does, and prints the names, or why it refused; and what of it it cannot compile.
// Arguments: the folder of node_modules, the client ("sdk-1", "client-2", "client-2-modern"), the URL.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [modules, kind, url] = process.argv.slice(2);
const require = createRequire(`${modules}/any.js`);
const load = (name) => import(pathToFileURL(require.resolve(name)));

const info = { name: "strict", version: "1" };
let client, transport;
if (kind === "sdk-1") {
  const { Client } = await load("@modelcontextprotocol/sdk/client/index.js");
  const { StreamableHTTPClientTransport } = await load("@modelcontextprotocol/sdk/client/streamableHttp.js");
  client = new Client(info);
  transport = new StreamableHTTPClientTransport(new URL(url));
} else {
  const { Client, StreamableHTTPClientTransport } = await load("@modelcontextprotocol/client");
  const modern = kind === "client-2-modern";
  client = new Client(info, modern ? { versionNegotiation: { mode: { pin: "2026-07-28" } } } : {});
  transport = new StreamableHTTPClientTransport(new URL(url));
}
await client.connect(transport);

const told = {};
const lists = {
  tools: (params) => client.listTools(params),
  prompts: (params) => client.listPrompts(params),
  resources: (params) => client.listResources(params),
  resourceTemplates: (params) => client.listResourceTemplates(params),
};
for (const [key, list] of Object.entries(lists)) {
  try {
    const entries = [];
    let cursor;
    do {
      const page = await list(cursor === undefined ? undefined : { cursor });
      entries.push(...page[key]);
      cursor = page.nextCursor;
    } while (cursor !== undefined);
    told[key] = { names: entries.map((entry) => entry.uri ?? entry.uriTemplate ?? entry.name), entries };
  } catch (error) {
    told[key] = { refused: String(error.message ?? error).slice(0, 2000) };
  }
}
// A client of 2026-07-28 compiles a tool's output schema with the result of a call, and loses that where it cannot.
if (kind === "client-2-modern" && told.tools.entries !== undefined) {
  told.tools.uncompiled = [];
  for (const { name, outputSchema } of told.tools.entries.slice(0, 150)) {
    if (outputSchema === undefined || !name.startsWith("bad__")) continue;
    try {
      await client.callTool({ name, arguments: {} });
    } catch (error) {
      if (String(error.message).includes("outputSchema")) told.tools.uncompiled.push(`${name}: ${error.message}`);
    }
  }
}
process.stdout.write(JSON.stringify(told), () => process.exit(0));
