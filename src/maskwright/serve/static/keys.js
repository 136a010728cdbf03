// Keys: one table, from which the help is made. Letters go by what they write, and by their place on layouts without Latin letters;
// nothing happens while somebody types, composes a character, or holds a key down.

/**
 * @typedef {{keys: string[], what: string, group: string, run: () => void, repeats?: boolean}} Binding
 */

/** @param {KeyboardEvent} event @returns {string} such as "Ctrl+Shift+z" */
export function nameOf(event) {
  let key = event.key;
  if (key.length === 1 && !/^[\x20-\x7e]$/.test(key)) {
    const letter = /^Key([A-Z])$/.exec(event.code);
    if (letter) key = letter[1].toLowerCase();
  }
  const isLetter = /^[a-z]$/i.test(key);
  if (isLetter) key = key.toLowerCase();
  const parts = [];
  if (event.ctrlKey || event.metaKey) parts.push("Ctrl");
  if (event.altKey) parts.push("Alt");
  // Of signs such as "?" the Shift is part of the key.
  if (event.shiftKey && (isLetter || key.length > 1)) parts.push("Shift");
  return [...parts, key === " " ? "Space" : key].join("+");
}

/** @param {EventTarget | null} target */
function isTyping(target) {
  return target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName)) &&
    !(target instanceof HTMLInputElement && ["range", "checkbox"].includes(target.type));
}

export class Keys {
  constructor() {
    /** @type {Binding[]} */
    this.bindings = [];
    /** @type {Binding[]} not in the help @readonly */
    this.silent = [];
    /** Single letters can be switched off (WCAG 2.1.4). */
    this.singles = localStorage.getItem("single keys") !== "off";
    window.addEventListener("keydown", (event) => this.#pressed(event));
  }

  /** @param {string} group @param {string} keys separated by spaces @param {string} what @param {() => void} run @param {boolean} [repeats] */
  bind(group, keys, what, run, repeats = false) {
    this.bindings.push({ keys: keys.split(" "), what, group, run, repeats });
  }

  /** The ten digits, one line in the help. @param {string} group @param {string} what @param {(digit: number) => void} run */
  bindDigits(group, what, run) {
    this.bindings.push({ keys: ["1", "…", "0"], what, group, run: () => {} });
    for (let digit = 0; digit < 10; digit += 1) this.silent.push({ keys: [String(digit)], what, group, run: () => run(digit) });
  }

  /** @param {boolean} on */
  useSingles(on) {
    this.singles = on;
    localStorage.setItem("single keys", on ? "on" : "off");
  }

  /** @param {KeyboardEvent} event */
  #pressed(event) {
    if (event.isComposing || event.keyCode === 229 || isTyping(event.target) || document.querySelector("dialog[open]")) return;
    const name = nameOf(event);
    const found = [...this.silent, ...this.bindings].find((each) => each.keys.includes(name));
    if (!found) return;
    const onButton = event.target instanceof HTMLButtonElement && (name === "Enter" || name === "Space");
    if (onButton || (event.repeat && !found.repeats)) return;
    if (!this.singles && name.length === 1 && /[a-z0-9`,.\[\]]/i.test(name)) return;
    event.preventDefault();
    found.run();
  }
}
