// Elements, made without HTML in strings: what comes from the dataset is text and nothing else.

import { icon } from "../icons.js";

/**
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag @param {Record<string, any>} [properties] attributes where the name has a dash, else properties
 * @param {(Node | string)[]} [children] @returns {HTMLElementTagNameMap[T]}
 */
export function element(tag, properties = {}, children = []) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "role" || name.includes("-")) made.setAttribute(name, String(value));
    else /** @type {any} */ (made)[name] = value;
  }
  made.append(...children);
  return made;
}

/** @param {string} id @returns {any} */
export function byId(id) {
  return document.getElementById(id);
}

/**
 * A list of any length: only the rows in sight exist.
 */
export class Rows {
  /**
   * @param {HTMLElement} list @param {number} height of a row in pixels
   * @param {(row: HTMLElement, number: number) => void} fill
   */
  constructor(list, height, fill) {
    this.list = list;
    this.height = height;
    this.fill = fill;
    this.count = 0;
    this.spacer = element("div", { className: "spacer" });
    list.append(this.spacer);
    /** @type {Map<number, HTMLElement>} */
    this.shown = new Map();
    list.addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => this.draw()).observe(list);
  }

  /** @param {number} count */
  resize(count) {
    this.count = count;
    this.spacer.style.height = `${count * this.height}px`;
    this.refresh();
  }

  /** All rows anew. */
  refresh() {
    for (const row of this.shown.values()) row.remove();
    this.shown.clear();
    this.draw();
  }

  draw() {
    const first = Math.max(0, Math.floor(this.list.scrollTop / this.height) - 4);
    const last = Math.min(this.count - 1, Math.ceil((this.list.scrollTop + this.list.clientHeight) / this.height) + 4);
    for (const [number, row] of this.shown) {
      if (number < first || number > last) {
        row.remove();
        this.shown.delete(number);
      }
    }
    for (let number = first; number <= last; number += 1) {
      if (this.shown.has(number)) continue;
      const row = element("div", { className: "row", role: "option" });
      row.style.top = `${number * this.height}px`;
      row.style.height = `${this.height}px`;
      this.fill(row, number);
      this.shown.set(number, row);
      this.list.append(row);
    }
  }

  /** @param {number} number */
  reveal(number) {
    const top = number * this.height;
    if (top < this.list.scrollTop) this.list.scrollTop = top;
    else if (top + this.height > this.list.scrollTop + this.list.clientHeight) this.list.scrollTop = top + this.height - this.list.clientHeight;
    this.draw();
  }
}

/** @param {string} text @param {() => void} run @param {Record<string, any>} [properties] */
export function textButton(text, run, properties = {}) {
  const button = element("button", { type: "button", textContent: text, ...properties });
  button.addEventListener("click", run);
  return button;
}

/** @param {string} name of an icon @param {string} what it does @param {() => void} run @param {Record<string, any>} [properties] */
export function iconButton(name, what, run, properties = {}) {
  const button = element("button", { type: "button", className: "icon-button", title: what, "aria-label": what, ...properties }, [icon(name)]);
  button.addEventListener("click", run);
  return button;
}

/**
 * Arrow keys go from one to the next of a group that Tab enters once.
 * @param {HTMLElement} group @param {string} selector of its parts @param {(part: HTMLElement) => void} choose
 */
export function moveInside(group, selector, choose) {
  group.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
    if (!step || event.ctrlKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    const parts = /** @type {HTMLElement[]} */ ([...group.querySelectorAll(selector)]);
    const at = parts.indexOf(/** @type {HTMLElement} */ (document.activeElement));
    const number = (at + step + parts.length) % parts.length;
    choose(parts[number]);
    // Choosing may have made the group anew.
    /** @type {HTMLElement | undefined} */ ([...group.querySelectorAll(selector)][number])?.focus();
  });
}
