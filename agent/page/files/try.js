// Tools, prompts and resources: found, described, and used as any client would, with progress, questions and an end.

import { $, ask, element, say } from "./elements.js";
import { argumentsOf, fieldsOf } from "./forms.js";
import { listAll, mcp } from "./node.js";

const SHOWN_MAX = 200;
const KEYS = { tools: "name", prompts: "name", resources: "uri" };
let entries = [];
let chosen = null;
let underway = null;

export async function relist() {
  const kind = $("kind").value;
  $("entries-more").textContent = "listing";
  try {
    entries = await listAll(kind);
  } catch (fault) {
    entries = [];
    $("entries").replaceChildren();
    $("entries-more").textContent = fault.message;
    return;
  }
  showEntries();
}

export function showEntries() {
  const key = KEYS[$("kind").value];
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = entries.filter((one) => {
    const text = `${one[key]} ${one.title ?? ""} ${one.description ?? ""}`.toLowerCase();
    return words.every((word) => text.includes(word));
  });
  $("entries").replaceChildren(...found.slice(0, SHOWN_MAX).map((one) => element("li", {},
    element("button", { "aria-current": String(one[key] === chosen), onclick: () => choose(one) },
      one[key], element("small", { textContent: (one.description ?? one.title ?? one.name ?? "").slice(0, 120) })))));
  $("entries-more").textContent = found.length > SHOWN_MAX ? `${found.length} found, the first ${SHOWN_MAX} shown` : `${found.length} found`;
}

function choose(entry) {
  underway?.abort();
  const kind = $("kind").value;
  chosen = entry[KEYS[kind]];
  showEntries();
  const schema = kind === "tools" ? entry.inputSchema : {
    properties: Object.fromEntries((entry.arguments ?? []).map((one) => [one.name, { type: "string", description: one.description, title: one.title }])),
    required: (entry.arguments ?? []).filter((one) => one.required).map((one) => one.name),
  };
  const result = element("div", { className: "result", "aria-live": "polite" });
  const json = element("textarea", { id: "raw", rows: 6, hidden: true, ariaLabel: "Arguments as JSON" });
  const fields = element("div", {}, ...fieldsOf(schema, "argument-"));
  const send = { tools: "Call", prompts: "Get", resources: "Read" }[kind];
  const cancel = element("button", { type: "button", textContent: "Cancel", hidden: true, onclick: () => underway?.abort() });
  const raw = element("button", { type: "button", textContent: "As JSON", hidden: kind === "resources", onclick: () => {
    json.hidden = !json.hidden;
    fields.hidden = !json.hidden;
    if (!json.hidden) { try { json.value = argumentsOf(fields); } catch { /* it can be mended there */ } }
    for (const input of fields.querySelectorAll("[data-kind]")) input.disabled = fields.hidden;
    raw.textContent = json.hidden ? "As JSON" : "As a form";
  } });
  const form = element("form", { onsubmit: (event) => {
    event.preventDefault();
    try {
      const text = json.hidden ? argumentsOf(fields) : json.value;
      use(kind, entry, JSON.parse(text), result, cancel);
    } catch (fault) { result.replaceChildren(element("p", { className: "bad", textContent: fault.message })); }
  } }, fields, json, element("div", { className: "row" }, element("button", { className: "main", textContent: send }), cancel, raw));
  const hints = entry.annotations ?? {};
  const said = Object.entries({ readOnlyHint: "reads only", destructiveHint: "may destroy", idempotentHint: "may be repeated" })
    .filter(([hint]) => hints[hint] === true).map(([, text]) => text).join(", ");
  $("entry").replaceChildren(
    element("h3", { textContent: chosen }),
    element("p", { textContent: entry.description ?? "" }),
    said ? element("p", { className: "hint", textContent: `It says of itself: ${said}` }) : "",
    form, result,
    element("details", {}, element("summary", { textContent: "Definition" }), element("pre", { tabIndex: 0, textContent: JSON.stringify(entry, null, 2) })));
}

async function use(kind, entry, given, result, cancel) {
  underway?.abort();
  const control = underway = new AbortController();
  const bar = element("progress", { ariaLabel: "Progress" });
  const line = element("p", { className: "hint", textContent: "asked" });
  result.replaceChildren(bar, line);
  cancel.hidden = false;
  const began = performance.now();
  const told = ({ method, params }) => {
    if (method === "notifications/progress") {
      if (params.total) { bar.max = params.total; bar.value = params.progress; }
      line.textContent = params.message ?? `${params.progress}${params.total ? ` of ${params.total}` : ""}`;
    } else if (method === "notifications/message") line.textContent = typeof params.data === "string" ? params.data : JSON.stringify(params.data);
  };
  const [method, params] = {
    tools: ["tools/call", { name: entry.name, arguments: given }],
    prompts: ["prompts/get", { name: entry.name, arguments: given }],
    resources: ["resources/read", { uri: entry.uri }],
  }[kind];
  try {
    let answer = await mcp(method, params, { told, signal: control.signal });
    while (answer.resultType === "input_required") {
      const inputResponses = await answers(answer.inputRequests ?? {});
      if (inputResponses === null) { result.replaceChildren(element("p", { textContent: "Given up: the server's question was closed." })); return; }
      const state = answer.requestState === undefined ? {} : { requestState: answer.requestState };
      answer = await mcp(method, { ...params, inputResponses, ...state }, { told, signal: control.signal });
    }
    const took = Math.round(performance.now() - began);
    result.replaceChildren(
      element("h3", { className: answer.isError ? "bad" : "good", textContent: `${answer.isError ? "The tool failed" : "Answered"} after ${took} ms` }),
      ...shown(answer),
      element("details", {}, element("summary", { textContent: "Whole answer" }), element("pre", { tabIndex: 0, textContent: JSON.stringify(answer, null, 2) })));
  } catch (fault) {
    const text = control.signal.aborted ? "Cancelled." : fault.message;
    result.replaceChildren(element("p", { className: "bad", textContent: text }));
  } finally {
    cancel.hidden = true;
    if (underway === control) underway = null;
  }
}

// The answers to a server's questions, by their names; null when one is closed.
async function answers(requests) {
  const given = {};
  for (const [name, { method, params }] of Object.entries(requests)) {
    if (method !== "elicitation/create") { say(`The server wants ${method}, which a page cannot answer`); return null; }
    if (params.mode === "url" || params.url) {
      const done = await ask("The server asks you to open a page", [element("p", { textContent: params.message }), element("p", { textContent: params.url })], { send: "I have done so", more: [["Decline", "decline"]] });
      if (done === null) return null;
      given[name] = { action: done === "decline" ? "decline" : "accept" };
      continue;
    }
    const fields = element("div", {}, ...fieldsOf(params.requestedSchema, "answer-"));
    const read = () => ({ action: "accept", content: JSON.parse(argumentsOf(fields)) });
    const done = await ask("The server asks", [element("p", { textContent: params.message }), fields], { send: "Answer", read, more: [["Decline", { action: "decline" }]] });
    if (done === null) return null;
    given[name] = done;
  }
  return given;
}

function shown(answer) {
  const parts = answer.content ?? answer.contents ?? (answer.messages ?? []).map((one) => ({ role: one.role, ...one.content }));
  return parts.map((part) => {
    if (part.type === "image" || part.mimeType?.startsWith("image/")) {
      const data = part.data ?? part.blob;
      if (data && /^image\/[\w.+-]+$/.test(part.mimeType)) return element("img", { alt: "Image of the answer", src: `data:${part.mimeType};base64,${data}` });
    }
    const text = part.text ?? part.resource?.text ?? JSON.stringify(part, null, 2);
    return element("pre", { tabIndex: 0, textContent: part.role ? `${part.role}: ${text}` : text });
  });
}
