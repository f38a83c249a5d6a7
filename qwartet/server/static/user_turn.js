// Draws a user message and its editor. app.js decides what an edit does.

import { foldedAttachment } from "./attachments.js";
import { button, element, fitHeight, isPlainEnter } from "./dom.js";
import { t } from "./i18n.js";
import { drawVersions } from "./versions.js";

const MAX_UNFOLDED_CHARS = 2000;
const MAX_UNFOLDED_LINES = 30;

function isLong(text) {
  return text.length > MAX_UNFOLDED_CHARS || text.split("\n", MAX_UNFOLDED_LINES + 1).length > MAX_UNFOLDED_LINES;
}

/** Callback: onEdited(turn, text). */
export class UserTurn {
  #versions = element("span", { class: "versions" });
  #isEdited = false;

  constructor(turn, { onEdited }) {
    this.turn = turn;
    this.onEdited = onEdited;
    this.node = element("article", { class: "turn user" });
    this.#show();
  }

  drawVersions(place, count) {
    drawVersions(this.#versions, place, count);
  }

  refresh() {
    if (!this.#isEdited) this.#show();
  }

  #show() {
    this.#isEdited = false;
    const { content, attachments } = this.turn;
    const bar = element("div", { class: "actions" });
    bar.append(button("copy", "copy", { iconName: "copy", hasText: false, className: "round" }));
    this.editButton = button("edit", "edit", { iconName: "edit", hasText: false, className: "round" });
    this.editButton.addEventListener("click", () => this.edit());
    const answer = button("regenerate", "retry", { iconName: "again", hasText: false, className: "round only-last" });
    bar.append(this.editButton, answer, this.#versions);
    this.node.replaceChildren(element("h2", { class: "visually-hidden" }, t("you")));
    if (content !== "") this.node.append(...this.#said(content));
    this.node.append(...attachments.map(foldedAttachment), bar);
  }

  #said(content) {
    const said = element("div", { class: "said", dir: "auto" }, content);
    if (!isLong(content)) return [said];
    said.classList.add("folded");
    const unfold = button("unfold", "showAll", { className: "quiet" });
    unfold.setAttribute("aria-expanded", "false");
    unfold.addEventListener("click", () => {
      const isFolded = said.classList.toggle("folded");
      unfold.setAttribute("aria-expanded", String(!isFolded));
      unfold.querySelector("span").textContent = t(isFolded ? "showAll" : "showLess");
    });
    return [said, unfold];
  }

  edit() {
    this.#isEdited = true;
    const field = element("textarea", { "aria-label": t("editLabel"), rows: "1" });
    field.value = this.turn.content;
    const send = button("send-edited", "send", { className: "strong" });
    const cancel = button("cancel-edit", "cancel");
    const note = element("span", { class: "note" }, t("editNote"));
    const buttons = element("div", { class: "buttons" }, note, cancel, send);
    const attached = this.turn.attachments.map(foldedAttachment);
    this.node.replaceChildren(element("div", { class: "editor" }, field, buttons), ...attached);
    const isSendable = () => field.value.trim() !== "" || this.turn.attachments.length > 0;
    const submit = () => isSendable() && this.onEdited(this.turn, field.value);
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
