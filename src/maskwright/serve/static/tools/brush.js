// Brush and eraser: round, of whole pixels. A stroke goes into the selected mask; without one a new object begins.

import { moved, snapped, stroke, toRuns, withRoom } from "../masks.js";

/** @typedef {import("../main.js").App} App */

export class Brush {
  /** @param {App} app @param {0 | 1} value 1 paints, 0 erases */
  constructor(app, value) {
    this.app = app;
    this.value = value;
    /** @type {import("../masks.js").Mask | null} */
    this.mask = null;
    /** @type {string | null} */
    this.target = null;
    /** @type {number[] | null} */
    this.last = null;
    /** @type {number[] | null} */
    this.hover = null;
    /** @type {0 | 1} */
    this.now = value;
  }

  /** @param {PointerEvent} event @param {number[]} point */
  down(event, point) {
    const { labelling, category } = this.app;
    this.now = event.ctrlKey || event.metaKey || event.buttons === 32 ? 0 : this.value;
    const selected = labelling.selection;
    const goesOn = selected?.kind === "mask" && (this.now === 0 || selected.category === category);
    if (!goesOn && this.now === 0) {
      this.app.tell("Select the mask that is to be erased from (V), or draw one");
      return false;
    }
    this.target = goesOn && selected ? selected.id : null;
    const before = goesOn && selected ? labelling.mask(selected) : null;
    this.mask = before ? moved(before, before.x, before.y, before.w, before.h) : null;
    this.last = point;
    this.#paint(point);
    return true;
  }

  /** @param {PointerEvent} event @param {number[]} point */
  move(event, point) {
    this.hover = point;
    if (!this.last) {
      this.app.scene.ask();
      return;
    }
    const steps = event.getCoalescedEvents?.() ?? [];
    for (const each of steps.length ? steps : [event]) this.#paint(this.app.scene.view.toImage(each));
  }

  /** @param {number[]} point */
  #paint(point) {
    const { view } = this.app.scene, size = this.app.brushSize, from = this.last ?? point, reach = size / 2 + 1;
    const box = [Math.min(from[0], point[0]) - reach, Math.min(from[1], point[1]) - reach, Math.max(from[0], point[0]) + reach, Math.max(from[1], point[1]) + reach];
    if (this.now) this.mask = withRoom(this.mask, [Math.floor(box[0]), Math.floor(box[1]), Math.ceil(box[2]), Math.ceil(box[3])], view.width, view.height);
    if (this.mask) {
      stroke(this.mask, from, point, size, this.now);
      this.app.scene.touch(this.mask);
    }
    this.last = point;
  }

  up() {
    const { labelling } = this.app, mask = this.mask;
    const runs = mask ? toRuns(mask) : null, target = this.target;
    this.mask = this.last = this.target = null;
    const before = target ? labelling.objects.get(target) : null;
    if (!runs) {
      if (before && target) labelling.change([{ op: "delete", object_id: target }]);
      return;
    }
    if (before) labelling.change([{ op: "put", object: { ...before, mask: runs } }]);
    else this.app.add({ kind: "mask", source: "brush", mask: runs });
  }

  cancel() {
    const was = this.mask !== null;
    this.mask = this.last = this.target = null;
    this.app.scene.ask();
    return was;
  }

  leave() {
    this.hover = null;
  }

  replaces() {
    return this.mask ? this.target : null;
  }

  /** @param {import("../canvas.js").Scene} scene */
  draw(scene) {
    const before = this.target ? this.app.labelling.objects.get(this.target) : null;
    if (this.mask) scene.drawMask(this.mask, scene.colour(before ? before.category : this.app.category), 0.55, false);
    const at = this.last ?? this.hover;
    if (!at) return;
    const size = this.app.brushSize, [x, y] = snapped(at, size), [left, top] = scene.view.toScreen(x, y);
    scene.context.beginPath();
    scene.context.arc(left, top, Math.max(1, (size / 2) * scene.view.zoom), 0, 2 * Math.PI);
    scene.outline(this.value ? scene.colour(this.app.category) : "#ffffff", false);
  }
}
