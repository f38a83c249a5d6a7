// Stores conversations in localStorage, or only in memory if the browser refuses that.
//
// Several tabs may write at the same time, and not every browser has locks. So every turn is a separate entry, written
// only by the tab that creates it: PREFIX + conversation + "/" + turn. Other data of a conversation is in the entry
// PREFIX + conversation, in which a tab changes single fields and keeps those that it does not know.

import { Conversation } from "./conversation.js";
import { parseObject, readConversation, readFields, readList, readTurn } from "./stored.js";

const PREFIX = "qwartet.conversation.";
const VERSION = 2;

const nameOf = (id) => PREFIX + id;
const turnNameOf = (id, turnId) => `${PREFIX}${id}/${turnId}`;

/** The conversation id and turn id (null: the conversation's own entry) in the name of an entry, or null. */
function idsIn(name) {
  if (!name.startsWith(PREFIX)) return null;
  const rest = name.slice(PREFIX.length);
  const slash = rest.lastIndexOf("/");
  return slash === -1 ? { id: rest, turnId: null } : { id: rest.slice(0, slash), turnId: rest.slice(slash + 1) };
}

/** Stands in for localStorage if the page may not store anything. */
class MemoryStorage {
  #entries = new Map();
  getItem = (name) => this.#entries.get(name) ?? null;
  setItem = (name, text) => this.#entries.set(name, text);
  removeItem = (name) => this.#entries.delete(name);
  key = (place) => [...this.#entries.keys()][place] ?? null;
  get length() {
    return this.#entries.size;
  }
}

export class Conversations {
  #byId = new Map();
  #numAside = new Map(); // conversation id -> number of unreadable values
  #unwritten = new Map(); // name -> text, while the storage is full
  #isFull = false;
  #storage = new MemoryStorage();

  /** `onTrouble` is called with "blocked" or "full" if something was not stored, with null once it is. */
  constructor(onTrouble) {
    this.onTrouble = onTrouble;
    try {
      const storage = window.localStorage;
      this.#readAll(storage);
      this.#storage = storage;
    } catch {
      onTrouble("blocked");
    }
  }

  #readAll(storage) {
    const names = Array.from({ length: storage.length }, (_, place) => storage.key(place));
    const entriesOf = new Map();
    for (const name of names) {
      const ids = idsIn(name);
      if (ids === null) continue;
      const entries = entriesOf.get(ids.id) ?? { value: undefined, turnValues: new Map() };
      const value = parseObject(storage.getItem(name));
      if (ids.turnId === null) entries.value = value;
      else entries.turnValues.set(ids.turnId, value);
      entriesOf.set(ids.id, entries);
    }
    for (const [id, { value, turnValues }] of entriesOf) {
      const { conversation, numAside } = readConversation(id, value, turnValues);
      if (conversation) this.#byId.set(id, conversation);
      if (numAside > 0) this.#numAside.set(id, numAside);
    }
  }

  /** Number of unreadable values in the storage. */
  get numAside() {
    return [...this.#numAside.values()].reduce((sum, count) => sum + count, 0);
  }

  /** The entries with unreadable values, unchanged: [name, text]. */
  asideEntries() {
    return [...this.#numAside.keys()].flatMap((id) => this.#entriesOf(id));
  }

  /** Newest first. */
  list() {
    return [...this.#byId.values()].sort((a, b) => b.updated - a.updated);
  }

  get(id) {
    return this.#byId.get(id) ?? null;
  }

  /** A new conversation, stored with its first message. */
  create() {
    const now = Date.now();
    return new Conversation({ created: now, updated: now });
  }

  /** Stores these fields, or the entire conversation if it is not stored (any more). */
  saveFields(conversation, ...names) {
    if (this.get(conversation.id) === conversation) this.#writeFields(conversation, names);
    else this.#writeWhole(conversation);
  }

  saveTurn(conversation, turn) {
    if (this.get(conversation.id) === conversation) this.#writeTurn(conversation, turn);
    else this.#writeWhole(conversation);
  }

  removeTurn(conversation, turn) {
    conversation.turns.delete(turn.id);
    this.#drop(turnNameOf(conversation.id, turn.id));
  }

  /** Returns the entries, for `restore`. */
  remove(id) {
    const entries = this.#entriesOf(id);
    this.#byId.delete(id);
    this.#numAside.delete(id);
    // The conversation's own entry goes first: it tells other tabs that everything is deleted.
    for (const [name] of entries) this.#drop(name);
    return entries;
  }

  /** Restores a deleted conversation from its entries, or as it is in memory. */
  restore(conversation, entries = []) {
    this.#writeWhole(conversation);
    for (const [name, text] of entries) this.#write(name, text);
  }

  /** Removes unreadable entries too. */
  removeAll() {
    for (const id of [...this.#byId.keys(), ...this.#numAside.keys()]) this.remove(id);
  }

  /**
   * Another tab has changed the storage; returns the changes: [{conversation, turn, isRemoved}]. `isOurs(turn)`: this
   * tab generates the turn, so its version counts.
   */
  onStorage(event, isOurs) {
    if (event.storageArea !== this.#storage) return [];
    if (event.key === null) return this.list().map((conversation) => this.#forget(conversation));
    const ids = idsIn(event.key);
    if (ids === null) return [];
    const conversation = this.get(ids.id);
    if (ids.turnId === null && event.newValue === null) return conversation ? [this.#forget(conversation)] : [];
    if (event.newValue === null) return conversation ? this.#onTurnRemoved(conversation, ids.turnId, isOurs) : [];
    const value = parseObject(event.newValue);
    if (value === null) return [];
    if (conversation === null) return this.#onUnknown(ids.id);
    if (ids.turnId === null) return this.#onFields(conversation, value);
    const turn = readTurn(value, ids.turnId);
    return turn ? this.#onTurn(conversation, turn, isOurs) : [];
  }

  #forget(conversation) {
    const { id } = conversation;
    this.#byId.delete(id);
    // Entries written by this tab meanwhile go too, unless the other tab has restored the conversation.
    if (this.#read(nameOf(id)) === null) for (const [name] of this.#entriesOf(id)) this.#drop(name);
    return { conversation, turn: null, isRemoved: true };
  }

  #onTurnRemoved(conversation, turnId, isOurs) {
    const turn = conversation.turns.get(turnId);
    if (!turn || isOurs(turn)) return [];
    conversation.turns.delete(turnId);
    return [{ conversation, turn: null, isRemoved: false }];
  }

  #onUnknown(id) {
    const values = this.#entriesOf(id).map(([name, text]) => [idsIn(name).turnId, parseObject(text)]);
    const value = values.find(([turnId]) => turnId === null)?.[1];
    const { conversation } = readConversation(id, value, new Map(values.filter(([turnId]) => turnId !== null)));
    if (conversation === null || !value) return []; // its other entries have not arrived yet
    this.#byId.set(id, conversation);
    return [{ conversation, turn: null, isRemoved: false }];
  }

  #onFields(conversation, value) {
    const { title, isNamed, system, updated, sentFrom } = readFields(value);
    Object.assign(conversation, { title: title || conversation.title, isNamed, system, updated, sentFrom });
    const changes = [{ conversation, turn: null, isRemoved: false }];
    for (const turn of readList(value.turns).turns) {
      // A page of the first version rewrites all turns; a turn with its own entry is newer.
      const isKnown = this.#read(turnNameOf(conversation.id, turn.id)) !== null;
      if (!isKnown) changes.push(...this.#onTurn(conversation, turn, () => false));
    }
    return changes;
  }

  #onTurn(conversation, turn, isOurs) {
    const known = conversation.turns.get(turn.id);
    if (known && isOurs(known)) return [];
    if (known) Object.assign(known, turn);
    else conversation.turns.set(turn.id, turn);
    conversation.mend();
    return [{ conversation, turn: known ?? turn, isRemoved: false }];
  }

  #writeWhole(conversation) {
    this.#byId.set(conversation.id, conversation);
    this.#writeFields(conversation, ["title", "isNamed", "created", "updated", "system", "sentFrom", "chosen"]);
    for (const turn of conversation.turns.values()) this.#writeTurn(conversation, turn);
  }

  #writeFields(conversation, names) {
    const name = nameOf(conversation.id);
    const value = { version: VERSION, ...parseObject(this.#read(name)) };
    for (const field of names) {
      if (field === "chosen") value.chosen = { ...value.chosen, ...Object.fromEntries(conversation.chosen) };
      else value[field] = conversation[field];
    }
    this.#write(name, JSON.stringify(value));
  }

  #writeTurn(conversation, turn) {
    const name = turnNameOf(conversation.id, turn.id);
    const { id, ...value } = turn;
    this.#write(name, JSON.stringify({ ...parseObject(this.#read(name)), ...value }));
  }

  /** All entries of a conversation, its own first. */
  #entriesOf(id) {
    const names = Array.from({ length: this.#storage.length }, (_, place) => this.#storage.key(place));
    const all = new Set([...names, ...this.#unwritten.keys()].filter((name) => idsIn(name)?.id === id));
    const sorted = [...all].sort((a, b) => a.length - b.length);
    return sorted.map((name) => [name, this.#read(name)]).filter(([, text]) => text !== null);
  }

  #read(name) {
    return this.#unwritten.get(name) ?? this.#storage.getItem(name);
  }

  #write(name, text) {
    this.#unwritten.set(name, text);
    this.#writeRest();
  }

  #drop(name) {
    this.#unwritten.delete(name);
    this.#storage.removeItem(name);
    this.#writeRest();
  }

  /** Writes pending entries; retried with every change. */
  #writeRest() {
    try {
      for (const [name, text] of this.#unwritten) {
        this.#storage.setItem(name, text);
        this.#unwritten.delete(name);
      }
      if (this.#isFull) this.onTrouble(null);
      this.#isFull = false;
    } catch {
      this.#isFull = true;
      this.onTrouble("full");
    }
  }
}
