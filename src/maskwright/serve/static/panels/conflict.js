// Two windows, one object: the user says whose change counts.

import { byId, element, textButton } from "./dom.js";

/** @typedef {{image: string, theirs: any, conflicts: string[]}} Conflict */

/** @type {Conflict[]} those that wait while another is asked about */
const waiting = [];

/** @param {import("../main.js").App} app @param {Conflict} conflict */
export function askConflict(app, conflict) {
  const dialog = byId("conflict");
  if (dialog.open) {
    waiting.push(conflict);
    return;
  }
  const { image, conflicts } = conflict;
  const count = conflicts.length === 1 ? "One thing was" : `${conflicts.length} things were`;
  const name = app.images.images[app.images.numberOf(image)]?.name ?? image;
  /** @param {string} text @param {"mine" | "theirs" | "both"} choice */
  const button = (text, choice) => {
    const made = textButton(text, () => {
      dialog.close();
      app.journal.settle(choice, conflict);
      const next = waiting.shift();
      if (next) askConflict(app, next);
    }, { className: choice === "both" ? "primary" : "" });
    made.dataset.choice = choice;
    return made;
  };
  dialog.replaceChildren(
    element("h2", { id: "conflict-title", textContent: "Somebody else has changed the same" }),
    element("p", { textContent: `${name}: ${count} changed here and in another window. Nothing is lost yet: say whose change counts.` }),
    element("div", { className: "buttons" }, [button("Keep mine", "mine"), button("Keep theirs", "theirs"), button("Keep both", "both")]),
  );
  dialog.oncancel = (/** @type {Event} */ event) => event.preventDefault();
  dialog.showModal();
}
