// The calls of the last hour as two small plots and a table, and how replicas share them.

import { $, colour, drawing, element } from "./elements.js";

const BUCKETS_MAX = 360;
const SECONDS = 10;
const ROWS = 60;
const SHOWN_MIN = 30;
let buckets = [];
let groups = [];

export function take(newer, first) {
  buckets = (first ? newer : [...buckets, ...newer]).slice(-BUCKETS_MAX);
}

export function takeGroups(newer) {
  groups = newer;
}

export function show(links, node) {
  plot($("plot-rate"), [[buckets.map(([, calls]) => calls / SECONDS), "accent"], [buckets.map(([, , failed]) => failed / SECONDS), "bad", [6, 4]]]);
  plot($("plot-time"), [[buckets.map(([, , , p50]) => p50), "accent"], [buckets.map(([, , , , p99]) => p99), "wait", [6, 4]]]);
  const calls = buckets.reduce((sum, one) => sum + one[1], 0);
  const failed = buckets.reduce((sum, one) => sum + one[2], 0);
  $("calls-now").textContent = calls ? `${many(calls, "call")} in the last hour, ${failed} failed` : "No calls in the last hour.";
  $("calls-table").tBodies[0].replaceChildren(...buckets.slice(-ROWS).reverse().map(([at, ...figures]) => element("tr", {},
    element("td", { textContent: new Date(at * 1000).toLocaleTimeString() }),
    ...figures.map((figure) => element("td", { textContent: figure ?? "" })))));
  showGroups(links, node);
}

const many = (count, one) => `${count} ${one}${count === 1 ? "" : "s"}`;

function showGroups(links, node) {
  const out = groups.flatMap((group) => group.replicas).filter((one) => one.out_until !== null).length;
  $("replicas-now").textContent = groups.length ? `${many(groups.length, "service")} on several nodes, ${many(out, "replica")} ejected.` : "No service that was called runs on several nodes now.";
  $("replicas").tBodies[0].replaceChildren(...groups.flatMap((group) => group.replicas.map((one) => element("tr", {},
    element("td", { textContent: group.name.replace(/^\w+:/, "") }),
    element("td", { textContent: links.get(one.key)?.kind === "server" ? `${node} (this node)` : one.name }),
    element("td", { textContent: one.latency_ms === null ? "" : `${one.latency_ms} ms` }),
    element("td", { textContent: one.share === null ? "" : `${Math.round(one.share * 100)} %` }),
    one.out_until === null
      ? element("td", { className: "good", textContent: "● takes calls" })
      : element("td", { className: "bad", textContent: `■ ejected until ${new Date(one.out_until * 1000).toLocaleTimeString()}` }),
    element("td", { textContent: String(group.retries_left) })))));
}

function plot(canvas, lines) {
  if (!canvas.clientWidth) return;
  const { context, width, height } = drawing(canvas);
  const top = Math.max(...lines.flatMap(([values]) => values.map((one) => one ?? 0)), 0.001);
  context.font = "12px system-ui, sans-serif";
  context.fillStyle = colour("soft");
  context.fillText(String(Number(top.toPrecision(3))), 6, 14);
  context.fillText("0", 6, height - 6);
  const shown = Math.max(buckets.length, SHOWN_MIN);
  context.textAlign = "center";
  context.fillText(shown >= BUCKETS_MAX ? "an hour ago" : `${Math.round((shown * SECONDS) / 60)} min ago`, 70, height - 6);
  context.textAlign = "right";
  context.fillText("now", width - 6, height - 6);
  context.textAlign = "left";
  for (const [values, shade, dash] of lines) {
    context.strokeStyle = colour(shade);
    context.lineWidth = 2;
    context.setLineDash(dash ?? []);
    context.beginPath();
    let open = false;
    values.forEach((value, index) => {
      if (value === null) { open = false; return; }
      const x = width - ((values.length - 1 - index) * width) / (shown - 1);
      const y = height - 22 - (value / top) * (height - 42);
      const alone = !open && (values[index + 1] ?? null) === null;
      if (open) context.lineTo(x, y); else context.moveTo(alone ? x - 3 : x, y);
      if (alone) context.lineTo(x + 3, y);
      open = true;
    });
    context.stroke();
  }
  context.setLineDash([]);
}
