// How do the turns of a conversation look? Nodes for each, and what can be done with it; deciding is app.js's.

import { button, element, fitHeight, icon, isPlainEnter } from "./dom.js";
import { number, t } from "./i18n.js";
import { MarkdownView } from "./markdown.js";

const MAX_DETAIL_CHARS = 500;

function figuresText({ tokensPerS, firstTokenS, completionTokens } = {}) {
  const parts = [];
  if (tokensPerS) parts.push(t("perSecond", { rate: number(tokensPerS, tokensPerS < 10 ? 1 : 0) }));
  if (firstTokenS) parts.push(t("firstToken", { seconds: number(firstTokenS, firstTokenS < 10 ? 2 : 0) }));
  if (completionTokens) parts.push(t("numTokens", { tokens: number(completionTokens) }));
  return parts.join(" · ");
}

/** A user's turn. Callback: onEdited(turn, text). */
export class UserTurn {
  constructor(turn, { onEdited }) {
    this.turn = turn;
    this.onEdited = onEdited;
    this.node = element("article", { class: "turn user" });
    this.#show();
  }

  #show() {
    const bar = element("div", { class: "actions" });
    bar.append(button("copy", "copy", { iconName: "copy", hasText: false, className: "round" }));
    this.editButton = button("edit", "edit", { iconName: "edit", hasText: false, className: "round" });
    this.editButton.addEventListener("click", () => this.#edit());
    bar.append(this.editButton);
    const heading = element("h2", { class: "visually-hidden" }, t("you"));
    this.node.replaceChildren(heading, element("div", { class: "said", dir: "auto" }, this.turn.content), bar);
  }

  #edit() {
    const field = element("textarea", { "aria-label": t("editLabel"), rows: "1" });
    field.value = this.turn.content;
    const send = button("send-edited", "send", { className: "strong" });
    const cancel = button("cancel-edit", "cancel");
    const note = element("span", { class: "note" }, t("editNote"));
    const buttons = element("div", { class: "buttons" }, note, cancel, send);
    this.node.replaceChildren(element("div", { class: "editor" }, field, buttons));
    const submit = () => field.value.trim() !== "" && this.onEdited(this.turn, field.value);
    const leave = () => {
      this.#show();
      this.editButton.focus();
    };
    send.addEventListener("click", submit);
    cancel.addEventListener("click", leave);
    field.addEventListener("input", () => fitHeight(field));
    field.addEventListener("keydown", (event) => {
      if (isPlainEnter(event)) {
        event.preventDefault();
        submit();
      } else if (event.key === "Escape" && !event.isComposing) {
        event.stopPropagation();
        leave();
      }
    });
    fitHeight(field);
    field.focus();
  }
}

/** An answer, finished or in the making. */
export class AnswerTurn {
  #countdown = null;

  constructor(turn, { onChange }) {
    this.turn = turn;
    this.text = element("div", { class: "text" });
    this.view = new MarkdownView(this.text, onChange);
    this.outcome = element("div", { class: "outcome" });
    this.foot = element("div", { class: "foot" });
    const mark = element("div", { class: "sign", "aria-hidden": "true" }, icon("mark"));
    this.heading = element("h2", { class: "visually-hidden" }, t("answer"));
    const body = element("div", { class: "body" }, this.heading, this.text, this.outcome, this.foot);
    this.node = element("article", { class: "turn answer" }, mark, body);
    if (turn.content !== "") this.view.append(turn.content);
    if (turn.finish === null) this.#showWaiting();
    else this.end();
  }

  #showWaiting() {
    this.node.classList.add("making");
    this.node.setAttribute("aria-busy", "true");
    if (this.turn.content === "") this.outcome.replaceChildren(element("p", { class: "waiting" }, t("thinking")));
  }

  append(text) {
    this.outcome.replaceChildren();
    this.view.append(text);
  }

  end() {
    this.view.finish();
    this.node.classList.remove("making");
    this.node.removeAttribute("aria-busy");
    if (this.turn.model) this.heading.textContent = `${t("answer")} · ${this.turn.model}`;
    this.#showOutcome();
    const copy = button("copy", "copy", { iconName: "copy", hasText: false, className: "round" });
    const again = button("regenerate", "regenerate", { iconName: "again", hasText: false, className: "round only-last" });
    const actions = element("div", { class: "actions" });
    if (this.turn.content !== "") actions.append(copy);
    if (this.turn.finish !== "failed") actions.append(again); // else the card has a button for it
    const figures = element("span", { class: "figures" }, figuresText(this.turn.figures));
    this.foot.replaceChildren(actions, figures);
  }

  #showOutcome() {
    const { finish, figures, failure } = this.turn;
    this.outcome.replaceChildren();
    if (finish === "failed") this.outcome.append(this.#failureCard(failure));
    else if (finish === "stopped") this.outcome.append(element("p", { class: "remark" }, t("stopped")));
    else if (finish === "length") {
      const tokens = figures?.completionTokens;
      const said = tokens ? t("cutByLength", { tokens: number(tokens) }) : t("cutByLengthUnknown");
      this.outcome.append(element("p", { class: "remark" }, said));
    }
  }

  #failureCard(failure) {
    const kind = failure?.kind ?? "failed";
    const words = element("div", { class: "words" }, element("p", {}, t(kind)));
    const detail = String(failure?.detail ?? "").slice(0, MAX_DETAIL_CHARS);
    if (detail !== "") words.append(element("p", { class: "detail", dir: "auto" }, detail));
    const buttons = element("div", { class: "buttons only-last" });
    if (kind === "too_long") buttons.append(button("new", "newConversation", { className: "strong" }));
    else if (kind === "key") buttons.append(button("enter-key", "keyEnter", { className: "strong" }));
    else buttons.append(this.#retryButton(failure?.retryAt));
    if (kind === "refused") buttons.append(button("settings", "settings"));
    return element("div", { class: "failure" }, icon("alert"), words, buttons);
  }

  /** It waits as long as the server has asked for. */
  #retryButton(retryAt) {
    const retry = button("retry", "retry", { className: "strong" });
    const label = retry.querySelector("span");
    const show = () => {
      const seconds = Math.ceil(((retryAt ?? 0) - Date.now()) / 1000);
      retry.disabled = seconds > 0;
      label.textContent = seconds > 0 ? t("retryIn", { seconds }) : t("retry");
      if (seconds <= 0) clearInterval(this.#countdown);
    };
    if (retryAt) this.#countdown = setInterval(show, 250);
    show();
    return retry;
  }

  /** Ends what would go on without the node. */
  dispose() {
    clearInterval(this.#countdown);
    this.view.finish();
  }
}
