// The conversation list: search, and show and hide on narrow screens.

import { groupsOf } from "./date_groups.js";
import { byId, button, element } from "./dom.js";
import { number, t } from "./i18n.js";
import { announce } from "./notices.js";

const NARROW = window.matchMedia("(max-width: 860px)");

/** Does a conversation contain all these words, in its title or in any version of a turn? */
function holds({ title, turns }, words) {
  const texts = [title, ...Array.from(turns.values(), ({ content }) => content)].map((text) => text.toLowerCase());
  return words.every((word) => texts.some((text) => text.includes(word)));
}

export class Sidebar {
  #isOpen = false;
  #shown = { conversations: [], openId: null, isBusy: () => false };

  constructor({ onOpen, onOptions }) {
    Object.assign(this, { onOpen, onOptions });
    this.node = byId("sidebar");
    this.opener = byId("open-sidebar");
    this.search = byId("search");
    this.opener.addEventListener("click", () => this.show());
    byId("close-sidebar").addEventListener("click", () => this.hide());
    byId("veil").addEventListener("click", () => this.hide());
    this.search.addEventListener("input", () => this.#onSearch());
    this.node.addEventListener("keydown", (event) => this.#onKey(event));
    NARROW.addEventListener("change", () => this.#apply());
    this.#apply();
  }

  #onKey(event) {
    if (event.key !== "Escape" || event.isComposing) return;
    if (event.target === this.search && this.search.value !== "") {
      event.stopPropagation();
      event.preventDefault();
      this.search.value = "";
      this.#onSearch();
    } else if (this.#isOpen) {
      event.stopPropagation();
      this.hide();
    }
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

  focusSearch() {
    if (NARROW.matches) this.show();
    this.search.focus();
    this.search.select();
  }

  /** Lists `conversations`; `isBusy(conversation)`: an answer is in progress there. */
  draw(conversations, openId, isBusy) {
    this.#shown = { conversations, openId, isBusy };
    this.#drawList();
  }

  #onSearch() {
    const numFound = this.#drawList();
    announce(this.search.value.trim() === "" ? "" : t("numFound", { count: number(numFound) }));
  }

  #drawList() {
    const { conversations } = this.#shown;
    const words = this.search.value.toLowerCase().split(/\s+/).filter((word) => word !== "");
    const found = words.length === 0 ? conversations : conversations.filter((one) => holds(one, words));
    byId("conversations").replaceChildren(...groupsOf(found).map((group) => this.#group(group)));
    const isNothing = found.length === 0;
    byId("no-conversations").hidden = !isNothing;
    byId("no-conversations").textContent = t(words.length > 0 ? "nothingFound" : "noConversations");
    return found.length;
  }

  #group({ heading, conversations }) {
    const rows = conversations.map((conversation) => this.#row(conversation));
    return element("li", {}, element("h2", {}, heading), element("ul", {}, ...rows));
  }

  #row(conversation) {
    const { openId, isBusy } = this.#shown;
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
    return element("li", isBusy(conversation) ? { class: "row busy" } : { class: "row" }, open, more);
  }
}
