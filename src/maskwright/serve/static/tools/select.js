// Select: a click takes the topmost object under it; boxes and points can be dragged.

import { has } from "../masks.js";

export class Select {
  /** @param {import("../main.js").App} app */
  constructor(app) {
    this.app = app;
    /** @type {number[] | null} */
    this.start = null;
    /** @type {import("../state.js").Thing | null} */
    this.moving = null;
  }

  /** @param {PointerEvent} _event @param {number[]} point */
  down(_event, point) {
    const found = this.#at(point);
    this.app.labelling.select(found ? found.id : null);
    this.start = found && found.kind !== "mask" ? point : null;
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

  /** @param {number[]} point */
  #at(point) {
    const { labelling, scene } = this.app, reach = (8 * scene.view.ratio) / scene.view.zoom;
    for (const each of [...labelling.objects.values()].reverse()) {
      if (labelling.isHidden(each.id)) continue;
      if (each.kind === "mask" && has(labelling.mask(each), point[0], point[1])) return each;
      if (each.xy && Math.hypot(each.xy[0] - point[0], each.xy[1] - point[1]) < reach) return each;
      if (each.points && each.points.some((place) => Math.hypot(place[0] - point[0], place[1] - point[1]) < reach)) return each;
      if (each.xyxy) {
        const [x0, y0, x1, y1] = each.xyxy;
        const inside = point[0] > x0 - reach && point[0] < x1 + reach && point[1] > y0 - reach && point[1] < y1 + reach;
        const deep = point[0] > x0 + reach && point[0] < x1 - reach && point[1] > y0 + reach && point[1] < y1 - reach;
        if (inside && !deep) return each;
      }
    }
    return null;
  }
}
