// Unsent messages: one draft per conversation, and one for new conversations.
//
// A draft belongs to its tab (sessionStorage); the last one written also outlives the tab (localStorage).

import { parseObject } from "./stored.js";

const PREFIX = "qwartet.draft.";
const STORAGES = ["sessionStorage", "localStorage"];
export const NEW = "new";

const isText = (value) => typeof value === "string";

function withStorage(name, use) {
  try {
    return use(window[name]);
  } catch {
    return null; // blocked or full: Conversations tells the user
  }
}

export class Drafts {
  #inMemory = new Map();

  get(id) {
    if (this.#inMemory.has(id)) return this.#inMemory.get(id);
    for (const storage of STORAGES) {
      const value = parseObject(withStorage(storage, (found) => found.getItem(PREFIX + id)));
      if (!isText(value?.text)) continue;
      const attachments = Array.isArray(value.attachments) ? value.attachments : [];
      return { text: value.text, attachments: attachments.filter((one) => isText(one?.name) && isText(one.text)) };
    }
    return { text: "", attachments: [] };
  }

  set(id, draft) {
    this.#inMemory.set(id, draft);
    const isEmpty = draft.text === "" && draft.attachments.length === 0;
    for (const storage of STORAGES) {
      withStorage(storage, (found) => {
        if (isEmpty) found.removeItem(PREFIX + id);
        else found.setItem(PREFIX + id, JSON.stringify(draft));
      });
    }
  }
}
