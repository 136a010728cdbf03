// Drawing with the keyboard: with the focus on the canvas, arrow keys move a cross, Space presses there and, for what is dragged, lets go
// with the next Space. The tools see the same events as from a mouse.

/** CSS pixels of a step; with Shift it is one pixel of the image. */
const STEP = 12;

/** Of these tools an object is a drag: one Space begins it, the next one ends it. */
const DRAGGED = ["brush", "eraser", "box", "scribble", "select"];

const WAYS = /** @type {Record<string, number[]>} */ ({ ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] });

export class Cursor {
  /** @param {import("./main.js").App} app @param {HTMLCanvasElement} canvas */
  constructor(app, canvas) {
    this.app = app;
    this.canvas = canvas;
    this.isDown = false;
    canvas.addEventListener("keydown", (event) => this.#arrow(event));
    canvas.addEventListener("blur", () => this.hide());
  }

  /** @param {KeyboardEvent} event */
  #arrow(event) {
    const way = WAYS[event.key];
    if (!way || event.ctrlKey || event.altKey || event.metaKey || !this.app.isOpen) return;
    event.preventDefault();
    const { scene } = this.app, { view } = scene;
    const step = event.shiftKey ? 1 : Math.max(1, Math.round((STEP * view.ratio) / view.zoom));
    const [x, y] = scene.cursor ?? this.#middle();
    // On pixel centres, so that the place says one pixel.
    const inside = (/** @type {number} */ value, /** @type {number} */ size) => Math.min(size - 1, Math.max(0, Math.floor(value))) + 0.5;
    scene.cursor = scene.cursor ? [inside(x + way[0] * step, view.width), inside(y + way[1] * step, view.height)] : [inside(x, view.width), inside(y, view.height)];
    this.#show();
    this.app.tool.move?.(this.#event(), scene.cursor);
    scene.ask();
  }

  /** The cross is pressed, or let go. Whether there is one. */
  press() {
    const { app } = this, place = app.scene.cursor;
    if (!place) return false;
    const isDragged = DRAGGED.includes(app.toolName) || (app.toolName === "smart" && app.tools.smart.boxing);
    if (this.isDown) this.#release(place);
    else if (app.tool.down(this.#event(), place) !== false) {
      this.isDown = true;
      if (!isDragged) this.#release(place);
      else app.tell("Arrow keys draw; Space ends it, Esc drops it");
    }
    app.scene.ask();
    return true;
  }

  /** @param {number[]} place */
  #release(place) {
    this.isDown = false;
    this.app.tool.up?.(this.#event(), place);
  }

  /** The mouse is in use again, or the focus is elsewhere. */
  hide() {
    if (!this.app.scene.cursor) return;
    if (this.isDown) this.app.tool.cancel();
    this.isDown = false;
    this.app.scene.cursor = null;
    this.app.scene.ask();
  }

  #middle() {
    const { view } = this.app.scene;
    return view.fromScreen(view.canvas.width / 2, view.canvas.height / 2);
  }

  /** Keep the cross in sight, and say where it is. */
  #show() {
    const { scene } = this.app, { view } = scene, margin = 20 * view.ratio;
    const [x, y] = view.toScreen(/** @type {number[]} */ (scene.cursor)[0], /** @type {number[]} */ (scene.cursor)[1]);
    const beyond = (/** @type {number} */ at, /** @type {number} */ size) => Math.min(0, size - margin - at) + Math.max(0, margin - at);
    const dx = beyond(x, view.canvas.width), dy = beyond(y, view.canvas.height);
    if (dx || dy) this.app.pan(dx / view.ratio, dy / view.ratio);
    this.app.showPixel(/** @type {number[]} */ (scene.cursor));
  }

  #event() {
    const { view, cursor } = this.app.scene, box = this.canvas.getBoundingClientRect();
    const [x, y] = view.toScreen(/** @type {number[]} */ (cursor)[0], /** @type {number[]} */ (cursor)[1]);
    return new PointerEvent("pointermove", { clientX: box.left + x / view.ratio, clientY: box.top + y / view.ratio, button: 0 });
  }
}
