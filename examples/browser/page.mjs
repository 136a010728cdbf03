// The page: choose an image, click on an object, see its mask. Nothing leaves the browser.

import { Sam, maskOf } from "./sam.mjs";

const input = /** @type {HTMLInputElement} */ (document.querySelector("input"));
const canvas = /** @type {HTMLCanvasElement} */ (document.querySelector("canvas"));
const said = /** @type {HTMLOutputElement} */ (document.querySelector("output"));
const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));

/** @type {ImageData | undefined} */
let picture;
/** @type {import("./sam.mjs").Encoded | undefined} */
let encoded;
/** @type {import("./sam.mjs").Click[]} */
let clicks = [];
/** @type {import("./sam.mjs").Answer | undefined} */
let answer;
/** @type {Sam} */
let sam;
let last = Promise.resolve();

/**
 * Do one thing after the other, say how long each took, and what went wrong.
 *
 * @param {string} what
 * @param {() => Promise<void>} work
 */
function then(what, work) {
  last = last.then(async () => {
    said.textContent = `${what} …`;
    const began = performance.now();
    try {
      await work();
      said.textContent = `${what}: ${(performance.now() - began).toFixed(0)} ms`;
    } catch (error) {
      said.textContent = `${what}: ${error instanceof Error ? error.message : error}`;
    }
  });
}

then("SAM loaded", async () => {
  sam = await Sam.load("models");
  input.disabled = false;
});

input.addEventListener("change", () => {
  const file = input.files?.[0];
  if (!file) return;
  then("image encoded", async () => {
    encoded = undefined;
    const image = await createImageBitmap(file);
    [canvas.width, canvas.height] = [image.width, image.height];
    context.drawImage(image, 0, 0);
    picture = context.getImageData(0, 0, image.width, image.height);
    [clicks, answer] = [[], undefined];
    encoded = await sam.encode(picture);
  });
});

/** @param {MouseEvent} event @param {boolean} on */
function click(event, on) {
  event.preventDefault();
  const x = (event.offsetX / canvas.clientWidth) * canvas.width;
  const y = (event.offsetY / canvas.clientHeight) * canvas.height;
  then("mask made", async () => {
    if (!encoded || !picture) throw new Error("choose an image first");
    // A click that failed is not one of those of the next.
    answer = await sam.decode(encoded, [...clicks, { x, y, on }], answer);
    clicks.push({ x, y, on });
    show(picture, maskOf(answer, picture.width, picture.height));
  });
}
canvas.addEventListener("click", (event) => click(event, true));
canvas.addEventListener("contextmenu", (event) => click(event, false));

/** @param {ImageData} image @param {Uint8Array} mask */
function show(image, mask) {
  const shown = new ImageData(new Uint8ClampedArray(image.data), image.width, image.height);
  for (let pixel = 0; pixel < mask.length; pixel++) {
    if (!mask[pixel]) continue;
    shown.data[4 * pixel] = (shown.data[4 * pixel] + 255) / 2;
    shown.data[4 * pixel + 2] = (shown.data[4 * pixel + 2] + 255) / 2;
  }
  context.putImageData(shown, 0, 0);
}
