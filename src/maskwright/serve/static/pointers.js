// Mouse, pen and fingers on the canvas: what draws, what moves the image, and what does neither.

import { Cursor } from "./cursor.js";

/**
 * @typedef {import("./main.js").App} App
 * @typedef {{clientX: number, clientY: number}} Place
 */

export class Pointers {
  /** @param {App} app @param {HTMLCanvasElement} canvas */
  constructor(app, canvas) {
    this.app = app;
    this.canvas = canvas;
    /** @type {Map<number, Place>} */
    this.fingers = new Map();
    /** @type {"draw" | "pan" | "size" | "pinch" | null} what the pointer that is down does */
    this.doing = null;
    this.space = false;
    /** Whether something was moved while Space was held. */
    this.used = false;
    this.x = 0;
    this.cursor = new Cursor(app, canvas);
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#up(event));
    canvas.addEventListener("pointercancel", (event) => this.#cancel(event));
    canvas.addEventListener("pointerleave", () => this.#leave());
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    canvas.addEventListener("dblclick", () => {
      if (app.toolName === "polygon") app.tool.finish?.();
    });
    this.#holds();
  }

  /** @param {PointerEvent} event */
  #down(event) {
    const { app, canvas } = this;
    this.cursor.hide();
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    if (event.pointerType === "touch") this.fingers.set(event.pointerId, event);
    if (this.fingers.size >= 2) {
      // The second finger means that the first one was not drawing.
      if (this.doing === "draw") app.tool.cancel();
      this.doing = "pinch";
      return;
    }
    this.x = event.clientX;
    if (!app.isOpen) return;
    if (event.button === 1 || this.space) {
      this.doing = "pan";
      this.used = true;
    } else if (event.button === 2 && event.altKey && (app.toolName === "brush" || app.toolName === "eraser")) this.doing = "size";
    else if (event.button > 2 && event.button !== 5) this.doing = null;
    else if (app.tool.down(event, app.scene.view.toImage(event)) !== false) this.doing = "draw";
    // A drag where there is nothing to take moves the image.
    else this.doing = app.toolName === "select" ? "pan" : null;
    canvas.classList.toggle("moving", this.doing === "pan");
  }

  /** @param {PointerEvent} event */
  #move(event) {
    const { app } = this, { view } = app.scene;
    if (this.doing === "pinch") {
      this.#pinch(event);
      return;
    }
    this.cursor.hide();
    const dx = event.clientX - this.x, point = view.toImage(event);
    this.x = event.clientX;
    app.showPixel(point);
    if (this.doing === "pan") app.pan(event.movementX, event.movementY);
    else if (this.doing === "size") app.setBrush(app.brushSize + dx);
    else if (app.isOpen) app.tool.move?.(event, point);
  }

  /** @param {PointerEvent} event */
  #up(event) {
    this.fingers.delete(event.pointerId);
    const was = this.doing;
    if (was === "pinch" && this.fingers.size) return;
    this.doing = null;
    this.canvas.classList.remove("moving");
    if (was === "draw") this.app.tool.up?.(event, this.app.scene.view.toImage(event));
    if (was === "size") this.app.showOptions();
  }

  /** @param {PointerEvent} event */
  #cancel(event) {
    this.fingers.delete(event.pointerId);
    if (this.doing === "draw") this.app.tool.cancel();
    this.doing = null;
    this.canvas.classList.remove("moving");
  }

  #leave() {
    this.app.tool.leave?.();
    this.app.scene.ask();
  }

  /** @param {WheelEvent} event */
  #wheel(event) {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 32 : 1;
    // A pinch on a trackpad comes as a wheel with Ctrl, and in smaller steps.
    if (this.app.settings.wheelPans && !event.ctrlKey) this.app.pan(-event.deltaX * lines, -event.deltaY * lines);
    else this.app.zoom(Math.exp(-event.deltaY * lines * (event.ctrlKey && Math.abs(event.deltaY) < 50 ? 0.01 : 0.0016)), event);
  }

  /** Two fingers zoom and move. @param {PointerEvent} event */
  #pinch(event) {
    if (!this.fingers.has(event.pointerId) || this.fingers.size < 2) return;
    const before = [...this.fingers.values()];
    this.fingers.set(event.pointerId, event);
    const after = [...this.fingers.values()], from = middle(before), to = middle(after);
    this.app.pan(to.clientX - from.clientX, to.clientY - from.clientY);
    this.app.zoom(span(after) / span(before), to);
  }

  /** Keys that do something while they are held. */
  #holds() {
    window.addEventListener("keydown", (event) => {
      if (event.code !== "Space" || event.target !== this.canvas || event.ctrlKey || event.altKey) return;
      if (!event.repeat) this.used = false;
      this.space = true;
      event.preventDefault();
    });
    window.addEventListener("keyup", (event) => {
      if (event.code === "Space") {
        if (this.space && !this.used && this.doing === null) this.cursor.press();
        this.space = false;
      }
      this.app.peek(false);
    });
    window.addEventListener("blur", () => {
      this.space = false;
      this.app.peek(false);
    });
  }
}

/** @param {Place[]} pair @returns {Place} */
function middle([a, b]) {
  return { clientX: (a.clientX + b.clientX) / 2, clientY: (a.clientY + b.clientY) / 2 };
}

/** @param {Place[]} pair */
function span([a, b]) {
  return Math.max(1, Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY));
}
