// Pixels of masks: the rules as they are written down, tried against the slowest way to say the same.

import assert from "node:assert/strict";
import { test } from "node:test";
import { area, cropped, fromRuns, has, isSame, moved, polygon, snapped, stroke, toRuns, withRoom } from "../../src/maskwright/serve/static/masks.js";
import { random } from "./random.mjs";

/** @typedef {import("../../src/maskwright/serve/static/masks.js").Mask} Mask */

/** @param {() => number} next @param {number} density @returns {Mask} */
function some(next, density) {
  const w = 1 + Math.floor(next() * 12), h = 1 + Math.floor(next() * 12);
  return { x: Math.floor(next() * 5), y: Math.floor(next() * 5), w, h, bytes: Uint8Array.from({ length: w * h }, () => Number(next() < density)) };
}

/** The pixels that are set, in words. @param {Mask} mask */
function pixels(mask) {
  return [...mask.bytes].flatMap((byte, at) => (byte ? [`${mask.x + (at % mask.w)} ${mask.y + Math.floor(at / mask.w)}`] : []));
}

test("run lengths and bytes say the same", () => {
  const next = random(1);
  for (let round = 0; round < 400; round += 1) {
    const mask = some(next, next()), runs = toRuns(mask);
    if (!mask.bytes.includes(1)) {
      assert.equal(runs, null);
      continue;
    }
    assert.ok(runs);
    assert.equal(runs.counts.reduce((a, b) => a + b, 0), runs.box[2] * runs.box[3]);
    assert.ok(runs.counts.every((count, at) => at === 0 || count > 0));
    assert.deepEqual(pixels(fromRuns(runs)), pixels(mask));
    assert.equal(area(runs), pixels(mask).length);
    assert.ok(isSame(runs, /** @type {any} */ (toRuns(fromRuns(runs)))));
  }
});

test("the wire begins with zeros", () => {
  assert.deepEqual(toRuns({ x: 3, y: 4, w: 2, h: 2, bytes: Uint8Array.of(1, 0, 1, 1) }), { box: [3, 4, 2, 2], counts: [0, 1, 1, 2] });
  assert.deepEqual(toRuns({ x: 0, y: 0, w: 2, h: 2, bytes: Uint8Array.of(0, 1, 1, 0) }), { box: [0, 0, 2, 2], counts: [1, 2, 1] });
});

test("moving a mask into a box that holds it loses nothing, cropping neither", () => {
  const next = random(2);
  for (let round = 0; round < 200; round += 1) {
    const mask = some(next, 0.4);
    assert.deepEqual(pixels(moved(mask, 0, 0, 20, 20)), pixels(mask));
    const tight = cropped(mask);
    assert.deepEqual(tight ? pixels(tight) : [], pixels(mask));
    const roomy = withRoom(mask, [0, 0, 18, 18], 20, 20);
    assert.deepEqual(pixels(roomy), pixels(mask));
    assert.ok(roomy.x >= 0 && roomy.y >= 0 && roomy.x + roomy.w <= 20 && roomy.y + roomy.h <= 20);
  }
});

/** Distance from a pixel's centre to a segment, sampled: independent of the formula in use. @param {number} x @param {number} y @param {number[]} a @param {number[]} b */
function sampled(x, y, a, b) {
  let nearest = Infinity;
  for (let step = 0; step <= 4000; step += 1) {
    const t = step / 4000;
    nearest = Math.min(nearest, Math.hypot(x + 0.5 - a[0] - t * (b[0] - a[0]), y + 0.5 - a[1] - t * (b[1] - a[1])));
  }
  return nearest;
}

test("a stroke covers the pixels whose centres are nearer than half its size to the line", () => {
  const next = random(3);
  for (let round = 0; round < 40; round += 1) {
    const size = 1 + Math.floor(next() * 9), from = [next() * 24, next() * 24], to = [next() * 24, next() * 24];
    const mask = { x: 0, y: 0, w: 24, h: 24, bytes: new Uint8Array(24 * 24) };
    stroke(mask, from, to, size, 1);
    const a = snapped(from, size), b = snapped(to, size);
    for (let y = 0; y < 24; y += 1) {
      for (let x = 0; x < 24; x += 1) {
        const distance = sampled(x, y, a, b);
        if (Math.abs(distance - size / 2) > 0.01) assert.equal(mask.bytes[y * 24 + x] === 1, distance < size / 2, `${x},${y} of ${from}-${to}, size ${size}`);
      }
    }
  }
});

test("brushes of an odd and an even size: discs that are the same from all sides", () => {
  const one = { x: 0, y: 0, w: 5, h: 5, bytes: new Uint8Array(25) };
  stroke(one, [2.9, 2.1], [2.9, 2.1], 1, 1);
  assert.deepEqual(pixels(one), ["2 2"]);
  const two = { x: 0, y: 0, w: 5, h: 5, bytes: new Uint8Array(25) };
  stroke(two, [2.1, 1.9], [2.1, 1.9], 2, 1);
  assert.deepEqual(pixels(two), ["1 1", "2 1", "1 2", "2 2"]);
  for (let size = 1; size < 30; size += 1) {
    const w = size + 2, mask = { x: 0, y: 0, w, h: w, bytes: new Uint8Array(w * w) };
    stroke(mask, [w / 2, w / 2], [w / 2, w / 2], size, 1);
    const tight = /** @type {Mask} */ (cropped(mask));
    assert.deepEqual([tight.w, tight.h], [size, size]);
    for (let y = 0; y < size; y += 1) {
      for (let x = 0; x < size; x += 1) {
        const here = tight.bytes[y * size + x];
        assert.equal(here, tight.bytes[x * size + y]);
        assert.equal(here, tight.bytes[y * size + size - 1 - x]);
        assert.equal(here, tight.bytes[(size - 1 - y) * size + x]);
      }
    }
  }
});

test("erasing is the inverse of painting, and edges of the image are kept", () => {
  const mask = withRoom(null, [-5, -5, 5, 5], 8, 8);
  stroke(mask, [0, 0], [7.9, 0.2], 3, 1);
  assert.ok(has(mask, 0, 0) && has(mask, 7.99, 1) && !has(mask, 8, 0) && !has(mask, -0.1, 0));
  stroke(mask, [0, 0], [7.9, 0.2], 3, 0);
  assert.equal(toRuns(mask), null);
});

/**
 * Even-odd by a ray to the left, in whole tenths of a pixel, so that a centre on an edge is decided exactly: it lies right of it.
 * @param {number[][]} points @param {number} x @param {number} y
 */
function within(points, x, y) {
  const px = Math.round(10 * x), py = Math.round(10 * y), tenths = points.map((point) => point.map((value) => Math.round(10 * value)));
  let inside = false;
  tenths.forEach(([ax, ay], at) => {
    const [bx, by] = tenths[(at + 1) % tenths.length];
    if (ay <= py === by <= py) return;
    const side = (px - ax) * (by - ay) - (py - ay) * (bx - ax);
    if (by > ay ? side >= 0 : side <= 0) inside = !inside;
  });
  return inside;
}

test("a polygon is the pixels whose centres lie in it", () => {
  const next = random(4);
  for (let round = 0; round < 200; round += 1) {
    const points = Array.from({ length: 3 + Math.floor(next() * 6) }, () => [Math.round(next() * 220 - 10) / 10, Math.round(next() * 220 - 10) / 10]);
    const mask = polygon(points, 20, 20);
    for (let y = 0; y < 20; y += 1) {
      for (let x = 0; x < 20; x += 1) assert.equal(mask !== null && has(mask, x, y), within(points, x + 0.5, y + 0.5), `${x},${y} of ${points}`);
    }
  }
});

test("a polygon on pixel borders is the rectangle, one of two corners is nothing", () => {
  assert.deepEqual(toRuns(/** @type {Mask} */ (polygon([[2, 1], [5, 1], [5, 3], [2, 3]], 9, 9))), { box: [2, 1, 3, 2], counts: [0, 6] });
  assert.equal(polygon([[1, 1], [4, 4]], 9, 9), null);
  assert.equal(polygon([[1.1, 1.1], [1.3, 1.1], [1.2, 1.3]], 9, 9), null);
});
