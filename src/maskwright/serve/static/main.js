// The page: opens images, gives pointers to tools and keys to commands, and keeps what is shown in step with the labels.

import { Scene } from "./canvas.js";
import { client } from "./client.js";
import { Journal } from "./journal.js";
import { Keys } from "./keys.js";
import { toRuns } from "./masks.js";
import { Assist } from "./panels/assist.js";
import { byId, element } from "./panels/dom.js";
import { showHelp } from "./panels/help.js";
import { Images } from "./panels/images.js";
import { LabelPanels } from "./panels/labels.js";
import { Training } from "./panels/training.js";
import { Labelling } from "./state.js";
import { BoxTool } from "./tools/box.js";
import { Brush } from "./tools/brush.js";
import { PointTool } from "./tools/point.js";
import { Polygon } from "./tools/polygon.js";
import { Scribble } from "./tools/scribble.js";
import { Select } from "./tools/select.js";
import { Smart } from "./tools/smart.js";

const TOOLS = /** @type {const} */ ([
  ["select", "v", "➤", "Select and move"],
  ["smart", "s", "✦", "Smart: SAM answers clicks and boxes"],
  ["brush", "b", "●", "Brush"],
  ["eraser", "e", "◌", "Eraser"],
  ["polygon", "p", "⬠", "Polygon"],
  ["box", "r", "▭", "Box"],
  ["scribble", "g", "∿", "Scribble"],
  ["point", "k", "⊕", "Point"],
]);

export class App {
  constructor() {
    /** @type {any} */
    this.project = null;
    this.image = "";
    this.category = 1;
    this.brushSize = Number(localStorage.getItem("brush size")) || 15;
    this.labelling = new Labelling();
    this.scene = new Scene(byId("canvas"), this.labelling, (category) => this.project?.categories[category]?.color ?? "#808080");
    this.keys = new Keys();
    this.images = new Images(this);
    this.panels = new LabelPanels(this);
    this.assist = new Assist(this);
    this.training = new Training(this);
    this.tools = {
      select: new Select(this), smart: new Smart(this), brush: new Brush(this, 1), eraser: new Brush(this, 0),
      polygon: new Polygon(this), box: new BoxTool(this), scribble: new Scribble(this), point: new PointTool(this),
    };
    /** @type {keyof App["tools"]} */
    this.toolName = "smart";
    /** @type {any} */
    this.tool = this.tools.smart;
    this.opening = 0;
    this.space = false;
    /** @type {Map<number, PointerEvent>} */
    this.fingers = new Map();
    /** @type {any} */
    this.journal = null;
  }

  async start() {
    this.project = await client.project();
    byId("dataset").textContent = this.project.name;
    document.title = `${this.project.name} · maskwright`;
    this.journal = new Journal(this.project.name);
    this.#listen();
    this.#bindKeys();
    this.#toolbar();
    await this.journal.open();
    await this.images.load();
    if (!this.images.images.length) {
      this.message("There are no images in this dataset. Put some into its folder and start again.");
      return;
    }
    this.panels.categories();
    this.setTool("smart");
    const wanted = decodeURIComponent(location.hash.slice(1));
    const at = this.images.images.findIndex((each) => each.id === wanted);
    await this.go(Math.max(0, at));
    await this.training.start();
    this.#watchSam();
  }

  // ------------------------------------------------------------------------------------------------ images

  /** Open an image of the list. @param {number} number */
  async go(number) {
    if (number < 0 || number >= this.images.images.length) return;
    const opening = ++this.opening;
    for (const tool of Object.values(this.tools)) tool.cancel();
    if (this.image) this.assist.leave();
    this.journal.flush();
    const { id, name } = this.images.images[number];
    this.image = id;
    this.images.select(number);
    byId("image-name").textContent = name;
    byId("image-count").textContent = `${number + 1} of ${this.images.images.length}`;
    history.replaceState(null, "", `#${encodeURIComponent(id)}`);
    this.message("");
    try {
      const [description, labels] = await Promise.all([client.image(id), client.annotations(id)]);
      if (opening !== this.opening) return;
      this.scene.tiles.open(id, description);
      this.scene.view.resize();
      this.scene.view.fit(description.width, description.height);
      this.journal.revisions.set(id, labels.rev);
      this.labelling.open(labels);
      document.body.dataset.image = id;
      this.assist.show();
      this.showZoom();
      client.embed(id).then(() => {
        const next = this.images.images[number + 1];
        if (next && opening === this.opening) client.embed(next.id).catch(() => {});
      }).catch(() => {});
    } catch (error) {
      if (opening === this.opening) this.message(`${name}: ${/** @type {Error} */ (error).message}`);
    }
    this.scene.ask();
  }

  /** Say that nothing is missing, and go on. */
  async finish() {
    if (!this.labelling.done) this.labelling.change([{ op: "done", value: true }]);
    await this.journal.flush();
    const next = this.images.nextOpen();
    if (next === null) this.tell("Every image is done");
    else await this.go(next);
  }

  // ------------------------------------------------------------------------------------------------ labels

  /** A new object of the category in hand. @param {any} fields */
  add(fields) {
    const object = { id: crypto.randomUUID(), category: this.category, ...fields };
    /** @type {import("./state.js").Operation[]} */
    const first = this.labelling.nothing && object.category ? [{ op: "nothing", value: false }] : [];
    this.labelling.change([...first, { op: "put", object }]);
    if (object.kind !== "point" && object.kind !== "scribble") this.labelling.select(object.id);
  }

  /** @param {import("./masks.js").Mask} mask @param {string} source */
  addMask(mask, source) {
    const runs = toRuns(mask);
    if (runs) this.add({ kind: "mask", source, mask: runs });
    // The next click means the next object.
    if (source === "sam") this.labelling.select(null);
  }

  /** @param {number} category */
  setCategory(category) {
    if (!this.project.categories[category] || category < 1) return;
    this.category = category;
    const selected = this.labelling.selection;
    if (selected && selected.category !== category && selected.category !== 0) {
      this.labelling.change([{ op: "put", object: { ...selected, category } }]);
    }
    this.panels.categories();
    this.scene.ask();
  }

  toggleNothing() {
    const { labelling } = this;
    const things = [...labelling.objects.values()].filter((each) => each.category !== 0);
    if (!labelling.nothing && things.length) {
      this.tell("There are objects in this image; delete them first, or undo", "error");
      return;
    }
    const value = !labelling.nothing;
    labelling.change([{ op: "nothing", value }, { op: "done", value }]);
  }

  /** @param {string} id */
  hide(id) {
    if (this.labelling.hidden.has(id)) this.labelling.hidden.delete(id);
    else this.labelling.hidden.add(id);
    this.panels.objects();
    this.scene.ask();
  }

  /** @param {PointerEvent} event */
  isNegative(event) {
    return event.button === 2 || event.altKey || event.shiftKey;
  }

  // ------------------------------------------------------------------------------------------------ what is shown

  /** @param {string} text @param {"" | "error"} [kind] */
  tell(text, kind = "") {
    const told = byId("told");
    told.textContent = text;
    told.dataset.kind = kind;
  }

  /** @param {string} text */
  message(text) {
    byId("message").textContent = text;
    byId("message").hidden = !text;
  }

  /** @param {keyof App["tools"]} name */
  setTool(name) {
    if (this.tool !== this.tools[name]) {
      this.tool.cancel();
      this.tool.leave?.();
    }
    this.toolName = name;
    this.tool = this.tools[name];
    this.scene.tool = this.tool;
    for (const button of byId("tools").children) button.setAttribute("aria-checked", String(button.dataset.tool === name));
    document.body.dataset.tool = name;
    this.showOptions();
    this.scene.ask();
  }

  showOptions() {
    const box = byId("options"), name = this.toolName;
    if (name === "brush" || name === "eraser") {
      const size = element("input", { type: "range", min: "1", max: "200", value: String(this.brushSize), "aria-label": "Size of the brush" });
      const shown = element("span", { textContent: `${this.brushSize} px` });
      size.addEventListener("input", () => {
        this.#setBrush(Number(size.value));
        shown.textContent = `${this.brushSize} px`;
      });
      box.replaceChildren("Size", size, shown);
    } else if (name === "smart") {
      const { smart } = this.tools;
      const sign = element("button", { textContent: smart.turned ? "− off the object" : "+ on the object", title: "Turn the sign (X)", "aria-pressed": String(smart.turned), type: "button" });
      sign.addEventListener("click", () => this.#turn());
      const parts = [sign];
      if (smart.candidates.length) {
        const accept = element("button", { textContent: "Accept", className: "primary", title: "Enter", type: "button" });
        accept.addEventListener("click", () => smart.finish());
        const other = element("button", { textContent: `${smart.choice + 1} of ${smart.candidates.length}`, title: "Another candidate (. and ,)", type: "button", disabled: smart.candidates.length < 2 });
        other.addEventListener("click", () => smart.next(1));
        const drop = element("button", { textContent: "Cancel", title: "Esc", type: "button" });
        drop.addEventListener("click", () => smart.cancel());
        parts.push(accept, other, drop);
      }
      const state = smart.waiting ? "SAM is looking…" : smart.target ? "refining the selected mask" : smart.isBusy ? "" : "click, or drag a box";
      box.replaceChildren(...parts, element("span", { className: "quiet", textContent: state }));
    } else if (name === "polygon") {
      box.replaceChildren(element("span", { className: "quiet", textContent: "click the corners; Enter closes, Backspace takes the last one back" }));
    } else box.replaceChildren();
  }

  showZoom() {
    byId("zoom").textContent = `${Math.round((100 * this.scene.view.zoom) / this.scene.view.ratio)} %`;
  }

  /** What depends on the labels. */
  show() {
    const { labelling } = this;
    byId("undo").disabled = !labelling.past.length;
    byId("redo").disabled = !labelling.future.length;
    byId("nothing").setAttribute("aria-pressed", String(labelling.nothing));
    byId("done").textContent = labelling.done ? "Done ✓" : "Done";
    const state = labelling.done ? "checked" : "";
    byId("image-state").textContent = labelling.done ? (labelling.nothing ? "nothing here" : "done") : labelling.objects.size ? "in work" : "";
    byId("image-state").dataset.state = state;
    document.body.dataset.objects = String(labelling.objects.size);
    document.body.dataset.rev = String(labelling.rev);
    this.panels.objects();
    this.panels.tags();
    this.images.update(this.images.at, labelling);
    this.scene.ask();
  }

  async refreshProject() {
    const before = this.project.runs.length;
    this.project = await client.project();
    this.panels.categories();
    this.assist.show();
    if (this.project.runs.length > before) this.tell("The training has left a model: it can propose masks now");
  }

  async #watchSam() {
    const chip = byId("sam");
    for (;;) {
      const { id, state, message } = this.project.sam;
      chip.textContent = state === "ready" ? `${id} ready` : state === "loading" ? `${id} loading…` : `${id} is not there`;
      chip.dataset.state = state;
      chip.title = message;
      document.body.dataset.sam = state;
      if (state === "ready") client.embed(this.image).catch(() => {});
      if (state !== "loading") return;
      await new Promise((resolve) => setTimeout(resolve, 700));
      this.project.sam = (await client.project().catch(() => this.project)).sam;
    }
  }

  #toolbar() {
    byId("tools").append(
      ...TOOLS.map(([name, key, sign, what]) => {
        const button = element("button", { className: "tool", role: "radio", "aria-checked": "false", title: `${what} (${key.toUpperCase()})`, "aria-label": what, type: "button" }, [sign, element("small", { textContent: key.toUpperCase() })]);
        button.dataset.tool = name;
        button.addEventListener("click", () => this.setTool(name));
        return button;
      }),
    );
  }

  // ------------------------------------------------------------------------------------------------ events

  #listen() {
    const { labelling, journal, scene } = this;
    labelling.addEventListener("labels", () => this.show());
    labelling.addEventListener("selection", () => {
      this.panels.objects();
      this.showOptions();
      scene.ask();
    });
    labelling.addEventListener("operations", (event) => journal.add(this.image, labelling.rev, /** @type {CustomEvent} */ (event).detail));
    const names = { saved: "Saved", saving: "Saving…", offline: "Offline: kept here, retrying", conflict: "Conflict", failed: "Not saved" };
    journal.addEventListener("state", () => {
      byId("save").textContent = names[/** @type {keyof typeof names} */ (journal.state)];
      byId("save").dataset.state = journal.state;
      document.body.dataset.save = journal.state;
    });
    journal.addEventListener("saved", (/** @type {CustomEvent} */ event) => {
      const { image, annotations } = event.detail;
      if (image !== this.image) return;
      // With nothing left to send, what the server has is the truth: another window may have added to it.
      if (!journal.isPending(image)) labelling.take(annotations);
      else labelling.rev = annotations.rev;
    });
    journal.addEventListener("refused", async (/** @type {CustomEvent} */ event) => {
      this.tell(event.detail.message, "error");
      if (event.detail.image === this.image) labelling.take(await client.annotations(this.image));
    });
    journal.addEventListener("settled", async (/** @type {CustomEvent} */ event) => {
      if (event.detail.image === this.image && event.detail.choice === "theirs") labelling.open(event.detail.theirs);
    });
    journal.addEventListener("conflict", (/** @type {CustomEvent} */ event) => this.#askConflict(event.detail));
    byId("save").textContent = "Saved";
    byId("save").dataset.state = document.body.dataset.save = "saved";
    byId("undo").addEventListener("click", () => this.undo());
    byId("redo").addEventListener("click", () => labelling.redo());
    byId("nothing").addEventListener("click", () => this.toggleNothing());
    byId("done").addEventListener("click", () => this.finish());
    byId("help-button").addEventListener("click", () => showHelp(this.keys));
    byId("theme").addEventListener("click", () => {
      const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
      const now = document.documentElement.dataset.theme ?? (isDark ? "dark" : "light");
      document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
      localStorage.setItem("theme", document.documentElement.dataset.theme);
    });
    const theme = localStorage.getItem("theme");
    if (theme) document.documentElement.dataset.theme = theme;
    window.addEventListener("pagehide", () => journal.flush());
    this.#pointers(byId("canvas"));
  }

  /** @param {any} detail */
  #askConflict(detail) {
    const dialog = byId("conflict");
    if (dialog.open) return;
    /** @param {string} text @param {"mine" | "theirs" | "both"} choice */
    const button = (text, choice) => {
      const made = element("button", { textContent: text, type: "button", className: choice === "both" ? "primary" : "" });
      made.dataset.choice = choice;
      made.addEventListener("click", () => {
        dialog.close();
        this.journal.settle(detail.image, choice, detail);
      });
      return made;
    };
    dialog.replaceChildren(
      element("h2", { id: "conflict-title", textContent: "Somebody else has changed the same object" }),
      element("p", { textContent: `In another window ${detail.conflicts.length === 1 ? "one thing was" : `${detail.conflicts.length} things were`} changed that you have changed too. Nothing is lost yet.` }),
      element("div", { className: "buttons" }, [button("Keep mine", "mine"), button("Keep theirs", "theirs"), button("Keep both", "both")]),
    );
    dialog.addEventListener("cancel", (/** @type {Event} */ event) => event.preventDefault());
    dialog.showModal();
  }

  /** @param {HTMLCanvasElement} canvas */
  #pointers(canvas) {
    const { view } = this.scene;
    let panning = false, drawing = false, sizing = 0;
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("pointerdown", (event) => {
      canvas.focus({ preventScroll: true });
      canvas.setPointerCapture(event.pointerId);
      if (event.pointerType === "touch") this.fingers.set(event.pointerId, event);
      if (this.fingers.size === 2) {
        if (drawing) this.tool.cancel();
        drawing = false;
        return;
      }
      if (event.button === 1 || this.space) panning = true;
      else if (event.button === 2 && event.altKey && "mask" in this.tool) sizing = this.brushSize;
      else drawing = this.tool.down(event, view.toImage(event)) !== false;
      // A drag where there is nothing to take moves the image.
      if (!drawing && !panning && !sizing && this.toolName === "select") panning = true;
    });
    canvas.addEventListener("pointermove", (event) => {
      const point = view.toImage(event);
      byId("pixel").textContent = view.isInside(point) ? `${Math.floor(point[0])}, ${Math.floor(point[1])}` : "";
      if (this.fingers.size === 2) this.#pinch(event);
      else if (panning) {
        view.pan(event.movementX, event.movementY);
        this.scene.ask();
      } else if (sizing) this.#setBrush(this.brushSize + event.movementX);
      else this.tool.move(event, point);
    });
    const end = (/** @type {PointerEvent} */ event) => {
      const two = this.fingers.size === 2;
      this.fingers.delete(event.pointerId);
      if (drawing && !two) this.tool.up(event, view.toImage(event));
      panning = drawing = false;
      sizing = 0;
    };
    canvas.addEventListener("pointerup", end);
    canvas.addEventListener("pointercancel", (event) => {
      this.fingers.delete(event.pointerId);
      if (drawing) this.tool.cancel();
      panning = drawing = false;
    });
    canvas.addEventListener("pointerleave", () => {
      this.tool.leave?.();
      this.scene.ask();
    });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      view.zoomBy(Math.exp(-event.deltaY * (event.deltaMode === 1 ? 0.05 : 0.0016)), event);
      this.showZoom();
      this.scene.ask();
    }, { passive: false });
    canvas.addEventListener("dblclick", () => {
      if (this.toolName === "polygon") this.tool.finish();
    });
    window.addEventListener("keydown", (event) => {
      if (event.code === "Space" && event.target === canvas) {
        this.space = true;
        event.preventDefault();
      }
    });
    window.addEventListener("keyup", (event) => {
      if (event.code === "Space") this.space = false;
      if (event.key === "`") {
        this.scene.peeking = false;
        this.scene.ask();
      }
    });
  }

  /** Two fingers zoom and move. @param {PointerEvent} event */
  #pinch(event) {
    const before = [...this.fingers.values()];
    this.fingers.set(event.pointerId, event);
    const after = [...this.fingers.values()];
    const middle = (/** @type {PointerEvent[]} */ pair) => ({ clientX: (pair[0].clientX + pair[1].clientX) / 2, clientY: (pair[0].clientY + pair[1].clientY) / 2 });
    const span = (/** @type {PointerEvent[]} */ pair) => Math.max(1, Math.hypot(pair[0].clientX - pair[1].clientX, pair[0].clientY - pair[1].clientY));
    const from = middle(before), to = middle(after);
    this.scene.view.pan(to.clientX - from.clientX, to.clientY - from.clientY);
    this.scene.view.zoomBy(span(after) / span(before), to);
    this.showZoom();
    this.scene.ask();
  }

  /** @param {number} size */
  #setBrush(size) {
    this.brushSize = Math.min(200, Math.max(1, Math.round(size)));
    localStorage.setItem("brush size", String(this.brushSize));
    this.scene.ask();
  }

  #turn() {
    this.tools.smart.turned = !this.tools.smart.turned;
    this.showOptions();
  }

  /** A draft uses up its own steps first, and never touches finished objects. */
  undo() {
    if (!this.tool.back?.()) this.labelling.undo();
  }

  #bindKeys() {
    const { keys, labelling } = this;
    for (const [name, key, , what] of TOOLS) keys.bind("Tools", key, what, () => this.setTool(name));
    keys.bind("Tools", "[", "Smaller brush", () => { this.#setBrush(this.brushSize - Math.max(1, this.brushSize / 8)); this.showOptions(); }, true);
    keys.bind("Tools", "]", "Larger brush", () => { this.#setBrush(this.brushSize + Math.max(1, this.brushSize / 8)); this.showOptions(); }, true);
    keys.bind("Smart", "x", "Turn the sign of clicks", () => this.#turn());
    keys.bind("Smart", ".", "Next candidate", () => this.tools.smart.next(1));
    keys.bind("Smart", ",", "Candidate before", () => this.tools.smart.next(-1));
    keys.bind("Labels", "Enter", "Accept what is proposed; close the polygon", () => this.tool.finish?.() || this.assist.accept());
    keys.bind("Labels", "n", "Finish, and begin a new object", () => { this.tool.finish?.(); labelling.select(null); });
    keys.bind("Labels", "Escape", "Cancel the draft, then the selection", () => this.tool.cancel() || this.assist.reject() || labelling.select(null));
    keys.bind("Labels", "Backspace", "Take back the last corner or click", () => this.tool.back?.());
    keys.bind("Labels", "Delete", "Delete the selected object", () => {
      if (labelling.selected) labelling.change([{ op: "delete", object_id: labelling.selected }]);
    });
    keys.bind("Labels", "Ctrl+z", "Undo", () => this.undo(), true);
    keys.bind("Labels", "Ctrl+Shift+z Ctrl+y", "Redo", () => labelling.redo(), true);
    keys.bind("Labels", "Shift+e", "Nothing to see here", () => this.toggleNothing());
    keys.bind("Labels", "h", "Hide or show the selected object", () => { if (labelling.selected) this.hide(labelling.selected); });
    keys.bind("Labels", "Shift+h", "Hide or show all", () => { labelling.allHidden = !labelling.allHidden; this.panels.objects(); this.scene.ask(); });
    keys.bindDigits("Labels", "Category of the selected object, else of the next", (digit) => this.setCategory(digit || 10));
    keys.bind("Proposals", "m", "Of the newest run", () => this.assist.fromRun(this.project.runs.at(-1)?.id ?? ""));
    keys.bind("Proposals", "t", "Like the last labelled image", () => this.assist.fromExample());
    keys.bind("Images", "Ctrl+ArrowRight PageDown", "Next image", () => this.go(this.images.at + 1), true);
    keys.bind("Images", "Ctrl+ArrowLeft PageUp", "Image before", () => this.go(this.images.at - 1), true);
    keys.bind("Images", "Ctrl+Enter", "Done, next image", () => this.finish());
    keys.bind("Images", "Ctrl+s", "Save now (it is saved by itself)", () => this.journal.flush());
    keys.bind("View", "f", "Fit the image", () => { this.scene.view.fit(); this.showZoom(); this.scene.ask(); });
    keys.bind("View", "+ =", "Zoom in", () => { this.scene.view.zoomBy(1.25); this.showZoom(); this.scene.ask(); }, true);
    keys.bind("View", "-", "Zoom out", () => { this.scene.view.zoomBy(0.8); this.showZoom(); this.scene.ask(); }, true);
    keys.bind("View", "`", "Peek under the labels while held", () => { this.scene.peeking = true; this.scene.ask(); });
    keys.bind("View", "?", "This sheet", () => showHelp(keys));
  }
}

new App().start().catch((error) => {
  byId("message").textContent = error.message;
  byId("message").hidden = false;
});
