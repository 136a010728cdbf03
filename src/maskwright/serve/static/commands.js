// Everything that a key does. The help sheet is made from this table.

import { TOOLS } from "./panels/toolbar.js";

/** @typedef {import("./main.js").App} App */

/** @param {App} app @param {() => void} help opens the sheet */
export function bindKeys(app, help) {
  const { keys } = app;
  for (const [name, key, what] of TOOLS) keys.bind(name, "Tools", key, what, () => app.setTool(name));
  keys.bind("smaller", "Tools", "[", "Smaller brush", () => app.resizeBrush(-1), true);
  keys.bind("larger", "Tools", "]", "Larger brush", () => app.resizeBrush(1), true);
  keys.bind("turn", "Tools", "x", "Turn the sign: on or off the object", () => app.turn());
  keys.bind("candidate", "Tools", ".", "SAM: next candidate", () => app.tools.smart.next(1));
  keys.bind("candidate-before", "Tools", ",", "SAM: candidate before", () => app.tools.smart.next(-1));
  keys.bind("boxing", "Tools", "Shift+b", "SAM by keyboard: clicks or a box", () => app.tools.smart.turnBoxing());
  keys.bind("closer", "Tools", "c", "SAM: look closer at the box", () => app.tools.smart.lookCloser());
  bindLabels(app);
  bindImages(app);
  bindView(app, help);
}

/** @param {App} app */
function bindLabels(app) {
  const { keys, labelling, assist } = app;
  keys.bind("accept", "Labels", "Enter", "Accept the draft or the proposals; close the polygon", () => app.accept());
  keys.bind("finish", "Labels", "n", "Finish, and begin a new object", () => {
    app.tool.finish?.();
    labelling.select(null);
  });
  keys.bind("drop", "Labels", "Escape", "Cancel the draft, then the selection", () => {
    if (!app.tool.cancel() && !assist.reject()) labelling.select(null);
  });
  keys.bind("back", "Labels", "Backspace", "Take back the last corner or click", () => app.tool.back?.());
  keys.bind("delete", "Labels", "Delete", "Delete the selected object", () => app.remove());
  keys.bind("undo", "Labels", "Ctrl+z", "Undo", () => app.undo(), true);
  keys.bind("redo", "Labels", "Ctrl+Shift+z Ctrl+y", "Redo", () => app.redo(), true);
  keys.bindDigits("category", "Labels", "Category of the selected object, else of the next", (digit) => app.setCategory(digit || 10));
  keys.bind("nothing", "Labels", "Shift+e", "Nothing to see here", () => app.toggleNothing());
  keys.bind("hide", "Labels", "h", "Hide or show the selected object", () => app.toggle("hidden"));
  keys.bind("hide-all", "Labels", "Shift+h", "Hide or show all", () => labelling.toggleAll());
  keys.bind("lock", "Labels", "l", "Lock or unlock the selected object", () => app.toggle("locked"));
  keys.bind("raise", "Labels", "Alt+ArrowUp", "Lay the selected object higher", () => app.raise(1), true);
  keys.bind("lower", "Labels", "Alt+ArrowDown", "Lay the selected object lower", () => app.raise(-1), true);
  keys.bind("propose", "Proposals", "m", "Of the newest trained run", () => assist.fromNewest());
  keys.bind("example", "Proposals", "t", "Like the last labelled image", () => assist.fromExample());
}

/** @param {App} app */
function bindImages(app) {
  const { keys, images } = app;
  keys.bind("next", "Images", "Ctrl+ArrowRight PageDown", "Next image", () => app.go(images.at + 1), true);
  keys.bind("before", "Images", "Ctrl+ArrowLeft PageUp", "Image before", () => app.go(images.at - 1), true);
  keys.bind("done", "Images", "Ctrl+Enter", "Done, next image", () => app.finish());
  keys.bind("save", "Images", "Ctrl+s", "Save now (it is saved by itself)", () => app.journal.flush());
}

/** @param {App} app @param {() => void} help */
function bindView(app, help) {
  const { keys } = app;
  keys.bind("fit", "View", "f", "Fit the image", () => app.fit());
  keys.bind("in", "View", "+ =", "Zoom in", () => app.zoom(1.25), true);
  keys.bind("out", "View", "-", "Zoom out", () => app.zoom(0.8), true);
  keys.bind("peek", "View", "`", "Peek under the labels while held", () => app.peek(true));
  keys.bind("help", "View", "?", "Keys and settings", help);
}
