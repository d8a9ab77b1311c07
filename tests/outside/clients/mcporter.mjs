// mcporter's runtime.
import { createRuntime } from "mcporter";
import { drive, headers, textOf } from "./driver.mjs";

let runtime;
drive({
  async connect(url, token) {
    const server = { name: "node", command: { kind: "http", url: new URL(url), headers: headers(token) } };
    runtime = await createRuntime({ servers: [server] });
    await runtime.listTools("node");
  },
  tools: async () => (await runtime.listTools("node")).map((tool) => tool.name),
  async call(name, args) {
    const result = await runtime.callTool("node", name, { args });
    return [result.isError ? "error" : "returned", textOf(result.content)];
  },
  close: () => runtime.close(),
});
