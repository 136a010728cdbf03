// The image on the screen: tiles of the level that fits the zoom, fetched when they come into sight, the latest ones kept.

import { client } from "./client.js";

/** Tiles that are kept: a megabyte each. */
const KEPT = 160;

/** Requests at a time: browsers make six, and SAM's answers must not stand in line behind pictures. */
const AT_ONCE = 4;

/** Milliseconds until a tile that could not be had is asked for again. */
const RETRY = 3000;

export class Tiles {
  /** @param {() => void} changed called when there is something new to draw */
  constructor(changed) {
    this.changed = changed;
    /** @type {Map<string, ImageBitmap>} the oldest first */
    this.bitmaps = new Map();
    /** @type {Set<string>} */
    this.loading = new Set();
    /** @type {Map<string, number>} when a tile failed */
    this.failed = new Map();
    /** @type {string[]} tiles in sight that are not there, the most wanted first */
    this.missing = [];
    this.image = "";
    /** @type {{scale: number, width: number, height: number}[]} */
    this.levels = [];
    this.tile = 512;
    /** @type {(message: string) => void} */
    this.onfail = () => {};
  }

  /** @param {string} image @param {{levels: any[], tile: number}} description */
  open(image, description) {
    this.image = image;
    this.levels = description.levels;
    this.tile = description.tile;
    this.failed.clear();
  }

  close() {
    this.levels = [];
    this.missing = [];
  }

  /** @param {CanvasRenderingContext2D} context @param {import("./view.js").View} view */
  draw(context, view) {
    this.missing = [];
    if (!this.levels.length) return;
    let wanted = 0;
    while (wanted + 1 < this.levels.length && this.levels[wanted + 1].scale >= view.zoom) wanted += 1;
    context.imageSmoothingEnabled = view.zoom < 1;
    // The coarsest level first: it fills the gaps until the fine tiles are there.
    const coarsest = this.levels.length - 1;
    if (coarsest !== wanted) this.#drawLevel(context, view, coarsest);
    this.#drawLevel(context, view, wanted);
    this.#fetch();
  }

  /** @param {CanvasRenderingContext2D} context @param {import("./view.js").View} view @param {number} level */
  #drawLevel(context, view, level) {
    const { width, height } = this.levels[level], { tile } = this;
    const across = view.width / width, down = view.height / height;
    const [left, top] = view.fromScreen(0, 0), [right, bottom] = view.fromScreen(view.canvas.width, view.canvas.height);
    const lastColumn = Math.min(Math.ceil(width / tile) - 1, Math.floor(right / across / tile));
    const lastRow = Math.min(Math.ceil(height / tile) - 1, Math.floor(bottom / down / tile));
    for (let row = Math.max(0, Math.floor(top / down / tile)); row <= lastRow; row += 1) {
      for (let column = Math.max(0, Math.floor(left / across / tile)); column <= lastColumn; column += 1) {
        const bitmap = this.#get(client.tile(this.image, level, column, row));
        if (!bitmap) continue;
        const x = column * tile * across, y = row * tile * down;
        const place = view.rectangle([x, y, x + bitmap.width * across, y + bitmap.height * down]);
        context.drawImage(bitmap, place[0], place[1], place[2], place[3]);
      }
    }
  }

  /** @param {string} address */
  #get(address) {
    const bitmap = this.bitmaps.get(address);
    if (!bitmap) {
      this.missing.push(address);
      return null;
    }
    this.bitmaps.delete(address);
    this.bitmaps.set(address, bitmap);
    return bitmap;
  }

  /** Begin with what the last frame missed; frames come after every arrival, so that nothing out of sight is fetched. */
  #fetch() {
    const now = Date.now();
    for (const address of this.missing) {
      if (this.loading.size >= AT_ONCE) return;
      if (this.loading.has(address) || now - (this.failed.get(address) ?? 0) < RETRY) continue;
      this.loading.add(address);
      this.#load(address).finally(() => {
        this.loading.delete(address);
        this.changed();
      });
    }
  }

  /** @param {string} address */
  async #load(address) {
    const { image } = this;
    try {
      const bitmap = await createImageBitmap(await client.picture(address));
      this.bitmaps.set(address, bitmap);
      this.failed.delete(address);
      this.#forget();
    } catch (error) {
      this.failed.set(address, Date.now());
      setTimeout(this.changed, RETRY);
      if (image === this.image) this.onfail(error instanceof Error ? error.message : String(error));
    }
  }

  #forget() {
    for (const [address, bitmap] of this.bitmaps) {
      if (this.bitmaps.size <= KEPT) break;
      bitmap.close();
      this.bitmaps.delete(address);
    }
  }
}
