// The page's signs, as lines of one width on a grid of 24: they look the same with every font.

const SPACE = "http://www.w3.org/2000/svg";

/** @type {Record<string, string>} */
const PATHS = {
  select: "M5 3l14 8.5-6.2 1.6L9.5 20z",
  smart: "M11 4l1.9 5.1L18 11l-5.1 1.9L11 18l-1.9-5.1L4 11l5.1-1.9z M18.5 3v4 M16.5 5h4 M18.5 17v4 M16.5 19h4",
  brush: "M14.5 5.5l4-2.5 2.5 2.5-2.5 4-6 6-4-4z M8.5 11.5c-2.5.2-3.6 1.8-3.8 3.6-.2 1.7-.7 2.9-2 3.9 3.3 1.4 8.2.8 9.8-3.5",
  eraser: "M13 5.5l6 6-8 8H7l-4-4z M8.5 10l6 6 M11 19.5h10",
  polygon: "M12 4l8 6-3 9H7l-3-9z M12 3v2 M19.2 10h1.6 M3.2 10h1.6 M6.5 19.5l.5-1 M17.5 19.5l-.5-1",
  box: "M4 6h16v12H4z M2.5 4.5h3v3h-3z M18.5 16.5h3v3h-3z",
  scribble: "M3 15c3-8 5-9 6.5-7.5S8 15 10 16s4-8 6-8 0 6 1.5 7 2.5-.5 3.5-2",
  point: "M12 3v5 M12 16v5 M3 12h5 M16 12h5 M12 11.9v.2",
  undo: "M8 5L4 9l4 4 M4 9h10a6 6 0 0 1 0 12h-4",
  redo: "M16 5l4 4-4 4 M20 9H10a6 6 0 0 0 0 12h4",
  theme: "M12 4a8 8 0 1 0 0 16z M12 4a8 8 0 0 1 0 16",
  help: "M9 9a3 3 0 1 1 4.5 2.6c-1 .6-1.5 1.2-1.5 2.4 M12 17.5v.1",
  eye: "M2.5 12S6 5.5 12 5.5 21.5 12 21.5 12 18 18.5 12 18.5 2.5 12 2.5 12z M12 9.5a2.5 2.5 0 1 0 0 5 2.5 2.5 0 0 0 0-5z",
  hidden: "M4 4l16 16 M9.5 6c.8-.3 1.6-.5 2.5-.5 6 0 9.5 6.5 9.5 6.5s-1 1.9-2.9 3.6 M6 8C3.7 9.7 2.5 12 2.5 12S6 18.5 12 18.5c1.3 0 2.5-.3 3.5-.8",
  locked: "M6 11h12v9H6z M8.5 11V8a3.5 3.5 0 0 1 7 0v3",
  open: "M6 11h12v9H6z M8.5 11V8a3.5 3.5 0 0 1 6.8-1.2",
  up: "M12 19V5 M6 11l6-6 6 6",
  down: "M12 5v14 M6 13l6 6 6-6",
  trash: "M4 7h16 M9 7V4h6v3 M6 7l1 13h10l1-13 M10 11v5 M14 11v5",
  list: "M4 6h16 M4 12h16 M4 18h16",
  labels: "M4 5h9l7 7-7 7H4z M8 12v.1",
  before: "M15 5l-7 7 7 7",
  next: "M9 5l7 7-7 7",
  minus: "M5 12h14",
  plus: "M5 12h14 M12 5v14",
  fit: "M4 9V4h5 M20 9V4h-5 M4 15v5h5 M20 15v5h-5",
  check: "M5 12.5l4.5 4.5L19 7.5",
};

/** @param {string} name @returns {SVGSVGElement} */
export function icon(name) {
  const svg = /** @type {SVGSVGElement} */ (document.createElementNS(SPACE, "svg"));
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SPACE, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}
