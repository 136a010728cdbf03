// The description of the API as a page: what /api/openapi.json says, in words.

import { byId, element } from "./panels/dom.js";

/** A shape as one reads it: {"id": text, "score"?: number}. @param {any} schema @param {number} [depth] @returns {string} */
export function shape(schema, depth = 0) {
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((/** @type {any} */ value) => JSON.stringify(value)).join(" | ");
  const parts = schema.anyOf ?? schema.oneOf;
  if (parts) return parts.map((/** @type {any} */ part) => shape(part, depth)).join(" | ");
  if (schema.prefixItems) return `[${schema.prefixItems.map((/** @type {any} */ part) => shape(part, depth)).join(", ")}]`;
  if (schema.type === "array") return list(schema, depth);
  if (schema.type === "object") return fields(schema, depth);
  const names = /** @type {Record<string, string>} */ ({ string: "text", integer: "whole number", boolean: "true | false" });
  return names[schema.type] ?? schema.type ?? "anything";
}

/** @param {any} schema @param {number} depth */
function list(schema, depth) {
  const { minItems: least, maxItems: most } = schema;
  if (most === 0) return "[]";
  const inner = shape(schema.items ?? {}, depth);
  return least === most && least <= 4 ? `[${Array(least).fill(inner).join(", ")}]` : `[${inner}, ...]`;
}

/** @param {any} schema @param {number} depth */
function fields(schema, depth) {
  const entries = Object.entries(schema.properties ?? {});
  if (!entries.length) return "{}";
  const indent = "  ".repeat(depth + 1), required = new Set(schema.required ?? []);
  const lines = entries.map(([name, each]) => {
    const note = each.description ? `  — ${each.description}` : "";
    return `${indent}"${name}"${required.has(name) ? "" : "?"}: ${shape(each, depth + 1)}${note}`;
  });
  return `{\n${lines.join("\n")}\n${"  ".repeat(depth)}}`;
}

/** @param {Record<string, any>} content by media type @returns {HTMLElement[]} */
function bodies(content) {
  return Object.entries(content).map(([kind, { schema }]) =>
    schema ? element("pre", { textContent: shape(schema) }) : element("p", {}, [element("code", { textContent: kind })]),
  );
}

/** @param {[string, any][]} entries @returns {HTMLElement} */
function glossary(entries) {
  return element("dl", {}, entries.flatMap(([term, text]) => [element("dt", { textContent: term }), element("dd", { textContent: text })]));
}

/** @param {string} path @param {string} method @param {any} operation */
function article(path, method, operation) {
  const heading = element("h3", {}, [
    element("span", { className: "method", textContent: method.toUpperCase(), "data-method": method }),
    element("code", { textContent: path }),
    element("span", { className: "quiet", textContent: operation.summary }),
  ]);
  /** @type {HTMLElement[]} */
  const parts = [heading];
  if (operation.description) parts.push(element("p", { textContent: operation.description }));
  if (operation.security?.length === 0) parts.push(element("p", { textContent: "Needs no token." }));
  const query = operation.parameters.filter((/** @type {any} */ each) => each.in === "query");
  if (query.length) parts.push(element("h4", { textContent: "Query" }), glossary(query.map((/** @type {any} */ each) => [each.name, shape(each.schema)])));
  if (operation.requestBody) parts.push(element("h4", { textContent: "Body" }), ...bodies(operation.requestBody.content));
  for (const [status, response] of Object.entries(operation.responses)) {
    if (status.startsWith("2")) parts.push(element("h4", { textContent: `Answer ${status}` }), ...bodies(response.content));
  }
  const errors = Object.entries(operation.responses).filter(([status]) => /^[45]/.test(status));
  if (errors.length) parts.push(element("h4", { textContent: "Errors" }), glossary(errors.map(([status, each]) => [status, each.description])));
  return element("article", { id: operation.operationId }, parts);
}

/** @param {any} description */
export function draw(description) {
  byId("title").textContent = `${description.info.title} ${description.info.version}: the API`;
  byId("about").textContent = description.info.description;
  const groups = description.tags.map((/** @type {any} */ each) => each.name);
  const sections = groups.map((/** @type {string} */ group) => {
    const articles = Object.entries(description.paths).flatMap(([path, methods]) =>
      Object.entries(methods).filter(([, operation]) => operation.tags.includes(group)).map(([method, operation]) => article(path, method, operation)),
    );
    return element("section", { id: anchor(group) }, [element("h2", { textContent: group }), ...articles]);
  });
  const links = [...groups, "Named shapes"].map((/** @type {string} */ group) =>
    element("li", {}, [element("a", { href: `#${group === "Named shapes" ? "schemas" : anchor(group)}`, textContent: group })]),
  );
  byId("contents").replaceChildren(element("ul", {}, links));
  byId("operations").replaceChildren(...sections);
  byId("operations").removeAttribute("aria-busy");
  for (const [name, schema] of Object.entries(description.components.schemas)) {
    const parts = [element("h3", {}, [element("code", { textContent: name })])];
    if (schema.description) parts.push(element("p", { textContent: schema.description }));
    byId("schemas").append(element("article", { id: `shape-${name}` }, [...parts, element("pre", { textContent: shape(schema) })]));
  }
}

/** @param {string} group */
const anchor = (group) => `group-${group.toLowerCase().replaceAll(" ", "-")}`;

if (typeof document !== "undefined" && document.getElementById("operations")) {
  const answer = await fetch("/api/openapi.json", { credentials: "same-origin" });
  if (answer.ok) draw(await answer.json());
  else {
    const message = `The description cannot be read (status ${answer.status}); open the address that the command printed.`;
    byId("operations").replaceChildren(element("p", { role: "alert", textContent: message }));
  }
}
