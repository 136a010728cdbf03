// The tools, and what can be set for the one in hand.

import { icon } from "../icons.js";
import { LARGEST_BRUSH } from "../settings.js";
import { byId, element, moveInside, textButton } from "./dom.js";

/** @typedef {import("../main.js").App} App */

/** Name, key, and what it is. */
export const TOOLS = /** @type {const} */ ([
  ["select", "v", "Select and move"],
  ["smart", "s", "Smart: SAM answers clicks and boxes"],
  ["brush", "b", "Brush"],
  ["eraser", "e", "Eraser"],
  ["polygon", "p", "Polygon"],
  ["box", "r", "Box"],
  ["scribble", "g", "Scribble"],
  ["point", "k", "Point"],
]);

/** @param {App} app */
export function showToolbar(app) {
  const box = byId("tools");
  box.replaceChildren(
    ...TOOLS.map(([name, , what]) => {
      const key = app.keys.bindings.find((each) => each.id === name)?.keys[0] ?? "";
      const isOn = app.toolName === name;
      const title = key ? `${what} (${key.toUpperCase()})` : what;
      const properties = { className: "tool", role: "radio", "aria-checked": String(isOn), title, "aria-label": what, type: "button", tabIndex: isOn ? 0 : -1 };
      const button = element("button", properties, [
        icon(name),
        element("small", { textContent: key.toUpperCase(), "aria-hidden": "true" }),
      ]);
      button.dataset.tool = name;
      button.addEventListener("click", () => app.setTool(name));
      return button;
    }),
  );
}

/** @param {App} app */
export function listenToolbar(app) {
  moveInside(byId("tools"), "button", (button) => app.setTool(/** @type {any} */ (button.dataset.tool)));
}

/** @param {App} app */
export function showOptions(app) {
  const name = app.toolName, made = element("div", { className: "options-row" });
  if (name === "brush" || name === "eraser") made.append(...brushOptions(app));
  else if (name === "smart") made.append(...smartOptions(app));
  else if (name === "polygon") made.append(...polygonOptions(app));
  else if (name === "point" || name === "scribble") made.append(sign(app), hint(name === "point" ? "one click for each object" : "draw along the inside of an object"));
  else if (name === "box") made.append(hint("drag from corner to corner"));
  else made.append(hint("click an object; drag a box, point or scribble to move it"));
  byId("options").replaceChildren(made);
}

/** @param {App} app */
function brushOptions(app) {
  // Each step of the slider is the same share of the size: fine where brushes are small.
  const size = element("input", { type: "range", min: "0", max: "100", value: String((100 * Math.log(app.brushSize)) / Math.log(LARGEST_BRUSH)), id: "brush-size" });
  size.setAttribute("aria-valuetext", `${app.brushSize} pixels`);
  const shown = element("output", { textContent: `${app.brushSize} px`, className: "number" });
  size.addEventListener("input", () => {
    app.setBrush(LARGEST_BRUSH ** (Number(size.value) / 100));
    size.setAttribute("aria-valuetext", `${app.brushSize} pixels`);
    shown.textContent = `${app.brushSize} px`;
  });
  const { selection } = app.labelling;
  const goesOn = selection?.kind === "mask" && selection.category === app.category;
  const what = app.toolName === "eraser" ? "erases from the selected mask, else from the one under it" : goesOn ? "adds to the selected mask" : "begins a new object";
  return [element("label", { textContent: "Size", htmlFor: "brush-size" }), size, shown, hint(what)];
}

/** @param {App} app */
function polygonOptions(app) {
  const { polygon } = app.tools, count = polygon.points.length;
  if (!count) return [hint("click the corners")];
  return [
    textButton("Close", () => polygon.finish(), { className: "primary", title: "Enter", disabled: count < 3 }),
    textButton("Take one back", () => polygon.back(), { title: "Backspace" }),
    textButton("Cancel", () => polygon.cancel(), { title: "Esc" }),
    hint(count === 1 ? "1 corner" : `${count} corners`),
  ];
}

/** @param {App} app */
function smartOptions(app) {
  const { smart } = app.tools;
  const parts = [sign(app)];
  if (smart.isAnswered) {
    parts.push(
      textButton("Accept", () => app.accept(), { className: "primary", title: "Enter" }),
      textButton(`${smart.choice + 1} of ${smart.candidates.length}`, () => smart.next(1), { title: "Another candidate (. and ,)", disabled: smart.candidates.length < 2 }),
    );
  }
  if (smart.box && !smart.byAgent) parts.push(textButton("Closer", () => smart.lookCloser(), { title: "Look closer at the box (C)", "aria-pressed": String(smart.closer === true) }));
  if (smart.isBusy) parts.push(textButton("Cancel", () => smart.cancel(), { title: "Esc" }));
  const target = smart.target ?? (smart.isBusy ? null : smart.refinable()?.id ?? null);
  if ((target || smart.isBusy) && app.project.agent) {
    const title = smart.correctable() ? "The click agent corrects the selected mask" : "The click agent answers these clicks and this box, and further ones";
    parts.push(textButton("Correct", () => smart.turnToAgent(), { title, "aria-pressed": String(smart.byAgent) }));
  }
  const chosen = smart.candidates[smart.choice], guess = chosen ? Math.round(100 * chosen.score) : 0;
  const score = guess ? `${chosen.isAgents ? "the agent's" : "SAM's own"} estimate ${guess} %` : "";
  const refines = smart.target ? "refines the selected mask" : "";
  const begin = target ? "clicks refine the selected mask; N for a new one" : "click an object, or drag a box around it";
  const told = [refines, score].filter(Boolean).join(" · ") || begin;
  return [...parts, hint(smart.waiting ? `${smart.byAgent ? "The agent" : "SAM"} is looking…` : told)];
}

/** @param {App} app */
function sign(app) {
  const off = app.turned;
  const title = "Turn the sign (X); the right button, Alt or Shift do so for one click";
  return textButton(off ? "− off the object" : "+ on the object", () => app.turn(), { className: "sign", title, "aria-pressed": String(off) });
}

/** @param {string} text */
function hint(text) {
  return element("span", { className: "quiet hint", textContent: text });
}
