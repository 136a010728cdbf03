// Draws what is on the screen: the image, the labels, and the draft of the tool in hand. Masks at rest are bitmaps, made once; zooming
// and panning only draw them again.

import { Tiles } from "./tiles.js";
import { View } from "./view.js";

/** @typedef {import("./masks.js").Mask} Mask */

/** Pixels of a mask's bitmap at most: browsers refuse larger canvases, some without a word. */
const LARGEST = 12_000_000;

export class Scene {
  /** @param {HTMLCanvasElement} canvas @param {import("./state.js").Labelling} labelling @param {(category: number) => string} colour */
  constructor(canvas, labelling, colour) {
    this.canvas = canvas;
    this.context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    this.labelling = labelling;
    this.colour = colour;
    this.view = new View(canvas);
    this.tiles = new Tiles(() => this.ask());
    /** @type {{draw?: (scene: Scene) => void, replaces?: () => string | null} | null} */
    this.tool = null;
    /** @type {{mask: Mask, category: number, score: number}[]} */
    this.proposals = [];
    this.peeking = false;
    this.asked = false;
    /** @type {WeakMap<Mask, Map<string, {bitmap: HTMLCanvasElement, scale: number}>>} */
    this.bitmaps = new WeakMap();
    new ResizeObserver(() => {
      const { zoom } = this.view;
      if (this.view.resize() && (!zoom || zoom === 1)) this.view.fit();
      this.ask();
    }).observe(canvas);
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
      for (const each of this.labelling.objects.values()) {
        if (each.id === replaced || this.labelling.isHidden(each.id)) continue;
        this.#drawThing(each, each.id === this.labelling.selected);
      }
      for (const each of this.proposals) this.drawMask(each.mask, this.colour(each.category), 0.25, true);
      this.tool?.draw?.(this);
    }
    // For programs that drive the page: where the image lies, in device pixels of the canvas.
    this.canvas.dataset.view = `${view.zoom} ${view.x} ${view.y}`;
    document.body.dataset.frames = String(Number(document.body.dataset.frames ?? 0) + 1);
  }

  /** @param {import("./state.js").Thing} thing @param {boolean} isSelected */
  #drawThing(thing, isSelected) {
    const colour = this.colour(thing.category);
    if (thing.kind === "mask") this.drawMask(this.labelling.mask(thing), colour, isSelected ? 0.55 : 0.38, isSelected);
    else if (thing.xyxy) this.drawBox(thing.xyxy, colour, isSelected);
    else if (thing.points) this.drawLine(thing.points, colour, isSelected);
    else if (thing.xy) this.drawPoint(thing.xy, colour, thing.category !== 0, isSelected);
  }

  /** @param {Mask} mask @param {string} colour @param {number} alpha of the inside @param {boolean} isDashed a high-contrast border */
  drawMask(mask, colour, alpha, isDashed) {
    if (!mask.w) return;
    const { bitmap, scale } = this.#bitmap(mask, colour, alpha, isDashed);
    const [left, top] = this.view.toScreen(mask.x, mask.y);
    this.context.imageSmoothingEnabled = this.view.zoom * scale < 1;
    this.context.drawImage(bitmap, left, top, mask.w * this.view.zoom, mask.h * this.view.zoom);
  }

  /** A mask has changed in place: draw its pixels anew. @param {Mask} mask */
  touch(mask) {
    this.bitmaps.delete(mask);
    this.ask();
  }

  /** @param {Mask} mask @param {string} colour @param {number} alpha @param {boolean} isDashed */
  #bitmap(mask, colour, alpha, isDashed) {
    const key = `${colour} ${alpha} ${isDashed}`;
    let known = this.bitmaps.get(mask);
    if (!known) this.bitmaps.set(mask, (known = new Map()));
    let entry = known.get(key);
    if (!entry) {
      const scale = Math.max(1, Math.ceil(Math.sqrt((mask.w * mask.h) / LARGEST)));
      const bitmap = document.createElement("canvas");
      bitmap.width = Math.ceil(mask.w / scale);
      bitmap.height = Math.ceil(mask.h / scale);
      const context = /** @type {CanvasRenderingContext2D} */ (bitmap.getContext("2d"));
      const data = context.createImageData(bitmap.width, bitmap.height);
      const pixels = new Uint32Array(data.data.buffer);
      const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
      const inside = ((Math.round(alpha * 255) << 24) | (b << 16) | (g << 8) | r) >>> 0;
      const edge = ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
      const { bytes, w, h } = mask;
      for (let y = 0; y < bitmap.height; y += 1) {
        for (let x = 0; x < bitmap.width; x += 1) {
          const sx = x * scale, sy = y * scale, at = sy * w + sx;
          if (!bytes[at]) continue;
          const isEdge = sx < scale || sy < scale || sx + scale >= w || sy + scale >= h ||
            !bytes[at - scale] || !bytes[at + scale] || !bytes[at - scale * w] || !bytes[at + scale * w];
          pixels[y * bitmap.width + x] = !isEdge ? inside : isDashed && (x + y) % 8 < 4 ? 0xffffffff : edge;
        }
      }
      context.putImageData(data, 0, 0);
      entry = { bitmap, scale };
      known.clear();
      known.set(key, entry);
    }
    return entry;
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
