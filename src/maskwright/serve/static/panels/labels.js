// Categories, tags, and the objects of the image.

import { client } from "../client.js";
import { icon } from "../icons.js";
import { area } from "../masks.js";
import { byId, element, iconButton, moveInside, Rows } from "./dom.js";

const KINDS = { mask: "mask", box: "box", scribble: "scribble", point: "point" };

export class LabelPanels {
  /** @param {import("../main.js").App} app */
  constructor(app) {
    this.app = app;
    /** @type {import("../state.js").Thing[]} */
    this.things = [];
    this.rows = new Rows(byId("objects"), 34, (row, number) => this.#fill(row, number));
    byId("objects").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (!step || event.altKey || event.ctrlKey || event.metaKey || !this.things.length) return;
      event.preventDefault();
      const at = this.things.findIndex((each) => each.id === app.labelling.selected);
      app.labelling.select(this.things[Math.min(this.things.length - 1, Math.max(0, at + step))].id);
    });
    moveInside(byId("categories"), "button", (button) => app.setCategory(Number(button.dataset.category)));
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
        const isOn = each.id === this.app.category;
        const properties = { className: "category", role: "radio", "aria-checked": String(isOn), type: "button", tabIndex: isOn ? 0 : -1 };
        const button = element("button", properties, [
          swatch,
          element("span", { textContent: each.name }),
          ...key,
        ]);
        button.dataset.category = String(each.id);
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
    const { labelling } = this.app, selected = labelling.selected;
    this.things = [...labelling.objects.values()].reverse();
    byId("objects-empty").hidden = this.things.length > 0;
    this.#deeds();
    byId("object-count").textContent = this.things.length ? String(this.things.length) : "";
    this.rows.resize(this.things.length);
    const at = this.things.findIndex((each) => each.id === selected);
    if (at >= 0) {
      this.rows.reveal(at);
      byId("objects").setAttribute("aria-activedescendant", `object-${selected}`);
    } else byId("objects").removeAttribute("aria-activedescendant");
  }

  /** What can be done with the selected object. */
  #deeds() {
    const { app } = this, { labelling } = app, id = labelling.selected;
    const isHidden = id !== null && labelling.isHidden(id), isLocked = id !== null && labelling.locked.has(id), none = { disabled: id === null };
    byId("deeds").replaceChildren(
      iconButton("up", "Lay higher (Alt+↑)", () => app.raise(1), none),
      iconButton("down", "Lay lower (Alt+↓)", () => app.raise(-1), none),
      iconButton(isHidden ? "hidden" : "eye", isHidden ? "Show (H)" : "Hide (H)", () => app.toggle("hidden"), { ...none, "aria-pressed": String(isHidden) }),
      iconButton(isLocked ? "locked" : "open", isLocked ? "Unlock (L)" : "Lock (L)", () => app.toggle("locked"), { ...none, "aria-pressed": String(isLocked) }),
      iconButton("trash", "Delete (Del)", () => app.remove(), none),
    );
  }

  /** @param {HTMLElement} row @param {number} number */
  #fill(row, number) {
    const thing = this.things[number], { labelling, project } = this.app;
    const category = project.categories[thing.category];
    const swatch = element("span", { className: "swatch" });
    swatch.style.background = thing.category ? category?.color ?? "#808080" : "#ffffff";
    const size = thing.mask ? `${area(thing.mask).toLocaleString("en")} px` : "";
    const signs = [];
    if (labelling.locked.has(thing.id)) signs.push(icon("locked"));
    if (labelling.isHidden(thing.id)) signs.push(icon("hidden"));
    row.id = `object-${thing.id}`;
    row.dataset.kind = thing.kind;
    row.setAttribute("aria-selected", String(thing.id === labelling.selected));
    row.append(
      swatch,
      element("span", { className: "text", textContent: thing.category === 0 ? "not an object" : category?.name ?? "unknown" }),
      ...signs,
      element("small", { textContent: [KINDS[thing.kind], size].filter(Boolean).join(" · ") }),
    );
    row.addEventListener("click", () => labelling.select(thing.id));
  }
}
