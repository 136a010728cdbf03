// Masks on the screen: all of a kind composed into tiles. A change makes only the part of the tiles under it new, and moving about
// draws the tiles again without looking at a mask. Where masks overlap, the last one shows: so it is in the file, too.

/**
 * @typedef {import("./masks.js").Mask} Mask
 * @typedef {{key: string, mask: Mask, colour: string, alpha: number, isDashed: boolean, token: object}} Layer one mask; while `token` is
 *   the same object, the mask is the same but for what was told to `touch`
 * @typedef {{canvas: HTMLCanvasElement, context: CanvasRenderingContext2D, dirty: number[] | null}} Tile `dirty`: x0, y0, x1, y1 in
 *   the tile's pixels
 */

export const SIDE = 512;

/** Tiles that are kept: a megabyte each. */
const KEPT = 64;

/** Image pixels, along a side, that one pixel of the tiles stands for: a power of two, 1 from 1:1 on. @param {number} zoom */
export function scaleFor(zoom) {
  let scale = 1;
  while (scale * 2 * zoom <= 1) scale *= 2;
  return scale;
}

export class Overlay {
  constructor() {
    /** @type {Layer[]} */
    this.layers = [];
    /** @type {Map<string, Tile>} the oldest first */
    this.tiles = new Map();
  }

  /** What is to be shown, the topmost last. Finds out itself what is different. @param {Layer[]} layers */
  set(layers) {
    const before = new Map(this.layers.map((each) => [each.key, each])), after = new Map(layers.map((each) => [each.key, each]));
    const stayed = layers.filter((each) => before.has(each.key));
    const order = this.layers.filter((each) => after.has(each.key));
    if (stayed.some((each, number) => each.key !== order[number].key)) this.clear();
    for (const each of this.layers) if (!isSame(each, after.get(each.key))) this.touch(boxOf(each.mask));
    for (const each of layers) if (!isSame(each, before.get(each.key))) this.touch(boxOf(each.mask));
    this.layers = layers;
  }

  clear() {
    this.tiles.clear();
  }

  /** Pixels have changed. @param {number[]} box x0, y0, x1, y1 in image pixels */
  touch(box) {
    for (const [key, tile] of this.tiles) {
      const [scale, column, row] = key.split(" ").map(Number);
      // A border's pixel depends on its neighbours.
      const x0 = Math.max(0, Math.floor(box[0] / scale) - 1 - column * SIDE), y0 = Math.max(0, Math.floor(box[1] / scale) - 1 - row * SIDE);
      const x1 = Math.min(SIDE, Math.ceil(box[2] / scale) + 1 - column * SIDE), y1 = Math.min(SIDE, Math.ceil(box[3] / scale) + 1 - row * SIDE);
      if (x1 <= x0 || y1 <= y0) continue;
      const was = tile.dirty;
      tile.dirty = was ? [Math.min(was[0], x0), Math.min(was[1], y0), Math.max(was[2], x1), Math.max(was[3], y1)] : [x0, y0, x1, y1];
    }
  }

  /** @param {CanvasRenderingContext2D} context @param {import("./view.js").View} view */
  draw(context, view) {
    if (!this.layers.length) return;
    const scale = scaleFor(view.zoom), span = SIDE * scale;
    context.imageSmoothingEnabled = view.zoom < 1;
    const last = [Math.ceil(view.width / span) - 1, Math.ceil(view.height / span) - 1];
    const [left, top] = view.fromScreen(0, 0), [right, bottom] = view.fromScreen(view.canvas.width, view.canvas.height);
    for (let row = Math.max(0, Math.floor(top / span)); row <= Math.min(last[1], Math.floor(bottom / span)); row += 1) {
      for (let column = Math.max(0, Math.floor(left / span)); column <= Math.min(last[0], Math.floor(right / span)); column += 1) {
        const box = [column * span, row * span, (column + 1) * span, (row + 1) * span];
        if (!this.layers.some((each) => meets(each.mask, box))) continue;
        const tile = this.#tile(scale, column, row), place = view.rectangle(box);
        if (tile.dirty) {
          compose(tile, this.layers, scale, column, row);
          tile.dirty = null;
        }
        context.drawImage(tile.canvas, place[0], place[1], place[2], place[3]);
      }
    }
  }

  /** @param {number} scale @param {number} column @param {number} row @returns {Tile} */
  #tile(scale, column, row) {
    const key = `${scale} ${column} ${row}`;
    let tile = this.tiles.get(key);
    if (!tile) {
      const canvas = document.createElement("canvas");
      canvas.width = canvas.height = SIDE;
      tile = { canvas, context: /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d")), dirty: [0, 0, SIDE, SIDE] };
    }
    this.tiles.delete(key);
    this.tiles.set(key, tile);
    for (const old of this.tiles.keys()) {
      if (this.tiles.size <= KEPT) break;
      this.tiles.delete(old);
    }
    return tile;
  }
}

/** Make the dirty part of a tile anew. @param {Tile} tile @param {Layer[]} layers @param {number} scale @param {number} column @param {number} row */
function compose(tile, layers, scale, column, row) {
  const [x0, y0, x1, y1] = /** @type {number[]} */ (tile.dirty);
  const data = tile.context.createImageData(x1 - x0, y1 - y0);
  const pixels = new Uint32Array(data.data.buffer);
  const region = { x: column * SIDE + x0, y: row * SIDE + y0, w: x1 - x0, h: y1 - y0 };
  for (const each of layers) paint(pixels, region, scale, each);
  tile.context.putImageData(data, x0, y0);
}

/**
 * Set the pixels of a region that a mask covers: its inside translucent, its border not. Every mask shows at least one pixel, however
 * coarse the scale.
 * @param {Uint32Array} pixels of the region, ABGR @param {{x: number, y: number, w: number, h: number}} region in pixels of the scale
 * @param {number} scale image pixels for each pixel @param {{mask: Mask, colour: string, alpha: number, isDashed: boolean}} layer
 */
export function paint(pixels, region, scale, { mask, colour, alpha, isDashed }) {
  const { bytes, w, h } = mask;
  const left = Math.max(region.x, Math.floor(mask.x / scale)), right = Math.min(region.x + region.w, Math.floor((mask.x + w - 1) / scale) + 1);
  const top = Math.max(region.y, Math.floor(mask.y / scale)), bottom = Math.min(region.y + region.h, Math.floor((mask.y + h - 1) / scale) + 1);
  if (right <= left || bottom <= top || !w) return;
  const blue = parseInt(colour.slice(5, 7), 16), green = parseInt(colour.slice(3, 5), 16), red = parseInt(colour.slice(1, 3), 16);
  const opaque = ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
  const inside = ((Math.round(alpha * 255) << 24) | (opaque & 0xffffff)) >>> 0;
  const middle = scale >> 1, down = scale * w;
  for (let y = top; y < bottom; y += 1) {
    const sy = Math.min(h - 1, Math.max(0, y * scale + middle - mask.y));
    for (let x = left; x < right; x += 1) {
      const sx = Math.min(w - 1, Math.max(0, x * scale + middle - mask.x)), at = sy * w + sx;
      if (!bytes[at]) continue;
      const isEdge = sx < scale || sy < scale || sx + scale >= w || sy + scale >= h ||
        !bytes[at - scale] || !bytes[at + scale] || !bytes[at - down] || !bytes[at + down];
      const dash = isDashed && (x + y) % 8 < 4 ? 0xffffffff : opaque;
      pixels[(y - region.y) * region.w + x - region.x] = isEdge ? dash : inside;
    }
  }
}

/** @param {Layer} a @param {Layer | undefined} b */
function isSame(a, b) {
  return b !== undefined && a.token === b.token && a.colour === b.colour && a.alpha === b.alpha && a.isDashed === b.isDashed;
}

/** @param {Mask} mask */
function boxOf(mask) {
  return [mask.x, mask.y, mask.x + mask.w, mask.y + mask.h];
}

/** @param {Mask} mask @param {number[]} box */
function meets(mask, box) {
  return mask.x < box[2] && mask.y < box[3] && mask.x + mask.w > box[0] && mask.y + mask.h > box[1];
}
