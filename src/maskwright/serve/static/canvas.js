// Draws what is on the screen: the image, the labels, and the draft of the tool in hand.

import { Overlay } from "./overlay.js";
import { Tiles } from "./tiles.js";
import { View } from "./view.js";

/** @typedef {import("./masks.js").Mask} Mask */

/** What is said not to be an object. */
const OFF = "#ffffff";

/**
 * @typedef {import("./state.js").Thing} Thing
 * @typedef {{draw?: (scene: Scene) => void, replaces?: () => string | null}} Drawn what a tool shows: its draft, and the object that the
 *   draft stands for
 */

export class Scene {
  /** @param {HTMLCanvasElement} canvas @param {import("./state.js").Labelling} labelling @param {(category: number) => string} colour */
  constructor(canvas, labelling, colour) {
    this.canvas = canvas;
    this.context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    this.labelling = labelling;
    this.colour = colour;
    this.view = new View(canvas);
    this.tiles = new Tiles(() => this.ask());
    /** @type {Drawn | null} */
    this.tool = null;
    /** @type {{mask: Mask, category: number, score: number}[]} */
    this.proposals = [];
    this.peeking = false;
    /** Where the keyboard's cross is, in image pixels. @type {number[] | null} */
    this.cursor = null;
    this.asked = false;
    this.frames = 0;
    this.resting = new Overlay();
    this.proposed = new Overlay();
    this.draft = new Overlay();
    this.composed = "";
    this.isFitted = true;
    new ResizeObserver(() => {
      if (this.view.resize() && this.isFitted) this.view.fit();
      this.ask();
    }).observe(canvas);
  }

  /** Another image: nothing of the one before may show. */
  clear() {
    for (const each of [this.resting, this.proposed, this.draft]) each.set([]);
    for (const each of [this.resting, this.proposed, this.draft]) each.clear();
    this.proposals = [];
    this.composed = "";
  }

  /** The whole image. */
  fit() {
    this.view.fit();
    this.isFitted = true;
    this.ask();
  }

  /** Draw with the next frame; any number of times before it is once. */
  ask() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      this.draw();
    });
  }

  draw() {
    const { context, view } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    this.tiles.draw(context, view);
    if (!this.peeking) {
      const replaced = this.tool?.replaces?.() ?? null;
      this.#compose(replaced);
      this.resting.draw(context, view);
      for (const each of this.labelling.objects.values()) {
        if (each.kind !== "mask" && each.id !== replaced && !this.labelling.isHidden(each.id)) this.#drawThing(each);
      }
      this.proposed.draw(context, view);
      this.tool?.draw?.(this);
    }
    // For programs that drive the page: where the image lies, in device pixels of the canvas.
    this.canvas.dataset.view = `${view.zoom} ${view.x} ${view.y}`;
    if (this.cursor) this.#drawCursor(this.cursor);
    this.frames += 1;
    document.body.dataset.frames = String(this.frames);
  }

  /** Give the overlays what they show, where that is different. @param {string | null} replaced the object whose draft is drawn */
  #compose(replaced) {
    const { labelling } = this, state = `${labelling.version} ${replaced}`;
    if (state !== this.composed) {
      this.composed = state;
      const layers = [];
      for (const each of labelling.objects.values()) {
        if (each.kind !== "mask" || each.id === replaced || labelling.isHidden(each.id)) continue;
        const isSelected = each.id === labelling.selected, mask = labelling.mask(each);
        layers.push({ key: each.id, mask, token: mask, colour: this.colour(each.category), alpha: isSelected ? 0.55 : 0.36, isDashed: isSelected });
      }
      this.resting.set(layers);
    }
    this.proposed.set(this.proposals.map(({ mask, category }, number) => ({ key: String(number), mask, token: mask, colour: this.colour(category), alpha: 0.25, isDashed: true })));
  }

  /** @param {number[]} place */
  #drawCursor([x, y]) {
    const { context } = this, [left, top] = this.view.toScreen(x, y), size = 14 * this.view.ratio, gap = 4 * this.view.ratio;
    context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(left + dx * gap, top + dy * gap);
      context.lineTo(left + dx * size, top + dy * size);
    }
    this.outline("#ffffff", false);
  }

  /** @param {Thing} thing */
  #drawThing(thing) {
    const colour = this.colour(thing.category), isSelected = thing.id === this.labelling.selected;
    if (thing.xyxy) this.drawBox(thing.xyxy, colour, isSelected);
    else if (thing.points) this.drawLine(thing.points, thing.category ? colour : OFF, isSelected);
    else if (thing.xy) this.drawPoint(thing.xy, colour, thing.category !== 0, isSelected);
  }

  /**
   * A tool's draft.
   * @param {Mask} mask @param {string} colour @param {number} alpha of the inside @param {boolean} isDashed a high-contrast border
   * @param {object} [token] the same one while the mask changes only where `touch` says so
   */
  drawMask(mask, colour, alpha, isDashed, token = mask) {
    this.draft.set([{ key: "draft", mask, token, colour, alpha, isDashed }]);
    this.draft.draw(this.context, this.view);
  }

  /** The draft has changed in place. @param {number[]} box x0, y0, x1, y1 */
  touch(box) {
    this.draft.touch(box);
    this.ask();
  }

  /** Two strokes, dark below and coloured above, so that a line is seen on any image. @param {string} colour @param {boolean} isSelected */
  outline(colour, isSelected) {
    const { context } = this, ratio = this.view.ratio;
    context.setLineDash([]);
    context.lineJoin = "round";
    context.lineCap = "round";
    context.strokeStyle = "rgba(0, 0, 0, .75)";
    context.lineWidth = (isSelected ? 5 : 4) * ratio;
    context.stroke();
    context.strokeStyle = colour;
    context.lineWidth = (isSelected ? 3 : 2) * ratio;
    context.stroke();
    if (isSelected) {
      context.setLineDash([6 * ratio, 6 * ratio]);
      context.strokeStyle = "#ffffff";
      context.lineWidth = ratio;
      context.stroke();
      context.setLineDash([]);
    }
  }

  /** @param {number[]} box @param {string} colour @param {boolean} isSelected */
  drawBox([x0, y0, x1, y1], colour, isSelected) {
    const [left, top] = this.view.toScreen(x0, y0), [right, bottom] = this.view.toScreen(x1, y1);
    this.context.beginPath();
    this.context.rect(left, top, right - left, bottom - top);
    this.outline(colour, isSelected);
  }

  /** @param {number[][]} points @param {string} colour @param {boolean} isSelected @param {boolean} [isClosed] */
  drawLine(points, colour, isSelected, isClosed = false) {
    this.context.beginPath();
    points.forEach(([x, y], number) => {
      const [left, top] = this.view.toScreen(x, y);
      if (number) this.context.lineTo(left, top);
      else this.context.moveTo(left, top);
    });
    if (points.length === 1) this.context.lineTo(...this.#screen(points[0]));
    if (isClosed) this.context.closePath();
    this.outline(colour, isSelected);
  }

  /** @param {number[]} point @param {string} colour @param {boolean} isPositive @param {boolean} isSelected */
  drawPoint(point, colour, isPositive, isSelected) {
    const { context } = this, [x, y] = this.#screen(point), size = 6 * this.view.ratio;
    context.beginPath();
    context.arc(x, y, size, 0, 2 * Math.PI);
    context.fillStyle = isPositive ? colour : "#ffffff";
    context.fill();
    this.outline(isPositive ? "#ffffff" : "#c2001b", isSelected);
    // Told apart by shape too: a plus on the object, a minus off it.
    context.beginPath();
    context.moveTo(x - size / 2, y);
    context.lineTo(x + size / 2, y);
    if (isPositive) {
      context.moveTo(x, y - size / 2);
      context.lineTo(x, y + size / 2);
    }
    context.strokeStyle = "#000000";
    context.lineWidth = 1.5 * this.view.ratio;
    context.stroke();
  }

  /** @param {number[]} point @returns {[number, number]} */
  #screen([x, y]) {
    const [left, top] = this.view.toScreen(x, y);
    return [left, top];
  }
}
