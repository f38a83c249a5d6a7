// How are the conversations listed, and when is the list seen? On a narrow screen it comes and goes.

import { byId, button, element } from "./dom.js";
import { t } from "./i18n.js";

const NARROW = window.matchMedia("(max-width: 860px)");

export class Sidebar {
  #isOpen = false;

  constructor({ onOpen, onOptions }) {
    Object.assign(this, { onOpen, onOptions });
    this.node = byId("sidebar");
    this.opener = byId("open-sidebar");
    this.opener.addEventListener("click", () => this.show());
    byId("close-sidebar").addEventListener("click", () => this.hide());
    byId("veil").addEventListener("click", () => this.hide());
    this.node.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.#isOpen) {
        event.stopPropagation();
        this.hide();
      }
    });
    NARROW.addEventListener("change", () => this.#apply());
    this.#apply();
  }

  #apply() {
    const isOver = NARROW.matches && this.#isOpen;
    document.body.classList.toggle("sidebar-open", isOver);
    this.node.inert = NARROW.matches && !this.#isOpen;
    byId("main").inert = isOver;
    this.opener.setAttribute("aria-expanded", String(isOver));
  }

  show() {
    this.#isOpen = true;
    this.#apply();
    byId("close-sidebar").focus();
  }

  hide() {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#apply();
    this.opener.focus();
  }

  /** Lists `conversations`; `isBusy(id)` says whether an answer is being made in one. */
  draw(conversations, openId, isBusy) {
    const rows = conversations.map((conversation) => this.#row(conversation, openId, isBusy(conversation.id)));
    byId("conversations").replaceChildren(...rows);
    byId("no-conversations").hidden = rows.length > 0;
  }

  #row(conversation, openId, isBusy) {
    const open = element("button", { type: "button", class: "open", dir: "auto" }, conversation.title || t("untitled"));
    if (conversation.id === openId) open.setAttribute("aria-current", "true");
    open.addEventListener("click", () => {
      this.hide();
      this.onOpen(conversation.id);
    });
    const values = { title: conversation.title };
    const more = button("row-options", "options", { iconName: "more", hasText: false, className: "round", values });
    more.setAttribute("aria-haspopup", "true");
    more.addEventListener("click", () => this.onOptions(conversation.id, more));
    return element("li", isBusy ? { class: "busy" } : {}, open, more);
  }
}
