// The labels of the image at hand, and everything that changes them: each gesture is a list of operations with its inverse, so that
// undo and redo have no end and are saved like any other change.

import { fromRuns } from "./masks.js";

/**
 * @typedef {import("./masks.js").Runs} Runs
 * @typedef {import("./masks.js").Mask} Mask
 * @typedef {{id: string, kind: "mask" | "box" | "scribble" | "point", category: number, source: string, mask?: Runs, xyxy?: number[],
 *   points?: number[][], xy?: number[]}} Thing
 * @typedef {{rev: number, objects: Thing[], tags: number[] | null, nothing: boolean, done: boolean}} Labels
 * @typedef {{op: string, object?: Thing, object_id?: string, ids?: string[], tags?: number[] | null, value?: boolean}} Operation
 */

export class Labelling extends EventTarget {
  constructor() {
    super();
    /** @type {Map<string, Thing>} */
    this.objects = new Map();
    /** @type {number[] | null} */
    this.tags = null;
    this.nothing = false;
    this.done = false;
    this.rev = 0;
    /** @type {string | null} */
    this.selected = null;
    /** @type {Set<string>} */
    this.hidden = new Set();
    /** @type {Set<string>} objects that no tool takes or changes */
    this.locked = new Set();
    this.allHidden = false;
    /** Goes up with everything that changes what is shown. */
    this.version = 0;
    /** @type {{done: Operation[], undone: Operation[]}[]} */
    this.past = [];
    /** @type {{done: Operation[], undone: Operation[]}[]} */
    this.future = [];
    /** @type {WeakMap<object, Mask>} */
    this.decoded = new WeakMap();
  }

  /** Begin with the labels of an image. @param {Labels} labels @param {Operation[]} [unsent] changes that the server does not have yet */
  open(labels, unsent = []) {
    this.past = [];
    this.future = [];
    this.selected = null;
    this.hidden.clear();
    this.locked.clear();
    this.#replace(labels);
    this.#apply(unsent);
    this.#tell("labels");
  }

  /** The server's labels, without touching what can be undone. @param {Labels} labels */
  take(labels) {
    this.#replace(labels);
    this.#tell("labels");
  }

  /** @param {Labels} labels */
  #replace(labels) {
    this.objects = new Map(labels.objects.map((each) => [each.id, each]));
    this.tags = labels.tags;
    this.nothing = labels.nothing;
    this.done = labels.done;
    this.rev = labels.rev;
    if (this.selected && !this.objects.has(this.selected)) this.selected = null;
  }

  /** Carry out a gesture. @param {Operation[]} operations */
  change(operations) {
    const back = operations.map((each) => this.#inverse(each)).reverse();
    // What was deleted comes back where it lay, not on top.
    const isOrder = operations.some((each) => each.op === "order" || (each.op === "delete" && this.#isBelow(each.object_id)));
    const undone = back.filter((each) => each.op !== "order");
    if (isOrder) undone.push({ op: "order", ids: [...this.objects.keys()] });
    this.past.push({ done: operations, undone });
    this.future = [];
    this.#carryOut(operations);
  }

  undo() {
    const last = this.past.pop();
    if (!last) return false;
    this.future.push(last);
    this.#carryOut(last.undone);
    return true;
  }

  redo() {
    const next = this.future.pop();
    if (!next) return false;
    this.past.push(next);
    this.#carryOut(next.done);
    return true;
  }

  /** @param {string | null} id */
  select(id) {
    this.selected = id;
    this.#tell("selection");
  }

  get selection() {
    return this.selected ? this.objects.get(this.selected) ?? null : null;
  }

  /** The pixels of a mask object. @param {Thing} thing @returns {Mask} */
  mask(thing) {
    const runs = /** @type {Runs} */ (thing.mask);
    let mask = this.decoded.get(runs);
    if (!mask) {
      mask = fromRuns(runs);
      this.decoded.set(runs, mask);
    }
    return mask;
  }

  /** @param {string} id @param {"hidden" | "locked"} what */
  toggle(id, what) {
    if (!this[what].delete(id)) this[what].add(id);
    this.#tell("selection");
  }

  toggleAll() {
    this.allHidden = !this.allHidden;
    this.#tell("selection");
  }

  /** Lay an object one place higher or lower. @param {string} id @param {1 | -1} step */
  raise(id, step) {
    const ids = [...this.objects.keys()], at = ids.indexOf(id);
    if (at < 0 || at + step < 0 || at + step >= ids.length) return false;
    [ids[at], ids[at + step]] = [ids[at + step], ids[at]];
    this.change([{ op: "order", ids }]);
    return true;
  }

  /** @param {string} id */
  isHidden(id) {
    return this.allHidden || this.hidden.has(id);
  }

  /** Whether other objects lie on top of one. @param {string | undefined} id */
  #isBelow(id) {
    return [...this.objects.keys()].pop() !== id;
  }

  /** @param {Operation[]} operations */
  #carryOut(operations) {
    this.#apply(operations);
    this.#tell("labels");
    this.dispatchEvent(new CustomEvent("operations", { detail: operations }));
  }

  /** @param {Operation[]} operations */
  #apply(operations) {
    for (const each of operations) {
      if (each.op === "put" && each.object) this.objects.set(each.object.id, each.object);
      else if (each.op === "delete" && each.object_id) this.objects.delete(each.object_id);
      else if (each.op === "order" && each.ids) {
        const ids = each.ids;
        const rest = [...this.objects.keys()].filter((id) => !ids.includes(id));
        const objects = this.objects;
        this.objects = new Map([...ids.filter((id) => objects.has(id)), ...rest].map((id) => [id, /** @type {Thing} */ (objects.get(id))]));
      } else if (each.op === "tags") this.tags = each.tags ?? null;
      else if (each.op === "nothing") this.nothing = Boolean(each.value);
      else if (each.op === "done") this.done = Boolean(each.value);
    }
    if (this.selected && !this.objects.has(this.selected)) this.selected = null;
  }

  /** @param {Operation} operation @returns {Operation} */
  #inverse(operation) {
    switch (operation.op) {
      case "put": {
        const id = /** @type {Thing} */ (operation.object).id;
        const before = this.objects.get(id);
        return before ? { op: "put", object: before } : { op: "delete", object_id: id };
      }
      case "delete": {
        const before = this.objects.get(/** @type {string} */ (operation.object_id));
        return before ? { op: "put", object: before } : { op: "delete", object_id: operation.object_id };
      }
      case "order":
        return { op: "order", ids: [...this.objects.keys()] };
      case "tags":
        return { op: "tags", tags: this.tags };
      case "nothing":
        return { op: "nothing", value: this.nothing };
      default:
        return { op: "done", value: this.done };
    }
  }

  /** @param {string} what */
  #tell(what) {
    this.version += 1;
    this.dispatchEvent(new Event(what));
  }
}
