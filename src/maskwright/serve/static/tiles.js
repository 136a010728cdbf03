// The image on the screen: tiles of the level that fits the zoom, fetched when they come into sight, the latest ones kept.

import { client } from "./client.js";

const KEPT = 160;

export class Tiles {
  /** @param {() => void} changed called when there is something new to draw */
  constructor(changed) {
    this.changed = changed;
    /** @type {Map<string, ImageBitmap | null>} null: on its way */
    this.bitmaps = new Map();
    this.image = "";
    /** @type {{scale: number, width: number, height: number}[]} */
    this.levels = [];
    this.tile = 512;
    this.failed = false;
  }

  /** @param {string} image @param {{levels: any[], tile: number}} description */
  open(image, description) {
    this.image = image;
    this.levels = description.levels;
    this.tile = description.tile;
    this.failed = false;
  }

  /** @param {CanvasRenderingContext2D} context @param {import("./view.js").View} view */
  draw(context, view) {
    if (!this.levels.length) return;
    let wanted = 0;
    while (wanted + 1 < this.levels.length && this.levels[wanted + 1].scale >= view.zoom) wanted += 1;
    context.imageSmoothingEnabled = view.zoom < 1;
    // Coarser levels first: they fill the gaps until the fine ones are there.
    for (let level = this.levels.length - 1; level >= wanted; level -= 1) {
      if (level === wanted || level === this.levels.length - 1) this.#drawLevel(context, view, level);
    }
  }

  /** @param {CanvasRenderingContext2D} context @param {import("./view.js").View} view @param {number} level */
  #drawLevel(context, view, level) {
    const { width, height } = this.levels[level];
    const scaleX = view.width / width, scaleY = view.height / height;
    const span = this.tile;
    const first = [Math.floor(-view.x / view.zoom / scaleX / span), Math.floor(-view.y / view.zoom / scaleY / span)];
    const last = [
      Math.floor((view.canvas.width - view.x) / view.zoom / scaleX / span),
      Math.floor((view.canvas.height - view.y) / view.zoom / scaleY / span),
    ];
    for (let row = Math.max(0, first[1]); row <= Math.min(last[1], Math.ceil(height / span) - 1); row += 1) {
      for (let column = Math.max(0, first[0]); column <= Math.min(last[0], Math.ceil(width / span) - 1); column += 1) {
        const bitmap = this.#get(level, column, row);
        if (!bitmap) continue;
        const [left, top] = view.toScreen(column * span * scaleX, row * span * scaleY);
        context.drawImage(bitmap, left, top, bitmap.width * scaleX * view.zoom, bitmap.height * scaleY * view.zoom);
      }
    }
  }

  /** @param {number} level @param {number} column @param {number} row */
  #get(level, column, row) {
    const address = client.tile(this.image, level, column, row);
    const known = this.bitmaps.get(address);
    if (known !== undefined) {
      this.bitmaps.delete(address);
      this.bitmaps.set(address, known);
      return known;
    }
    this.bitmaps.set(address, null);
    fetch(address, { credentials: "same-origin" })
      .then((answer) => (answer.ok ? answer.blob() : Promise.reject(new Error(String(answer.status)))))
      .then((blob) => createImageBitmap(blob))
      .then((bitmap) => {
        this.bitmaps.set(address, bitmap);
        this.#forget();
        this.changed();
      })
      .catch(() => {
        this.bitmaps.delete(address);
        this.failed = true;
      });
    return null;
  }

  #forget() {
    for (const [address, bitmap] of this.bitmaps) {
      if (this.bitmaps.size <= KEPT) break;
      if (bitmap) {
        bitmap.close();
        this.bitmaps.delete(address);
      }
    }
  }
}
