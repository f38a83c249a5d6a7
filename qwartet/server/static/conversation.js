// A conversation as a tree of turns, of which one path is shown. A regenerated answer or an edited message becomes
// another child of the same turn, and every earlier version is kept.
//
// A turn: {id, parent, role: "user", content, created, attachments: [{name, text}]} or {id, parent, role: "assistant",
// content, reasoning, created, model, finish, figures, sentFrom}, where `parent` is ROOT for the first ones; finish is
// null during generation, "stop", "length", "stopped" (by the user) or "failed", and then there is `failure`: {kind,
// detail, retryAt}; sentFrom is the conversation's value at that time.

export const ROOT = "";

/** Random; crypto.randomUUID is missing over plain HTTP from another machine. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export class Conversation {
  turns = new Map(); // id -> turn

  /** `chosen`: turn id -> id of the child that is shown; `sentFrom`: the first turn that is still sent, or "". */
  constructor({ id = newId(), title = "", isNamed = false, created, updated, system = "", sentFrom = "", chosen = new Map() }) {
    Object.assign(this, { id, title, isNamed, created, updated, system, sentFrom, chosen });
  }

  /** The shown turns in order: of several versions the chosen one, else the newest. */
  get path() {
    const children = this.#children();
    const path = [];
    for (let at = ROOT; children.has(at); ) {
      const versions = children.get(at);
      const next = versions.find(({ id }) => id === this.chosen.get(at)) ?? versions.at(-1);
      path.push(next);
      at = next.id;
    }
    return path;
  }

  get last() {
    return this.path.at(-1) ?? null;
  }

  /** The shown turns that are sent with the next message. */
  get sentPath() {
    const { path } = this;
    return path.slice(Math.max(path.findIndex(({ id }) => id === this.sentFrom), 0));
  }

  /** All versions of a turn, oldest first. */
  versionsOf(turn) {
    return this.#children().get(turn.parent) ?? [];
  }

  /** The same for several turns: [turn, versions]. */
  versionsOfAll(turns) {
    const children = this.#children();
    return turns.map((turn) => [turn, children.get(turn.parent)]);
  }

  #children() {
    const children = new Map();
    for (const turn of this.turns.values()) {
      if (children.has(turn.parent)) children.get(turn.parent).push(turn);
      else children.set(turn.parent, [turn]);
    }
    for (const versions of children.values()) versions.sort((a, b) => a.created - b.created || (a.id < b.id ? -1 : 1));
    return children;
  }

  /** Adds a turn under `parent` (a turn, or null) and shows it. */
  add(parent, fields) {
    const place = parent?.id ?? ROOT;
    const before = this.#children().get(place)?.at(-1);
    const created = Math.max(Date.now(), (before?.created ?? 0) + 1); // the newest version even if the clock was set back
    const turn = { id: newId(), parent: place, created, ...fields };
    this.turns.set(turn.id, turn);
    this.choose(turn);
    this.updated = Date.now();
    return turn;
  }

  choose(turn) {
    this.chosen.set(turn.parent, turn.id);
  }

  /** Keeps showing the current path: versions added by other tabs do not replace it. */
  pin() {
    for (const turn of this.path) this.choose(turn);
  }

  /** Turns whose parent is missing, or that are their own ancestors, become first turns, so that they are reachable. */
  mend() {
    const isReached = new Map([[ROOT, true]]);
    for (const turn of this.turns.values()) {
      const way = [];
      let at = turn;
      for (; at && !isReached.has(at.id); at = at.parent === ROOT ? null : this.turns.get(at.parent)) {
        isReached.set(at.id, false);
        way.push(at);
      }
      const top = way.at(-1);
      if (top && top.parent !== ROOT && isReached.get(top.parent) !== true) top.parent = ROOT;
      for (const { id } of way) isReached.set(id, true);
    }
  }
}
