// Categories, tags, and the objects of the image.

import { client } from "../client.js";
import { area } from "../masks.js";
import { byId, element, Rows } from "./dom.js";

const KINDS = { mask: "mask", box: "box", scribble: "scribble", point: "point" };

export class LabelPanels {
  /** @param {import("../main.js").App} app */
  constructor(app) {
    this.app = app;
    /** @type {import("../state.js").Thing[]} */
    this.things = [];
    this.rows = new Rows(byId("objects"), 36, (row, number) => this.#fill(row, number));
    byId("objects").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (!step || !this.things.length) return;
      event.preventDefault();
      const at = this.things.findIndex((each) => each.id === app.labelling.selected);
      app.labelling.select(this.things[Math.min(this.things.length - 1, Math.max(0, at + step))].id);
    });
    byId("new-category").addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      this.#add(byId("category-name").value.trim());
    });
  }

  /** @param {string} name */
  async #add(name) {
    if (!name) return;
    try {
      const made = await client.addCategory(name);
      this.app.project.categories.push(made);
      byId("category-name").value = "";
      this.app.setCategory(made.id);
      byId("canvas").focus();
    } catch (error) {
      this.app.tell(/** @type {Error} */ (error).message, "error");
    }
  }

  categories() {
    const box = byId("categories");
    box.replaceChildren(
      ...this.app.project.categories.slice(1).map((/** @type {any} */ each) => {
        const swatch = element("span", { className: "swatch" });
        swatch.style.background = each.color;
        const key = each.id <= 10 ? [element("kbd", { textContent: String(each.id % 10) })] : [];
        const button = element("button", { className: "category", role: "radio", "aria-checked": String(each.id === this.app.category), type: "button" }, [
          swatch,
          element("span", { textContent: each.name }),
          ...key,
        ]);
        button.addEventListener("click", () => this.app.setCategory(each.id));
        return button;
      }),
    );
    this.tags();
  }

  tags() {
    const { labelling } = this.app;
    byId("tags").replaceChildren(
      ...this.app.project.categories.slice(1).map((/** @type {any} */ each) => {
        const on = labelling.tags?.includes(each.id) ?? false;
        const button = element("button", { textContent: each.name, "aria-pressed": String(on), type: "button" });
        button.addEventListener("click", () => {
          const rest = (labelling.tags ?? []).filter((id) => id !== each.id);
          const tags = on ? rest : [...rest, each.id].sort((a, b) => a - b);
          labelling.change([{ op: "tags", tags: tags.length ? tags : null }]);
        });
        return button;
      }),
    );
  }

  objects() {
    this.things = [...this.app.labelling.objects.values()].reverse();
    byId("object-count").textContent = this.things.length ? String(this.things.length) : "";
    this.rows.resize(this.things.length);
    const at = this.things.findIndex((each) => each.id === this.app.labelling.selected);
    if (at >= 0) this.rows.reveal(at);
  }

  /** @param {HTMLElement} row @param {number} number */
  #fill(row, number) {
    const thing = this.things[number], { labelling } = this.app;
    const category = this.app.project.categories[thing.category];
    const swatch = element("span", { className: "swatch" });
    swatch.style.background = category?.color ?? "#808080";
    const size = thing.mask ? ` ${area(thing.mask).toLocaleString("en")} px` : "";
    const hidden = labelling.isHidden(thing.id);
    const eye = element("button", { className: "eye", textContent: hidden ? "○" : "◉", title: "Hide or show (H)", "aria-label": `${hidden ? "Show" : "Hide"} this object`, type: "button" });
    eye.addEventListener("click", (event) => {
      event.stopPropagation();
      this.app.hide(thing.id);
    });
    row.setAttribute("aria-selected", String(thing.id === labelling.selected));
    row.append(
      swatch,
      element("div", { className: "text" }, [
        element("span", { textContent: `${thing.category === 0 ? "not an object" : category?.name ?? "unknown"}` }),
      ]),
      element("small", { textContent: KINDS[thing.kind] + size }),
      eye,
    );
    row.addEventListener("click", () => labelling.select(thing.id));
  }
}
