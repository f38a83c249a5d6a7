// What to do when a conversation fills the model's context: drop the oldest messages, or summarise into a new one.

import { RequestFailure, streamChat } from "./api.js";
import { sentText } from "./attachments.js";
import { byId } from "./dom.js";
import { messagesOf } from "./generation.js";
import { number, t } from "./i18n.js";

const NEARLY_FULL = 0.85;
const KEPT_SHARE = 0.5; // of the sent text, when the oldest turns are dropped
const SUMMARY_TOKENS = 400;

const lengthOf = (turns) => turns.reduce((sum, turn) => sum + sentText(turn).length, 0);

/** The message to start at so that about half of the sent text remains; null if nothing can be dropped. */
function cutOf(path) {
  const questions = path.filter(({ role }, place) => role === "user" && place > 0);
  const all = lengthOf(path);
  const fits = (question) => lengthOf(path.slice(path.indexOf(question))) <= KEPT_SHARE * all;
  return questions.find(fits) ?? questions.at(-1) ?? null;
}

/** Shows context usage, and actions when it is nearly full. */
export function drawRoom(conversation, model) {
  const answer = conversation.sentPath.findLast((turn) => turn.figures?.totalTokens);
  const used = answer?.sentFrom === conversation.sentFrom ? answer.figures.totalTokens : null; // else it is outdated
  const all = model?.maxModelLen;
  const isKnown = Boolean(used && all);
  byId("context").hidden = !isKnown;
  const isNearlyFull = isKnown && used / all > NEARLY_FULL;
  byId("room").hidden = !isNearlyFull || conversation.last?.finish === null;
  byId("drop-oldest").hidden = cutOf(conversation.sentPath) === null;
  if (!isKnown) return;
  const bar = byId("context-bar");
  bar.max = all;
  bar.value = used;
  bar.classList.toggle("nearly-full", isNearlyFull);
  byId("context-text").textContent = t("contextOf", { used: number(used), all: number(all) });
}

/** Stops sending the oldest turns; false if only one message is left. */
export function dropOldest(conversation) {
  const cut = cutOf(conversation.sentPath);
  if (cut === null) return false;
  conversation.sentFrom = cut.id;
  return true;
}

/** The model's summary of the sent part of a conversation. Throws RequestFailure. */
export async function summaryOf(conversation, { model, settings, key }, maxModelLen) {
  const asked = { role: "user", content: t("summaryRequest") };
  let path = conversation.sentPath.filter(({ finish }) => finish !== null);
  for (;;) {
    const messages = [...messagesOf(conversation.system, path), asked];
    const limits = { ...settings, max_tokens: Math.min(SUMMARY_TOKENS, Math.ceil((maxModelLen ?? 4096) / 8)) };
    if (limits.chat_template_kwargs) limits.chat_template_kwargs = { enable_thinking: false };
    try {
      let text = "";
      for await (const piece of streamChat({ model, messages, settings: limits, key })) text += piece.text;
      return text.trim();
    } catch (error) {
      const cut = cutOf(path);
      if (!(error instanceof RequestFailure) || error.kind !== "too_long" || cut === null) throw error;
      path = path.slice(path.indexOf(cut)); // the oldest part does not fit next to the request
    }
  }
}
