// Brush and eraser: round, of whole pixels. A stroke goes into the selected mask; without one a new object begins.

import { has, isSame, moved, snapped, stroke, toRuns, withRoom } from "../masks.js";

/**
 * @typedef {import("../main.js").App} App
 * @typedef {import("../state.js").Thing} Thing
 */

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
    /** Another one for each stroke. */
    this.token = {};
  }

  /** @param {PointerEvent} event @param {number[]} point */
  down(event, point) {
    const { labelling } = this.app;
    // Button 5 is a pen's eraser.
    this.now = event.ctrlKey || event.metaKey || event.button === 5 || event.buttons === 32 ? 0 : this.value;
    const target = this.#target(point);
    if (this.now === 0 && !target) {
      this.app.tell("There is no mask to erase here; a locked one (L) is left alone");
      return false;
    }
    if (target && labelling.locked.has(target.id)) {
      this.app.tell("The selected object is locked (L)", "error");
      return false;
    }
    const before = target ? labelling.mask(target) : null;
    this.target = target ? target.id : null;
    this.mask = before ? moved(before, before.x, before.y, before.w, before.h) : null;
    this.token = {};
    this.last = point;
    this.#paint(point);
    return true;
  }

  /** The mask that a stroke goes into; null: a new one begins, or there is none to erase. @param {number[]} point @returns {Thing | null} */
  #target(point) {
    const { labelling, category } = this.app, { selection } = labelling;
    if (selection?.kind === "mask" && (this.now === 0 || selection.category === category)) return selection;
    if (this.now) return null;
    const under = [...labelling.objects.values()].reverse().find((each) =>
      each.kind === "mask" && !labelling.isHidden(each.id) && !labelling.locked.has(each.id) && has(labelling.mask(each), point[0], point[1]));
    if (under) labelling.select(under.id);
    return under ?? null;
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
    const box = [
      Math.floor(Math.min(from[0], point[0]) - reach), Math.floor(Math.min(from[1], point[1]) - reach),
      Math.ceil(Math.max(from[0], point[0]) + reach), Math.ceil(Math.max(from[1], point[1]) + reach),
    ];
    if (this.now) this.mask = withRoom(this.mask, box, view.width, view.height);
    if (this.mask) {
      stroke(this.mask, from, point, size, this.now);
      this.app.scene.touch(box);
    }
    this.last = point;
  }

  up() {
    const { labelling } = this.app, { mask, target } = this;
    const runs = mask ? toRuns(mask) : null;
    this.mask = this.last = this.target = null;
    const before = target ? labelling.objects.get(target) : null;
    this.app.scene.ask();
    if (!runs) {
      if (before && target) labelling.change([{ op: "delete", object_id: target }]);
      return;
    }
    if (!before) this.app.add({ kind: "mask", source: "brush", mask: runs });
    else if (!isSame(runs, before.mask)) labelling.change([{ op: "put", object: { ...before, mask: runs } }]);
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
    if (this.mask) scene.drawMask(this.mask, scene.colour(before ? before.category : this.app.category), 0.55, true, this.token);
    const at = this.last ?? this.hover;
    if (!at) return;
    const size = this.app.brushSize, [x, y] = snapped(at, size), [left, top] = scene.view.toScreen(x, y);
    scene.context.beginPath();
    scene.context.arc(left, top, Math.max(1, (size / 2) * scene.view.zoom), 0, 2 * Math.PI);
    scene.outline(this.value ? scene.colour(this.app.category) : "#ffffff", false);
  }
}
