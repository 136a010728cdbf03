// The list of images, with what each has.

import { client } from "../client.js";
import { icon } from "../icons.js";
import { byId, element, Rows } from "./dom.js";

/** @typedef {"unlabelled" | "weak" | "mask" | "checked"} State */

const NAMES = { unlabelled: "no label", weak: "weak", mask: "mask", checked: "done" };

/**
 * Whether a suggested image is still to be done: a mask that is to be looked at until someone says that it is right.
 * @param {any} image
 */
export function isDue(image) {
  const { suggestion, state } = image;
  return Boolean(suggestion) && state !== "checked" && (suggestion.look || state !== "mask");
}

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
      if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
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

  /** Where an image stands in the list; -1 where it does not. @param {string} id */
  numberOf(id) {
    return this.images.findIndex((each) => each.id === id);
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
    /** @type {Record<State, number>} */
    const counts = { checked: 0, mask: 0, weak: 0, unlabelled: 0 };
    for (const image of this.images) counts[/** @type {State} */ (image.state)] += 1;
    const done = counts.checked + counts.mask, share = this.images.length ? done / this.images.length : 0;
    byId("counts").textContent = `${done} of ${this.images.length} done${counts.weak ? `, ${counts.weak} weak` : ""}`;
    byId("progress").value = share;
  }

  /** The image to do next: the one that is suggested first, else the next one in the list that is not done; null where all are. */
  nextOpen() {
    const count = this.images.length;
    const open = this.images.filter((each, number) => number !== this.at && isDue(each));
    if (open.length) return this.images.indexOf(open.reduce((a, b) => (b.suggestion.rank < a.suggestion.rank ? b : a)));
    for (let step = 1; step < count; step += 1) {
      const number = (this.at + step) % count;
      if (!["checked", "mask"].includes(this.images[number].state)) return number;
    }
    return null;
  }

  /** @param {HTMLElement} row @param {number} number */
  #fill(row, number) {
    const image = this.images[number], state = /** @type {State} */ (image.state);
    row.id = `image-${number}`;
    row.setAttribute("aria-selected", String(number === this.at));
    const said = [state === "unlabelled" && image.draft ? "draft" : NAMES[state]];
    if (state === "weak" && image.draft) said.push("draft");
    if (image.suggestion) said.push(`${image.suggestion.look ? "suspect" : "suggested"} ${image.suggestion.rank}: ${image.suggestion.kind}`);
    const mark = element("span", { className: "mark", "aria-hidden": "true" }, state === "checked" ? [icon("check")] : []);
    mark.dataset.state = state;
    const reason = image.suggestion?.reason ?? "";
    row.append(
      element("img", { src: client.thumbnail(image.id), alt: "", loading: "lazy", decoding: "async" }),
      element("div", { className: "text" }, [
        element("span", { textContent: image.name, title: image.name }),
        element("small", { textContent: said.join(" · "), title: reason }),
      ]),
      mark,
    );
    row.addEventListener("click", () => this.app.go(number));
  }
}
