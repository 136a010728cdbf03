// The page of the API: shapes as one reads them.

import assert from "node:assert/strict";
import { test } from "node:test";

import { shape } from "../../src/maskwright/serve/static/docs.js";

test("shapes are readable", () => {
  assert.equal(shape({ $ref: "#/components/schemas/Mask" }), "Mask");
  assert.equal(shape({ anyOf: [{ type: "number" }, { type: "null" }] }), "number | null");
  assert.equal(shape({ enum: ["a", 1] }), '"a" | 1');
  assert.equal(shape({ const: true }), "true");
  assert.equal(shape({ type: "array", items: { type: "number" }, minItems: 2, maxItems: 2 }), "[number, number]");
  assert.equal(shape({ type: "array", items: { type: "string" } }), "[text, ...]");
  assert.equal(shape({ type: "array", items: {}, maxItems: 0 }), "[]");
  assert.equal(shape({ type: "array", prefixItems: [{ type: "number" }, { enum: [0, 1] }] }), "[number, 0 | 1]");
  assert.equal(shape({}), "anything");
  assert.equal(shape({ type: "object" }), "{}");
});

test("fields say what is optional and what they mean", () => {
  const inner = { type: "object", properties: { b: { type: "integer" } }, required: ["b"] };
  const schema = { type: "object", properties: { a: { type: "boolean", description: "why" }, c: inner }, required: ["c"] };
  assert.equal(shape(schema), '{\n  "a"?: true | false  — why\n  "c": {\n    "b": whole number\n  }\n}');
});
