// Sends batches with the transport of the TypeScript SDK 1, which has them for sessions of 2025-03-26, and prints what
// came back for each. Arguments: the folder of node_modules, the URL, the batches as JSON.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [modules, url, batches] = process.argv.slice(2);
const require = createRequire(`${modules}/any.js`);
const { StreamableHTTPClientTransport } = await import(
  pathToFileURL(require.resolve("@modelcontextprotocol/sdk/client/streamableHttp.js"))
);
const transport = new StreamableHTTPClientTransport(new URL(url));
let came = [];
let wake = () => {};
transport.onmessage = (message) => {
  came.push(message);
  wake();
};
const until = async (count) => {
  while (came.length < count) await new Promise((resolve) => (wake = resolve));
  return came.splice(0);
};
await transport.start();
await transport.send({
  jsonrpc: "2.0",
  id: 0,
  method: "initialize",
  params: { protocolVersion: "2025-03-26", capabilities: {}, clientInfo: { name: "batches", version: "1" } },
});
const answers = [await until(1)];
for (const { messages, count } of JSON.parse(batches)) {
  await transport.send(messages);
  answers.push(await until(count));
}
console.log(JSON.stringify(answers));
await transport.close();
