// The help sheet, made from the table of keys, which can be changed there; settings; and the offer of other tools' keys at first.

import { PRESETS, nameOf } from "../keys.js";
import { byId, element, textButton } from "./dom.js";
import { showToolbar } from "./toolbar.js";

/**
 * @typedef {import("../main.js").App} App
 * @typedef {import("../keys.js").Binding} Binding
 */

const SIGNS = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", Escape: "Esc", Delete: "Del", PageUp: "Page ↑", PageDown: "Page ↓" };

const MOUSE = [
  ["Arrow keys", "on the image: move a cross (Shift: by one pixel)"],
  ["Space", "press at the cross; begin and end a drag"],
  ["Wheel", "zoom at the pointer"],
  ["Space + drag, middle button", "move the image"],
  ["Right button, Alt or Shift", "off the object"],
  ["Ctrl + drag", "erase with the brush"],
  ["Alt + right drag", "size of the brush"],
  ["Two fingers", "zoom and move"],
];

/** @param {App} app */
export function showHelp(app) {
  const dialog = byId("help");
  fill(app, dialog);
  dialog.showModal();
  dialog.querySelector("#help-close").focus();
  dialog.scrollTop = 0;
}

/** @param {App} app @param {HTMLDialogElement} dialog */
function fill(app, dialog) {
  const { keys } = app;
  /** @type {Map<string, Binding[]>} */
  const groups = new Map();
  for (const each of keys.bindings) groups.set(each.group, [...(groups.get(each.group) ?? []), each]);
  const parts = [...groups].map(([name, bindings]) => section(name, bindings.map((each) => row(app, dialog, each))));
  const mouse = section("Image: keyboard, mouse, pen, fingers", MOUSE.map(([how, what]) => line([how], what)));
  dialog.replaceChildren(
    element("header", { className: "sheet-head" }, [
      element("h2", { id: "help-title", textContent: "Keys and settings" }),
      textButton("Close", () => dialog.close(), { className: "primary", id: "help-close" }),
    ]),
    settings(app, dialog),
    element("p", { className: "quiet", id: "key-told", role: "status", textContent: "Click a key to change it." }),
    element("div", { className: "sheet-columns" }, [...parts, mouse]),
  );
}

/** @param {App} app @param {HTMLDialogElement} dialog */
function settings(app, dialog) {
  const { keys } = app;
  const preset = element("select", { id: "preset" }, Object.keys(PRESETS).map((name) => element("option", { value: name, textContent: name, selected: name === (keys.preset || "maskwright") })));
  preset.addEventListener("change", () => {
    usePreset(app, preset.value);
    fill(app, dialog);
    byId("preset").focus();
  });
  return element("div", { className: "settings" }, [
    element("label", {}, ["Keys as in ", preset]),
    checkbox("single-keys", "Keys of a single letter", keys.singles, (on) => keys.useSingles(on)),
    checkbox("wheel-pans", "Wheel and trackpad move the image (Ctrl zooms)", app.settings.wheelPans, (on) => {
      app.settings.wheelPans = on;
    }),
    checkbox("previews", "SAM shows what a click would give", app.settings.previews, (on) => {
      app.settings.previews = on;
    }),
  ]);
}

/** @param {string} id @param {string} text @param {boolean} checked @param {(on: boolean) => void} change */
function checkbox(id, text, checked, change) {
  const box = element("input", { type: "checkbox", id, checked });
  box.addEventListener("change", () => change(box.checked));
  return element("label", {}, [box, ` ${text}`]);
}

/** @param {string} name @param {HTMLElement[]} rows */
function section(name, rows) {
  return element("section", {}, [element("h3", { textContent: name }), element("dl", {}, rows)]);
}

/** @param {(string | HTMLElement)[]} keys @param {string} what */
function line(keys, what) {
  const shown = keys.map((key) => (typeof key === "string" ? element("kbd", { textContent: key }) : key));
  return element("div", {}, [element("dt", {}, shown), element("dd", { textContent: what })]);
}

/** @param {App} app @param {HTMLDialogElement} dialog @param {Binding} binding */
function row(app, dialog, binding) {
  if (binding.keys.length === 10) return line(["1", "…", "0"], binding.what);
  const names = binding.keys.length ? binding.keys : [""];
  return line(names.map((key, number) => {
    const button = textButton(shownName(key) || "none", () => record(app, dialog, binding, button), { className: "key", title: `Change the key of “${binding.what}”` });
    if (!number) button.dataset.binding = binding.id;
    return button;
  }), binding.what);
}

/** The next key that is pressed becomes the binding's. @param {App} app @param {HTMLDialogElement} dialog @param {Binding} binding @param {HTMLButtonElement} button */
function record(app, dialog, binding, button) {
  button.textContent = "press a key…";
  byId("key-told").textContent = `The next key that you press is for “${binding.what}”; Esc leaves it as it is.`;
  const take = (/** @type {KeyboardEvent} */ event) => {
    if (["Control", "Shift", "Alt", "Meta", "AltGraph"].includes(event.key)) return;
    event.preventDefault();
    event.stopPropagation();
    stop();
    let told = "Nothing is changed.";
    if (event.key !== "Escape" && event.key !== "Tab") {
      const lost = app.keys.change(binding.id, nameOf(event));
      told = `${shownName(nameOf(event))}: ${binding.what}.${lost ? ` “${lost}” had it, and has one key less.` : ""}`;
      showToolbar(app);
    }
    fill(app, dialog);
    byId("key-told").textContent = told;
    /** @type {HTMLElement | null} */ (dialog.querySelector(`[data-binding="${binding.id}"]`))?.focus();
  };
  const stop = () => {
    window.removeEventListener("keydown", take, true);
    button.removeEventListener("blur", stop);
  };
  window.addEventListener("keydown", take, true);
  button.addEventListener("blur", stop);
}

/** @param {string} name of a key @returns {string} */
export function shownName(name) {
  return name.split(/\+(?=.)/).map((part) => /** @type {Record<string, string>} */ (SIGNS)[part] ?? (part.length === 1 ? part.toUpperCase() : part)).join(" ");
}

/** @param {App} app @param {string} name */
function usePreset(app, name) {
  app.keys.use(name);
  showToolbar(app);
}

/** Once: people who come from another tool keep their keys. @param {App} app */
export function offerPresets(app) {
  if (app.keys.preset || matchMedia("(pointer: coarse)").matches) return;
  const offer = byId("offer");
  const choose = (/** @type {string} */ name) => {
    usePreset(app, name);
    offer.hidden = true;
    byId("canvas").focus();
  };
  offer.replaceChildren(
    element("span", { textContent: "Keys as in" }),
    ...Object.keys(PRESETS).map((name) => textButton(name, () => choose(name), { className: name === "maskwright" ? "primary" : "" })),
    element("span", { className: "quiet", textContent: "? shows and changes them" }),
  );
  offer.hidden = false;
}
