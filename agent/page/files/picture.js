// The mesh as a picture: this node in the middle, links around it. State is shape and colour, a thicker line more calls.
// Places follow from the order of names, so nothing jumps when another link changes. Small dots are a peer's servers.

import { $, colour, drawing } from "./elements.js";

const SHAPES = {
  good: ["circle", "connected"],
  wait: ["triangle", "on its way, or in doubt"],
  bad: ["square", "cannot be reached"],
  off: ["diamond", "in maintenance"],
};
const NAMED_MAX = 80;
const SATELLITES_MAX = 12;
const CURVES_MAX = 40;
const GOLDEN = Math.PI * (3 - Math.sqrt(5));
const canvas = $("picture");
let links = [];
let rates = {};
let name = "";
let places = [];
let picked = null;
let asked = false;

export function standing(link) {
  if (link.maintenance) return "off";
  if (link.state === "suspect") return "wait";
  if (link.connected) return "good";
  return link.last_error ? "bad" : "wait";
}

export function show(newLinks, newRates, newName, newPicked) {
  [links, rates, name, picked] = [newLinks, newRates, newName, newPicked];
  redraw();
}

export function redraw() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => { asked = false; draw(); });
}

// What goes over a link: calls a second, milliseconds each, calls under way.
export function flow([calls, , time, flying]) {
  return [calls ? `${calls}/s, ${time} ms` : "", flying ? `${flying} under way` : ""].filter(Boolean).join(", ");
}

// Services that more than one link has, with the numbers of those links. A server of this node has it by its name.
function replicas() {
  const found = new Map();
  links.forEach((link, index) => {
    const services = link.kind === "server" ? (link.scope === "service" ? [link.name] : []) : link.servers.filter((one) => !one.includes("__"));
    for (const service of services) found.set(service, [...(found.get(service) ?? []), index]);
  });
  return [...found].filter(([, members]) => members.length > 1);
}

// Curves between the replicas of each service; those of the link that is picked stand out and have their names.
function drawReplicas(context, colours, x, y) {
  context.setLineDash([2, 5]);
  for (const [service, members] of replicas().slice(0, CURVES_MAX)) {
    const stands = members.some((index) => links[index].key === picked);
    context.strokeStyle = context.fillStyle = stands ? colours.accent : colours.off;
    context.globalAlpha = stands ? 1 : 0.45;
    context.lineWidth = stands ? 2 : 1;
    members.slice(1).forEach((index, number) => {
      const [[fromX, fromY], [toX, toY]] = [places[members[number]], places[index]];
      const [bendX, bendY] = [(fromX + toX) / 2 + (x - (fromX + toX) / 2) * 0.6, (fromY + toY) / 2 + (y - (fromY + toY) / 2) * 0.6];
      context.beginPath();
      context.moveTo(fromX, fromY);
      context.quadraticCurveTo(bendX, bendY, toX, toY);
      context.stroke();
      if (stands && number === 0) context.fillText(service, (fromX + 2 * bendX + toX) / 4, (fromY + 2 * bendY + toY) / 4 - 6);
    });
  }
  context.globalAlpha = 1;
  context.setLineDash([]);
}

// Few links stand on two rings, servers on the inner one; many fill a disc evenly.
function place(width, height) {
  const [x, y] = [width / 2, height / 2];
  const radius = Math.min(width, height) / 2 - 34;
  const wide = Math.min(width / height, 2.2);
  if (links.length > 60) {
    return links.map((_, index) => {
      const distance = radius * Math.sqrt((index + 6) / (links.length + 6));
      return [x + wide * distance * Math.cos(index * GOLDEN), y + distance * Math.sin(index * GOLDEN)];
    });
  }
  const servers = links.filter((link) => link.kind === "server");
  const peers = links.filter((link) => link.kind !== "server");
  // Servers fan out to the left, peers to the right; the more there are, the wider, up to a whole ring of one kind.
  const on = (fan, middle, part) => (link) => {
    const open = fan.length === links.length ? 2 * Math.PI : Math.min(0.5 * fan.length, 0.9 * Math.PI);
    const turn = middle + (open * (fan.indexOf(link) + 0.5)) / fan.length - open / 2;
    return [x + wide * part * radius * Math.cos(turn), y + part * radius * Math.sin(turn)];
  };
  const [inner, outer] = [on(servers, Math.PI, 0.8), on(peers, 0, 1)];
  return links.map((link) => (link.kind === "server" ? inner(link) : outer(link)));
}

export function shape(context, kind, x, y, size) {
  context.beginPath();
  if (kind === "circle") context.arc(x, y, size, 0, 2 * Math.PI);
  else if (kind === "square") context.rect(x - size, y - size, 2 * size, 2 * size);
  else if (kind === "triangle") { context.moveTo(x, y - size); context.lineTo(x + size, y + size); context.lineTo(x - size, y + size); context.closePath(); }
  else { context.moveTo(x, y - size); context.lineTo(x + size, y); context.lineTo(x, y + size); context.lineTo(x - size, y); context.closePath(); }
}

function draw() {
  if (!canvas.clientWidth) return;
  const { context, width, height } = drawing(canvas);
  const colours = Object.fromEntries(["good", "wait", "bad", "off", "ink", "soft", "line", "panel", "accent"].map((one) => [one, colour(one)]));
  places = place(width, height);
  const many = links.length > 60;
  const [x, y] = [width / 2, height / 2];
  links.forEach((link, index) => {
    const [calls, , , flying] = rates[link.key] ?? [0];
    context.globalAlpha = many && !calls && !flying ? 0.4 : 1;
    context.strokeStyle = calls || flying ? colours.accent : colours.line;
    context.lineWidth = calls ? Math.min(1 + Math.log2(1 + calls), 8) : 1;
    context.setLineDash(link.connected ? [] : [4, 4]);
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(...places[index]);
    context.stroke();
  });
  context.globalAlpha = 1;
  context.setLineDash([]);
  context.font = "12px system-ui, sans-serif";
  context.textAlign = "center";
  if (!many) drawReplicas(context, colours, x, y);
  links.forEach((link, index) => {
    const [at, down] = places[index];
    const state = standing(link);
    const size = many ? (links.length > 400 ? 3.5 : 5) : link.kind === "server" ? 8 : 11;
    shape(context, SHAPES[state][0], at, down, size);
    context.fillStyle = colours[state];
    context.fill();
    link.servers.slice(0, many ? 0 : SATELLITES_MAX).forEach((_, number) => {
      const turn = (2 * Math.PI * number) / SATELLITES_MAX - Math.PI / 2;
      shape(context, "circle", at + (size + 9) * Math.cos(turn), down + (size + 9) * Math.sin(turn), 3);
      context.fill();
    });
    if (link.kind === "gateway") { shape(context, "circle", at, down, size + 4); context.strokeStyle = colours[state]; context.lineWidth = 2; context.stroke(); }
    if (link.key === picked) { shape(context, "circle", at, down, size + 7); context.strokeStyle = colours.ink; context.lineWidth = 2; context.stroke(); }
    if (links.length <= NAMED_MAX || link.key === picked) {
      context.fillStyle = colours.ink;
      const text = link.name.length > 24 ? `${link.name.slice(0, 23)}…` : link.name;
      const below = [link.datacenter, rates[link.key] ? flow(rates[link.key]) : ""].filter(Boolean).join(" · ");
      const gap = link.servers.length > 3 && !many ? 26 : link.key === picked ? 22 : 15;
      context.fillText(text, at, down + size + gap);
      if (below && !many) { context.fillStyle = colours.soft; context.fillText(below, at, down + size + gap + 14); }
    }
  });
  shape(context, "circle", x, y, 16);
  context.fillStyle = colours.accent;
  context.fill();
  context.fillStyle = colours.ink;
  context.font = "bold 13px system-ui, sans-serif";
  context.fillText(name, x, y + 32);
}

// The link nearest to a point, within reach of a finger.
export function linkAt(event) {
  const box = canvas.getBoundingClientRect();
  const [x, y] = [event.clientX - box.left, event.clientY - box.top];
  let best = null, nearest = 24;
  places.forEach(([at, down], index) => {
    const distance = Math.hypot(at - x, down - y);
    if (distance < nearest) [best, nearest] = [links[index], distance];
  });
  return best;
}

export function legend() {
  return Object.entries(SHAPES).map(([state, [kind, text]]) => [state, { circle: "●", triangle: "▲", square: "■", diamond: "◆" }[kind], text]);
}

new ResizeObserver(redraw).observe(canvas);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
