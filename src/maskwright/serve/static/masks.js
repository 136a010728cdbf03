// Masks: run lengths on the wire, bytes of a bounding box while they are drawn. Pixels are set by integer rules, never by a canvas,
// whose anti-aliasing cannot be switched off.

/**
 * A mask within a box of the image: `bytes[y * w + x]` is 1 where pixel (this.x + x, this.y + y) is set.
 * @typedef {{x: number, y: number, w: number, h: number, bytes: Uint8Array}} Mask
 * @typedef {{box: number[], counts: number[]}} Runs
 */

/** @param {Runs} runs @returns {Mask} */
export function fromRuns(runs) {
  const [x, y, w, h] = runs.box;
  const bytes = new Uint8Array(w * h);
  let place = 0;
  runs.counts.forEach((count, number) => {
    if (number % 2) bytes.fill(1, place, place + count);
    place += count;
  });
  return { x, y, w, h, bytes };
}

/** The runs of a mask, in the smallest box; null where nothing is set. @param {Mask} mask @returns {Runs | null} */
export function toRuns(mask) {
  const tight = cropped(mask);
  if (!tight) return null;
  /** @type {number[]} */
  const counts = [];
  // indexOf looks for the next change much faster than a loop does.
  for (let value = 0, place = 0; place < tight.bytes.length; value = 1 - value) {
    const next = tight.bytes.indexOf(1 - value, place), end = next < 0 ? tight.bytes.length : next;
    counts.push(end - place);
    place = end;
  }
  return { box: [tight.x, tight.y, tight.w, tight.h], counts };
}

/** The mask in its smallest box; null where nothing is set. @param {Mask} mask @returns {Mask | null} */
export function cropped(mask) {
  let left = mask.w, right = -1, top = mask.h, bottom = -1;
  for (let y = 0; y < mask.h; y += 1) {
    const row = mask.bytes.subarray(y * mask.w, (y + 1) * mask.w);
    const first = row.indexOf(1);
    if (first < 0) continue;
    left = Math.min(left, first);
    right = Math.max(right, row.lastIndexOf(1));
    top = Math.min(top, y);
    bottom = y;
  }
  if (right < 0) return null;
  return moved(mask, mask.x + left, mask.y + top, right - left + 1, bottom - top + 1);
}

/** The same mask in another box; what lies outside of it is lost. @param {Mask} mask @param {number} x @param {number} y @param {number} w @param {number} h @returns {Mask} */
export function moved(mask, x, y, w, h) {
  const bytes = new Uint8Array(w * h);
  const left = Math.max(x, mask.x), right = Math.min(x + w, mask.x + mask.w);
  const top = Math.max(y, mask.y), bottom = Math.min(y + h, mask.y + mask.h);
  if (right > left) {
    for (let line = top; line < bottom; line += 1) {
      const start = (line - mask.y) * mask.w + left - mask.x;
      bytes.set(mask.bytes.subarray(start, start + right - left), (line - y) * w + left - x);
    }
  }
  return { x, y, w, h, bytes };
}

/** A box that holds both, with room to grow, within the image. @param {Mask | null} mask @param {number[]} box x0, y0, x1, y1 @param {number} width @param {number} height @returns {Mask} */
export function withRoom(mask, box, width, height) {
  let [x0, y0, x1, y1] = [Math.max(0, box[0]), Math.max(0, box[1]), Math.min(width, box[2]), Math.min(height, box[3])];
  if (mask && mask.w) {
    if (x0 >= mask.x && y0 >= mask.y && x1 <= mask.x + mask.w && y1 <= mask.y + mask.h) return mask;
    x0 = Math.min(x0, mask.x);
    y0 = Math.min(y0, mask.y);
    x1 = Math.max(x1, mask.x + mask.w);
    y1 = Math.max(y1, mask.y + mask.h);
  }
  const room = 64;
  x0 = Math.max(0, x0 - room);
  y0 = Math.max(0, y0 - room);
  x1 = Math.min(width, x1 + room);
  y1 = Math.min(height, y1 + room);
  const empty = { x: x0, y: y0, w: 0, h: 0, bytes: new Uint8Array(0) };
  return moved(mask ?? empty, x0, y0, Math.max(1, x1 - x0), Math.max(1, y1 - y0));
}

/**
 * Set or clear the pixels that a round brush covers on its way from one point to another: those whose centres are less than half of
 * `size` from the line. Points are in image pixels; a brush of an odd size sits on pixel centres, one of an even size on corners.
 * @param {Mask} mask @param {number[]} from @param {number[]} to @param {number} size @param {0 | 1} value
 */
export function stroke(mask, from, to, size, value) {
  const [ax, ay] = snapped(from, size), [bx, by] = snapped(to, size);
  const radius = size / 2;
  const dx = bx - ax, dy = by - ay, length = dx * dx + dy * dy;
  const top = Math.max(mask.y, Math.floor(Math.min(ay, by) - radius)), bottom = Math.min(mask.y + mask.h, Math.ceil(Math.max(ay, by) + radius));
  const left = Math.max(mask.x, Math.floor(Math.min(ax, bx) - radius)), right = Math.min(mask.x + mask.w, Math.ceil(Math.max(ax, bx) + radius));
  for (let y = top; y < bottom; y += 1) {
    for (let x = left; x < right; x += 1) {
      const px = x + 0.5 - ax, py = y + 0.5 - ay;
      const along = length ? Math.min(1, Math.max(0, (px * dx + py * dy) / length)) : 0;
      const ex = px - along * dx, ey = py - along * dy;
      if (ex * ex + ey * ey < radius * radius) mask.bytes[(y - mask.y) * mask.w + x - mask.x] = value;
    }
  }
}

/** Where a brush sits. @param {number[]} point @param {number} size @returns {number[]} */
export function snapped(point, size) {
  return size % 2 ? point.map((value) => Math.floor(value) + 0.5) : point.map(Math.round);
}

/**
 * The pixels whose centres lie in a polygon (even-odd rule). Corners count to a tenth of a pixel; all places are whole numbers of tenths,
 * so that a centre on an edge goes to the polygon on its right and below, whatever the rounding of fractions.
 * @param {number[][]} points @param {number} width @param {number} height @returns {Mask | null}
 */
export function polygon(points, width, height) {
  const xs = points.map((point) => Math.round(10 * point[0])), ys = points.map((point) => Math.round(10 * point[1]));
  const x0 = Math.max(0, Math.floor(Math.min(...xs) / 10)), x1 = Math.min(width, Math.ceil(Math.max(...xs) / 10));
  const y0 = Math.max(0, Math.floor(Math.min(...ys) / 10)), y1 = Math.min(height, Math.ceil(Math.max(...ys) / 10));
  if (points.length < 3 || x1 <= x0 || y1 <= y0) return null;
  const mask = { x: x0, y: y0, w: x1 - x0, h: y1 - y0, bytes: new Uint8Array((x1 - x0) * (y1 - y0)) };
  for (let row = 0; row < mask.h; row += 1) {
    const y = 10 * (y0 + row) + 5;
    /** @type {number[]} the first column whose centre is not left of the edge */
    const columns = [];
    for (let i = 0; i < xs.length; i += 1) {
      const j = (i + 1) % xs.length;
      if (ys[i] <= y === ys[j] <= y) continue;
      const rise = ys[j] - ys[i];
      columns.push(Math.ceil(((xs[i] - 5) * rise + (y - ys[i]) * (xs[j] - xs[i])) / (10 * rise)) - x0);
    }
    columns.sort((a, b) => a - b);
    for (let i = 0; i + 1 < columns.length; i += 2) {
      const start = Math.max(0, columns[i]), end = Math.min(mask.w, columns[i + 1]);
      if (end > start) mask.bytes.fill(1, row * mask.w + start, row * mask.w + end);
    }
  }
  return cropped(mask);
}

/** Whether a pixel is set. @param {Mask} mask @param {number} x @param {number} y */
export function has(mask, x, y) {
  const column = Math.floor(x) - mask.x, row = Math.floor(y) - mask.y;
  return column >= 0 && row >= 0 && column < mask.w && row < mask.h && mask.bytes[row * mask.w + column] === 1;
}

/** Number of pixels that are set. @param {Runs} runs */
export function area(runs) {
  return runs.counts.reduce((sum, count, number) => sum + (number % 2 ? count : 0), 0);
}

/** Whether two masks are the same. @param {Runs} a @param {Runs | undefined} b */
export function isSame(a, b) {
  return b !== undefined && [...a.box, a.counts.length].every((value, at) => value === [...b.box, b.counts.length][at]) &&
    a.counts.every((count, at) => count === b.counts[at]);
}
