// Keys: one table, from which the help is made, and which the user can change. Letters go by what they write, and by their place on
// layouts without Latin letters; nothing happens while somebody types, composes a character, or holds a key down.

/**
 * @typedef {{id: string, keys: string[], standard: string[], what: string, group: string, run: (key: string) => void, repeats: boolean}} Binding
 * @typedef {{key: string, code: string, ctrlKey: boolean, metaKey: boolean, altKey: boolean, shiftKey: boolean,
 *   getModifierState?: (name: string) => boolean}} Press
 */

/**
 * Keys of other tools, for people who come from them. What is not named stays as it is.
 * @type {Record<string, Record<string, string>>}
 */
export const PRESETS = {
  maskwright: {},
  CVAT: { next: "f Ctrl+ArrowRight PageDown", before: "d Ctrl+ArrowLeft PageUp", fit: "Shift+f" },
  LabelMe: { next: "d Ctrl+ArrowRight PageDown", before: "a Ctrl+ArrowLeft PageUp", fit: "f Ctrl+f", select: "v Ctrl+j" },
  "Label Studio": { hide: "h Alt+h", lock: "l Alt+l", drop: "Escape u", nothing: "Shift+e Ctrl+Space" },
};

const DIGITS = [..."1234567890"];

/** @param {Press} event @returns {string} such as "Ctrl+Shift+z" */
export function nameOf(event) {
  let key = event.key;
  if (key.length === 1 && !/^[\x20-\x7e]$/.test(key)) {
    const letter = /^Key([A-Z])$/.exec(event.code);
    if (letter) key = letter[1].toLowerCase();
  }
  const isLetter = /^[a-z]$/i.test(key);
  if (isLetter) key = key.toLowerCase();
  const parts = [];
  // AltGr writes "[" and the like on many layouts, and says that it is Ctrl and Alt.
  const isWriting = event.getModifierState?.("AltGraph") ?? false;
  if ((event.ctrlKey || event.metaKey) && !isWriting) parts.push("Ctrl");
  if (event.altKey && !isWriting) parts.push("Alt");
  // Of signs such as "?" the Shift is part of the key.
  if (event.shiftKey && (isLetter || key.length > 1)) parts.push("Shift");
  return [...parts, key === " " ? "Space" : key].join("+");
}

/** What a digit's key is on layouts where digits need Shift. @param {Press} event */
function digitOf(event) {
  const digit = /^Digit(\d)$/.exec(event.code);
  return digit && !event.ctrlKey && !event.metaKey && !event.altKey ? digit[1] : "";
}

/** A key that writes, without Ctrl or Alt: it may be switched off (WCAG 2.1.4). @param {string} name */
export function isSingle(name) {
  return name.replace(/^Shift\+/, "").length === 1;
}

/** @param {EventTarget | null} target */
function isTyping(target) {
  return target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName)) &&
    !(target instanceof HTMLInputElement && ["range", "checkbox"].includes(target.type));
}

export class Keys {
  /** @param {Pick<Storage, "getItem" | "setItem">} storage */
  constructor(storage) {
    this.storage = storage;
    /** @type {Binding[]} */
    this.bindings = [];
    this.singles = storage.getItem("single keys") !== "off";
    /** @type {Record<string, string>} what the user has changed, by a binding's id */
    this.changed = read(storage.getItem("keys"));
  }

  /** @param {EventTarget} target */
  listen(target) {
    target.addEventListener("keydown", (event) => this.pressed(/** @type {KeyboardEvent} */ (event)));
  }

  /**
   * @param {string} id @param {string} group @param {string} keys separated by spaces @param {string} what
   * @param {(key: string) => void} run @param {boolean} [repeats]
   */
  bind(id, group, keys, what, run, repeats = false) {
    const standard = keys.split(" ");
    this.bindings.push({ id, keys: this.changed[id]?.split(" ").filter(Boolean) ?? standard, standard, what, group, run, repeats });
  }

  /** The ten digits are one binding. @param {string} id @param {string} group @param {string} what @param {(digit: number) => void} run */
  bindDigits(id, group, what, run) {
    this.bindings.push({ id, keys: DIGITS, standard: DIGITS, what, group, run: (key) => run(Number(key)), repeats: false });
  }

  /** Give a binding another key; takes it from whatever had it. @param {string} id @param {string} key @returns {string} what lost it */
  change(id, key) {
    let lost = "";
    for (const each of this.bindings) {
      if (each.id === id) this.#set(each, [key]);
      else if (each.keys.includes(key)) {
        lost = each.what;
        this.#set(each, each.keys.filter((other) => other !== key));
      }
    }
    return lost;
  }

  /** @param {string} name of PRESETS */
  use(name) {
    const preset = PRESETS[name];
    this.changed = {};
    for (const each of this.bindings) each.keys = each.standard;
    for (const [id, keys] of Object.entries(preset)) {
      for (const key of keys.split(" ")) this.#release(key, id);
      const found = this.bindings.find((each) => each.id === id);
      if (found) this.#set(found, keys.split(" "));
    }
    this.storage.setItem("keys", JSON.stringify(this.changed));
    this.storage.setItem("preset", name);
  }

  /** The preset in use, "" where none was ever chosen. */
  get preset() {
    return this.storage.getItem("preset") ?? "";
  }

  /** @param {boolean} on */
  useSingles(on) {
    this.singles = on;
    this.storage.setItem("single keys", on ? "on" : "off");
  }

  /** @param {string} key @param {string} except */
  #release(key, except) {
    for (const each of this.bindings) {
      if (each.id !== except && each.keys.includes(key)) this.#set(each, each.keys.filter((other) => other !== key));
    }
  }

  /** @param {Binding} binding @param {string[]} keys */
  #set(binding, keys) {
    binding.keys = keys;
    this.changed[binding.id] = keys.join(" ");
    this.storage.setItem("keys", JSON.stringify(this.changed));
  }

  /** @param {KeyboardEvent} event */
  pressed(event) {
    if (event.isComposing || event.keyCode === 229 || event.defaultPrevented || isTyping(event.target)) return;
    if (document.querySelector("dialog[open]")) return;
    let name = nameOf(event);
    let found = this.bindings.find((each) => each.keys.includes(name));
    if (!found && digitOf(event)) {
      name = digitOf(event);
      found = this.bindings.find((each) => each.keys.includes(name));
    }
    if (!found || (event.repeat && !found.repeats) || (!this.singles && isSingle(name))) return;
    if (event.target instanceof HTMLButtonElement && (name === "Enter" || name === "Space")) return;
    event.preventDefault();
    found.run(name);
  }
}

/** What was kept, where it is what we keep. @param {string | null} text @returns {Record<string, string>} */
function read(text) {
  try {
    const value = JSON.parse(text ?? "{}");
    return Object.fromEntries(Object.entries(value ?? {}).filter(([, keys]) => typeof keys === "string"));
  } catch {
    return {};
  }
}
