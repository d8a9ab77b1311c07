// Pinned definitions and the audit, fetched when their view is opened: who changed what, and an operator's approval.

import { $, element } from "./elements.js";
import { rest } from "./node.js";

const RECORDS = 100;

export async function show(doing) {
  await Promise.all([showPins(doing), showAudit()]);
}

async function showPins(doing) {
  try {
    const { mode, pins, changed, suspected } = (await rest("GET", "pins")).data;
    $("pins-now").textContent = `${pins.length} definitions are pinned (${mode}); ${changed.length} changed, ${suspected.length} suspicious.`;
    $("pins").replaceChildren(...changed.map((change) => changedRow(change, doing)), ...suspected.map(suspectedRow));
  } catch (fault) {
    $("pins-now").textContent = fault.message;
    $("pins").replaceChildren();
  }
}

function changedRow(change, doing) {
  const difference = Array.isArray(change.difference) ? change.difference.join("\n") : change.difference;
  return element("li", {},
    element("h3", { textContent: `${change.server}: ${change.kind} ${change.name} is not as it was pinned` }),
    element("p", { className: "hint", textContent: `pinned ${change.pinned.since} by ${change.pinned.by}` }),
    element("pre", { tabIndex: 0, textContent: difference }),
    element("button", {
      textContent: "Approve",
      onclick: () => doing(`Approve ${change.name}`, async () => {
        const done = await rest("POST", "pins/approve", { server: change.server, name: change.name });
        show(doing);
        return done.message;
      }),
    }));
}

function suspectedRow(one) {
  return element("li", {},
    element("h3", { textContent: `${one.server}: ${one.kind} ${one.name} looks suspicious` }),
    element("p", { textContent: one.why.join("; ") }));
}

async function showAudit() {
  const rows = $("audit").tBodies[0];
  try {
    const { records } = (await rest("GET", `audit?count=${RECORDS}`)).data;
    $("audit-now").textContent = records.length ? records.length === 1 ? "One record." : `The newest ${records.length} records.` : "No records yet.";
    rows.replaceChildren(...records.reverse().map(({ time, act, who, seq: _, ...more }) => element("tr", {},
      element("td", { textContent: new Date(time).toLocaleString() }),
      element("td", { textContent: who }),
      element("td", { textContent: act }),
      element("td", { className: "why", textContent: Object.entries(more).map(([name, value]) => `${name} ${typeof value === "string" ? value : JSON.stringify(value)}`).join(", ") }))));
  } catch (fault) {
    $("audit-now").textContent = fault.message;
    rows.replaceChildren();
  }
}
