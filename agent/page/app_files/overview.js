// The mesh in a host's conversation (MCP Apps, SEP-1865): takes the result of show_mesh, and asks for it again and again.
// Joined with elements.js and picture.js into one document, since a host's sandbox loads nothing more.

const AGAIN_MS = 3_000;
const AGAIN_MAX_MS = 60_000;
const VERSION = "2026-01-26";
const pending = new Map();
let lastId = 0;
let input = {};
let hasTools = false;
let wait = AGAIN_MS;

function post(message) {
  window.parent.postMessage({ jsonrpc: "2.0", ...message }, "*");
}

function request(method, params) {
  lastId += 1;
  post({ id: lastId, method, params });
  return new Promise((resolve, reject) => pending.set(lastId, { resolve, reject }));
}

window.addEventListener("message", ({ source, data }) => {
  if (source !== window.parent || data?.jsonrpc !== "2.0") return;
  if (data.method === undefined) {
    const waiting = pending.get(data.id);
    pending.delete(data.id);
    if (data.error) waiting?.reject(new Error(data.error.message));
    else waiting?.resolve(data.result);
    return;
  }
  if (data.method === "ui/notifications/tool-input") input = data.params?.arguments ?? {};
  if (data.method === "ui/notifications/tool-result") take(data.params);
  if (data.method === "ui/notifications/host-context-changed") dress(data.params);
  if (data.method === "ui/resource-teardown") wait = Infinity;
  if (data.id !== undefined) post({ id: data.id, result: {} });
});

function dress(context) {
  if (context?.theme) document.documentElement.style.colorScheme = context.theme;
}

function take(result) {
  const seen = result?.structuredContent;
  if (result?.isError || !seen?.links) {
    old(result?.content?.[0]?.text ?? "The node gave no answer.");
    return;
  }
  const links = seen.links.sort((a, b) => (a.kind === "server") - (b.kind === "server") || a.name.localeCompare(b.name) || a.key.localeCompare(b.key));
  show(links, {}, seen.node.name, null);
  const up = links.filter((link) => link.connected).length;
  const away = links.filter((link) => !link.connected).map((link) => `${link.kind} ${link.name}: ${link.state}${link.last_error ? `, ${link.last_error}` : ""}`);
  $("title").textContent = `${seen.node.name} is ${seen.node.state}: ${up} of ${links.length} connected`;
  $("away").replaceChildren(...away.slice(0, 20).map((text) => element("li", { textContent: text })));
  old("");
}

// Faint where what is drawn is no longer so, and why; as it was where there is no reason.
function old(why) {
  $("said").textContent = why && `Not up to date: ${why}`;
  $("picture").classList.toggle("old", why !== "");
}

async function again() {
  if (document.visibilityState === "visible") {
    try {
      take(await request("tools/call", { name: "show_mesh", arguments: input }));
      wait = Math.min(wait, AGAIN_MS);
    } catch (fault) {
      old(fault.message);
      wait = Math.min(wait * 2, AGAIN_MAX_MS);
    }
  }
  if (wait !== Infinity) setTimeout(again, wait);
}

$("legend").replaceChildren(...legend().map(([state, sign, text]) => element("li", { className: state }, `${sign} ${text}`)));
new ResizeObserver(() => post({ method: "ui/notifications/size-changed", params: { width: document.body.scrollWidth, height: document.body.scrollHeight } })).observe(document.body);
const host = await request("ui/initialize", { protocolVersion: VERSION, appInfo: { name: "mesh-overview", version: "1" }, appCapabilities: {} });
dress(host.hostContext);
hasTools = Boolean(host.hostCapabilities?.serverTools);
post({ method: "ui/notifications/initialized" });
if (hasTools) setTimeout(again, AGAIN_MS);
