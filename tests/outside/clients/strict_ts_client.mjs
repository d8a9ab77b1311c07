// Lists everything with @modelcontextprotocol/client in 2026-07-28: one JSON object, see strict.py.
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { headers } from "./driver.mjs";
import { listAll } from "./strict_lists.mjs";

const [url, token] = process.argv.slice(2);
const client = new Client({ name: "strict", version: "1" }, { versionNegotiation: { mode: { pin: "2026-07-28" } } });
await client.connect(new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers: headers(token) } }));
await listAll(client);
