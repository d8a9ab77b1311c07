// A form made of a JSON schema, and the arguments that it holds. What a field cannot show well is edited as JSON.

import { element } from "./elements.js";

const isSimple = (schema) => schema && !schema.$ref && !schema.oneOf && !schema.anyOf && !schema.allOf;

function kindOf(schema) {
  if (!isSimple(schema)) return "json";
  if (Array.isArray(schema.enum) && schema.enum.every((one) => ["string", "number", "boolean"].includes(typeof one))) return "choice";
  if (["string", "boolean", "integer", "number"].includes(schema.type)) return schema.type;
  return "json";
}

function field(name, schema, required, prefix) {
  const id = `${prefix}${name}`;
  const kind = kindOf(schema);
  const start = schema?.default;
  const more = { id, name, required };
  let input;
  if (kind === "choice") {
    const choices = schema.enum.map((one) => element("option", { value: JSON.stringify(one), textContent: String(one) }));
    input = element("select", more, ...(required ? [] : [element("option", { value: "", textContent: "(none)" })]), ...choices);
    if (start !== undefined) input.value = JSON.stringify(start);
  } else if (kind === "boolean") {
    input = element("select", more, ...(required ? [] : [element("option", { value: "", textContent: "(none)" })]),
      element("option", { value: "true", textContent: "true" }), element("option", { value: "false", textContent: "false" }));
    if (start !== undefined) input.value = String(start);
  } else if (kind === "integer" || kind === "number") {
    input = element("input", { ...more, type: "text", inputMode: "decimal", pattern: "-?[0-9]+([.][0-9]+)?([eE][+-]?[0-9]+)?", title: `a ${kind}`, value: start === undefined ? "" : String(start) });
  } else if (kind === "string") {
    input = element("textarea", { ...more, rows: 1, value: start ?? "" });
  } else {
    input = element("textarea", { ...more, rows: 3, placeholder: "JSON", value: start === undefined ? "" : JSON.stringify(start, null, 1) });
  }
  input.dataset.kind = kind;
  const title = `${schema?.title ?? name}${required ? " *" : ""}${{ json: " (JSON)", integer: " (integer)", number: " (number)" }[kind] ?? ""}`;
  const described = schema?.description ? element("small", { id: `${id}-why`, className: "hint", textContent: schema.description }) : null;
  if (described) input.setAttribute("aria-describedby", described.id);
  return [element("label", { htmlFor: id, textContent: title }), input, described];
}

export function fieldsOf(schema, prefix) {
  const properties = schema?.properties ?? {};
  const required = new Set(schema?.required ?? []);
  return Object.entries(properties).flatMap(([name, one]) => field(name, one, required.has(name), prefix));
}

// The arguments of a form, as JSON text: a number stays the digits that were typed. Throws for what is no JSON.
export function argumentsOf(form) {
  const parts = [];
  for (const input of form.querySelectorAll("[data-kind]")) {
    const { value, name } = input;
    if (value === "" && !(input.required && input.dataset.kind === "string")) continue;
    let text = value;
    if (input.dataset.kind === "string") text = JSON.stringify(value);
    else if (input.dataset.kind === "json") {
      try { JSON.parse(value); } catch (fault) { input.focus(); throw new Error(`${name}: ${fault.message}`); }
    }
    parts.push(`${JSON.stringify(name)}:${text}`);
  }
  return `{${parts.join(",")}}`;
}
