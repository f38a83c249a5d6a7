// How do conversations leave the browser? As a file that the browser saves: to read, or for a program and for import.js.

import { sentText } from "./attachments.js";
import { t } from "./i18n.js";

const MAX_NAME_CHARS = 50;
const FORMAT = "qwartet page"; // not what `qwartet chat` saves
const VERSION = 2;

/** The conversation to read, as it is shown. */
export function toMarkdown(conversation) {
  const parts = [`# ${conversation.title}`];
  if (conversation.system) parts.push(`## ${t("systemPrompt")}`, conversation.system);
  for (const turn of conversation.path) {
    parts.push(`## ${turn.role === "user" ? t("you") : (turn.model ?? t("answer"))}`, sentText(turn));
  }
  return `${parts.join("\n\n")}\n`;
}

/** OpenAI's messages and what is known of each answer, as far as it is shown, and the turns with all their versions. */
function valueOf(conversation) {
  const { id, title, isNamed, system, sentFrom, path } = conversation;
  const messages = path.map((turn) => ({ role: turn.role, content: sentText(turn) }));
  if (system) messages.unshift({ role: "system", content: system });
  const answers = path
    .filter((turn) => turn.role === "assistant")
    .map(({ model, finish, figures }) => ({ model, finish_reason: finish, ...figures }));
  const created = new Date(conversation.created).toISOString();
  const updated = new Date(conversation.updated).toISOString();
  const chosen = Object.fromEntries(conversation.chosen);
  const turns = [...conversation.turns.values()];
  return { id, title, isNamed, created, updated, messages, answers, system, sentFrom, chosen, turns };
}

export function toJson(conversation) {
  return asText({ format: FORMAT, version: VERSION, ...valueOf(conversation) });
}

/** All of them in one file; `aside`: entries of the storage that could not be read, as they are. */
export function allToJson(conversations, aside) {
  const about = { format: FORMAT, version: VERSION, exported: new Date().toISOString() };
  return asText({ ...about, conversations: conversations.map(valueOf), aside: Object.fromEntries(aside) });
}

const asText = (value) => `${JSON.stringify(value, null, 2)}\n`;

/** A name that every file system takes. */
export function fileName(title, suffix) {
  const name = title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "");
  return `${name.slice(0, MAX_NAME_CHARS) || "qwartet"}.${suffix}`;
}

export function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10_000); // the download begins after this task
}
