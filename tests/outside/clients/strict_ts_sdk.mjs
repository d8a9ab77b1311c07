// Lists everything with @modelcontextprotocol/sdk in 2025-11-25: one JSON object, see strict.py.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { headers } from "./driver.mjs";
import { listAll } from "./strict_lists.mjs";

const [url, token] = process.argv.slice(2);
const client = new Client({ name: "strict", version: "1" });
await client.connect(new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers: headers(token) } }));
await listAll(client);
