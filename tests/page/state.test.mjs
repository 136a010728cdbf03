// Undo and redo: whatever was done, going back and forth gives the same labels, and the same operations to a server.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Labelling } from "../../src/maskwright/serve/static/state.js";
import { random } from "./random.mjs";

/**
 * @typedef {import("../../src/maskwright/serve/static/state.js").Operation} Operation
 * @typedef {import("../../src/maskwright/serve/static/state.js").Thing} Thing
 */

/** @param {string} id @param {number} [category] @returns {Thing} */
const point = (id, category = 1) => ({ id, kind: "point", category, source: "hand", xy: [1.5, 1.5] });

const EMPTY = { rev: 0, objects: [], tags: null, nothing: false, done: false };

/** @param {Labelling} labelling */
function shown({ objects, tags, nothing, done }) {
  return JSON.stringify({ objects: [...objects.values()], tags, nothing, done });
}

/** A server that carries out operations in the simplest way; "put" of what it does not have goes on top. */
class Server {
  /** @type {Thing[]} */
  objects = [];
  /** @type {any} */
  rest = { tags: null, nothing: false, done: false };

  /** @param {Operation[]} operations */
  take(operations) {
    for (const { op, object, object_id, ids, tags, value } of operations) {
      if (op === "put" && object) {
        const at = this.objects.findIndex((each) => each.id === object.id);
        if (at < 0) this.objects.push(object);
        else this.objects[at] = object;
      } else if (op === "delete") this.objects = this.objects.filter((each) => each.id !== object_id);
      else if (op === "order" && ids) {
        const place = (/** @type {Thing} */ each) => (ids.includes(each.id) ? ids.indexOf(each.id) : ids.length);
        this.objects = this.objects.map((each, at) => ({ each, at })).sort((a, b) => place(a.each) - place(b.each) || a.at - b.at).map(({ each }) => each);
      } else if (op === "tags") this.rest.tags = tags;
      else this.rest[op] = value;
    }
  }
}

/** @param {() => number} next @param {Labelling} labelling @param {number} round @returns {Operation[]} */
function gesture(next, labelling, round) {
  const ids = [...labelling.objects.keys()], pick = ids[Math.floor(next() * ids.length)];
  const kind = Math.floor(next() * 7);
  if (kind === 0 && pick) return [{ op: "delete", object_id: pick }];
  if (kind === 1 && pick) return [{ op: "put", object: point(pick, 1 + Math.floor(next() * 4)) }];
  if (kind === 2 && ids.length > 1) return [{ op: "order", ids: [...ids].reverse() }];
  if (kind === 3) return [{ op: "tags", tags: next() < 0.5 ? null : [1, 2] }];
  if (kind === 4) return [{ op: "done", value: next() < 0.5 }, { op: "nothing", value: next() < 0.5 }];
  if (kind === 5 && ids.length > 1) return [{ op: "delete", object_id: ids[0] }, { op: "put", object: point(`x${round}`) }, { op: "delete", object_id: ids[1] }];
  return [{ op: "put", object: point(`o${round}`) }];
}

test("undo and redo without end, and the server follows", () => {
  for (let seed = 0; seed < 40; seed += 1) {
    const next = random(seed), labelling = new Labelling(), server = new Server();
    labelling.open(EMPTY);
    labelling.addEventListener("operations", (event) => server.take(/** @type {CustomEvent} */ (event).detail));
    const agree = () => assert.equal(JSON.stringify({ objects: server.objects, ...server.rest }), shown(labelling));
    const states = [shown(labelling)];
    for (let round = 0; round < 30; round += 1) {
      labelling.change(gesture(next, labelling, round));
      states.push(shown(labelling));
      agree();
    }
    for (let at = states.length - 2; at >= 0; at -= 1) {
      assert.ok(labelling.undo());
      assert.equal(shown(labelling), states[at]);
      agree();
    }
    assert.ok(!labelling.undo());
    for (let at = 1; at < states.length; at += 1) {
      assert.ok(labelling.redo());
      assert.equal(shown(labelling), states[at]);
      agree();
    }
    assert.ok(!labelling.redo());
  }
});

test("what was deleted comes back where it lay", () => {
  const labelling = new Labelling();
  labelling.open({ ...EMPTY, objects: ["a", "b", "c"].map((id) => point(id)) });
  labelling.change([{ op: "delete", object_id: "a" }]);
  labelling.undo();
  assert.deepEqual([...labelling.objects.keys()], ["a", "b", "c"]);
});

test("changes that the server does not have yet are on the screen when an image is opened again", () => {
  const labelling = new Labelling();
  /** @type {any[]} */
  const sent = [];
  labelling.addEventListener("operations", (event) => sent.push(event));
  labelling.open({ ...EMPTY, objects: [point("a")] }, [{ op: "put", object: point("b") }, { op: "delete", object_id: "a" }]);
  assert.deepEqual([...labelling.objects.keys()], ["b"]);
  assert.equal(sent.length, 0);
  assert.ok(!labelling.undo());
});

test("hidden and locked objects are neither lost nor saved as such", () => {
  const labelling = new Labelling();
  labelling.open({ ...EMPTY, objects: [point("a"), point("b")] });
  const before = shown(labelling), { version } = labelling;
  labelling.toggle("a", "hidden");
  labelling.toggle("b", "locked");
  labelling.toggleAll();
  assert.ok(labelling.isHidden("b") && labelling.locked.has("b") && labelling.version > version);
  assert.equal(shown(labelling), before);
  assert.equal(labelling.past.length, 0);
});

test("an object is raised and lowered by one place", () => {
  const labelling = new Labelling();
  labelling.open({ ...EMPTY, objects: ["a", "b", "c"].map((id) => point(id)) });
  assert.ok(labelling.raise("a", 1));
  assert.deepEqual([...labelling.objects.keys()], ["b", "a", "c"]);
  assert.ok(!labelling.raise("b", -1) && !labelling.raise("c", 1) && !labelling.raise("none", 1));
  labelling.undo();
  assert.deepEqual([...labelling.objects.keys()], ["a", "b", "c"]);
});
