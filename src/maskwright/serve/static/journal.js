// What was done and the server has not yet confirmed. It is written into the browser's own database at once, sent after a moment of
// rest, and forgotten only when the server has said that it is saved: a reload or a crash loses nothing.

import { client, Offline, Refused } from "./client.js";

const REST = 400;
const LONGEST = 2000;
const RETRY = 2500;

/** This page; another window is another client. */
const me = crypto.randomUUID();

/** @typedef {{key: string, image: string, base: number, operations: any[]}} Entry */

export class Journal extends EventTarget {
  /** @param {string} name of the dataset: each has a database of its own */
  constructor(name) {
    super();
    this.name = `maskwright ${location.host} ${name}`;
    /** @type {Entry[]} */
    this.entries = [];
    this.state = "saved";
    /** @type {Map<string, number>} */
    this.revisions = new Map();
    this.sending = false;
    this.first = 0;
    /** @type {number | undefined} */
    this.timer = undefined;
    /** @type {IDBDatabase | null} */
    this.database = null;
  }

  /** Open the database and send what an earlier page left. */
  async open() {
    try {
      this.database = await new Promise((resolve, reject) => {
        const request = indexedDB.open(this.name, 1);
        request.onupgradeneeded = () => request.result.createObjectStore("entries", { keyPath: "key" });
        request.onsuccess = () => resolve(request.result);
        request.onerror = () => reject(request.error);
      });
      const store = /** @type {IDBDatabase} */ (this.database).transaction("entries").objectStore("entries");
      this.entries = await new Promise((resolve, reject) => {
        const request = store.getAll();
        request.onsuccess = () => resolve(request.result);
        request.onerror = () => reject(request.error);
      });
    } catch {
      // Without it (private windows) a change is lost only if the page dies before the server has answered.
      this.database = null;
    }
    if (this.entries.length) await this.flush();
  }

  /** @param {string} image @param {number} base the revision that is on the screen @param {any[]} operations */
  add(image, base, operations) {
    const entry = {
      key: `${Date.now().toString().padStart(15, "0")}-${crypto.randomUUID()}`,
      image,
      base,
      operations: operations.map((each) => ({ id: crypto.randomUUID(), ...each })),
    };
    this.entries.push(entry);
    this.#store().put(entry);
    this.#say("saving");
    const now = Date.now();
    if (this.timer === undefined) this.first = now;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.flush(), Math.max(0, Math.min(REST, this.first + LONGEST - now)));
  }

  /** Send everything. Resolves when there is nothing left, or it cannot be sent now. */
  async flush() {
    clearTimeout(this.timer);
    this.timer = undefined;
    if (this.sending) return;
    this.sending = true;
    try {
      while (this.entries.length) {
        const image = this.entries[0].image;
        const batch = this.entries.filter((each) => each.image === image);
        if (!(await this.#send(image, batch))) return;
      }
      this.#say("saved");
    } finally {
      this.sending = false;
    }
  }

  /** @param {string} image @param {Entry[]} batch @returns {Promise<boolean>} */
  async #send(image, batch) {
    const operations = batch.flatMap((each) => each.operations);
    const base = this.revisions.get(image) ?? batch[0].base;
    try {
      const answer = await client.operations(image, { base_rev: base, client_id: me, operations });
      this.revisions.set(image, answer.rev);
      this.#forget(batch);
      this.dispatchEvent(new CustomEvent("saved", { detail: { image, annotations: answer.annotations } }));
      return true;
    } catch (error) {
      if (error instanceof Refused && error.status === 409) {
        this.#say("conflict");
        this.dispatchEvent(new CustomEvent("conflict", { detail: { image, operations, ...error.body } }));
        return false;
      }
      if (error instanceof Refused && error.status < 500) {
        // The server will never take these; the labels on the screen go back to what it has.
        this.#forget(batch);
        this.#say("failed");
        this.dispatchEvent(new CustomEvent("refused", { detail: { image, message: error.message } }));
        return true;
      }
      this.#say(error instanceof Offline ? "offline" : "failed");
      this.timer = setTimeout(() => this.flush(), RETRY);
      return false;
    }
  }

  /** Settle a conflict. @param {string} image @param {"mine" | "theirs" | "both"} choice @param {any} detail of the event */
  async settle(image, choice, detail) {
    const batch = this.entries.filter((each) => each.image === image);
    this.revisions.set(image, detail.theirs.rev);
    if (choice === "theirs") this.#forget(batch);
    if (choice === "both") {
      // A changed object becomes a second one beside theirs; what cannot be two (tags, done) stays theirs.
      /** @type {Map<string, string>} */
      const renamed = new Map();
      for (const entry of batch) {
        entry.operations = entry.operations.filter((each) => {
          const target = each.object?.id ?? each.object_id ?? each.op;
          if (!detail.conflicts.includes(target)) return true;
          if (each.op !== "put") return false;
          if (!renamed.has(target)) renamed.set(target, crypto.randomUUID());
          each.object = { ...each.object, id: renamed.get(target) };
          return true;
        });
        this.#store().put(entry);
      }
    }
    this.dispatchEvent(new CustomEvent("settled", { detail: { image, choice, theirs: detail.theirs } }));
    await this.flush();
  }

  /** Whether an image has changes that are not saved. @param {string} image */
  isPending(image) {
    return this.entries.some((each) => each.image === image);
  }

  /** @param {Entry[]} batch */
  #forget(batch) {
    const keys = new Set(batch.map((each) => each.key));
    this.entries = this.entries.filter((each) => !keys.has(each.key));
    for (const key of keys) this.#store().delete(key);
  }

  #store() {
    if (!this.database) return { put: () => {}, delete: () => {} };
    return this.database.transaction("entries", "readwrite").objectStore("entries");
  }

  /** @param {string} state */
  #say(state) {
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }
}
