// Starts, continues and stops answers, and tracks those in progress in this tab and in others.

import { Generation, messagesOf } from "./generation.js";
import { Tabs } from "./tabs.js";

const ASK_EVERY_MS = 4000;

/** An answer without text: not worth keeping as a version. */
const isEmpty = ({ role, content, finish }) => role === "assistant" && content === "" && finish !== null;

export class Answering {
  #here = new Map(); // turn id -> Generation
  #watched = new Set(); // ids of turns that may be in progress in other tabs

  /**
   * Callbacks: onBegin(conversation), onText(turn, text), onReasoning(turn), onEnd(conversation, turn); request() gives
   * model, settings, key.
   */
  constructor(conversations, { request, onBegin, onText, onReasoning, onEnd }) {
    Object.assign(this, { conversations, request, onBegin, onText, onReasoning, onEnd });
    this.tabs = new Tabs({
      isMaking: (turnId) => this.#here.has(turnId),
      onStop: (turnId) => this.#here.get(turnId).stop(),
    });
    window.addEventListener("pagehide", () => {
      for (const generation of this.#here.values()) generation.cut();
    });
  }

  isHere(turn) {
    return this.#here.has(turn.id);
  }

  /** Is the last shown turn still being generated? */
  isBusy(conversation) {
    return conversation.last?.finish === null;
  }

  isMakingIn(conversation) {
    return [...this.#here.values()].some((generation) => generation.conversation === conversation);
  }

  /** Answers the message `question`; a new version if it already has answers. */
  answer(conversation, question) {
    for (const turn of [...conversation.turns.values()]) {
      if (turn.parent === question.id && isEmpty(turn)) this.conversations.removeTurn(conversation, turn);
    }
    const about = { model: this.request().model ?? null, finish: null, figures: {}, sentFrom: conversation.sentFrom };
    this.#begin(conversation, conversation.add(question, { role: "assistant", content: "", reasoning: "", ...about }));
  }

  /** Continues an answer that ended early. */
  continue(conversation, turn) {
    delete turn.failure;
    Object.assign(turn, { finish: null, sentFrom: conversation.sentFrom });
    this.#begin(conversation, turn);
  }

  #begin(conversation, turn) {
    const { conversations } = this;
    const generation = new Generation(conversation, turn, {
      save: () => this.isKept(conversation) && conversations.saveTurn(conversation, turn),
      onText: (text) => this.onText(turn, text),
      onReasoning: () => this.onReasoning(turn),
      onEnd: () => {
        this.#here.delete(turn.id);
        this.onEnd(conversation, turn);
      },
    });
    this.#here.set(turn.id, generation);
    conversations.saveFields(conversation, "title", "updated", "chosen");
    conversations.saveTurn(conversation, turn);
    this.onBegin(conversation);
    const { sentPath } = conversation;
    const messages = messagesOf(conversation.system, sentPath.slice(0, sentPath.indexOf(turn) + 1));
    generation.run({ ...this.request(), messages });
  }

  /** Not deleted meanwhile: a late answer must not bring its conversation back. */
  isKept(conversation) {
    return this.conversations.get(conversation.id) === conversation;
  }

  /** Stops the last shown answer, in whichever tab it is generated. */
  stop(conversation) {
    const turn = conversation.last;
    if (turn?.finish !== null) return;
    if (this.isHere(turn)) this.#here.get(turn.id).stop();
    else this.tabs.stop(turn.id);
  }

  /** Stops all answers of this tab in a conversation. */
  stopAll(conversation) {
    for (const generation of this.#here.values()) if (generation.conversation === conversation) generation.stop();
  }

  /** Polls other tabs about an unfinished answer; if none is generating it, marks it as cut and calls onEnd. */
  async watch(conversation) {
    const turn = conversation.last;
    if (turn?.finish !== null || this.isHere(turn) || this.#watched.has(turn.id)) return;
    this.#watched.add(turn.id);
    const isAlive = await this.tabs.isMaking(turn.id);
    if (isAlive) await new Promise((resolve) => setTimeout(resolve, ASK_EVERY_MS));
    this.#watched.delete(turn.id);
    if (turn.finish !== null || this.isHere(turn)) return;
    if (isAlive) {
      this.watch(conversation);
      return;
    }
    Object.assign(turn, { finish: "failed", failure: { kind: "cut", detail: "", retryAt: null } });
    this.onEnd(conversation, turn);
  }
}
