// Training from the page: a process of its own, with its curve, its log and the time that is left.

import { client } from "../client.js";
import { byId, element } from "./dom.js";

const POLL = 2000;

export class Training {
  /** @param {import("../main.js").App} app */
  constructor(app) {
    this.app = app;
    /** @type {any[]} */
    this.jobs = [];
    this.minutes = 10;
    this.recipe = "samix";
    this.log = "";
    this.read = 0;
    this.opened = false;
    /** @type {string | null} */
    this.shown = null;
  }

  async start() {
    await this.poll();
    setInterval(() => this.poll(), POLL);
  }

  async poll() {
    if (document.hidden) return;
    try {
      const before = this.jobs[0]?.run;
      this.jobs = (await client.jobs()).jobs;
      const newest = this.jobs[0];
      if (newest && newest.id !== this.shown) {
        this.shown = newest.id;
        this.log = "";
        this.read = 0;
      }
      if (newest && this.opened) {
        const piece = await client.log(newest.id, this.read);
        this.log = (this.log + piece.text).slice(-20000);
        this.read = piece.next;
      }
      if (newest?.run && newest.run !== before) await this.app.refreshProject();
    } catch {
      return; // the journal says when the server is gone
    }
    if (!byId("training").contains(document.activeElement) || !(document.activeElement instanceof HTMLInputElement)) this.show();
  }

  show() {
    const newest = this.jobs[0];
    const recipe = element("select", { "aria-label": "Recipe", id: "recipe" }, ["samix", "s4m"].map((name) => element("option", { value: name, textContent: name, selected: name === this.recipe })));
    recipe.addEventListener("change", () => { this.recipe = recipe.value; });
    const minutes = element("input", { type: "number", min: "1", max: "1440", value: String(this.minutes), "aria-label": "Minutes", id: "minutes" });
    minutes.addEventListener("change", () => { this.minutes = Number(minutes.value); });
    const running = newest?.state === "running";
    const go = element("button", { textContent: running ? "Stop" : "Train", type: "button", id: "train" });
    go.addEventListener("click", () => this.#press(running ? newest.id : null));
    const lines = [element("div", { className: "line" }, running ? [go] : [recipe, minutes, "min", go])];
    if (newest) {
      const left = running ? `, about ${Math.ceil(newest.left_seconds / 60)} min left` : "";
      const steps = newest.steps ? `, step ${newest.step} of ${newest.steps}` : "";
      const score = newest.score === null ? "" : `, score ${newest.score.toFixed(3)}`;
      lines.push(element("div", { className: "line quiet", textContent: `${newest.recipe}: ${newest.state}${steps}${score}${left}` }));
      if (newest.curve.length > 1) lines.push(/** @type {any} */ (curve(newest.curve)));
      const details = element("details", { open: this.opened }, [element("summary", { className: "quiet", textContent: "Log" })]);
      details.append(element("pre", { className: "log", textContent: this.log || "…", tabIndex: 0 }));
      details.addEventListener("toggle", () => {
        if (this.opened === details.open) return;
        this.opened = details.open;
        this.poll();
      });
      lines.push(/** @type {any} */ (details));
    }
    byId("training").replaceChildren(...lines);
    const log = byId("training").querySelector(".log");
    if (log) log.scrollTop = log.scrollHeight;
  }

  /** @param {string | null} running */
  async #press(running) {
    try {
      if (running) await client.stop(running);
      else {
        await this.app.journal.flush();
        await client.train(this.recipe, this.minutes);
      }
      await this.poll();
      this.show();
    } catch (error) {
      this.app.tell(/** @type {Error} */ (error).message, "error");
    }
  }
}

/** @param {number[][]} points step, score @returns {SVGSVGElement} */
function curve(points) {
  const space = "http://www.w3.org/2000/svg";
  const svg = /** @type {SVGSVGElement} */ (document.createElementNS(space, "svg"));
  svg.setAttribute("viewBox", "0 0 100 50");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("class", "curve");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `validation score, ${points.length} values, the last ${points[points.length - 1][1].toFixed(3)}`);
  const last = points[points.length - 1][0] || 1;
  const top = Math.max(...points.map((p) => p[1]), 1e-6);
  const line = document.createElementNS(space, "polyline");
  line.setAttribute("points", points.map(([x, y]) => `${(100 * x) / last},${48 - (46 * y) / top}`).join(" "));
  svg.append(line);
  return svg;
}
