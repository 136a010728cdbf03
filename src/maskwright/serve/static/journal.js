// What was done and the server has not yet confirmed. It is written into the browser's own database at once, sent after a moment of
// rest, and forgotten only when the server has said that it is saved: a reload or a crash loses nothing, nor does a server that is
// gone, or that no longer knows us.

import { client, Offline, Refused } from "./client.js";
import { newId } from "./ids.js";

const REST = 400;
const LONGEST = 2000;
const RETRY = 2500;

/** Answers that will be the same for ever: what was asked makes no sense to the server. */
const NEVER = [400, 404, 413, 422, 428];

/** This page; another window is another client. */
const me = newId();

/**
 * @typedef {{key: string, image: string, base: number, client: string, operations: any[]}} Entry one gesture; `base`: the revision
 *   that was on the screen; `client`: the page that it was made in
 * @typedef {"saved" | "expired" | "saving" | "offline" | "conflict" | "failed"} State
 */

export class Journal extends EventTarget {
  /** @param {string} name of the dataset: each has a database of its own */
  constructor(name) {
    super();
    this.name = `maskwright ${name}`;
    /** @type {Entry[]} */
    this.entries = [];
    /** @type {State} */
    this.state = "saved";
    /** @type {Set<string>} images whose changes wait for an answer of the user */
    this.disputed = new Set();
    /** @type {Promise<void> | null} */
    this.sending = null;
    this.first = 0;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    /** @type {IDBDatabase | null} */
    this.database = null;
  }

  /** Open the database and send what an earlier page left. */
  async open() {
    try {
      const request = indexedDB.open(this.name, 1);
      request.onupgradeneeded = () => request.result.createObjectStore("entries", { keyPath: "key" });
      this.database = await answerOf(request);
      this.entries = await answerOf(this.database.transaction("entries").objectStore("entries").getAll());
    } catch {
      // Without it (private windows) a change is lost only if the page dies before the server has answered; leaving warns.
      this.database = null;
    }
    if (this.entries.length) await this.flush();
  }

  /** @param {string} image @param {number} base the revision that is on the screen @param {any[]} operations */
  add(image, base, operations) {
    const entry = {
      key: `${Date.now().toString().padStart(15, "0")}-${String(this.entries.length).padStart(6, "0")}-${newId()}`,
      image,
      base,
      client: me,
      operations: operations.map((each) => ({ id: newId(), ...each })),
    };
    this.entries.push(entry);
    this.#keep(entry);
    this.#say(this.disputed.size ? "conflict" : "saving");
    const now = Date.now();
    if (this.timer === undefined) this.first = now;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.flush(), Math.max(0, Math.min(REST, this.first + LONGEST - now)));
  }

  /** Send everything. Resolves when there is nothing left, or it cannot be sent now. */
  flush() {
    clearTimeout(this.timer);
    this.timer = undefined;
    this.sending ??= this.#sendAll().finally(() => {
      this.sending = null;
    });
    return this.sending;
  }

  async #sendAll() {
    for (;;) {
      const first = this.entries.find((each) => !this.disputed.has(each.image));
      if (!first) break;
      const batch = this.entries.filter((each) => each.image === first.image && each.client === first.client);
      if (!(await this.#send(batch))) return;
    }
    this.#say(this.disputed.size ? "conflict" : "saved");
  }

  /** Send entries of one image. @param {Entry[]} batch @returns {Promise<boolean>} whether to go on with others */
  async #send(batch) {
    const [{ image, base, client: by }] = batch;
    const operations = batch.flatMap((each) => each.operations);
    try {
      const answer = await client.operations(image, { base_rev: base, client_id: by, operations });
      this.#forget(batch);
      // Nobody else has written in between: later changes, made on top of ours, have seen everything.
      const isAlone = answer.rev <= base + 1;
      if (isAlone) for (const each of this.entries) if (each.image === image) each.base = Math.max(each.base, answer.rev);
      this.dispatchEvent(new CustomEvent("saved", { detail: { image, isAlone, annotations: answer.annotations } }));
      return true;
    } catch (error) {
      return this.#failed(batch, error);
    }
  }

  /** @param {Entry[]} batch @param {unknown} error @returns {Promise<boolean>} */
  async #failed(batch, error) {
    const { image } = batch[0];
    if (error instanceof Refused && error.status === 409) {
      this.disputed.add(image);
      this.#say("conflict");
      this.dispatchEvent(new CustomEvent("conflict", { detail: { image, ...error.body } }));
      return true;
    }
    if (error instanceof Refused && NEVER.includes(error.status)) {
      // One gesture is at fault; the others are not lost with it.
      if (batch.length > 1) {
        for (const each of batch) if (!(await this.#send([each]))) return false;
        return true;
      }
      this.#forget(batch);
      this.dispatchEvent(new CustomEvent("refused", { detail: { image, message: error.message } }));
      return true;
    }
    const isExpired = error instanceof Refused && error.status === 401;
    this.#say(isExpired ? "expired" : error instanceof Offline ? "offline" : "failed", error instanceof Error ? error.message : String(error));
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.flush(), RETRY);
    return false;
  }

  /** Settle a conflict. @param {"mine" | "theirs" | "both"} choice @param {{image: string, theirs: any, conflicts: string[]}} detail of the event */
  async settle(choice, { image, theirs, conflicts }) {
    const batch = this.entries.filter((each) => each.image === image);
    if (choice === "theirs") {
      // Only what is disputed: changes of other things are nobody else's.
      for (const each of batch) each.operations = each.operations.filter((operation) => !conflicts.includes(targetOf(operation)));
    } else if (choice === "both") doubled(batch, conflicts);
    for (const each of batch) each.base = theirs.rev;
    const empty = batch.filter((each) => !each.operations.length);
    this.#forget(empty);
    for (const each of batch) if (!empty.includes(each)) this.#keep(each);
    this.disputed.delete(image);
    this.dispatchEvent(new CustomEvent("settled", { detail: { image, theirs } }));
    await this.flush();
  }

  /** Operations on an image that the server does not have yet. @param {string} image */
  unsent(image) {
    return this.entries.filter((each) => each.image === image).flatMap((each) => each.operations);
  }

  /** Whether leaving the page now would lose something. */
  get isAtRisk() {
    return this.entries.length > 0 && this.database === null;
  }

  /** @param {Entry} entry */
  #keep(entry) {
    const transaction = this.database?.transaction("entries", "readwrite");
    if (!transaction) return;
    transaction.onabort = () => {
      this.database = null; // the disk is full, or the browser has thrown it away: leaving warns from now on
    };
    transaction.objectStore("entries").put(entry);
  }

  /** @param {Entry[]} batch */
  #forget(batch) {
    const keys = new Set(batch.map((each) => each.key));
    this.entries = this.entries.filter((each) => !keys.has(each.key));
    const store = this.database?.transaction("entries", "readwrite").objectStore("entries");
    for (const key of keys) store?.delete(key);
  }

  /** @param {State} state @param {string} [why] */
  #say(state, why = "") {
    this.state = state;
    this.dispatchEvent(new CustomEvent("state", { detail: why }));
  }
}

/** What an operation changes: an object, or a part of the labels. @param {any} operation @returns {string} */
export function targetOf(operation) {
  return operation.object?.id ?? operation.object_id ?? operation.op;
}

/** A disputed object becomes a second one beside theirs; what cannot be two (tags, done) stays theirs. @param {Entry[]} batch @param {string[]} conflicts */
function doubled(batch, conflicts) {
  /** @type {Map<string, string>} */
  const renamed = new Map();
  for (const entry of batch) {
    entry.operations = entry.operations.filter((each) => !conflicts.includes(targetOf(each)) || each.op === "put");
    for (const each of entry.operations) {
      const target = targetOf(each);
      if (!conflicts.includes(target)) continue;
      if (!renamed.has(target)) renamed.set(target, newId());
      each.object = { ...each.object, id: renamed.get(target) };
    }
  }
}

/** @template T @param {IDBRequest<T>} request @returns {Promise<T>} */
function answerOf(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
