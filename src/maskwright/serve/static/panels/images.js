// The list of images, with what each has.

import { client } from "../client.js";
import { byId, element, Rows } from "./dom.js";

const MARKS = { unlabelled: "○", weak: "◐", mask: "●", checked: "✓" };
const NAMES = { unlabelled: "no label", weak: "weak", mask: "mask", checked: "done" };

export class Images {
  /** @param {import("../main.js").App} app */
  constructor(app) {
    this.app = app;
    /** @type {any[]} */
    this.images = [];
    this.at = 0;
    this.rows = new Rows(byId("images"), 56, (row, number) => this.#fill(row, number));
    byId("images").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      this.app.go(this.at + step);
    });
  }

  async load() {
    /** @type {number | null} */
    let cursor = 0;
    while (cursor !== null) {
      const answer = await client.images(cursor);
      this.images.push(...answer.images);
      cursor = answer.next;
      this.rows.resize(this.images.length);
    }
    this.counts();
  }

  /** @param {number} number */
  select(number) {
    this.at = number;
    this.rows.refresh();
    this.rows.reveal(number);
    byId("images").setAttribute("aria-activedescendant", `image-${number}`);
  }

  /** What the labels on the screen make of an image. @param {number} number @param {import("../state.js").Labelling} labelling */
  update(number, labelling) {
    const image = this.images[number];
    if (!image) return;
    const kinds = new Set([...labelling.objects.values()].map((each) => each.kind));
    const draws = kinds.has("mask");
    const weak = kinds.size > Number(draws) || labelling.tags !== null;
    const state = labelling.done ? "checked" : labelling.nothing ? "mask" : weak ? "weak" : "unlabelled";
    const draft = draws && !labelling.done;
    if (image.state === state && image.draft === draft) return;
    image.state = state;
    image.draft = draft;
    this.rows.refresh();
    this.counts();
  }

  counts() {
    const counts = { checked: 0, mask: 0, weak: 0, unlabelled: 0 };
    for (const image of this.images) counts[/** @type {keyof typeof counts} */ (image.state)] += 1;
    byId("counts").textContent = `${counts.checked + counts.mask} of ${this.images.length} done · ${counts.weak} weak`;
  }

  /** The next image after this one that is not done; null where all are. */
  nextOpen() {
    const count = this.images.length;
    for (let step = 1; step < count; step += 1) {
      const number = (this.at + step) % count;
      if (!["checked", "mask"].includes(this.images[number].state)) return number;
    }
    return null;
  }

  /** @param {HTMLElement} row @param {number} number */
  #fill(row, number) {
    const image = this.images[number];
    const state = /** @type {keyof typeof MARKS} */ (image.state);
    row.id = `image-${number}`;
    row.setAttribute("aria-selected", String(number === this.at));
    const said = image.draft ? `${NAMES[state]}, draft` : NAMES[state];
    row.append(
      element("img", { src: client.thumbnail(image.id), alt: "", loading: "lazy", decoding: "async" }),
      element("div", { className: "text" }, [
        element("span", { textContent: image.name, title: image.name }),
        element("small", { textContent: image.suggestion ? `${said} · next` : said }),
      ]),
      element("span", { className: "mark", textContent: MARKS[state], "aria-hidden": "true" }),
    );
    row.addEventListener("click", () => this.app.go(number));
  }
}
