// Polygon: a click for each corner, Enter or a click on the first one closes it. It becomes the mask of the pixels inside.

import { tenth } from "../geometry.js";
import { polygon } from "../masks.js";

export class Polygon {
  /** @param {import("../main.js").App} app */
  constructor(app) {
    this.app = app;
    /** @type {number[][]} */
    this.points = [];
    /** @type {number[] | null} */
    this.hover = null;
  }

  /** @param {PointerEvent} _event @param {number[]} point */
  down(_event, point) {
    const place = this.app.scene.view.clamp(point).map(tenth);
    if (this.points.length > 2 && this.#isNear(this.points[0], place)) this.finish();
    else this.points.push(place);
    this.#changed();
    return true;
  }

  /** @param {PointerEvent} _event @param {number[]} point */
  move(_event, point) {
    this.hover = point;
    this.app.scene.ask();
  }

  up() {}

  finish() {
    const { view } = this.app.scene, points = this.points;
    if (!points.length) return false;
    if (points.length < 3) {
      this.app.tell("A polygon needs three corners");
      return true;
    }
    this.points = [];
    this.#changed();
    const mask = polygon(points, view.width, view.height);
    if (mask) this.app.addMask(mask, "polygon");
    else this.app.tell("There is no pixel inside of this polygon");
    return true;
  }

  /** The last corner goes; undo of a draft uses up its own steps first. */
  back() {
    const had = this.points.length > 0;
    this.points.pop();
    this.#changed();
    return had;
  }

  cancel() {
    const had = this.points.length > 0;
    this.points = [];
    if (had) this.#changed();
    return had;
  }

  leave() {
    this.hover = null;
  }

  #changed() {
    this.app.showOptions();
    this.app.scene.ask();
  }

  /** @param {number[]} a @param {number[]} b */
  #isNear(a, b) {
    return Math.hypot(a[0] - b[0], a[1] - b[1]) * this.app.scene.view.zoom < 10 * this.app.scene.view.ratio;
  }

  /** @param {import("../canvas.js").Scene} scene */
  draw(scene) {
    if (!this.points.length) return;
    const points = this.hover ? [...this.points, this.hover] : this.points;
    scene.drawLine(points, scene.colour(this.app.category), true);
    for (const point of this.points) {
      const [x, y] = scene.view.toScreen(point[0], point[1]);
      scene.context.beginPath();
      scene.context.arc(x, y, 4 * scene.view.ratio, 0, 2 * Math.PI);
      scene.outline("#ffffff", false);
    }
  }
}
