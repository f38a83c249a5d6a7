// Shows the turns of the open conversation, and follows new text while the user stays at the end.

import { AnswerTurn } from "./answer_turn.js";
import { byId, element } from "./dom.js";
import { currentLanguage, number, t } from "./i18n.js";
import { UserTurn } from "./user_turn.js";

const NEAR_END_PX = 48;
const NUM_AT_ONCE = 100; // turns; earlier ones are drawn on request

export class Transcript {
  #views = new Map(); // turn -> its view
  #language = null; // of the drawn turns
  #follows = true; // stay at the end while text arrives?
  #conversation = null;
  #numShown = NUM_AT_ONCE;

  constructor({ onEdited }) {
    this.onEdited = onEdited;
    this.scroll = byId("scroll");
    this.turns = byId("turns");
    this.scroll.addEventListener("scroll", () => this.#onScroll(), { passive: true });
    byId("latest").addEventListener("click", () => this.scrollToEnd());
    byId("earlier-turns").addEventListener("click", () => this.#showEarlier());
  }

  /** Shows the conversation; turns already shown in this language are kept. */
  draw(conversation) {
    if (conversation.id !== this.#conversation?.id) this.#numShown = NUM_AT_ONCE;
    this.#conversation = conversation;
    const { path } = conversation;
    const shown = path.slice(-this.#numShown);
    const staying = new Set(this.#language === currentLanguage() ? shown : []);
    this.#language = currentLanguage();
    for (const [turn, view] of this.#views) {
      if (staying.has(turn)) continue;
      view.dispose?.();
      view.node.remove();
      this.#views.delete(turn);
    }
    for (const [place, turn] of shown.entries()) this.#place(turn, place);
    const numEarlier = path.length - shown.length;
    byId("earlier-turns").hidden = numEarlier === 0;
    byId("earlier-turns").textContent = t("showEarlier", { turns: number(numEarlier) });
    this.#drawVersions(conversation, shown);
    this.#drawUnsent(conversation);
    this.drawSystem(conversation.system);
  }

  #place(turn, place) {
    const view = this.#views.get(turn) ?? this.#viewOf(turn);
    this.#views.set(turn, view);
    if (this.turns.children[place] !== view.node) this.turns.insertBefore(view.node, this.turns.children[place] ?? null);
  }

  #viewOf(turn) {
    if (turn.role === "user") return new UserTurn(turn, { onEdited: this.onEdited });
    return new AnswerTurn(turn, { onChange: () => this.#follow() });
  }

  #drawVersions(conversation, shown) {
    for (const [turn, versions] of conversation.versionsOfAll(shown)) {
      this.#views.get(turn).drawVersions(versions.indexOf(turn) + 1, versions.length);
    }
  }

  /** Marks what is no longer sent. */
  #drawUnsent({ path, sentPath }) {
    const sent = new Set(sentPath);
    for (const [turn, view] of this.#views) view.node.classList.toggle("unsent", !sent.has(turn));
    byId("unsent").hidden = path.length === sentPath.length;
  }

  #showEarlier() {
    const { scrollHeight, scrollTop } = this.scroll;
    this.#numShown += NUM_AT_ONCE;
    this.draw(this.#conversation);
    this.scroll.scrollTop = scrollTop + this.scroll.scrollHeight - scrollHeight;
  }

  drawSystem(text) {
    byId("system-shown").hidden = text.trim() === "";
    byId("system-text").textContent = text;
  }

  turnOf(node) {
    const article = node.closest("article");
    for (const [turn, view] of this.#views) if (view.node === article) return turn;
    return null;
  }

  /** Edits the user's last message, if it is shown. */
  editLast() {
    const turn = this.#conversation.path.findLast(({ role }) => role === "user");
    this.#views.get(turn)?.edit();
  }

  focusOn(turn, action) {
    const buttons = this.#views.get(turn)?.node.querySelectorAll(`.versions button:not(:disabled)`) ?? [];
    ([...buttons].find(({ dataset }) => dataset.action === action) ?? buttons[0])?.focus();
  }

  append(turn, text) {
    this.#views.get(turn)?.append(text);
  }

  showReasoning(turn) {
    this.#views.get(turn)?.showReasoning();
    this.#follow();
  }

  /** The turn has changed, here or in another tab. */
  refresh(turn) {
    this.#views.get(turn)?.refresh();
    this.#follow();
  }

  /** The text of an answer as displayed. */
  textOf(turn) {
    return this.#views.get(turn)?.text.innerText ?? "";
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
