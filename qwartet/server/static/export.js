// How does a conversation leave the browser? As a file that the browser saves.

import { t } from "./i18n.js";

/** The conversation to read. */
export function toMarkdown(conversation) {
  const parts = [`# ${conversation.title}`];
  if (conversation.system) parts.push(`## ${t("systemPrompt")}`, conversation.system);
  for (const turn of conversation.turns) {
    parts.push(`## ${turn.role === "user" ? t("you") : (turn.model ?? t("answer"))}`, turn.content);
  }
  return `${parts.join("\n\n")}\n`;
}

/** The conversation for a program: OpenAI's messages, and what is known of each answer. */
export function toJson(conversation) {
  const { title, created, updated, system, turns } = conversation;
  const messages = turns.map(({ role, content }) => ({ role, content }));
  if (system) messages.unshift({ role: "system", content: system });
  const answers = turns
    .filter((turn) => turn.role === "assistant")
    .map(({ model, finish, figures }) => ({ model, finish_reason: finish, ...figures }));
  const dates = { created: new Date(created).toISOString(), updated: new Date(updated).toISOString() };
  return `${JSON.stringify({ title, ...dates, messages, answers }, null, 2)}\n`;
}

/** A name that every file system takes. */
export function fileName(conversation, suffix) {
  const name = conversation.title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "");
  return `${name.slice(0, MAX_NAME_CHARS) || "qwartet"}.${suffix}`;
}

const MAX_NAME_CHARS = 50;

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
