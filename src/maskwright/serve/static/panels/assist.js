// Proposals for the whole image: from a trained run, or carried over from an image that has masks.

import { client } from "../client.js";
import { fromRuns } from "../masks.js";
import { byId, element } from "./dom.js";

export class Assist {
  /** @param {import("../main.js").App} app */
  constructor(app) {
    this.app = app;
    /** @type {any[]} */
    this.objects = [];
    /** The last image with masks that was looked at: the example. @type {{id: string, name: string} | null} */
    this.example = null;
    this.busy = false;
  }

  show() {
    const { app } = this, box = byId("assist");
    const runs = app.project.runs;
    const select = element("select", { id: "runs", "aria-label": "Trained run" }, runs.map((/** @type {any} */ run) =>
      element("option", { value: run.id, textContent: `${run.id}${run.score === null ? "" : ` · ${run.score.toFixed(3)}`}` })));
    const ask = element("button", { textContent: "Propose", title: "What the trained run sees in this image (M)", type: "button", disabled: this.busy || !runs.length });
    ask.addEventListener("click", () => this.fromRun(select.value));
    const example = this.example && this.example.id !== app.image ? this.example : null;
    const carry = element("button", { textContent: "Like the last one", title: example ? `Carry the masks of ${example.name} over (T)` : "Label an image with masks first", type: "button", disabled: this.busy || !example });
    carry.addEventListener("click", () => this.fromExample());
    const accept = element("button", { textContent: `Accept ${this.objects.length}`, className: "primary", title: "Accept all (Enter)", type: "button" });
    accept.addEventListener("click", () => this.accept());
    const drop = element("button", { textContent: "Reject", title: "Reject (Esc)", type: "button" });
    drop.addEventListener("click", () => this.reject());
    const lines = [element("div", { className: "line" }, runs.length ? [select, ask] : []), element("div", { className: "line" }, [carry])];
    if (!runs.length) lines[0].append(element("span", { className: "quiet", textContent: "A training gives proposals here." }));
    if (this.busy) lines.push(element("div", { className: "line quiet", textContent: "Working…" }));
    if (this.objects.length) {
      const mean = this.objects.reduce((sum, each) => sum + each.score, 0) / this.objects.length;
      lines.push(element("div", { className: "line" }, [accept, drop, element("span", { className: "quiet", textContent: `confidence ${mean.toFixed(2)}` })]));
    }
    box.replaceChildren(...lines);
  }

  /** @param {string} run */
  fromRun(run) {
    if (run) return this.#ask({ from: "run", run });
    return undefined;
  }

  fromExample() {
    if (this.example && this.example.id !== this.app.image) return this.#ask({ from: "example", image: this.example.id });
    this.app.tell("Label an image with masks first: it is the example");
    return undefined;
  }

  /** @param {any} body */
  async #ask(body) {
    const image = this.app.image;
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
      this.app.tell(/** @type {Error} */ (error).message, "error");
    } finally {
      this.busy = false;
      this.app.scene.ask();
      this.show();
    }
  }

  accept() {
    if (!this.objects.length) return false;
    const { labelling } = this.app;
    const operations = this.objects.map((each) => ({
      op: "put",
      object: { id: crypto.randomUUID(), kind: each.kind, category: each.category, source: "proposal", mask: each.mask },
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
    const { labelling, images } = this.app;
    if ([...labelling.objects.values()].some((each) => each.kind === "mask")) {
      const image = images.images[images.at];
      this.example = { id: image.id, name: image.name };
    }
    this.objects = [];
    this.app.scene.proposals = [];
  }
}
