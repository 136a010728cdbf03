// SAM in a page: `encoder.onnx` and `decoder.onnx` of `maskwright sam export`, run by onnxruntime-web. An image is encoded once, each click decoded.

import * as ort from "onnxruntime-web";

// More would need a server that sends the headers of cross-origin isolation.
ort.env.wasm.numThreads = 1;

/**
 * @typedef {{features: Record<string, ort.Tensor>, width: number, height: number}} Encoded what SAM has to know of an image
 * @typedef {{x: number, y: number, on: boolean}} Click in pixels of the image, the middle of the first at (0.5, 0.5); on the object or off it
 * @typedef {{logits: Float32Array, side: number, iou: number}} Answer logits (side, side) cover the image; iou: what SAM expects of them, 0..1
 */

export class Sam {
  /**
   * @param {ort.InferenceSession} encoder
   * @param {ort.InferenceSession} decoder
   */
  constructor(encoder, decoder) {
    this.encoder = encoder;
    this.decoder = decoder;
  }

  /** @param {string} folder address of the folder with both files */
  static async load(folder) {
    const files = ["encoder", "decoder"].map((name) => ort.InferenceSession.create(`${folder}/${name}.onnx`));
    const [encoder, decoder] = await Promise.all(files);
    return new Sam(encoder, decoder);
  }

  /**
   * @param {ImageData} image
   * @returns {Promise<Encoded>}
   */
  async encode({ data, width, height }) {
    const rgb = new Uint8Array(width * height * 3);
    for (let pixel = 0; pixel < width * height; pixel++) rgb.set(data.subarray(4 * pixel, 4 * pixel + 3), 3 * pixel);
    const features = await this.encoder.run({ image: new ort.Tensor("uint8", rgb, [1, height, width, 3]) });
    return { features, width, height };
  }

  /**
   * The mask of one object.
   *
   * @param {Encoded} image
   * @param {Click[]} clicks at least one
   * @param {Answer} [previous] an earlier answer about the same object
   * @returns {Promise<Answer>}
   */
  async decode(image, clicks, previous) {
    const [, , rows, columns] = image.features.low.dims;
    const side = 4 * rows; // `low` has a sixteenth of the canvas' side, and answers a quarter.
    if (rows !== columns) throw new Error(`an embedding of ${rows} x ${columns}: only square ones are known`);
    const { logits, iou } = await this.decoder.run({
      ...image.features,
      size: new ort.Tensor("float32", [image.width, image.height], [1, 2]),
      points: new ort.Tensor("float32", clicks.flatMap(({ x, y }) => [x, y]), [1, 1, clicks.length, 2]),
      labels: new ort.Tensor("int64", clicks.map(({ on }) => BigInt(on)), [1, 1, clicks.length]),
      previous: new ort.Tensor("float32", previous?.logits ?? new Float32Array(side * side), [1, 1, side, side]),
      has_previous: new ort.Tensor("bool", [previous !== undefined], [1, 1]),
    });
    const expected = /** @type {Float32Array} */ (iou.data);
    // A single click may mean a part or the whole: the best of the three behind the first. More is meant in one way.
    let best = 0;
    if (clicks.length === 1 && !previous) best = [1, 2, 3].reduce((a, b) => (expected[b] > expected[a] ? b : a));
    const all = /** @type {Float32Array} */ (logits.data);
    return { logits: all.slice(best * side * side, (best + 1) * side * side), side, iou: expected[best] };
  }
}

/**
 * Logits, enlarged bilinearly to the image: which of its pixels are the object's.
 *
 * @param {Answer} answer
 * @param {number} width
 * @param {number} height
 * @returns {Uint8Array} (height, width), 0 or 1
 */
export function maskOf({ logits, side }, width, height) {
  const last = side - 1;
  /** @param {number} at @param {number} length */
  const between = (at, length) => Math.min(last, Math.max(0, ((at + 0.5) * side) / length - 0.5));
  const mask = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const v = between(y, height);
    const [top, down] = [Math.floor(v), v % 1];
    const bottom = Math.min(last, top + 1);
    for (let x = 0; x < width; x++) {
      const u = between(x, width);
      const [left, across] = [Math.floor(u), u % 1];
      const right = Math.min(last, left + 1);
      const upper = logits[top * side + left] * (1 - across) + logits[top * side + right] * across;
      const lower = logits[bottom * side + left] * (1 - across) + logits[bottom * side + right] * across;
      mask[y * width + x] = Number(upper * (1 - down) + lower * down > 0);
    }
  }
  return mask;
}
