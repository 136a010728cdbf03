// The help sheet, made from the table of keys.

import { byId, element } from "./dom.js";

/** @param {import("../keys.js").Keys} keys */
export function showHelp(keys) {
  const dialog = byId("help");
  /** @type {Map<string, import("../keys.js").Binding[]>} */
  const groups = new Map();
  for (const each of keys.bindings) groups.set(each.group, [...(groups.get(each.group) ?? []), each]);
  const parts = [...groups].map(([name, bindings]) =>
    element("section", {}, [
      element("h3", { textContent: name }),
      element("table", {}, [
        element("tbody", {}, bindings.map((each) =>
          element("tr", {}, [
            element("td", {}, each.keys.flatMap((key, number) => [...(number ? [" "] : []), element("kbd", { textContent: key })])),
            element("td", { textContent: each.what }),
          ]))),
      ]),
    ]));
  const mouse = element("p", { className: "quiet", textContent: "Wheel zooms at the pointer; middle button or Space and drag moves the image. Right button, Alt or Shift: not the object. Ctrl and drag erases with the brush. On a touch screen two fingers zoom and move." });
  const singles = element("input", { type: "checkbox", checked: keys.singles, id: "single-keys" });
  singles.addEventListener("change", () => keys.useSingles(singles.checked));
  const close = element("button", { textContent: "Close", className: "primary", type: "button" });
  close.addEventListener("click", () => dialog.close());
  dialog.replaceChildren(
    element("h2", { id: "help-title", textContent: "Keys" }),
    mouse,
    element("div", { className: "pair" }, parts),
    element("div", { className: "buttons" }, [
      element("label", {}, [singles, " keys of a single letter"]),
      close,
    ]),
  );
  dialog.showModal();
  close.focus();
  dialog.scrollTop = 0;
}
