// Everything that the page asks of its node: the REST API, the stream of events, MCP. No token is kept here: a browser
// that has logged in holds a cookie that no script can read, which counts beside the header below.

const BASE = new URL(".", document.baseURI);
const VERSION = "2026-07-28";
const META = "io.modelcontextprotocol/";

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function address(path) {
  return new URL(path, BASE);
}

async function send(path, options = {}) {
  const headers = { "Mesh-Page": "1", ...options.headers };
  return fetch(address(path), { ...options, headers, credentials: "same-origin", redirect: "error" });
}

async function refusal(response) {
  let message = `${response.status} ${response.statusText}`;
  try {
    const body = await response.json();
    message = body.message ?? body.error?.message ?? message;
  } catch { /* no JSON: the status says all there is */ }
  return new Refused(response.status, message);
}

export async function rest(method, path, body) {
  const response = await send(`api/v1/mcp/${path}`, {
    method,
    body: body === undefined ? undefined : JSON.stringify(body),
    headers: body === undefined ? {} : { "Content-Type": "application/json" },
  });
  if (!response.ok) throw await refusal(response);
  return response.json();
}

export async function login(token) {
  const response = await send("ui/login", { method: "POST", headers: { Authorization: `Bearer ${token}` } });
  if (!response.ok) throw await refusal(response);
}

export async function logout() {
  await send("ui/logout", { method: "POST" });
}

// Each event of a stream, until it ends.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value.replaceAll("\r", "")).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5)).join("\n");
      if (data.trim()) yield JSON.parse(data);
    }
  }
}

// Follow the node for good: `take` gets each change, `state` hears of what becomes of the connection.
export async function follow(take, state) {
  for (let pause = 500; ; pause = Math.min(pause * 2, 10000)) {
    try {
      const response = await send("api/v1/mcp/events", { headers: { Accept: "text/event-stream" } });
      if (!response.ok) throw await refusal(response);
      for await (const change of events(response)) {
        pause = 500;
        state("live");
        take(change);
      }
      state("lost");
    } catch (fault) {
      if (fault instanceof Refused && (fault.status === 401 || fault.status === 403)) return fault;
      state("lost");
    }
    await new Promise((done) => setTimeout(done, pause));
  }
}

let number = 0;

// One request of MCP. `told` gets notifications on its way; `signal` ends it.
export async function mcp(method, params = {}, { told = () => {}, signal } = {}) {
  const id = ++number;
  const meta = {
    ...params._meta,
    [`${META}protocolVersion`]: VERSION,
    [`${META}clientInfo`]: { name: "mesh-page", version: "1" },
    [`${META}clientCapabilities`]: { elicitation: { form: {}, url: {} } },
    progressToken: id,
  };
  const headers = {
    Accept: "application/json, text/event-stream",
    "Content-Type": "application/json",
    "MCP-Protocol-Version": VERSION,
    "Mcp-Method": method,
  };
  const name = params.name ?? params.uri;
  if (typeof name === "string") headers["Mcp-Name"] = encoded(name);
  const body = JSON.stringify({ jsonrpc: "2.0", id, method, params: { ...params, _meta: meta } });
  const response = await send("mcp", { method: "POST", body, headers, signal });
  let answer;
  if (response.headers.get("Content-Type")?.startsWith("text/event-stream")) {
    for await (const message of events(response)) {
      if ("id" in message && !("method" in message)) { answer = message; break; }
      told(message);
    }
  } else if (response.ok || response.headers.get("Content-Type")?.startsWith("application/json")) {
    answer = await response.json();
  }
  if (answer === undefined) throw new Refused(response.status, "the answer ended before its result");
  if (answer.error) throw new Refused(response.status, answer.error.message);
  return answer.result;
}

// A header takes ASCII alone; the protocol's form for anything else (2026-07-28, Mcp-Name).
function encoded(text) {
  if (/^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$/.test(text) && !text.startsWith("=?")) return text;
  const bytes = new TextEncoder().encode(text);
  return `=?base64?${btoa(String.fromCharCode(...bytes))}?=`;
}

export async function listAll(kind) {
  const found = [];
  let cursor;
  do {
    const page = await mcp(`${kind}/list`, cursor === undefined ? {} : { cursor });
    found.push(...page[kind]);
    cursor = page.nextCursor;
  } while (cursor !== undefined);
  return found;
}
