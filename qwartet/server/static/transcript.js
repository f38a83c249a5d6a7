// What is seen of the open conversation? Its turns, the newest kept in sight while the person stays at the end.

import { byId, element } from "./dom.js";
import { currentLanguage, t } from "./i18n.js";
import { AnswerTurn, UserTurn } from "./turns.js";

const NEAR_END_PX = 48;

export class Transcript {
  #views = new Map(); // turn -> its view
  #language = null; // in which they are drawn
  #follows = true; // does the page stay at the end while text arrives?

  constructor({ onEdited }) {
    this.onEdited = onEdited;
    this.scroll = byId("scroll");
    this.turns = byId("turns");
    this.scroll.addEventListener("scroll", () => this.#onScroll(), { passive: true });
    byId("latest").addEventListener("click", () => this.scrollToEnd());
  }

  /** Shows the conversation; turns that are shown already, in this language, stay as they are. */
  draw(conversation) {
    const staying = new Set(this.#language === currentLanguage() ? conversation.turns : []);
    this.#language = currentLanguage();
    for (const [turn, view] of this.#views) {
      if (staying.has(turn)) continue;
      view.dispose?.();
      view.node.remove();
      this.#views.delete(turn);
    }
    for (const turn of conversation.turns) {
      if (this.#views.has(turn)) continue;
      const view = this.#viewOf(turn);
      this.#views.set(turn, view);
      this.turns.append(view.node);
    }
    this.drawSystem(conversation.system);
  }

  #viewOf(turn) {
    if (turn.role === "user") return new UserTurn(turn, { onEdited: this.onEdited });
    return new AnswerTurn(turn, { onChange: () => this.#follow() });
  }

  drawSystem(text) {
    this.turns.querySelector(".system")?.remove();
    if (text.trim() === "") return;
    const label = element("b", {}, t("systemPrompt"));
    const words = element("span", { dir: "auto" }, text);
    this.turns.prepend(element("button", { type: "button", class: "system", "data-action": "settings" }, label, words));
  }

  turnOf(node) {
    const article = node.closest("article");
    for (const [turn, view] of this.#views) if (view.node === article) return turn;
    return null;
  }

  append(turn, text) {
    this.#views.get(turn)?.append(text);
  }

  /** The answer is complete; its text as it is read. */
  end(turn) {
    const view = this.#views.get(turn);
    view?.end();
    this.#follow();
    return view?.text.innerText ?? "";
  }

  scrollToEnd() {
    this.#follows = true;
    this.#follow();
  }

  #follow() {
    if (this.#follows) this.scroll.scrollTop = this.scroll.scrollHeight;
    this.#drawLatest();
  }

  #onScroll() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroll;
    this.#follows = scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
    this.#drawLatest();
  }

  #drawLatest() {
    byId("latest").hidden = this.#follows;
  }
}
