// What the user has set for this browser.

/** Diameter of the largest brush in image pixels. */
export const LARGEST_BRUSH = 1000;

export class Settings {
  /** @param {Pick<Storage, "getItem" | "setItem">} storage */
  constructor(storage) {
    this.storage = storage;
  }

  /** Diameter of the brush in image pixels. */
  get brush() {
    return whole(Number(this.storage.getItem("brush size")) || 15);
  }

  set brush(size) {
    this.storage.setItem("brush size", String(whole(size)));
  }

  /** The wheel, or two fingers on a trackpad, move the image; with Ctrl they zoom. */
  get wheelPans() {
    return this.storage.getItem("wheel pans") === "on";
  }

  set wheelPans(on) {
    this.storage.setItem("wheel pans", on ? "on" : "off");
  }

  /** SAM shows what a click would give. */
  get previews() {
    return this.storage.getItem("previews") !== "off";
  }

  set previews(on) {
    this.storage.setItem("previews", on ? "on" : "off");
  }
}

/** @param {number} size */
function whole(size) {
  return Math.min(LARGEST_BRUSH, Math.max(1, Math.round(size)));
}
