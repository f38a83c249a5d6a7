// Generates one answer: from the request to the last piece, with its statistics, into a turn that can be stored.

import { RequestFailure, streamChat } from "./api.js";
import { sentText } from "./attachments.js";

const SAVE_EVERY_MS = 1000;

/** The messages to send for `path`; answers without text are left out. */
export function messagesOf(system, path) {
  const messages = [];
  if (system.trim() !== "") messages.push({ role: "system", content: system });
  for (const turn of path) {
    if (turn.role === "user" || turn.content !== "") messages.push({ role: turn.role, content: sentText(turn) });
  }
  return messages;
}

/** Measures an answer. Tokens per second exclude the first token, whose time is the prompt's. */
class Stopwatch {
  started = performance.now();
  first = null;
  last = null;

  onText() {
    this.last = performance.now();
    this.first ??= this.last;
  }

  figures(usage) {
    const figures = { firstTokenS: this.first === null ? null : (this.first - this.started) / 1000 };
    if (usage === null) return figures;
    const { prompt_tokens: promptTokens, completion_tokens: completionTokens, total_tokens: totalTokens } = usage;
    const seconds = (this.last - this.first) / 1000;
    const tokensPerS = completionTokens > 1 && seconds > 0 ? (completionTokens - 1) / seconds : null;
    return { ...figures, tokensPerS, promptTokens, completionTokens, totalTokens };
  }
}

export class Generation {
  #controller = new AbortController();
  #savedAt = 0;
  #isCut = false;

  /** `turn` is an unfinished answer, with or without text. Callbacks: save(), onText(text), onReasoning(), onEnd(). */
  constructor(conversation, turn, { save, onText, onReasoning, onEnd }) {
    Object.assign(this, { conversation, turn, save, onText, onReasoning, onEnd });
  }

  stop() {
    this.#controller.abort();
  }

  /** The page is closing: there is no time to wait for the end of the stream. */
  cut() {
    this.#isCut = true;
    this.#controller.abort();
    Object.assign(this.turn, { finish: "failed", failure: { kind: "cut", detail: "", retryAt: null } });
    this.save();
  }

  /** A failure of the request is stored in the turn. */
  async run({ model, messages, settings, key }) {
    const { turn } = this;
    const watch = new Stopwatch();
    let usage = null;
    let finish = null;
    try {
      const isContinued = turn.content !== "";
      if (!isContinued) turn.reasoning = "";
      const pieces = streamChat({ model, messages, isContinued, settings, key, signal: this.#controller.signal });
      for await (const piece of pieces) {
        if (piece.reasoning !== "") {
          watch.onText();
          turn.reasoning += piece.reasoning;
          this.onReasoning();
          this.#saveNowAndThen();
        }
        if (piece.text !== "") {
          watch.onText();
          turn.content += piece.text;
          this.onText(piece.text);
          this.#saveNowAndThen();
        }
        turn.model = piece.model ?? turn.model; // the model that answers, whichever was requested
        finish = piece.finishReason ?? finish;
        usage = piece.usage ?? usage;
      }
      turn.finish = finish ?? "stop";
    } catch (error) {
      this.#onError(error);
    } finally {
      turn.figures = watch.figures(usage);
      this.save();
      this.onEnd();
    }
  }

  #onError(error) {
    if (this.#isCut) return;
    if (error.name === "AbortError") {
      this.turn.finish = "stopped";
      return;
    }
    this.turn.finish = "failed";
    this.turn.failure = { kind: "failed", detail: "", retryAt: null };
    if (!(error instanceof RequestFailure)) throw error; // a bug in the page: show it in the console
    const { kind, detail, retryAfterS } = error;
    this.turn.failure = { kind, detail, retryAt: retryAfterS === null ? null : Date.now() + retryAfterS * 1000 };
  }

  #saveNowAndThen() {
    const now = Date.now();
    if (now - this.#savedAt < SAVE_EVERY_MS) return;
    this.#savedAt = now;
    this.save();
  }
}
