// Scribble: everything along the line is of the category; with the right button, Alt or Shift it is off every object.

import { tenth } from "../geometry.js";

export class Scribble {
  /** @param {import("../main.js").App} app */
  constructor(app) {
    this.app = app;
    /** @type {number[][]} */
    this.points = [];
    this.category = 0;
  }

  /** @param {PointerEvent} event @param {number[]} point */
  down(event, point) {
    if (!this.app.scene.view.isInside(point)) return false;
    this.category = this.app.isNegative(event) ? 0 : this.app.category;
    this.points = [this.#rounded(point)];
    this.app.scene.ask();
    return true;
  }

  /** @param {PointerEvent} event @param {number[]} point */
  move(event, point) {
    if (!this.points.length) return;
    const steps = event.getCoalescedEvents?.() ?? [];
    const places = steps.length ? steps.map((each) => this.app.scene.view.toImage(each)) : [point];
    for (const place of places) {
      const next = this.#rounded(this.app.scene.view.clamp(place)), last = this.points[this.points.length - 1];
      if (Math.hypot(next[0] - last[0], next[1] - last[1]) >= 1) this.points.push(next);
    }
    this.app.scene.ask();
  }

  up() {
    const points = this.points;
    this.points = [];
    if (points.length) this.app.add({ kind: "scribble", source: "hand", points, category: this.category });
  }

  /** @param {number[]} point */
  #rounded(point) {
    return point.map(tenth);
  }

  cancel() {
    const had = this.points.length > 0;
    this.points = [];
    this.app.scene.ask();
    return had;
  }

  /** @param {import("../canvas.js").Scene} scene */
  draw(scene) {
    if (this.points.length) scene.drawLine(this.points, this.category ? scene.colour(this.category) : "#ffffff", true);
  }
}
