// @modelcontextprotocol/sdk 1 as a client whose answers may be tasks of its own, before server-everything.
// Prints what each step came to, as JSON.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { InMemoryTaskStore } from "@modelcontextprotocol/sdk/experimental/tasks/stores/in-memory.js";
import { CallToolResultSchema, CreateMessageRequestSchema, ElicitRequestSchema } from "@modelcontextprotocol/sdk/types.js";
import { textOf, told } from "./driver.mjs";

const { url, prefix } = JSON.parse(process.argv[2]);
const found = {};

async function step(name, work) {
  try {
    found[name] = await work();
  } catch (error) {
    found[name] = told(error);
  }
}

const client = new Client(
  { name: "outside", version: "1" },
  {
    capabilities: {
      elicitation: { form: {} },
      sampling: {},
      tasks: { requests: { elicitation: { create: {} }, sampling: { createMessage: {} } } },
    },
    taskStore: new InMemoryTaskStore(),
  },
);

// As a client has it that is asked as a task: the answer is kept, and asked for later.
async function answered(request, extra, result) {
  if (!request.params.task || !extra.taskStore) return result;
  const task = await extra.taskStore.createTask({ ttl: extra.taskRequestedTtl });
  await extra.taskStore.storeTaskResult(task.taskId, "completed", result);
  return { task };
}

client.setRequestHandler(ElicitRequestSchema, (request, extra) => {
  const asked = request.params.requestedSchema?.properties ?? {};
  const content = asked.interpretation ? { interpretation: "snake" } : { name: "Ada" };
  return answered(request, extra, { action: "accept", content });
});
client.setRequestHandler(CreateMessageRequestSchema, (request, extra) => {
  const content = { type: "text", text: "a model said so" };
  return answered(request, extra, { role: "assistant", model: "none", content, stopReason: "endTurn" });
});

await client.connect(new StreamableHTTPClientTransport(new URL(url)));
const names = (await client.listTools()).tools.map((tool) => tool.name);
found.listed = names.filter((name) => name.startsWith(prefix) && name.endsWith("-async")).map((name) => name.slice(prefix.length)).sort().join(" ");

async function call(name, args) {
  const result = await client.callTool({ name: prefix + name, arguments: args });
  return (result.isError ? "isError: " : "") + textOf(result.content).replace(/\s+/g, " ");
}

await step("elicitation", () => call("trigger-elicitation-request-async", {}));
await step("sampling", () => call("trigger-sampling-request-async", { prompt: "hello", maxTokens: 10 }));
let taskId;
await step("task", async () => {
  const params = { name: `${prefix}simulate-research-query`, arguments: { topic: "python", ambiguous: true } };
  const seen = [];
  for await (const message of client.experimental.tasks.callToolStream(params, CallToolResultSchema, { task: { ttl: 60000 } })) {
    if (message.type === "taskCreated") taskId = message.task.taskId;
    if (message.type === "taskStatus" && message.task.status !== seen.at(-1)) seen.push(message.task.status);
    if (message.type === "result") return `${textOf(message.result.content).split("\n")[0]}`;
    if (message.type === "error") return `error: ${told(message.error)}`;
  }
  return "ended without a result";
});
await step("tasks", async () => {
  const { tasks } = await client.experimental.tasks.listTasks();
  return tasks.filter((task) => task.taskId === taskId).map((task) => task.status).join(" ");
});
process.stdout.write(JSON.stringify(found) + "\n");
process.exit(0);
