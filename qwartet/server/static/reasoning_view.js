// What a model thought before its answer: folded, above the answer, as plain text.

import { element } from "./dom.js";
import { t } from "./i18n.js";

export class ReasoningView {
  #text = document.createTextNode("");
  #label = element("span");

  constructor() {
    const summary = element("summary", {}, this.#label);
    const body = element("div", { class: "reasoning-text", dir: "auto" }, this.#text);
    this.node = element("details", { class: "reasoning" }, summary, body);
    this.node.hidden = true;
  }

  /** Shows a text that grows, or another one; `isThinking`: the answer has not begun. */
  show(text, isThinking) {
    this.node.hidden = text === "";
    this.node.classList.toggle("growing", isThinking);
    this.#label.textContent = t(isThinking ? "reasoning" : "reasoned");
    if (text.startsWith(this.#text.data)) this.#text.appendData(text.slice(this.#text.length));
    else this.#text.data = text;
  }
}
