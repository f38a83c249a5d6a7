// Draws an answer during and after generation, and explains why it stopped early.

import { button, element, icon } from "./dom.js";
import { number, t } from "./i18n.js";
import { MarkdownView } from "./markdown.js";
import { ReasoningView } from "./reasoning_view.js";
import { drawVersions } from "./versions.js";

function figuresText({ tokensPerS, firstTokenS, completionTokens }) {
  const parts = [];
  if (tokensPerS) parts.push(t("perSecond", { rate: number(tokensPerS, tokensPerS < 10 ? 1 : 0) }));
  if (firstTokenS) parts.push(t("firstToken", { seconds: number(firstTokenS, firstTokenS < 10 ? 2 : 0) }));
  if (completionTokens) parts.push(t("numTokens", { tokens: number(completionTokens) }));
  return parts.join(" · ");
}

export class AnswerTurn {
  #countdown = null;
  #drawn = "";
  #versions = element("span", { class: "versions" });

  constructor(turn, { onChange }) {
    this.turn = turn;
    this.onChange = onChange;
    this.text = element("div", { class: "text" });
    this.view = new MarkdownView(this.text, onChange);
    this.reasoning = new ReasoningView();
    this.outcome = element("div", { class: "outcome" });
    this.foot = element("div", { class: "foot" });
    const mark = element("div", { class: "sign", "aria-hidden": "true" }, icon("mark"));
    this.heading = element("h2", { class: "visually-hidden" }, t("answer"));
    const body = element("div", { class: "body" }, this.heading, this.reasoning.node, this.text, this.outcome, this.foot);
    this.node = element("article", { class: "turn answer" }, mark, body);
    this.refresh();
  }

  /** Shows the turn as it is now. */
  refresh() {
    const { content, finish } = this.turn;
    if (!content.startsWith(this.#drawn)) {
      this.view.finish();
      this.text.replaceChildren();
      this.view = new MarkdownView(this.text, this.onChange);
      this.#drawn = "";
    }
    if (content !== this.#drawn) this.append(content.slice(this.#drawn.length));
    this.showReasoning();
    if (finish === null) this.#showMaking();
    else this.end();
  }

  drawVersions(place, count) {
    drawVersions(this.#versions, place, count);
  }

  #showMaking() {
    clearInterval(this.#countdown);
    this.node.classList.add("making");
    this.node.setAttribute("aria-busy", "true");
    const waiting = element("p", { class: "waiting" }, t("waiting"));
    this.outcome.replaceChildren(...(this.#drawn === "" && this.turn.reasoning === "" ? [waiting] : []));
    this.foot.replaceChildren(this.#versions);
  }

  append(text) {
    this.outcome.replaceChildren();
    this.#drawn += text;
    this.view.append(text);
    if (this.#drawn === text) this.showReasoning();
  }

  showReasoning() {
    const { content, reasoning, finish } = this.turn;
    if (reasoning !== "" && finish === null) this.outcome.replaceChildren();
    this.reasoning.show(reasoning, content === "" && finish === null);
  }

  end() {
    const { content, model, finish, figures } = this.turn;
    this.view.finish();
    this.node.classList.remove("making");
    this.node.removeAttribute("aria-busy");
    if (model) this.heading.textContent = `${t("answer")} · ${model}`;
    this.#showOutcome();
    const copy = button("copy", "copy", { iconName: "copy", hasText: false, className: "round" });
    const again = button("regenerate", "regenerate", { iconName: "again", hasText: false, className: "round only-last" });
    const actions = element("div", { class: "actions" });
    if (content !== "") actions.append(copy);
    if (finish !== "failed") actions.append(again); // the failure card has its own button
    this.foot.replaceChildren(actions, this.#versions, element("span", { class: "figures" }, figuresText(figures)));
  }

  #showOutcome() {
    const { finish, figures, failure, content } = this.turn;
    clearInterval(this.#countdown);
    this.outcome.replaceChildren();
    if (finish === "failed") {
      this.outcome.append(this.#failureCard(failure));
      return;
    }
    if (finish === "stop") return;
    const tokens = figures.completionTokens;
    const cut = tokens ? t("cutByLength", { tokens: number(tokens) }) : t("cutByLengthUnknown");
    const said = element("p", { class: "remark" }, finish === "length" ? cut : t("stopped"));
    const ending = element("div", { class: "ending" }, said);
    if (content !== "") ending.append(button("continue", "continue", { className: "quiet only-last" }));
    this.outcome.append(ending);
  }

  #failureCard({ kind, detail, retryAt }) {
    const words = element("div", { class: "words" }, element("p", {}, t(kind)));
    if (detail !== "") words.append(element("p", { class: "detail", dir: "auto" }, detail));
    const buttons = element("div", { class: "buttons only-last" });
    const canContinue = this.turn.content !== "";
    if (kind === "too_long") {
      buttons.append(button("drop-oldest", "dropOldest", { className: "strong" }), button("new", "newConversation"));
    } else if (kind === "key") buttons.append(button("enter-key", "keyEnter", { className: "strong" }));
    else {
      if (canContinue) buttons.append(button("continue", "continue", { className: "strong" }));
      buttons.append(this.#retryButton(retryAt, canContinue ? "quiet" : "strong"));
    }
    if (kind === "refused") buttons.append(button("settings", "settings"));
    return element("div", { class: "failure" }, icon("alert"), words, buttons);
  }

  /** Disabled until the time that the server asked for. */
  #retryButton(retryAt, className) {
    const retry = button("retry", "retry", { className });
    const label = retry.querySelector("span");
    const show = () => {
      const seconds = Math.ceil(((retryAt ?? 0) - Date.now()) / 1000);
      retry.disabled = seconds > 0;
      label.textContent = seconds > 0 ? t("retryIn", { seconds: number(seconds) }) : t("retry");
      if (seconds <= 0) clearInterval(this.#countdown);
    };
    if (retryAt) this.#countdown = setInterval(show, 250);
    show();
    return retry;
  }

  /** Stops timers and drawing. */
  dispose() {
    clearInterval(this.#countdown);
    this.view.finish();
  }
}
