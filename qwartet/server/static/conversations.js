// Where are conversations kept? In the browser's localStorage, one entry each; in memory alone where that is refused.
//
// A conversation: {id, title, isNamed, created, updated, system, turns}; a turn: {role: "user", content} or
// {role: "assistant", content, model, finish, figures}, where finish is null while the answer is made, "stop", "length",
// "stopped" (by the person) or "failed", and then there is `failure`: {kind, detail}.

const PREFIX = "qwartet.conversation.";
const MAX_TITLE_CHARS = 60;

function isText(value) {
  return typeof value === "string";
}

function isTurn(turn) {
  return isText(turn?.content) && (turn.role === "user" || turn.role === "assistant");
}

/** The conversation in an entry, or null: what is in the storage may be from anybody on this origin. */
function readEntry(id, entry) {
  try {
    const { title, isNamed, created, updated, system, turns } = JSON.parse(entry);
    if (!isText(title) || !isText(system) || !Array.isArray(turns) || !turns.every(isTurn)) return null;
    const last = turns.at(-1);
    if (last?.role === "assistant" && last.finish === null) {
      last.finish = "failed";
      last.failure = { kind: "cut", detail: "" };
    }
    return { id, title, isNamed: isNamed === true, created: Number(created), updated: Number(updated), system, turns };
  } catch {
    return null;
  }
}

/** A title from what was said first. */
export function titleOf(text) {
  const line = text.trim().split("\n", 1)[0];
  const characters = Array.from(line.slice(0, 4 * MAX_TITLE_CHARS));
  if (characters.length <= MAX_TITLE_CHARS) return characters.join("");
  return `${characters.slice(0, MAX_TITLE_CHARS - 1).join("").trimEnd()}…`;
}

export class Conversations {
  #byId = new Map();
  #storage = null;

  /** `onTrouble` is called with "blocked" or "full" when something could not be kept. */
  constructor(onTrouble) {
    this.onTrouble = onTrouble;
    try {
      this.#storage = window.localStorage;
      this.#readAll();
    } catch {
      this.#storage = null;
      onTrouble("blocked");
    }
  }

  #readAll() {
    for (let i = 0; i < this.#storage.length; i += 1) {
      const name = this.#storage.key(i);
      if (name.startsWith(PREFIX)) this.#read(name);
    }
  }

  #read(name) {
    const id = name.slice(PREFIX.length);
    const conversation = readEntry(id, this.#storage.getItem(name));
    if (conversation) this.#byId.set(id, conversation);
    else this.#byId.delete(id);
  }

  /** Another tab has changed an entry; returns the id of the conversation, or null. */
  onStorage(event) {
    if (event.storageArea !== this.#storage || !event.key?.startsWith(PREFIX)) return null;
    this.#read(event.key);
    return event.key.slice(PREFIX.length);
  }

  /** Newest first. */
  list() {
    return [...this.#byId.values()].sort((a, b) => b.updated - a.updated);
  }

  get(id) {
    return this.#byId.get(id) ?? null;
  }

  /** A new one, which is kept as soon as something is said in it. */
  create() {
    const now = Date.now();
    // crypto.randomUUID is missing where the page comes over plain HTTP from another machine.
    const bytes = crypto.getRandomValues(new Uint8Array(12));
    const id = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
    return { id, title: "", isNamed: false, created: now, updated: now, system: "", turns: [] };
  }

  save(conversation) {
    this.#byId.set(conversation.id, conversation);
    if (this.#storage === null) return;
    try {
      this.#storage.setItem(PREFIX + conversation.id, JSON.stringify(conversation));
    } catch {
      this.onTrouble("full");
    }
  }

  remove(id) {
    this.#byId.delete(id);
    try {
      this.#storage?.removeItem(PREFIX + id);
    } catch {
      this.onTrouble("blocked");
    }
  }
}
