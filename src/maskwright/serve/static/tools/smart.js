// Smart: SAM answers clicks and boxes. Left is on the object; right, Alt or Shift is off it; X turns the sign; a drag is a box; a click on
// a prompt takes it away; , and . go through the three candidates after one click. With a mask selected, clicks refine it.

import { client, Refused } from "../client.js";
import { fromRuns } from "../masks.js";

const DRAG = 5;

export class Smart {
  /** @param {import("../main.js").App} app */
  constructor(app) {
    this.app = app;
    /** @type {number[][]} x, y, 1 on the object or 0 off it */
    this.points = [];
    /** @type {number[] | null} */
    this.box = null;
    /** @type {{mask: import("../masks.js").Mask, runs: import("../masks.js").Runs, score: number}[]} */
    this.candidates = [];
    this.choice = 0;
    this.sequence = 0;
    this.waiting = false;
    /** @type {number[] | null} */
    this.start = null;
    /** @type {number[] | null} */
    this.end = null;
    this.negative = false;
    this.turned = false;
    /** @type {string | null} the mask that is refined */
    this.target = null;
  }

  /** @param {PointerEvent} event @param {number[]} point */
  down(event, point) {
    if (!this.app.scene.view.isInside(point)) return false;
    this.start = this.end = point;
    this.negative = this.app.isNegative(event) !== this.turned;
    if (!this.isBusy) {
      const selected = this.app.labelling.selection;
      this.target = selected?.kind === "mask" ? selected.id : null;
    }
    return true;
  }

  /** @param {PointerEvent} _event @param {number[]} point */
  move(_event, point) {
    if (!this.start) return;
    this.end = this.app.scene.view.clamp(point);
    this.app.scene.ask();
  }

  up() {
    const { start, end } = this, view = this.app.scene.view;
    this.start = this.end = null;
    if (!start || !end) return;
    const reach = (DRAG * view.ratio) / view.zoom;
    if (Math.hypot(end[0] - start[0], end[1] - start[1]) > reach && !this.negative) {
      const box = [Math.min(start[0], end[0]), Math.min(start[1], end[1]), Math.max(start[0], end[0]), Math.max(start[1], end[1])];
      if (box[2] - box[0] < 1 || box[3] - box[1] < 1) return;
      this.box = box;
      this.target = null;
    } else {
      const near = this.points.findIndex((each) => Math.hypot(each[0] - start[0], each[1] - start[1]) < 2 * reach);
      if (near >= 0) this.points.splice(near, 1);
      else this.points.push([...start, this.negative ? 0 : 1]);
    }
    this.ask();
  }

  get isBusy() {
    return this.points.length > 0 || this.box !== null || this.candidates.length > 0;
  }

  /** Ask SAM; an answer to an older question is dropped. */
  async ask() {
    const image = this.app.image, sequence = ++this.sequence;
    this.choice = 0;
    if (!this.points.length && !this.box) {
      this.candidates = [];
      this.app.scene.ask();
      return;
    }
    const refined = this.target ? this.app.labelling.objects.get(this.target) : null;
    const body = { seq: sequence, points: this.points, box: this.box, mask: refined?.mask ?? null, all: this.points.length === 1 && !this.box && !refined };
    this.waiting = true;
    this.app.scene.ask();
    this.app.showOptions();
    const begun = performance.now();
    try {
      const answer = await client.predict(image, body);
      if (sequence !== this.sequence || image !== this.app.image || answer.superseded) return;
      this.candidates = answer.candidates.map((/** @type {any} */ each) => ({ runs: each.mask, score: each.score, mask: fromRuns(each.mask) }));
      document.body.dataset.answered = String(Math.round(performance.now() - begun));
      if (!this.candidates.length) this.app.tell("SAM sees nothing there; click on the object, or draw a box around it");
    } catch (error) {
      if (sequence === this.sequence) this.app.tell(error instanceof Refused ? error.message : String(error), "error");
    } finally {
      if (sequence === this.sequence) {
        this.waiting = false;
        this.app.scene.ask();
        this.app.showOptions();
      }
    }
  }

  /** @param {number} step */
  next(step) {
    if (this.candidates.length < 2) return false;
    this.choice = (this.choice + step + this.candidates.length) % this.candidates.length;
    this.app.scene.ask();
    this.app.showOptions();
    return true;
  }

  /** The candidate becomes an object, or takes the place of the mask that was refined. */
  finish() {
    const chosen = this.candidates[this.choice];
    if (!chosen) return false;
    const before = this.target ? this.app.labelling.objects.get(this.target) : null;
    this.clear();
    if (before) this.app.labelling.change([{ op: "put", object: { ...before, mask: chosen.runs, source: "sam" } }]);
    else this.app.addMask(chosen.mask, "sam");
    return true;
  }

  back() {
    if (!this.points.length && !this.box) return false;
    if (this.points.length) this.points.pop();
    else this.box = null;
    this.ask();
    return true;
  }

  cancel() {
    const was = this.isBusy || this.start !== null;
    this.clear();
    return was;
  }

  clear() {
    this.sequence += 1;
    this.points = [];
    this.box = this.start = this.end = this.target = null;
    this.candidates = [];
    this.waiting = false;
    this.app.scene.ask();
    this.app.showOptions();
  }

  replaces() {
    return this.candidates.length ? this.target : null;
  }

  /** @param {import("../canvas.js").Scene} scene */
  draw(scene) {
    const colour = scene.colour(this.app.category), chosen = this.candidates[this.choice];
    if (chosen) scene.drawMask(chosen.mask, colour, 0.5, true);
    if (this.box) scene.drawBox(this.box, colour, true);
    if (this.start && this.end && !this.negative) {
      const [ax, ay] = this.start, [bx, by] = this.end;
      if (Math.hypot(ax - bx, ay - by) * scene.view.zoom > DRAG * scene.view.ratio) {
        scene.drawBox([Math.min(ax, bx), Math.min(ay, by), Math.max(ax, bx), Math.max(ay, by)], colour, true);
      }
    }
    for (const [x, y, on] of this.points) scene.drawPoint([x, y], colour, on === 1, true);
  }
}
