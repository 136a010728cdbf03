// Proposals for the whole image: from a trained run, or carried over from an image that has masks.

import { client } from "../client.js";
import { newId } from "../ids.js";
import { fromRuns } from "../masks.js";
import { byId, element, textButton } from "./dom.js";

export class Assist {
  /** @param {import("../main.js").App} app */
  constructor(app) {
    this.app = app;
    /** @type {any[]} */
    this.objects = [];
    /** The last image with masks that was looked at: the example. @type {{id: string, name: string} | null} */
    this.example = null;
    this.busy = false;
    this.chosen = "";
  }

  show() {
    const { app, busy } = this, { runs } = app.project;
    const lines = [];
    if (runs.length) {
      const select = element("select", { id: "runs", "aria-label": "Trained run", disabled: busy }, runs.map(asOption));
      select.value = runs.some((/** @type {any} */ run) => run.id === this.chosen) ? this.chosen : runs.at(-1).id;
      select.addEventListener("change", () => {
        this.chosen = select.value;
      });
      lines.push(line(select, textButton("Propose", () => this.fromRun(select.value), { title: "What the trained run sees in this image (M)", disabled: busy })));
    }
    const example = this.example && this.example.id !== app.image ? this.example : null;
    const why = example ? `Carry the masks of ${example.name} over (T)` : "Label an image with masks first";
    lines.push(line(textButton("Like the last one", () => this.fromExample(), { title: why, disabled: busy || !example })));
    if (busy) lines.push(line(element("span", { className: "quiet", role: "status", textContent: "Looking at the image…" })));
    else if (this.objects.length) lines.push(this.#answer());
    else if (!runs.length) lines.push(element("p", { className: "quiet small", textContent: "A training gives a model that proposes masks here." }));
    byId("assist").replaceChildren(...lines);
  }

  #answer() {
    const mean = this.objects.reduce((sum, each) => sum + each.score, 0) / this.objects.length;
    return line(
      textButton(`Accept ${this.objects.length}`, () => this.accept(), { className: "primary", title: "Enter" }),
      textButton("Reject", () => this.reject(), { title: "Esc" }),
      element("span", { className: "quiet small", textContent: `confidence ${Math.round(100 * mean)} %` }),
    );
  }

  /** The run that was chosen, else the newest. */
  fromNewest() {
    const run = this.app.project.runs.at(-1);
    if (run) return this.fromRun(this.chosen || run.id);
    this.app.tell("There is no trained run yet; Train makes one");
    return undefined;
  }

  /** @param {string} run */
  fromRun(run) {
    return run ? this.#ask({ from: "run", run }) : undefined;
  }

  fromExample() {
    if (this.example && this.example.id !== this.app.image) return this.#ask({ from: "example", image: this.example.id });
    this.app.tell("Label an image with masks first: it is the example");
    return undefined;
  }

  /** @param {any} body */
  async #ask(body) {
    const image = this.app.image;
    if (this.busy || !this.app.isOpen) return;
    this.busy = true;
    this.show();
    try {
      await this.app.journal.flush();
      const answer = await client.propose(image, body);
      if (image !== this.app.image) return;
      this.objects = answer.objects;
      this.app.scene.proposals = this.objects.map((each) => ({ mask: fromRuns(each.mask), category: each.category, score: each.score }));
      this.app.tell(this.objects.length ? `${this.objects.length} proposed: Enter accepts, Esc rejects` : "Nothing found in this image");
    } catch (error) {
      if (image === this.app.image) this.app.tell(/** @type {Error} */ (error).message, "error");
    } finally {
      if (image === this.app.image) {
        this.busy = false;
        this.app.scene.ask();
        this.show();
      }
    }
  }

  accept() {
    if (!this.objects.length) return false;
    const { labelling } = this.app;
    const operations = this.objects.map((each) => ({
      op: "put",
      object: { id: newId(), kind: each.kind, category: each.category, source: "proposal", mask: each.mask },
    }));
    this.#clear();
    labelling.change([...(labelling.nothing ? [{ op: "nothing", value: false }] : []), .../** @type {any} */ (operations)]);
    return true;
  }

  reject() {
    const had = this.objects.length > 0;
    this.#clear();
    return had;
  }

  #clear() {
    this.objects = [];
    this.app.scene.proposals = [];
    this.app.scene.ask();
    this.show();
  }

  /** Another image is opened. */
  leave() {
    const { isOpen, labelling, images } = this.app;
    // An image that is left before its labels have come is no example: what is on the screen is of the one before.
    if (isOpen && [...labelling.objects.values()].some((each) => each.kind === "mask")) {
      const image = images.images[images.at];
      this.example = { id: image.id, name: image.name };
    }
    this.objects = [];
    this.app.scene.proposals = [];
    this.busy = false;
  }
}

/** @param {...Node} parts */
function line(...parts) {
  return element("div", { className: "line" }, parts);
}

/** @param {any} run */
function asOption(run) {
  const name = run.id === "given" ? "the run of --run" : run.recipe ? `${run.recipe} ${run.id}` : run.id;
  return element("option", { value: run.id, textContent: run.score === null ? name : `${name} · ${run.score.toFixed(3)}` });
}
