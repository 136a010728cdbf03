// Masks on the screen: tiles show exactly the pixels of the masks, at every scale, and only what has changed is made anew.

import assert from "node:assert/strict";
import { test } from "node:test";
import { lineDistance, segmentDistance } from "../../src/maskwright/serve/static/geometry.js";
import { Overlay, paint, scaleFor, SIDE } from "../../src/maskwright/serve/static/overlay.js";
import { View } from "../../src/maskwright/serve/static/view.js";
import { random } from "./random.mjs";

Object.assign(globalThis, { window: { devicePixelRatio: 1 } });

/** @param {any} mask */
const layer = (mask) => ({ key: "a", mask, token: mask, colour: "#112233", alpha: 0.5, isDashed: false });

test("at one to one, the pixels of a region are those of the mask", () => {
  const next = random(5);
  for (let round = 0; round < 100; round += 1) {
    const w = 1 + Math.floor(next() * 20), h = 1 + Math.floor(next() * 20);
    const mask = { x: Math.floor(next() * 20), y: Math.floor(next() * 20), w, h, bytes: Uint8Array.from({ length: w * h }, () => Number(next() < 0.6)) };
    const region = { x: 8, y: 5, w: 16, h: 16 }, pixels = new Uint32Array(256);
    paint(pixels, region, 1, layer(mask));
    for (let y = 0; y < 16; y += 1) {
      for (let x = 0; x < 16; x += 1) {
        const column = region.x + x - mask.x, row = region.y + y - mask.y;
        const isSet = column >= 0 && row >= 0 && column < w && row < h && mask.bytes[row * w + column] === 1;
        assert.equal(pixels[y * 16 + x] !== 0, isSet);
      }
    }
  }
});

test("the border is opaque, the inside is not", () => {
  const pixels = new Uint32Array(25);
  paint(pixels, { x: 0, y: 0, w: 5, h: 5 }, 1, layer({ x: 0, y: 0, w: 5, h: 5, bytes: new Uint8Array(25).fill(1) }));
  assert.deepEqual([pixels[0], pixels[2], pixels[12]], [0xff332211, 0xff332211, 0x80332211]);
});

test("a mask of one pixel is seen at every scale", () => {
  for (const scale of [1, 2, 4, 8, 16]) {
    for (let x = 0; x < 20; x += 1) {
      const pixels = new Uint32Array(32 * 32);
      paint(pixels, { x: 0, y: 0, w: 32, h: 32 }, scale, layer({ x, y: 3, w: 1, h: 1, bytes: Uint8Array.of(1) }));
      assert.equal(pixels.filter(Boolean).length, 1);
      assert.ok(pixels[Math.floor(3 / scale) * 32 + Math.floor(x / scale)]);
    }
  }
});

test("the scale is never finer than the screen needs, nor coarser than a pixel", () => {
  assert.deepEqual([3, 1, 0.99, 0.51, 0.5, 0.3, 0.25, 0.1].map(scaleFor), [1, 1, 1, 1, 2, 2, 4, 8]);
});

/** Canvases that count what is written into them. */
function screen() {
  let written = 0;
  const context = () => ({
    createImageData: (/** @type {number} */ w, /** @type {number} */ h) => ({ data: { buffer: new ArrayBuffer(4 * w * h) }, area: w * h }),
    putImageData: (/** @type {any} */ data) => {
      written += data.area;
    },
    drawImage: () => {},
  });
  Object.assign(globalThis, { document: { createElement: () => ({ getContext: context }) } });
  const canvas = /** @type {any} */ ({ width: 1000, height: 800 }), view = new View(canvas);
  return { context: /** @type {any} */ (context()), view, written: () => written };
}

test("moving about makes no tile anew, a change only what lies under it", () => {
  const { context, view, written } = screen(), overlay = new Overlay();
  view.width = view.height = 3000;
  view.zoom = 1;
  const masks = Array.from({ length: 300 }, (_, at) => ({ x: (at % 20) * 140, y: Math.floor(at / 20) * 190, w: 100, h: 100, bytes: new Uint8Array(10000).fill(1) }));
  const layers = () => masks.map((mask, at) => ({ ...layer(mask), key: String(at) }));
  overlay.set(layers());
  overlay.draw(context, view);
  const first = written();
  assert.ok(first > 0);
  view.pan(-3, 2);
  overlay.set(layers());
  overlay.draw(context, view);
  assert.equal(written(), first);
  masks[0] = { ...masks[0] };
  overlay.set(layers());
  overlay.draw(context, view);
  assert.ok(written() - first <= 102 * 102 && written() > first);
  const second = written();
  overlay.touch([10, 10, 20, 20]);
  overlay.draw(context, view);
  assert.equal(written() - second, 12 * 12);
});

test("an order that has changed is drawn anew, as the last one lies on top", () => {
  const { context, view, written } = screen(), overlay = new Overlay();
  view.width = view.height = SIDE;
  view.zoom = 1;
  const masks = [0, 1].map(() => ({ x: 0, y: 0, w: 9, h: 9, bytes: new Uint8Array(81).fill(1) }));
  const layers = masks.map((mask, at) => ({ ...layer(mask), key: String(at) }));
  overlay.set(layers);
  overlay.draw(context, view);
  const before = written();
  overlay.set([...layers].reverse());
  overlay.draw(context, view);
  assert.ok(written() > before);
});

test("places on the screen: there and back, and neighbours meet", () => {
  const { view } = screen(), next = random(6);
  for (let round = 0; round < 200; round += 1) {
    view.zoom = 0.05 + next() * 8;
    view.x = next() * 500 - 250;
    view.y = next() * 500 - 250;
    const [x, y] = [next() * 900, next() * 900], [sx, sy] = view.toScreen(x, y), [bx, by] = view.fromScreen(sx, sy);
    assert.ok(Math.abs(bx - x) < 1e-6 && Math.abs(by - y) < 1e-6);
    const [left, , width] = view.rectangle([0, 0, x, y]), [nextLeft] = view.rectangle([x, 0, x + 5, y]);
    assert.equal(left + width, nextLeft);
  }
});

test("distances to lines", () => {
  assert.equal(segmentDistance([0, 3], [-1, 0], [1, 0]), 3);
  assert.equal(segmentDistance([4, 4], [0, 0], [1, 0]), 5);
  assert.equal(lineDistance([[0, 0], [10, 0], [10, 10]], [12, 5]), 2);
  assert.equal(lineDistance([[1, 1]], [4, 5]), 5);
});
