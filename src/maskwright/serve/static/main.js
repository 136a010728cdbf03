// The page: opens images, holds what is set, and keeps what is shown in step with the labels.

import { Scene } from "./canvas.js";
import { client } from "./client.js";
import { bindKeys } from "./commands.js";
import { newId } from "./ids.js";
import { Journal } from "./journal.js";
import { Keys } from "./keys.js";
import { toRuns } from "./masks.js";
import { Assist } from "./panels/assist.js";
import { askConflict } from "./panels/conflict.js";
import { byId } from "./panels/dom.js";
import { offerPresets, showHelp } from "./panels/help.js";
import { Images } from "./panels/images.js";
import { LabelPanels } from "./panels/labels.js";
import { dressButtons, Status } from "./panels/status.js";
import { listenToolbar, showOptions, showToolbar } from "./panels/toolbar.js";
import { Training } from "./panels/training.js";
import { Pointers } from "./pointers.js";
import { Settings } from "./settings.js";
import { Labelling } from "./state.js";
import { BoxTool } from "./tools/box.js";
import { Brush } from "./tools/brush.js";
import { PointTool } from "./tools/point.js";
import { Polygon } from "./tools/polygon.js";
import { Scribble } from "./tools/scribble.js";
import { Select } from "./tools/select.js";
import { Smart } from "./tools/smart.js";

/**
 * @typedef {import("./state.js").Thing} Thing
 * @typedef {object} Tool what every tool can do; what is left out does nothing
 * @property {(event: PointerEvent, point: number[]) => boolean} down false: there is nothing for it to do there
 * @property {(event: PointerEvent, point: number[]) => void} [move]
 * @property {(event: PointerEvent, point: number[]) => void} [up]
 * @property {() => boolean} cancel drop the draft; whether there was one
 * @property {() => boolean} [back] take back the draft's last step; whether there was one
 * @property {() => boolean} [finish] the draft becomes an object; whether there was one
 * @property {() => void} [leave] the pointer is gone
 * @property {(scene: Scene) => void} [draw]
 * @property {() => string | null} [replaces] the object that the draft stands for
 */

export class App {
  constructor() {
    /** @type {any} what /api/project says */
    this.project = null;
    this.image = "";
    this.isOpen = false;
    this.category = 1;
    /** Clicks say "off the object" without a key, as on a touch screen. */
    this.turned = false;
    this.settings = new Settings(localStorage);
    this.labelling = new Labelling();
    this.scene = new Scene(byId("canvas"), this.labelling, (category) => this.project?.categories[category]?.color ?? "#808080");
    this.keys = new Keys(localStorage);
    this.journal = new Journal("");
    this.images = new Images(this);
    this.panels = new LabelPanels(this);
    this.assist = new Assist(this);
    this.training = new Training(this);
    this.status = new Status(this);
    this.tools = {
      select: new Select(this), smart: new Smart(this), brush: new Brush(this, 1), eraser: new Brush(this, 0),
      polygon: new Polygon(this), box: new BoxTool(this), scribble: new Scribble(this), point: new PointTool(this),
    };
    /** @type {keyof App["tools"]} */
    this.toolName = "smart";
    /** @type {Tool} */
    this.tool = this.tools.smart;
    this.opening = 0;
  }

  async start() {
    this.project = await client.project();
    byId("dataset").textContent = this.project.name;
    document.title = `${this.project.name} · maskwright`;
    this.journal = new Journal(this.project.key);
    this.#listen();
    bindKeys(this, () => showHelp(this));
    this.keys.listen(window);
    listenToolbar(this);
    this.setTool("smart");
    await this.journal.open();
    await this.images.load();
    if (!this.images.images.length) {
      this.message("There are no images in this dataset. Put some into its folder, and start `maskwright label` again.");
      return;
    }
    this.panels.categories();
    this.assist.show();
    await this.go(Math.max(0, this.images.numberOf(decodeURIComponent(location.hash.slice(1)))));
    offerPresets(this);
    this.status.watchSam();
    await this.training.start();
  }

  #listen() {
    const { labelling, journal } = this;
    dressButtons(this);
    new Pointers(this, byId("canvas"));
    labelling.addEventListener("labels", () => this.show());
    labelling.addEventListener("selection", () => {
      this.panels.objects();
      this.showOptions();
      this.scene.ask();
    });
    labelling.addEventListener("operations", (event) => journal.add(this.image, labelling.rev, /** @type {CustomEvent} */ (event).detail));
    this.status.listen();
    journal.addEventListener("saved", (event) => this.#saved(/** @type {CustomEvent} */ (event).detail));
    journal.addEventListener("refused", (event) => this.#reload(/** @type {CustomEvent} */ (event).detail));
    journal.addEventListener("settled", (event) => {
      const { image, theirs } = /** @type {CustomEvent} */ (event).detail;
      if (image === this.image) labelling.open(theirs, journal.unsent(image));
    });
    journal.addEventListener("conflict", (event) => askConflict(this, /** @type {CustomEvent} */ (event).detail));
    window.addEventListener("pagehide", () => journal.flush());
    window.addEventListener("beforeunload", (event) => {
      if (journal.isAtRisk) event.preventDefault();
    });
    window.addEventListener("online", () => journal.flush());
  }

  /** @param {{image: string, isAlone: boolean, annotations: import("./state.js").Labels}} answer */
  #saved({ image, isAlone, annotations }) {
    if (image !== this.image) return;
    // With nothing left to send, what the server has is the truth: another window may have added to it. With changes on their way,
    // the revision stays the one that was seen, so that a clash with what was not is noticed.
    if (!this.journal.unsent(image).length) this.labelling.take(annotations);
    else if (isAlone) this.labelling.rev = annotations.rev;
  }

  /** The server will never take a change: back to what it has. @param {{image: string, message: string}} refusal */
  async #reload({ image, message }) {
    this.tell(`Not saved: ${message}`, "error");
    if (image !== this.image) return;
    const labels = await client.annotations(image);
    if (image === this.image) this.labelling.open(labels, this.journal.unsent(image));
  }

  // ------------------------------------------------------------------------------------------------ images

  /** Open an image of the list. @param {number} number */
  async go(number) {
    if (number < 0 || number >= this.images.images.length) return;
    const opening = ++this.opening;
    delete document.body.dataset.image;
    const hadDraft = this.tool.cancel();
    for (const tool of Object.values(this.tools)) tool.cancel();
    if (this.image) this.assist.leave();
    this.tell(hadDraft ? "The draft that was not finished is dropped" : "");
    this.journal.flush();
    const { id, name } = this.images.images[number];
    this.image = id;
    this.isOpen = false;
    this.images.select(number);
    this.status.showImage(name, number);
    history.replaceState(null, "", `#${encodeURIComponent(id)}`);
    this.message("");
    this.scene.clear();
    this.scene.tiles.close();
    try {
      const [description, labels] = await Promise.all([client.image(id), client.annotations(id)]);
      if (opening !== this.opening) return;
      this.isOpen = true;
      this.scene.tiles.open(id, description);
      this.scene.view.resize();
      this.scene.view.fit(description.width, description.height);
      this.scene.isFitted = true;
      this.labelling.open(labels, this.journal.unsent(id));
      document.body.dataset.image = id;
      this.assist.show();
      this.status.showZoom();
      this.status.embed(number);
    } catch (error) {
      if (opening !== this.opening) return;
      this.labelling.open({ rev: 0, objects: [], tags: null, nothing: false, done: false });
      this.message(`${name}: ${/** @type {Error} */ (error).message}`);
    }
    this.scene.ask();
  }

  /** Say that nothing is missing, and go on. */
  async finish() {
    if (!this.isOpen) return;
    this.tool.finish?.();
    if (!this.labelling.done) this.labelling.change([{ op: "done", value: true }]);
    const finished = this.images.at;
    await this.journal.flush();
    // Whoever has opened another image meanwhile stays there.
    if (this.images.at !== finished) return;
    const next = this.images.nextOpen();
    if (next === null) this.tell("Every image is done");
    else await this.go(next);
  }

  // ------------------------------------------------------------------------------------------------ labels

  /** A new object of the category in hand. @param {Partial<Thing> & {kind: Thing["kind"], source: string}} fields */
  add(fields) {
    const object = { id: newId(), category: this.category, ...fields };
    /** @type {import("./state.js").Operation[]} */
    const first = this.labelling.nothing && object.category ? [{ op: "nothing", value: false }] : [];
    this.labelling.change([...first, { op: "put", object }]);
    if (object.kind === "mask" || object.kind === "box") this.labelling.select(object.id);
    const { length } = this.scene.proposals;
    this.tell(`${object.category ? this.project.categories[object.category]?.name : "not an object"}: ${object.kind} added${length ? `; ${length} proposals wait` : ""}`);
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
      if (this.labelling.locked.has(selected.id)) this.tell("The selected object is locked (L)", "error");
      else this.labelling.change([{ op: "put", object: { ...selected, category } }]);
    }
    this.panels.categories();
    this.showOptions();
    this.scene.ask();
  }

  toggleNothing() {
    const { labelling } = this;
    if (!this.isOpen) return;
    if (!labelling.nothing && [...labelling.objects.values()].some((each) => each.category !== 0)) {
      this.tell("There are objects in this image; delete them first, or undo", "error");
      return;
    }
    const value = !labelling.nothing;
    labelling.change([{ op: "nothing", value }, { op: "done", value }]);
    this.tell(value ? "Nothing to see here: saved as an image without objects" : "");
  }

  remove() {
    const { labelling } = this, { selection } = labelling;
    if (!selection) return;
    if (labelling.locked.has(selection.id)) this.tell("The selected object is locked (L)", "error");
    else {
      labelling.change([{ op: "delete", object_id: selection.id }]);
      this.tell(`${selection.kind} deleted; Ctrl+Z brings it back`);
    }
  }

  /** @param {"hidden" | "locked"} what */
  toggle(what) {
    if (this.labelling.selected) this.labelling.toggle(this.labelling.selected, what);
  }

  /** @param {1 | -1} step */
  raise(step) {
    if (this.labelling.selected) this.labelling.raise(this.labelling.selected, step);
  }

  /** The draft, else the proposals. */
  accept() {
    if (!this.tool.finish?.()) this.assist.accept();
  }

  /** A draft uses up its own steps first, and never touches finished objects. */
  undo() {
    if (this.tool.back?.() || this.tool.cancel() || this.assist.reject()) return;
    this.tell(this.labelling.undo() ? "Undone" : "There is nothing to undo");
  }

  redo() {
    this.tell(this.labelling.redo() ? "Done again" : "There is nothing to do again");
  }

  // ------------------------------------------------------------------------------------------------ tools and view

  /** @param {keyof App["tools"]} name */
  setTool(name) {
    if (this.tool !== this.tools[name]) {
      this.tool.cancel();
      this.tool.leave?.();
    }
    this.toolName = name;
    this.tool = this.tools[name];
    this.scene.tool = this.tool;
    document.body.dataset.tool = name;
    showToolbar(this);
    this.showOptions();
    this.scene.ask();
  }

  showOptions() {
    if (this.project) showOptions(this);
  }

  turn() {
    this.turned = !this.turned;
    this.showOptions();
  }

  /** Whether a click says "off the object". @param {PointerEvent} event */
  isNegative(event) {
    return (event.button === 2 || event.altKey || event.shiftKey) !== this.turned;
  }

  get brushSize() {
    return this.settings.brush;
  }

  /** @param {number} size in image pixels */
  setBrush(size) {
    this.settings.brush = size;
    this.scene.ask();
  }

  /** @param {1 | -1} way */
  resizeBrush(way) {
    this.setBrush(this.brushSize + way * Math.max(1, this.brushSize / 8));
    this.showOptions();
  }

  /** @param {number} factor @param {{clientX: number, clientY: number}} [place] which stays where it is */
  zoom(factor, place) {
    this.scene.view.zoomBy(factor, place);
    this.#moved();
  }

  /** @param {number} dx in CSS pixels @param {number} dy */
  pan(dx, dy) {
    this.scene.view.pan(dx, dy);
    this.#moved();
  }

  #moved() {
    this.scene.isFitted = false;
    this.status.showZoom();
    this.scene.ask();
  }

  fit() {
    this.scene.fit();
    this.status.showZoom();
  }

  /** @param {boolean} on */
  peek(on) {
    if (this.scene.peeking === on) return;
    this.scene.peeking = on;
    this.scene.ask();
  }

  /** @param {number[]} point */
  showPixel(point) {
    byId("pixel").textContent = this.isOpen && this.scene.view.isInside(point) ? `x ${Math.floor(point[0])}, y ${Math.floor(point[1])}` : "";
  }

  // ------------------------------------------------------------------------------------------------ what is said

  /** @param {string} text @param {"" | "error"} [kind] */
  tell(text, kind = "") {
    const told = byId("told");
    told.textContent = text;
    told.title = text;
    told.dataset.kind = kind;
  }

  /** @param {string} text */
  message(text) {
    byId("message").textContent = text;
    byId("message").hidden = !text;
  }

  /** What depends on the labels. */
  show() {
    this.status.showLabels();
    this.panels.objects();
    this.panels.tags();
    this.images.update(this.images.at, this.labelling);
    this.showOptions();
    this.scene.ask();
  }

  async refreshProject() {
    const before = this.project.runs.length;
    this.project = await client.project();
    this.panels.categories();
    this.assist.show();
    if (this.project.runs.length > before) this.tell("The training has left a model: it can propose masks now (M)");
  }
}

new App().start().catch((error) => {
  byId("message").textContent = error.message;
  byId("message").hidden = false;
});
