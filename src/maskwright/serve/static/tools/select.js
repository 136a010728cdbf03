// Select: a click takes the topmost object under it; boxes and points can be dragged.

import { lineDistance } from "../geometry.js";
import { has } from "../masks.js";

/** @typedef {import("../state.js").Thing} Thing */

export class Select {
  /** @param {import("../main.js").App} app */
  constructor(app) {
    this.app = app;
    /** @type {number[] | null} */
    this.start = null;
    /** @type {Thing | null} */
    this.moving = null;
  }

  /** @param {PointerEvent} _event @param {number[]} point */
  down(_event, point) {
    const found = this.at(point);
    this.app.labelling.select(found ? found.id : null);
    this.start = found && found.kind !== "mask" && !this.app.labelling.locked.has(found.id) ? point : null;
    this.moving = null;
    return found !== null;
  }

  /** @param {PointerEvent} _event @param {number[]} point */
  move(_event, point) {
    const thing = this.app.labelling.selection;
    if (!this.start || !thing) return;
    const { width, height } = this.app.scene.view;
    let [dx, dy] = [point[0] - this.start[0], point[1] - this.start[1]].map((value) => Math.round(value));
    const places = thing.xyxy ? [thing.xyxy.slice(0, 2), thing.xyxy.slice(2)] : thing.points ?? [/** @type {number[]} */ (thing.xy)];
    dx = Math.min(width - Math.max(...places.map((p) => p[0])), Math.max(-Math.min(...places.map((p) => p[0])), dx));
    dy = Math.min(height - Math.max(...places.map((p) => p[1])), Math.max(-Math.min(...places.map((p) => p[1])), dy));
    const shifted = places.map(([x, y]) => [x + dx, y + dy]);
    this.moving = thing.xyxy ? { ...thing, xyxy: shifted.flat() } : thing.points ? { ...thing, points: shifted } : { ...thing, xy: shifted[0] };
    this.app.scene.ask();
  }

  up() {
    const moved = this.moving;
    this.start = this.moving = null;
    if (moved) this.app.labelling.change([{ op: "put", object: moved }]);
  }

  cancel() {
    const was = this.moving !== null;
    this.start = this.moving = null;
    this.app.scene.ask();
    return was;
  }

  replaces() {
    return this.moving ? this.moving.id : null;
  }

  /** @param {import("../canvas.js").Scene} scene */
  draw(scene) {
    const thing = this.moving;
    if (!thing) return;
    const colour = scene.colour(thing.category);
    if (thing.xyxy) scene.drawBox(thing.xyxy, colour, true);
    else if (thing.points) scene.drawLine(thing.points, colour, true);
    else if (thing.xy) scene.drawPoint(thing.xy, colour, thing.category !== 0, true);
  }

  /** The topmost object at a place. @param {number[]} point @returns {Thing | null} */
  at(point) {
    const { labelling, scene } = this.app, reach = (8 * scene.view.ratio) / scene.view.zoom;
    // Lines and points are drawn above the masks, so they are found above them.
    const things = [...labelling.objects.values()].reverse().filter((each) => !labelling.isHidden(each.id));
    return things.find((each) => each.kind !== "mask" && isNear(each, point, reach)) ??
      things.find((each) => each.kind === "mask" && has(labelling.mask(each), point[0], point[1])) ?? null;
  }
}

/** @param {Thing} thing @param {number[]} point @param {number} reach in image pixels */
function isNear(thing, point, reach) {
  if (thing.xy) return Math.hypot(thing.xy[0] - point[0], thing.xy[1] - point[1]) < reach;
  if (thing.points) return lineDistance(thing.points, point) < reach;
  const [x0, y0, x1, y1] = /** @type {number[]} */ (thing.xyxy), [x, y] = point;
  const isInside = x > x0 - reach && x < x1 + reach && y > y0 - reach && y < y1 + reach;
  return isInside && !(x > x0 + reach && x < x1 - reach && y > y0 + reach && y < y1 - reach);
}
