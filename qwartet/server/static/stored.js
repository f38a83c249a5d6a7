// Reads stored entries. They may come from another version of the page, from an editor, or from any page of this origin:
// whatever can be shown is read, and every value has the type that the page expects.

import { Conversation, ROOT } from "./conversation.js";
import { titleOf } from "./title.js";

const FINISHES = new Set(["stop", "length", "stopped", "failed"]);
const FAILURES = new Set(["unreachable", "cut", "key", "busy", "unready", "too_long", "refused", "failed", "strange"]);
const FIGURES = ["firstTokenS", "tokensPerS", "promptTokens", "completionTokens", "totalTokens"];
const LAST_DATE = 8.64e15; // JavaScript's limit
const MAX_TITLE_CHARS = 500;
const MAX_DETAIL_CHARS = 500;

const isText = (value) => typeof value === "string";
const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

/** Milliseconds, from a number or a date string; 0 if invalid. */
function dateOf(value) {
  const time = isText(value) ? Date.parse(value) : value;
  return Number.isFinite(time) && Math.abs(time) <= LAST_DATE ? time : 0;
}

/** The JSON object in a text, or null. */
export function parseObject(text) {
  try {
    const value = JSON.parse(text);
    return isObject(value) ? value : null;
  } catch {
    return null;
  }
}

function figuresOf(value) {
  if (!isObject(value)) return {};
  return Object.fromEntries(FIGURES.map((name) => [name, value[name]]).filter(([, one]) => Number.isFinite(one) && one > 0));
}

function failureOf(value) {
  const { kind, detail, retryAt } = isObject(value) ? value : {};
  return {
    kind: FAILURES.has(kind) ? kind : "failed",
    detail: isText(detail) ? detail.slice(0, MAX_DETAIL_CHARS) : "",
    retryAt: Number.isFinite(retryAt) ? retryAt : null,
  };
}

const isAttachment = (value) => isText(value?.name) && isText(value?.text);

/** The turn in a value, or null if nothing can be shown. */
export function readTurn(value, id) {
  if (!isObject(value) || !isText(value.content)) return null;
  const { role, content, model, finish, figures, failure, attachments } = value;
  const parent = isText(value.parent) ? value.parent : ROOT;
  const about = { id, parent, role, content, created: dateOf(value.created) };
  if (role === "user") {
    return { ...about, attachments: Array.isArray(attachments) ? attachments.filter(isAttachment) : [] };
  }
  if (role !== "assistant") return null;
  const turn = { ...about, model: isText(model) ? model : null, finish: "stop", figures: figuresOf(figures) };
  turn.sentFrom = isText(value.sentFrom) ? value.sentFrom : "";
  turn.reasoning = isText(value.reasoning) ? value.reasoning : "";
  if (finish === null || FINISHES.has(finish)) turn.finish = finish;
  if (turn.finish === "failed") turn.failure = failureOf(failure);
  return turn;
}

/** The fields of a conversation except its turns. */
export function readFields(value) {
  const { title, isNamed, created, updated, system, sentFrom, chosen } = value;
  return {
    title: isText(title) ? title.slice(0, MAX_TITLE_CHARS) : "",
    isNamed: isNamed === true,
    created: dateOf(created),
    updated: dateOf(updated),
    system: isText(system) ? system : "",
    sentFrom: isText(sentFrom) ? sentFrom : "",
    chosen: new Map(isObject(chosen) ? Object.entries(chosen).filter(([, child]) => isText(child)) : []),
  };
}

/**
 * The turns in a list, each the child of the previous one unless it has its own id and parent: the page's first
 * versions kept a conversation in one entry, and exports are such lists. An unfinished answer counts as cut.
 */
export function readList(list) {
  const turns = [];
  if (!Array.isArray(list)) return { turns, numAside: list === undefined ? 0 : 1 };
  for (const [place, value] of list.entries()) {
    const hasOwnId = isText(value?.id) && isText(value.parent);
    const turn = readTurn(value, hasOwnId ? value.id : String(place));
    if (turn === null) continue;
    if (!hasOwnId) turn.parent = turns.at(-1)?.id ?? ROOT;
    if (turn.finish === null) Object.assign(turn, { finish: "failed", failure: failureOf({ kind: "cut" }) });
    turns.push(turn);
  }
  return { turns, numAside: list.length - turns.length };
}

/**
 * The conversation in its own value (undefined if missing, null if unreadable) and the values of its turns by id; null
 * if nothing can be shown. `numAside` is the number of unreadable values.
 */
export function readConversation(id, value, turnValues) {
  const { turns, numAside } = readList(value?.turns);
  const conversation = new Conversation({ id, ...readFields(value ?? {}) });
  for (const turn of turns) conversation.turns.set(turn.id, turn);
  let numUnread = numAside + (value === null ? 1 : 0);
  for (const [turnId, turnValue] of turnValues) {
    const turn = readTurn(turnValue, turnId);
    if (turn === null) numUnread += 1;
    else conversation.turns.set(turnId, turn);
  }
  if (conversation.turns.size === 0) return { conversation: null, numAside: Math.max(numUnread, 1) };
  conversation.mend();
  conversation.title ||= titleOf(conversation.path[0].content);
  conversation.updated ||= conversation.last.created;
  return { conversation, numAside: numUnread };
}
