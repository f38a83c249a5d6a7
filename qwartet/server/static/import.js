// Imports conversations: the page's own exports, files of `qwartet chat`, and OpenAI messages.

import { newId } from "./conversation.js";
import { readConversation } from "./stored.js";

const SOUND_ID = /^[\w-]{1,64}$/;

/** The values in a file that may be conversations. */
function candidatesIn(value) {
  if (Array.isArray(value)) return value.some((one) => one?.role !== undefined) ? [{ messages: value }] : value;
  return Array.isArray(value?.conversations) ? value.conversations : [value];
}

/** The {user, assistant} turns of `qwartet chat` as messages. */
function fromPairs(turns) {
  if (!turns.every((turn) => typeof turn?.user === "string" && typeof turn.assistant === "string")) return turns;
  const messages = ({ user, assistant }) => [{ role: "user", content: user }, { role: "assistant", content: assistant }];
  return turns.flatMap(messages);
}

/** Converts a value with messages to one with turns. */
function fromMessages(value) {
  if (Array.isArray(value.turns)) return { ...value, turns: fromPairs(value.turns) };
  const { messages, ...rest } = value;
  if (!Array.isArray(messages)) return value;
  const systems = messages.filter((one) => one?.role === "system").map(({ content }) => content);
  const turns = messages.filter((one) => one?.role !== "system");
  return { ...rest, system: rest.system ?? systems.join("\n\n"), turns };
}

/** The conversations in a text, and the number of unreadable values: {found, numUnread}. */
export function readImport(text) {
  let value;
  try {
    value = JSON.parse(text.replace(/^\ufeff/, ""));
  } catch {
    return { found: [], numUnread: 1 };
  }
  const found = [];
  let numUnread = 0;
  for (const candidate of candidatesIn(value)) {
    const isObject = candidate !== null && typeof candidate === "object" && !Array.isArray(candidate);
    const id = isObject && SOUND_ID.test(candidate.id) ? candidate.id : newId();
    const { conversation, numAside } = readConversation(id, isObject ? fromMessages(candidate) : null, new Map());
    numUnread += numAside;
    if (conversation) found.push(conversation);
  }
  return { found, numUnread };
}

/**
 * Adds a conversation to the stored ones: missing turns to the one with the same id, or the entire conversation under a
 * new id if the two share only the id.
 */
export function addTo(conversations, found) {
  const known = conversations.get(found.id);
  if (known === null) {
    conversations.restore(found);
    return;
  }
  const isOther = [...found.turns.values()].some(({ id, content }) => (known.turns.get(id)?.content ?? content) !== content);
  if (isOther) {
    found.id = newId();
    conversations.restore(found);
    return;
  }
  for (const turn of found.turns.values()) {
    if (known.turns.has(turn.id)) continue;
    known.turns.set(turn.id, turn);
    conversations.saveTurn(known, turn);
  }
}
