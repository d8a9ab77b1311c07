// Every list of a connected client, every page of it; writes the answers and ends the process.
import { told } from "./driver.mjs";

export async function listAll(client) {
  const lists = {
    tools: ["listTools", "tools", "name"],
    resources: ["listResources", "resources", "uri"],
    resource_templates: ["listResourceTemplates", "resourceTemplates", "uriTemplate"],
    prompts: ["listPrompts", "prompts", "name"],
  };
  const answers = {};
  for (const [name, [method, key, id]] of Object.entries(lists)) {
    try {
      const names = [];
      let cursor;
      do {
        const page = await client[method](cursor ? { cursor } : undefined);
        names.push(...page[key].map((entry) => entry[id]));
        cursor = page.nextCursor;
      } while (cursor);
      answers[name] = { ok: true, names };
    } catch (error) {
      answers[name] = { ok: false, error: told(error) };
    }
  }
  process.stdout.write(JSON.stringify(answers), () => process.exit(0));
}
