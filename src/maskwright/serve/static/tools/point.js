// Point: one pixel of an object; with the right button, Alt or Shift, one that is off every object.

export class PointTool {
  /** @param {import("../main.js").App} app */
  constructor(app) {
    this.app = app;
  }

  /** @param {PointerEvent} event @param {number[]} point */
  down(event, point) {
    if (!this.app.scene.view.isInside(point)) return false;
    const xy = point.map((value) => Math.floor(value) + 0.5);
    this.app.add({ kind: "point", source: "hand", xy, category: this.app.isNegative(event) ? 0 : this.app.category });
    return true;
  }

  move() {}

  up() {}

  cancel() {
    return false;
  }
}
