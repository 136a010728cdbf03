// Where the image lies on the screen: zoom and shift, in device pixels, so that one image pixel can be exactly n of the screen's.

export class View {
  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.canvas = canvas;
    this.zoom = 1;
    this.x = 0;
    this.y = 0;
    this.width = 1;
    this.height = 1;
  }

  /** Device pixels per CSS pixel. */
  get ratio() {
    return window.devicePixelRatio || 1;
  }

  /** Make the canvas as large as it is shown; true where that changed it. */
  resize() {
    const box = this.canvas.getBoundingClientRect();
    const width = Math.max(1, Math.round(box.width * this.ratio)), height = Math.max(1, Math.round(box.height * this.ratio));
    if (this.canvas.width === width && this.canvas.height === height) return false;
    this.canvas.width = width;
    this.canvas.height = height;
    return true;
  }

  /** Show an image whole. @param {number} width @param {number} height */
  fit(width = this.width, height = this.height) {
    this.width = width;
    this.height = height;
    this.zoom = Math.min(this.canvas.width / width, this.canvas.height / height) * 0.96;
    this.x = (this.canvas.width - width * this.zoom) / 2;
    this.y = (this.canvas.height - height * this.zoom) / 2;
  }

  /** An event's place in image pixels. @param {{clientX: number, clientY: number}} event @returns {number[]} */
  toImage(event) {
    const box = this.canvas.getBoundingClientRect();
    return [((event.clientX - box.left) * this.ratio - this.x) / this.zoom, ((event.clientY - box.top) * this.ratio - this.y) / this.zoom];
  }

  /** Image pixels on the canvas. @param {number} x @param {number} y @returns {number[]} */
  toScreen(x, y) {
    return [x * this.zoom + this.x, y * this.zoom + this.y];
  }

  /** The inverse of `toScreen`. @param {number} x @param {number} y @returns {number[]} */
  fromScreen(x, y) {
    return [(x - this.x) / this.zoom, (y - this.y) / this.zoom];
  }

  /**
   * Where a box of the image lies on the canvas, in whole device pixels: neighbours meet without a seam, and tiles of image and masks
   * lie exactly on each other.
   * @param {number[]} box x0, y0, x1, y1 @returns {number[]} left, top, width, height
   */
  rectangle([x0, y0, x1, y1]) {
    const [left, top] = this.toScreen(x0, y0).map(Math.round), [right, bottom] = this.toScreen(x1, y1).map(Math.round);
    return [left, top, right - left, bottom - top];
  }

  /** Zoom about a place, which stays where it is. @param {number} factor @param {{clientX: number, clientY: number}} [event] */
  zoomBy(factor, event) {
    const box = this.canvas.getBoundingClientRect();
    const px = event ? (event.clientX - box.left) * this.ratio : this.canvas.width / 2;
    const py = event ? (event.clientY - box.top) * this.ratio : this.canvas.height / 2;
    const zoom = Math.min(64, Math.max(0.01, this.zoom * factor));
    this.x = px - ((px - this.x) * zoom) / this.zoom;
    this.y = py - ((py - this.y) * zoom) / this.zoom;
    this.zoom = zoom;
  }

  /** @param {number} dx in CSS pixels @param {number} dy */
  pan(dx, dy) {
    this.x += dx * this.ratio;
    this.y += dy * this.ratio;
  }

  /** @param {number[]} point */
  isInside([x, y]) {
    return x >= 0 && y >= 0 && x < this.width && y < this.height;
  }

  /** The nearest place in the image. @param {number[]} point @returns {number[]} */
  clamp([x, y]) {
    return [Math.min(this.width, Math.max(0, x)), Math.min(this.height, Math.max(0, y))];
  }
}
