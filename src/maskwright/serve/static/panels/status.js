// Top and bottom: the image, whether it is saved, undo and redo, zoom, and what SAM is doing.

import { client } from "../client.js";
import { icon } from "../icons.js";
import { byId } from "./dom.js";
import { showHelp } from "./help.js";

const SAVES = { saved: "Saved", saving: "Saving…", offline: "Offline: kept here, retrying", conflict: "Conflict", failed: "Not saved yet, retrying", expired: "Logged out: kept here" };

/** Milliseconds between questions whether an image has been read by SAM. */
const PATIENCE = 250;

export class Status {
  /** @param {import("../main.js").App} app */
  constructor(app) {
    this.app = app;
    this.zoomed = "";
  }

  listen() {
    const { journal } = this.app, chip = byId("save");
    const show = (/** @type {string} */ why) => {
      chip.textContent = SAVES[journal.state];
      chip.title = why;
      chip.dataset.state = document.body.dataset.save = journal.state;
      if (why) this.app.tell(why, "error");
    };
    show("");
    journal.addEventListener("state", (event) => show(/** @type {CustomEvent} */ (event).detail));
    this.app.scene.tiles.onfail = (message) => this.app.tell(`The image cannot be shown: ${message}`, "error");
  }

  /** @param {string} name @param {number} number */
  showImage(name, number) {
    byId("image-name").textContent = byId("image-name").title = name;
    byId("image-count").textContent = `${number + 1} of ${this.app.images.images.length}`;
    byId("before").disabled = number === 0;
    byId("next").disabled = number === this.app.images.images.length - 1;
  }

  showZoom() {
    const { view } = this.app.scene, text = `${Math.round((100 * view.zoom) / view.ratio)} %`;
    if (text === this.zoomed) return;
    this.zoomed = text;
    byId("zoom").textContent = text;
  }

  showLabels() {
    const { labelling } = this.app, chip = byId("image-state");
    byId("undo").disabled = !labelling.past.length;
    byId("redo").disabled = !labelling.future.length;
    byId("nothing").setAttribute("aria-pressed", String(labelling.nothing));
    byId("done").setAttribute("aria-pressed", String(labelling.done));
    chip.textContent = labelling.done ? (labelling.nothing ? "Nothing here" : "Done") : labelling.objects.size || labelling.tags ? "In work" : "No labels";
    chip.dataset.state = labelling.done ? "checked" : "";
    document.body.dataset.objects = String(labelling.objects.size);
    document.body.dataset.rev = String(labelling.rev);
  }

  /** Let SAM read the image at hand, and the next one ahead. @param {number} number */
  async embed(number) {
    const { app } = this, { images } = app.images, image = images[number].id;
    if (["absent", "failed"].includes(app.project.sam.state)) return;
    try {
      while ((await client.embed(image)).state !== "ready") {
        if (app.image !== image) return;
        this.#chip("working", "SAM is reading the image…");
        await new Promise((resolve) => setTimeout(resolve, PATIENCE));
      }
      if (app.image !== image) return;
      document.body.dataset.embedded = image;
      this.#chip("ready", `${app.project.sam.id} ready`);
      if (images[number + 1]) await client.embed(images[number + 1].id);
    } catch (error) {
      if (app.image === image) this.#chip("absent", "SAM cannot read this image", error instanceof Error ? error.message : String(error));
    }
  }

  /** Until SAM is loaded, the tools of the hand work. */
  async watchSam() {
    const { app } = this;
    for (;;) {
      const { id, state, message } = app.project.sam;
      document.body.dataset.sam = state;
      if (state === "absent" || state === "failed") this.#chip(state, `${id} is not there; the other tools work`, message);
      if (state === "loading") this.#chip(state, `${id} is loading…`);
      if (state !== "loading") break;
      await new Promise((resolve) => setTimeout(resolve, 700));
      app.project.sam = (await client.project().catch(() => app.project)).sam;
    }
    if (app.project.sam.state === "ready") this.embed(app.images.at);
  }

  /** @param {string} state @param {string} text @param {string} [title] */
  #chip(state, text, title = "") {
    const chip = byId("sam");
    chip.textContent = text;
    chip.dataset.state = state;
    chip.title = title;
  }
}

/** Signs and deeds of the buttons that the page has from the start. @param {import("../main.js").App} app */
export function dressButtons(app) {
  /** @type {[string, string, () => void][]} */
  const buttons = [
    ["before", "before", () => app.go(app.images.at - 1)],
    ["next", "next", () => app.go(app.images.at + 1)],
    ["undo", "undo", () => app.undo()],
    ["redo", "redo", () => app.redo()],
    ["theme", "theme", toggleTheme],
    ["help-button", "help", () => showHelp(app)],
    ["zoom-out", "minus", () => app.zoom(0.8)],
    ["zoom-in", "plus", () => app.zoom(1.25)],
    ["fit", "fit", () => app.fit()],
    ["show-images", "list", () => openSide("images")],
    ["show-labels", "labels", () => openSide("labels")],
  ];
  for (const [id, name, run] of buttons) {
    byId(id).replaceChildren(icon(name));
    byId(id).addEventListener("click", run);
  }
  byId("nothing").addEventListener("click", () => app.toggleNothing());
  byId("done").addEventListener("click", () => app.finish());
  byId("canvas").addEventListener("pointerdown", () => openSide(""));
  const theme = localStorage.getItem("theme");
  if (theme) document.documentElement.dataset.theme = theme;
}

function toggleTheme() {
  const { dataset } = document.documentElement;
  const now = dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  dataset.theme = now === "dark" ? "light" : "dark";
  localStorage.setItem("theme", dataset.theme);
}

/** On small screens the sides lie over the image, one at a time. @param {string} which */
function openSide(which) {
  const { dataset } = document.body;
  dataset.side = dataset.side === which ? "" : which;
}
