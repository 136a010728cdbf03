// Smart: SAM answers clicks and boxes. Left is on the object; right, Alt or Shift is off it; X turns the sign; a drag is a box; a click on
// a prompt takes it away; , and . go through the three candidates after one click. With a mask selected, clicks refine it. Where SAM is
// fast enough, it shows what a click would give.

import { client } from "../client.js";
import { boxBetween } from "../geometry.js";
import { fromRuns } from "../masks.js";

/** CSS pixels that a pointer moves before a click is a drag. */
const DRAG = 5;

/** Milliseconds of rest before a preview is asked for, and the longest answers with which previews are worth their while. */
const REST = 60;
const FAST = 160;

/**
 * @typedef {{mask: import("../masks.js").Mask, runs: import("../masks.js").Runs, score: number, isAgents?: boolean}} Candidate
 * @typedef {import("../state.js").Thing} Thing
 */

export class Smart {
  /** @param {import("../main.js").App} app */
  constructor(app) {
    this.app = app;
    /** @type {number[][]} x, y, 1 on the object or 0 off it */
    this.points = [];
    /** @type {number[] | null} */
    this.box = null;
    /** @type {Candidate[]} */
    this.candidates = [];
    this.choice = 0;
    this.sequence = 0;
    this.waiting = false;
    /** @type {number[] | null} */
    this.start = null;
    /** @type {number[] | null} */
    this.end = null;
    this.negative = false;
    /** The keyboard's next Space begins a box. */
    this.boxing = false;
    /** Look closer at the box; null: where it is small. @type {boolean | null} */
    this.closer = null;
    /** @type {string | null} the mask that is refined */
    this.target = null;
    /** The click agent answers this draft, not SAM. */
    this.byAgent = false;
    /** @type {Candidate | null} */
    this.preview = null;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.rest = undefined;
    this.previewing = false;
    /** Milliseconds that the last answers took. @type {number[]} */
    this.times = [];
  }

  /** @param {PointerEvent} event @param {number[]} point */
  down(event, point) {
    if (!this.app.scene.view.isInside(point)) return false;
    this.#dropPreview();
    this.start = this.end = point;
    this.negative = this.app.isNegative(event);
    if (!this.isBusy) this.target = this.refinable()?.id ?? null;
    return true;
  }

  /** @param {PointerEvent} _event @param {number[]} point */
  move(_event, point) {
    if (!this.start) {
      this.#hover(point);
      return;
    }
    this.end = this.app.scene.view.clamp(point);
    this.app.scene.ask();
  }

  up() {
    const { start, end } = this, view = this.app.scene.view;
    this.start = this.end = null;
    if (!start || !end) return;
    const reach = (DRAG * view.ratio) / view.zoom;
    if (Math.hypot(end[0] - start[0], end[1] - start[1]) > reach && !this.negative) {
      const box = boxBetween(start, end);
      if (box[2] - box[0] < 1 || box[3] - box[1] < 1) return;
      this.box = box;
      this.boxing = false;
      this.target = this.closer = null;
    } else {
      const near = this.points.findIndex((each) => Math.hypot(each[0] - start[0], each[1] - start[1]) < 2 * reach);
      if (near >= 0) this.points.splice(near, 1);
      else this.points.push([...start, this.negative ? 0 : 1]);
    }
    this.ask();
  }

  leave() {
    this.#dropPreview();
  }

  /** Whether there is a draft. */
  get isBusy() {
    return this.points.length > 0 || this.box !== null || this.candidates.length > 0;
  }

  get isAnswered() {
    return this.candidates.length > 0;
  }

  /** The selected mask, where clicks may change it. @returns {Thing | null} */
  refinable() {
    const { labelling } = this.app, { selection } = labelling;
    return selection?.kind === "mask" && !labelling.locked.has(selection.id) ? selection : null;
  }

  /** Ask SAM, or the agent where it has answered before; an answer to an older question is dropped. */
  async ask() {
    if (!this.points.length && !this.box) {
      this.clear();
      return;
    }
    if (this.byAgent) {
      await this.correct();
      return;
    }
    const image = this.app.image, sequence = ++this.sequence;
    this.choice = 0;
    const refined = this.target ? this.app.labelling.objects.get(this.target) : null;
    const all = this.points.length === 1 && !this.box && !refined;
    this.waiting = true;
    this.#changed();
    try {
      const candidates = await this.#predict(image, { seq: sequence, points: this.points, box: this.box, mask: refined?.mask ?? null, all, closer: this.closer });
      if (sequence !== this.sequence || image !== this.app.image || !candidates) return;
      this.candidates = candidates;
      const count = candidates.length === 1 ? "one candidate" : `${candidates.length} candidates`;
      this.app.tell(candidates.length ? `SAM: ${count}; Enter accepts` : "SAM sees nothing there; click on the object, or draw a box around it");
    } catch (error) {
      if (sequence === this.sequence) this.app.tell(error instanceof Error ? error.message : String(error), "error");
    } finally {
      if (sequence === this.sequence) {
        this.waiting = false;
        this.#changed();
      }
    }
  }

  /** @param {string} image @param {any} question @returns {Promise<Candidate[] | null>} null: another question has come since */
  async #predict(image, question) {
    const begun = performance.now();
    const answer = await client.predict(image, question);
    if (answer.superseded) return null;
    const time = Math.round(performance.now() - begun);
    this.times = [...this.times.slice(-4), time];
    document.body.dataset.answered = String(time);
    return answer.candidates.map((/** @type {any} */ each) => ({ runs: each.mask, score: each.score, mask: fromRuns(each.mask) }));
  }

  /** What a click here would give. @param {number[]} point */
  #hover(point) {
    clearTimeout(this.rest);
    const { app } = this;
    if (!app.settings.previews || this.isBusy || this.refinable() || !app.scene.view.isInside(point)) {
      this.#dropPreview();
      return;
    }
    // Only where an image is ready, and never while a question is on its way.
    const isFast = this.times.length > 0 && this.times.every((time) => time <= FAST);
    if (!isFast || document.body.dataset.embedded !== app.image) return;
    this.rest = setTimeout(() => this.#look(point), REST);
  }

  /** @param {number[]} point */
  async #look(point) {
    if (this.previewing || this.isBusy || this.start) return;
    const image = this.app.image, sequence = this.sequence;
    this.previewing = true;
    try {
      const candidates = await this.#predict(image, { seq: sequence, points: [[...point, 1]], box: null, mask: null, all: false, closer: false });
      if (sequence !== this.sequence || image !== this.app.image || this.isBusy || this.start) return;
      this.preview = candidates?.[0] ?? null;
    } catch {
      this.preview = null; // nobody has asked for it
    } finally {
      this.previewing = false;
      this.app.scene.ask();
    }
  }

  #dropPreview() {
    clearTimeout(this.rest);
    if (!this.preview) return;
    this.preview = null;
    this.app.scene.ask();
  }

  /** @param {number} step */
  next(step) {
    if (this.candidates.length < 2) return false;
    this.choice = (this.choice + step + this.candidates.length) % this.candidates.length;
    this.#changed();
    return true;
  }

  /** For the keyboard: clicks or boxes. */
  turnBoxing() {
    this.boxing = !this.boxing;
    this.app.tell(this.boxing ? "Space begins a box, the next Space ends it" : "Space clicks");
  }

  /** Cut the box out, so that small things are seen larger; or not. */
  lookCloser() {
    if (!this.box) {
      this.app.tell("Draw a box first: SAM looks closer at what is in it");
      return;
    }
    if (this.byAgent) {
      this.app.tell("The agent answers this draft; only SAM looks closer");
      return;
    }
    this.closer = this.closer !== true;
    this.ask();
  }

  /** The mask that the agent would correct; none where it answers the clicks and the box of a draft. @returns {Thing | null} */
  correctable() {
    return this.isBusy && !this.target ? null : this.refinable();
  }

  /** The agent answers the draft, or, pressed again, SAM does. */
  turnToAgent() {
    if (this.byAgent) {
      this.byAgent = false;
      return this.ask();
    }
    return this.correct();
  }

  /** The click agent corrects the selected mask, or answers the draft's clicks and box, these and those to come. */
  async correct() {
    const target = this.correctable(), image = this.app.image, sequence = ++this.sequence;
    if (!target && !this.points.length && !this.box) return;
    this.target = target?.id ?? null;
    this.byAgent = !target;
    this.choice = 0;
    this.waiting = true;
    this.#changed();
    try {
      const answer = await client.correct(image, target ? { mask: target.mask } : { points: this.points, box: this.box });
      if (sequence !== this.sequence || image !== this.app.image) return;
      if (!target) {
        this.candidates = answer.mask ? [{ runs: answer.mask, score: answer.quality ?? 0, mask: fromRuns(answer.mask), isAgents: true }] : [];
        this.app.tell(answer.mask ? "The agent's answer; Enter accepts" : "The agent sees nothing there; click on the object, or draw a box around it");
        return;
      }
      if (!answer.clicks.length) {
        this.target = null;
        this.app.tell("The agent finds nothing to correct");
        return;
      }
      this.points = answer.clicks;
      this.candidates = [{ runs: answer.mask, score: answer.quality ?? 0, mask: fromRuns(answer.mask), isAgents: true }];
    } catch (error) {
      if (sequence === this.sequence) this.byAgent = false;
      if (sequence === this.sequence) this.app.tell(error instanceof Error ? error.message : String(error), "error");
    } finally {
      if (sequence === this.sequence) {
        this.waiting = false;
        this.#changed();
      }
    }
  }

  /** The candidate becomes an object, or takes the place of the mask that was refined. */
  finish() {
    const chosen = this.candidates[this.choice];
    if (!chosen || this.waiting) return false;
    const before = this.target ? this.app.labelling.objects.get(this.target) : null;
    this.clear();
    if (before) {
      this.app.labelling.change([{ op: "put", object: { ...before, mask: chosen.runs, source: "sam" } }]);
      this.app.tell("The mask is refined");
    } else this.app.addMask(chosen.mask, "sam");
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
    this.#dropPreview();
    if (was) this.clear();
    return was;
  }

  clear() {
    this.sequence += 1;
    this.points = [];
    this.box = this.start = this.end = this.target = this.preview = null;
    this.closer = null;
    this.byAgent = false;
    this.candidates = [];
    this.waiting = false;
    this.app.tell("");
    this.#changed();
  }

  #changed() {
    this.app.scene.ask();
    this.app.showOptions();
  }

  replaces() {
    return this.candidates.length ? this.target : null;
  }

  /** @param {import("../canvas.js").Scene} scene */
  draw(scene) {
    const refined = this.target ? this.app.labelling.objects.get(this.target) : null;
    const colour = scene.colour(refined ? refined.category : this.app.category), chosen = this.candidates[this.choice];
    if (chosen) scene.drawMask(chosen.mask, colour, 0.5, true);
    else if (this.preview && !this.start) scene.drawMask(this.preview.mask, colour, 0.28, false);
    if (this.box) scene.drawBox(this.box, colour, true);
    if (this.start && this.end && !this.negative) {
      const [ax, ay] = this.start, [bx, by] = this.end;
      if (Math.hypot(ax - bx, ay - by) * scene.view.zoom > DRAG * scene.view.ratio) scene.drawBox(boxBetween(this.start, this.end), colour, true);
    }
    for (const [x, y, on] of this.points) scene.drawPoint([x, y], colour, on === 1, true);
  }
}
