// The page: takes the node's changes, shows them, and sends what an operator wants done.

import { $, ask, element, say } from "./elements.js";
import { follow, login, logout, mcp, rest } from "./node.js";
import * as picture from "./picture.js";
import * as plots from "./plots.js";
import * as tools from "./try.js";
import * as trust from "./trust.js";

const ROWS_MAX = 300;
const EVENTS_MAX = 200;
const links = new Map();
let node = {};
let notes = {};
let rates = {};
let picked = null;
let asked = false;
let view = "mesh";
let order = null; // The keys of all links in the order that is shown; null when it has to be found anew.
const byWords = new Intl.Collator();

function take(change) {
  if (change.first) { links.clear(); order = null; }
  for (const link of change.links ?? []) {
    if (!links.has(link.key)) order = null;
    links.set(link.key, link);
  }
  for (const key of change.gone ?? []) { links.delete(key); order = null; }
  if (change.node) node = change.node;
  if (change.notes) { notes = change.notes; }
  if (change.groups) plots.takeGroups(change.groups);
  rates = change.rates ?? {};
  if (change.history) plots.take(change.history, change.first);
  for (const event of change.events ?? []) {
    $("events").prepend(element("li", {}, element("time", { textContent: new Date(event.at * 1000).toLocaleTimeString() }), event.text));
  }
  while ($("events").children.length > EVENTS_MAX) $("events").lastChild.remove();
  render();
}

// At most once for each frame, whatever comes.
function render() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => { asked = false; show(); });
}

function show() {
  document.title = `${node.name ?? "MCP Mesh"}: MCP Mesh`;
  $("node-name").textContent = node.name ?? "MCP Mesh";
  if (view === "calls") plots.show(links, node.name ?? "");
  if (view !== "mesh") return;
  order ??= [...links.values()].sort((a, b) => (a.kind === "server") - (b.kind === "server") || byWords.compare(a.datacenter, b.datacenter) || byWords.compare(a.name, b.name) || byWords.compare(a.key, b.key)).map((link) => link.key);
  const ordered = order.map((key) => links.get(key));
  picture.show(ordered, rates, node.name ?? "", picked);
  const up = ordered.filter((one) => one.connected).length;
  $("mesh-title").textContent = `${up} of ${ordered.length} links connected, ${node.tools ?? 0} tools`;
  showNotes();
  showLinks(ordered);
}

function showNotes() {
  const found = [];
  const add = (text, bad) => found.push(element("p", { className: bad ? "note bad" : "note", textContent: text }));
  if (node.state && node.state !== "ready") add(`This node is ${node.state}.`);
  if (node.maintenance) add(`This node is in maintenance: ${node.maintenance}`);
  const discovery = node.discovery ?? {};
  if (discovery.mode && discovery.mode !== "off" && !discovery.up) add(`Discovery (${discovery.mode}) is down: ${discovery.last_error || "no answer yet"}. What is known stays.`, true);
  if (node.servers_file_fault) add(`Servers file: ${node.servers_file_fault}`, true);
  for (const entry of node.servers_left_out ?? []) add(`Servers file, entry ${entry.configured_name}: ${entry.reasons.join("; ")}`, true);
  for (const one of notes.findings ?? []) add(`${one.name}: ${one.detail}`);
  for (const one of notes.conflicts ?? []) add(`${one.name} is claimed by ${[one.holder, ...one.others].filter(Boolean).join(" and ")}: ${one.reason}`);
  for (const one of notes.left_out ?? []) add(`${one.backend}: ${one.kind} ${one.name} is left out: ${one.why}`);
  for (const name of node.suppressed ?? []) found.push(element("p", { className: "note" }, `${name} was removed, and is kept away although discovery may find it. `, element("button", { textContent: "Reset", onclick: () => reset(name) })));
  for (const one of node.departed ?? []) add(`${one.name} ${one.state === "failed" ? "failed and is gone" : "has left"}${one.last_error ? `: ${one.last_error}` : ""}`);
  const shown = found.slice(0, 12);
  if (found.length > shown.length) shown.push(element("p", { className: "note", textContent: `and ${found.length - shown.length} more` }));
  const text = shown.map((one) => one.textContent).join("\n");
  if ($("notes").dataset.text === text) return;
  $("notes").dataset.text = text;
  $("notes").replaceChildren(...shown);
}

function matches(link, words) {
  const text = [link.name, link.kind, link.state, link.datacenter, link.url, link.last_error, ...link.servers, ...link.aliases].join(" ").toLowerCase();
  return words.every((word) => text.includes(word));
}

function why(link) {
  const parts = [];
  if (link.maintenance) parts.push(`in maintenance: ${link.maintenance}`);
  if (!link.connected && link.last_error) parts.push(link.last_error);
  if (!link.connected && link.next_at) parts.push(`next try ${inWords(link.next_at)}`);
  for (const fault of link.failed_lists) parts.push(`${fault.list}: ${fault.reason}`);
  if (link.servers.length) parts.push(`serves ${link.servers.slice(0, 8).join(", ")}${link.servers.length > 8 ? `, and ${link.servers.length - 8} more` : ""}`);
  return parts.join("; ");
}

function inWords(at) {
  const left = Math.round(at - Date.now() / 1000);
  return left > 0 ? `in ${left} s` : "now";
}

// A row is made once for each link and changed in place, so that focus and reading position stay.
const rows = new Map();

function showLinks(ordered) {
  const words = $("link-filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = words.length ? ordered.filter((link) => matches(link, words)) : ordered;
  const shown = found.slice(0, ROWS_MAX);
  const body = $("links");
  const wanted = new Set(shown.map((link) => link.key));
  for (const [key, row] of rows) if (!wanted.has(key)) { row.remove(); rows.delete(key); }
  shown.forEach((link, index) => {
    let row = rows.get(link.key);
    if (!row) rows.set(link.key, row = newRow(link.key));
    fill(row, link);
    if (body.children[index] !== row) body.insertBefore(row, body.children[index] ?? null);
  });
  $("links-more").textContent = found.length > shown.length ? `${found.length} found, the first ${ROWS_MAX} shown; filter to see others` : links.size ? "" : "No servers and no peers yet. `mesh-agent servers add` writes one into the servers file; other nodes and servers are added above.";
}

function newRow(key) {
  const row = element("tr", { role: "row" }, ...["name", "kind", "", "tools", "time", "calls", "why", "do"].map((name) => element("td", { role: "cell", className: name })));
  row.shown = [];
  row.onclick = () => { picked = picked === key ? null : key; render(); };
  row.cells[7].append(
    element("button", { textContent: "Reload", onclick: (event) => { event.stopPropagation(); reload(links.get(key)); } }),
    element("button", { textContent: "Remove", onclick: (event) => { event.stopPropagation(); remove(links.get(key)); } }),
    element("button", { textContent: "Reset", title: "Undo what operators ordered about it", onclick: (event) => { event.stopPropagation(); reset(links.get(key).name); } }));
  return row;
}

function fill(row, link) {
  const rate = rates[link.key];
  const state = picture.standing(link);
  const mark = { good: "●", wait: "▲", bad: "■", off: "◆" }[state];
  const texts = [link.name, [link.kind, link.source, link.datacenter].filter(Boolean).join(", "), `${mark} ${link.state}`, String(link.functions), link.latency_ms === null ? "" : `${link.latency_ms} ms`, rate ? picture.flow(rate) : "", why(link)];
  texts.forEach((text, index) => { if (row.shown[index] !== text) row.cells[index].textContent = text; });
  row.shown = texts;
  row.cells[0].title = `${link.url}${link.node_id ? `, node ${link.node_id}` : ""}`;
  row.cells[2].className = `state ${state}`;
  row.className = link.key === picked ? "picked" : "";
  row.cells[7].children[1].hidden = link.kind === "server";
  row.cells[7].lastChild.hidden = link.source !== "override";
}

// What an operator does

async function doing(what, work) {
  say(`${what} …`);
  try {
    const done = await work();
    say(done ?? `${what}: done`);
  } catch (fault) {
    say(`${what}: ${fault.message}`);
  }
}

function textOf(answer) {
  return (answer.content ?? []).map((part) => part.text ?? "").join(" ").slice(0, 400);
}

function reload(link) {
  doing(`Reload ${link.name}`, async () => {
    const answer = await mcp("tools/call", { name: "reload_mcp_server", arguments: { server_name: link.name } });
    const told = answer.structuredContent;
    return told?.message ?? textOf(answer);
  });
}

async function remove(link) {
  const sure = await ask(`Remove ${link.name}?`, [element("p", { textContent: "A peer that discovery knows stays hidden until it is added again, or reset." })], { send: "Remove" });
  if (sure) doing(`Remove ${link.name}`, async () => (await rest("DELETE", `peers/${encodeURIComponent(link.name)}`)).message);
}

function reset(name) {
  doing(`Reset ${name}`, async () => (await rest("DELETE", `peers/${encodeURIComponent(name)}?forget=1`)).data.message);
}

async function addPeer() {
  const input = (id, text, more) => [element("label", { htmlFor: id, textContent: text }), element("input", { id, ...more })];
  const body = await ask("Add a peer", [
    ...input("peer-name", "Name", { required: true, pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]*" }),
    ...input("peer-url", "URL of its MCP endpoint", { required: true, type: "url", placeholder: "http://host:8000/mcp" }),
    ...input("peer-token", "Token that it wants, if any (a node of this mesh wants none)", { type: "password", autocomplete: "off" }),
    element("label", { htmlFor: "peer-scope", textContent: "What is imported" }),
    element("select", { id: "peer-scope" }, element("option", { value: "local", textContent: "what it serves itself" }), element("option", { value: "mesh", textContent: "all that it sees (a gateway)" })),
  ], { send: "Add", read: () => ({ peer_name: $("peer-name").value, peer_url: $("peer-url").value, scope: $("peer-scope").value, ...($("peer-token").value ? { auth_token: $("peer-token").value } : {}) }) });
  if (body) doing(`Add ${body.peer_name}`, async () => (await rest("POST", "peers", body)).message);
}

// Views

const tabs = [...document.querySelectorAll("[role=tab]")];
const shownTabs = () => tabs.filter((one) => !one.hidden);

function open(tab, focus) {
  view = tab.id.slice(4);
  for (const one of tabs) {
    const here = one === tab;
    one.setAttribute("aria-selected", String(here));
    one.tabIndex = here ? 0 : -1;
    $(one.getAttribute("aria-controls")).hidden = !here || !$("login").hidden;
  }
  if (focus) tab.focus();
  if (view === "try" && $("login").hidden) tools.relist();
  if (view === "trust" && $("login").hidden) trust.show(doing);
  render();
}

tabs.forEach((tab) => {
  tab.onclick = () => open(tab, false);
  tab.onkeydown = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const shown = shownTabs();
    if (step) open(shown[(shown.indexOf(tab) + step + shown.length) % shown.length], true);
  };
});

$("picture").onclick = (event) => { picked = picture.linkAt(event)?.key ?? null; render(); rows.get(picked)?.scrollIntoView({ block: "nearest" }); };
$("link-filter").oninput = render;
$("add-peer").onclick = addPeer;
$("reload-all").onclick = () => doing("Reload all servers", async () => textOf(await mcp("tools/call", { name: "reload_all_mcp_servers", arguments: {} })));
$("kind").onchange = () => tools.relist();
$("search").oninput = () => tools.showEntries();
$("relist").onclick = () => tools.relist();
$("legend").replaceChildren(...picture.legend().map(([state, mark, text]) => element("li", {}, element("span", { className: state, textContent: `${mark} ` }), text)),
  element("li", { textContent: "a ring: gateway" }), element("li", { textContent: "small dots: servers behind it" }), element("li", { textContent: "a dotted curve: replicas of one service" }));
addEventListener("resize", render);
setInterval(render, 1000);

// Login

function askForToken(fault) {
  $("login").hidden = false;
  document.querySelector("nav").hidden = true;
  $("login-fault").textContent = fault ?? "";
  for (const tab of tabs) $(tab.getAttribute("aria-controls")).hidden = true;
  $("node-state").textContent = "wants a token";
  $("token").focus();
}

$("login-form").onsubmit = async (event) => {
  event.preventDefault();
  try {
    await login($("token").value);
  } catch (fault) {
    $("login-fault").textContent = fault.message;
    return;
  }
  $("token").value = "";
  $("login").hidden = true;
  document.querySelector("nav").hidden = false;
  $("logout").hidden = false;
  sessionStorage.setItem("logged-in", "1");
  start();
};

$("logout").onclick = async () => {
  await logout();
  sessionStorage.removeItem("logged-in");
  location.reload();
};

async function start() {
  $("logout").hidden = sessionStorage.getItem("logged-in") === null;
  open(tabs.find((tab) => tab.id === `tab-${view}`), false);
  const refused = await follow(take, (state) => {
    $("content").classList.toggle("stale", state !== "live");
    $("node-state").textContent = state === "live" ? `${node.state ?? ""} · ${node.version ?? ""} · live` : "the node does not answer; trying again";
  });
  if (refused.status === 401) { askForToken(); return; }
  // A token that may call tools and not look at the mesh.
  node = { name: "MCP Mesh" };
  $("node-state").textContent = refused.message;
  for (const view of ["mesh", "calls", "events"]) $(`tab-${view}`).hidden = true;
  open(tabs.find((tab) => tab.id === "tab-try"), false);
}

start();
