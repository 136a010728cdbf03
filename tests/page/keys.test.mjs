// Keys: names, layouts, what may be switched off, and other tools' keys.

import assert from "node:assert/strict";
import { test } from "node:test";
import { isSingle, Keys, nameOf, PRESETS } from "../../src/maskwright/serve/static/keys.js";

class FakeElement {}
class FakeInput extends FakeElement {
  /** @param {string} type */
  constructor(type) {
    super();
    this.tagName = "INPUT";
    this.type = type;
  }
}
class FakeButton extends FakeElement {}
Object.assign(globalThis, { HTMLElement: FakeElement, HTMLInputElement: FakeInput, HTMLButtonElement: FakeButton, document: { querySelector: () => null } });

/** @param {string} key @param {any} [more] @returns {any} */
const press = (key, more = {}) => ({
  key, code: "", ctrlKey: false, metaKey: false, altKey: false, shiftKey: false, repeat: false, isComposing: false, defaultPrevented: false, target: new FakeElement(),
  preventDefault() { this.defaultPrevented = true; }, ...more,
});

function memory() {
  /** @type {Map<string, string>} */
  const kept = new Map();
  return {
    getItem: (/** @type {string} */ key) => kept.get(key) ?? null,
    setItem: (/** @type {string} */ key, /** @type {string} */ value) => void kept.set(key, value),
  };
}

/** @param {ReturnType<typeof memory>} [storage] */
function table(storage = memory()) {
  /** @type {string[]} */
  const ran = [], keys = new Keys(storage);
  for (const [id, key, repeats] of /** @type {[string, string, boolean][]} */ ([
    ["brush", "b", false], ["fit", "f", false], ["next", "Ctrl+ArrowRight PageDown", true], ["before", "Ctrl+ArrowLeft PageUp", true],
    ["undo", "Ctrl+z", true], ["nothing", "Shift+e", false], ["help", "?", false], ["lower", "[", false], ["accept", "Enter", false],
    ["hide", "h", false], ["lock", "l", false], ["drop", "Escape", false], ["select", "v", false],
  ])) keys.bind(id, "", key, id, () => ran.push(id), repeats);
  keys.bindDigits("category", "", "category", (digit) => ran.push(`category ${digit}`));
  return { keys, ran, storage };
}

test("names of keys", () => {
  assert.equal(nameOf(press("b")), "b");
  assert.equal(nameOf(press("B", { shiftKey: true })), "Shift+b");
  assert.equal(nameOf(press("Z", { shiftKey: true, metaKey: true })), "Ctrl+Shift+z");
  assert.equal(nameOf(press("?", { shiftKey: true })), "?");
  assert.equal(nameOf(press("и", { code: "KeyB" })), "b");
  assert.equal(nameOf(press("[", { ctrlKey: true, altKey: true, getModifierState: (/** @type {string} */ name) => name === "AltGraph" })), "[");
});

test("letters, signs and digits of any layout run what they are bound to", () => {
  const { keys, ran } = table();
  for (const each of [press("b"), press("и", { code: "KeyB" }), press("?", { shiftKey: true }), press("3"), press("é", { code: "Digit2" }), press("0")]) keys.pressed(each);
  assert.deepEqual(ran, ["brush", "brush", "help", "category 3", "category 2", "category 0"]);
});

test("nothing happens while somebody types, composes, or holds a key", () => {
  const { keys, ran } = table();
  keys.pressed(press("b", { target: new FakeInput("text") }));
  keys.pressed(press("b", { isComposing: true }));
  keys.pressed(press("b", { keyCode: 229 }));
  keys.pressed(press("b", { repeat: true }));
  keys.pressed(press("b", { defaultPrevented: true }));
  keys.pressed(press("Enter", { target: new FakeButton() }));
  keys.pressed(press("b", { ctrlKey: true }));
  assert.deepEqual(ran, []);
  keys.pressed(press("b", { target: new FakeInput("range") }));
  keys.pressed(press("z", { ctrlKey: true, repeat: true }));
  assert.deepEqual(ran, ["brush", "undo"]);
});

test("single letters can be switched off; the rest stays", () => {
  const { keys, ran, storage } = table();
  keys.useSingles(false);
  for (const each of [press("b"), press("E", { shiftKey: true }), press("["), press("1"), press("z", { ctrlKey: true }), press("Enter")]) keys.pressed(each);
  assert.deepEqual(ran, ["undo", "accept"]);
  assert.equal(table(storage).keys.singles, false);
  assert.ok(isSingle("b") && isSingle("Shift+e") && isSingle("+") && !isSingle("Ctrl+z") && !isSingle("Enter"));
});

test("a key that is changed is taken from what had it, and is kept", () => {
  const { keys, storage } = table();
  assert.equal(keys.change("brush", "f"), "fit");
  const { keys: again, ran } = table(storage);
  again.pressed(press("f"));
  again.pressed(press("b"));
  assert.deepEqual(ran, ["brush"]);
  assert.deepEqual(again.bindings.find((each) => each.id === "fit")?.keys, []);
});

test("other tools' keys: no key does two things, and our own come back", () => {
  for (const name of Object.keys(PRESETS)) {
    const { keys, storage } = table();
    keys.use(name);
    const all = keys.bindings.flatMap((each) => each.keys);
    assert.equal(new Set(all).size, all.length, name);
    assert.deepEqual(table(storage).keys.bindings.map((each) => each.keys), keys.bindings.map((each) => each.keys));
    keys.use("maskwright");
    assert.deepEqual(keys.bindings.map((each) => each.keys), keys.bindings.map((each) => each.standard));
  }
  const { keys, ran } = table();
  keys.use("CVAT");
  keys.pressed(press("d"));
  keys.use("LabelMe");
  keys.pressed(press("d"));
  assert.deepEqual(ran, ["before", "next"]);
});

test("what somebody else has written into the browser's storage is no harm", () => {
  for (const text of ["null", "[1]", "{", "{\"brush\": 3}"]) {
    const storage = memory();
    storage.setItem("keys", text);
    const { keys, ran } = table(storage);
    keys.pressed(press("b"));
    assert.deepEqual(ran, ["brush"]);
  }
});
