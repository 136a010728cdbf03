// The server's addresses. Every answer is JSON; an error becomes a Refused with the server's own sentence.

/** An answer that is no success. */
export class Refused extends Error {
  /** @param {string} message @param {number} status @param {any} body */
  constructor(message, status, body) {
    super(message);
    this.status = status;
    this.body = body;
  }
}

/** The server cannot be reached. */
export class Offline extends Error {}

/** @param {string} path @param {RequestInit} options */
async function reach(path, options) {
  try {
    return await fetch(path, { ...options, credentials: "same-origin" });
  } catch {
    throw new Offline("the server does not answer; nothing is lost, it is tried again");
  }
}

/** @param {string} path @param {any} [body] @returns {Promise<any>} */
async function ask(path, body) {
  /** @type {RequestInit} */
  const options = body === undefined
    ? {}
    : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const answer = await reach(path, options);
  const content = await answer.json().catch(() => ({ error: `status ${answer.status}` }));
  if (!answer.ok) throw new Refused(content.error ?? `status ${answer.status}`, answer.status, content);
  return content;
}

/** @param {string} id */
const image = (id) => `/api/images/${encodeURIComponent(id)}`;

export const client = {
  project: () => ask("/api/project"),
  /** @param {string} name */
  addCategory: (name) => ask("/api/categories", { name }),
  /** @param {number} cursor */
  images: (cursor) => ask(`/api/images?cursor=${cursor}&limit=1000`),
  /** @param {string} id */
  image: (id) => ask(image(id)),
  /** @param {string} id */
  annotations: (id) => ask(`${image(id)}/annotations`),
  /** @param {string} id @param {any} body */
  operations: (id, body) => ask(`${image(id)}/operations`, body),
  /** @param {string} id */
  embed: (id) => ask(`${image(id)}/embedding`, {}),
  /** @param {string} id @param {any} body */
  predict: (id, body) => ask(`${image(id)}/predict`, body),
  /** @param {string} id @param {any} body */
  propose: (id, body) => ask(`${image(id)}/propose`, body),
  jobs: () => ask("/api/jobs"),
  /** @param {string} recipe @param {number} minutes */
  train: (recipe, minutes) => ask("/api/jobs", { recipe, minutes }),
  /** @param {string} job */
  stop: (job) => ask(`/api/jobs/${encodeURIComponent(job)}/stop`, {}),
  /** @param {string} job @param {number} from */
  log: (job, from) => ask(`/api/jobs/${encodeURIComponent(job)}/log?from=${from}`),
  /** @param {string} id @param {number} level @param {number} column @param {number} row */
  tile: (id, level, column, row) => `${image(id)}/tiles/${level}/${column}/${row}`,
  /** @param {string} address @returns {Promise<Blob>} */
  picture: async (address) => {
    const answer = await reach(address, {});
    if (answer.ok) return answer.blob();
    const content = await answer.json().catch(() => ({}));
    throw new Refused(content.error ?? `status ${answer.status}`, answer.status, content);
  },
  /** @param {string} id @param {any} body */
  correct: (id, body) => ask(`${image(id)}/correct`, body),
  /** @param {string} id */
  thumbnail: (id) => `${image(id)}/thumbnail`,
};
