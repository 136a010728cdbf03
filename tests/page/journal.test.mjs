// What is not saved yet: kept through every answer but "saved", sent in order, and never over somebody else's change without a question.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Journal } from "../../src/maskwright/serve/static/journal.js";

/**
 * @typedef {{path: string, body: any}} Request
 * @typedef {(request: Request) => {status?: number, content?: any} | Error} Answer
 */

/** @param {Answer} answer */
function serve(answer) {
  /** @type {Request[]} */
  const asked = [];
  globalThis.fetch = /** @type {any} */ (async (/** @type {string} */ path, /** @type {any} */ options) => {
    const request = { path, body: JSON.parse(options.body) };
    asked.push(request);
    const made = answer(request);
    if (made instanceof Error) throw made;
    const { status = 200, content = {} } = made;
    return { ok: status < 400, status, json: async () => content };
  });
  return asked;
}

/** @param {Journal} journal @param {string} type @returns {any[]} details of the events so far and to come */
function heard(journal, type) {
  /** @type {any[]} */
  const details = [];
  journal.addEventListener(type, (event) => details.push(/** @type {CustomEvent} */ (event).detail));
  return details;
}

/** @param {string} id */
const put = (id) => ({ op: "put", object: { id, kind: "point", category: 1, source: "hand", xy: [1, 1] } });

/** @param {Journal} journal */
const targets = (journal) => journal.entries.flatMap((each) => each.operations.map((operation) => operation.object?.id ?? operation.object_id ?? operation.op));

/** @param {Journal} journal */
const rest = (journal) => clearTimeout(journal.timer);

/** @param {number} rev */
const saved = (rev) => ({ content: { rev, applied: [], annotations: { rev } } });

test("gestures are sent together, in order, with the revision that was seen", async () => {
  const asked = serve(() => saved(8)), journal = new Journal("t"), answers = heard(journal, "saved");
  journal.add("a b", 7, [put("x")]);
  journal.add("a b", 7, [put("y"), { op: "delete", object_id: "x" }]);
  assert.equal(journal.state, "saving");
  await journal.flush();
  assert.equal(journal.state, "saved");
  assert.deepEqual(asked.map(({ path, body }) => [path, body.base_rev, body.operations.map((/** @type {any} */ each) => each.op)]), [["/api/images/a%20b/operations", 7, ["put", "put", "delete"]]]);
  const ids = asked[0].body.operations.map((/** @type {any} */ each) => each.id);
  assert.equal(new Set(ids).size, 3);
  assert.equal(answers.length, 1);
  assert.ok(answers[0].isAlone);
  assert.equal(journal.entries.length, 0);
});

for (const [what, answer, state] of /** @type {[string, Answer, string][]} */ ([
  ["a server that is gone", () => new TypeError("no"), "offline"],
  ["an expired session", () => ({ status: 401, content: { error: "open the address again" } }), "expired"],
  ["a full disk", () => ({ status: 500 }), "failed"],
  ["a proxy", () => ({ status: 403 }), "failed"],
])) {
  test(`${what} loses nothing; the same operations are sent again`, async () => {
    const asked = serve((request) => (asked.length === 1 ? answer(request) : saved(1))), journal = new Journal("t");
    journal.add("a", 0, [put("x")]);
    await journal.flush();
    rest(journal);
    assert.equal(journal.state, state);
    assert.deepEqual(targets(journal), ["x"]);
    assert.deepEqual(journal.unsent("a").length, 1);
    await journal.flush();
    assert.equal(journal.state, "saved");
    assert.deepEqual(asked[1].body, asked[0].body);
  });
}

test("one gesture that the server will never take does not take the others with it", async () => {
  const isBad = (/** @type {Request} */ { body }) => body.operations.some((/** @type {any} */ each) => each.object?.id === "bad");
  let rev = 0;
  const asked = serve((request) => (isBad(request) ? { status: 422, content: { error: "no such category" } } : saved(++rev)));
  const journal = new Journal("t"), refused = heard(journal, "refused");
  for (const id of ["x", "bad", "y"]) journal.add("a", 0, [put(id)]);
  await journal.flush();
  assert.deepEqual(asked.slice(1).map(({ body }) => body.operations[0].object.id), ["x", "bad", "y"]);
  assert.deepEqual(refused, [{ image: "a", message: "no such category" }]);
  assert.equal(journal.state, "saved");
});

/** @param {any} conflict */
const clash = (conflict) => ({ status: 409, content: { error: "clash", ...conflict } });

for (const [choice, sent] of /** @type {["mine" | "theirs" | "both", number][]} */ ([["mine", 2], ["theirs", 1], ["both", 2]])) {
  test(`a clash waits for an answer: ${choice}`, async () => {
    const theirs = { rev: 5, objects: [] };
    const asked = serve(() => (asked.length === 1 ? clash({ theirs, conflicts: ["x"] }) : saved(6)));
    const journal = new Journal("t"), conflicts = heard(journal, "conflict");
    journal.add("a", 3, [put("x")]);
    journal.add("a", 3, [put("free")]);
    await journal.flush();
    assert.equal(journal.state, "conflict");
    await journal.flush();
    assert.equal(asked.length, 1);
    assert.deepEqual(targets(journal), ["x", "free"]);
    await journal.settle(choice, conflicts[0]);
    assert.equal(journal.state, "saved");
    const { base_rev, operations } = asked[1].body;
    assert.equal(base_rev, 5);
    assert.equal(operations.length, sent);
    const ids = operations.map((/** @type {any} */ each) => each.object.id);
    assert.ok(ids.includes("free"));
    assert.equal(ids.includes("x"), choice === "mine");
  });
}

test("images that are not disputed are saved meanwhile", async () => {
  const asked = serve(({ path }) => (path.includes("/a/") ? clash({ theirs: { rev: 2 }, conflicts: ["x"] }) : saved(1)));
  const journal = new Journal("t");
  journal.add("a", 1, [put("x")]);
  journal.add("b", 0, [put("y")]);
  await journal.flush();
  assert.equal(asked.length, 2);
  assert.deepEqual(targets(journal), ["x"]);
  assert.equal(journal.state, "conflict");
});

test("a revision that nobody here has seen is not taken for seen", async () => {
  const journal = new Journal("t"), answers = heard(journal, "saved");
  const asked = serve(() => {
    // While the first is on its way, a second gesture is made, on top of revision 3.
    if (asked.length === 1) journal.add("a", 3, [put("y")]);
    return saved(asked.length === 1 ? 9 : 10);
  });
  journal.add("a", 3, [put("x")]);
  await journal.flush();
  rest(journal);
  assert.equal(answers[0].isAlone, false);
  assert.deepEqual(asked.map(({ body }) => body.base_rev), [3, 3]);
});

test("with nobody else about, later gestures are on top of the earlier ones", async () => {
  const journal = new Journal("t");
  const asked = serve(() => {
    if (asked.length === 1) journal.add("a", 3, [put("y")]);
    return saved(3 + asked.length);
  });
  journal.add("a", 3, [put("x")]);
  await journal.flush();
  rest(journal);
  assert.deepEqual(asked.map(({ body }) => body.base_rev), [3, 4]);
});

test("leaving warns where nothing could be kept", async () => {
  serve(() => saved(1));
  const journal = new Journal("t");
  await journal.open();
  assert.equal(journal.isAtRisk, false);
  journal.add("a", 0, [put("x")]);
  assert.equal(journal.isAtRisk, true);
  await journal.flush();
  assert.equal(journal.isAtRisk, false);
});
