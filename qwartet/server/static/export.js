// Exports conversations as downloads: Markdown to read, JSON for programs and import.js.

import { sentText } from "./attachments.js";
import { t } from "./i18n.js";

const MAX_NAME_CHARS = 50;
const FORMAT = "qwartet page"; // differs from files of `qwartet chat`
const VERSION = 2;

/** The shown path of a conversation, for reading. */
export function toMarkdown(conversation) {
  const parts = [`# ${conversation.title}`];
  if (conversation.system) parts.push(`## ${t("systemPrompt")}`, conversation.system);
  for (const turn of conversation.path) {
    parts.push(`## ${turn.role === "user" ? t("you") : (turn.model ?? t("answer"))}`, sentText(turn));
  }
  return `${parts.join("\n\n")}\n`;
}

/** OpenAI messages and details of the answers for the shown path, and all turns with all versions. */
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

/** All conversations in one file; `aside`: unreadable storage entries, unchanged. */
export function allToJson(conversations, aside) {
  const about = { format: FORMAT, version: VERSION, exported: new Date().toISOString() };
  return asText({ ...about, conversations: conversations.map(valueOf), aside: Object.fromEntries(aside) });
}

const asText = (value) => `${JSON.stringify(value, null, 2)}\n`;

/** A name that is valid on every file system. */
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
  setTimeout(() => URL.revokeObjectURL(url), 10_000); // the download starts after this task
}
