// Box: dragged from corner to corner. It says that one object fills it from side to side.

import { boxBetween } from "../geometry.js";

export class BoxTool {
  /** @param {import("../main.js").App} app */
  constructor(app) {
    this.app = app;
    /** @type {number[] | null} */
    this.start = null;
    /** @type {number[] | null} */
    this.end = null;
  }

  /** @param {PointerEvent} _event @param {number[]} point */
  down(_event, point) {
    this.start = this.end = this.app.scene.view.clamp(point);
    return true;
  }

  /** @param {PointerEvent} _event @param {number[]} point */
  move(_event, point) {
    if (!this.start) return;
    this.end = this.app.scene.view.clamp(point);
    this.app.scene.ask();
  }

  up() {
    const box = this.box();
    this.start = this.end = null;
    if (box && box[2] - box[0] >= 1 && box[3] - box[1] >= 1) this.app.add({ kind: "box", source: "hand", xyxy: box });
    this.app.scene.ask();
  }

  /** x0, y0, x1, y1 */
  box() {
    return this.start && this.end ? boxBetween(this.start, this.end) : null;
  }

  cancel() {
    const had = this.start !== null;
    this.start = this.end = null;
    this.app.scene.ask();
    return had;
  }

  /** @param {import("../canvas.js").Scene} scene */
  draw(scene) {
    const box = this.box();
    if (box) scene.drawBox(box, scene.colour(this.app.category), true);
  }
}
