// Actions on conversations: rename, export, import, delete, restore.

import { byId } from "./dom.js";
import { allToJson, download, fileName, toJson, toMarkdown } from "./export.js";
import { number, t } from "./i18n.js";
import { addTo, readImport } from "./import.js";
import { showNotice, showToast } from "./notices.js";

export class Library {
  #ofMenu = null; // the conversation whose menu is open

  /** Callbacks: onChange(), onOpen(conversation), onRemoved(conversations). */
  constructor(conversations, callbacks) {
    Object.assign(this, { conversations, ...callbacks });
    byId("menu").addEventListener("click", (event) => this.#onMenu(event.target.closest("[data-menu]")?.dataset.menu));
    byId("rename").addEventListener("submit", () => this.#rename(byId("rename-field").value.trim()));
    byId("export-all").addEventListener("click", () => this.#exportAll());
    byId("import").addEventListener("click", () => byId("import-files").click());
    byId("import-files").addEventListener("change", () => this.#import(byId("import-files")));
    byId("remove-all").addEventListener("click", () => this.#askRemoveAll());
    byId("confirm-remove-all").addEventListener("submit", () => this.#removeAll());
    this.#tellAside();
  }

  /** Unreadable entries stay in the storage, and can be saved as a file. */
  #tellAside() {
    const { numAside } = this.conversations;
    if (numAside === 0) return;
    const save = () => {
      const entries = Object.fromEntries(this.conversations.asideEntries());
      download("qwartet-unreadable.json", "application/json", `${JSON.stringify(entries, null, 2)}\n`);
    };
    const key = numAside === 1 ? "oneAside" : "numAside";
    showNotice("aside", () => t(key, { count: number(numAside) }), { label: "saveAside", run: save });
  }

  showMenu(conversation, opener) {
    this.#ofMenu = conversation;
    const menu = byId("menu");
    menu.showPopover();
    const { bottom, right } = opener.getBoundingClientRect();
    menu.style.top = `${Math.min(bottom + 4, window.innerHeight - menu.offsetHeight - 8)}px`;
    menu.style.left = `${Math.max(8, Math.min(right, window.innerWidth - 8) - menu.offsetWidth)}px`;
    menu.querySelector("button").focus();
  }

  #onMenu(choice) {
    if (!choice) return;
    byId("menu").hidePopover();
    const conversation = this.#ofMenu;
    if (choice === "rename") {
      byId("rename-field").value = conversation.title;
      byId("rename").showModal();
      byId("rename-field").select();
    } else if (choice === "exportMarkdown") {
      download(fileName(conversation.title, "md"), "text/markdown", toMarkdown(conversation));
    } else if (choice === "exportJson") {
      download(fileName(conversation.title, "json"), "application/json", toJson(conversation));
    } else this.remove(conversation);
  }

  #rename(title) {
    if (title === "") return;
    Object.assign(this.#ofMenu, { title, isNamed: true });
    this.conversations.saveFields(this.#ofMenu, "title", "isNamed");
    this.onChange();
  }

  remove(conversation) {
    this.onRemoved([conversation], () => {
      const entries = this.conversations.remove(conversation.id);
      const undo = () => {
        this.conversations.restore(conversation, entries);
        this.onOpen(conversation);
      };
      showToast(t("removed", { title: conversation.title }), { label: t("undo"), run: undo });
    });
  }

  #exportAll() {
    const all = this.conversations.list();
    const day = new Date().toISOString().slice(0, 10);
    const text = allToJson(all, this.conversations.asideEntries());
    download(`qwartet-conversations-${day}.json`, "application/json", text);
  }

  async #import(input) {
    const files = [...input.files];
    input.value = "";
    let numFound = 0;
    let numUnread = 0;
    for (const file of files) {
      const result = readImport(await file.text().catch(() => ""));
      for (const conversation of result.found) addTo(this.conversations, conversation);
      numFound += result.found.length;
      numUnread += result.numUnread;
    }
    const told = t("imported", { count: number(numFound) });
    showToast(numUnread === 0 ? told : `${told} ${t("notImported", { count: number(numUnread) })}`);
    this.onChange();
  }

  #askRemoveAll() {
    byId("settings").close();
    byId("remove-all-question").textContent = t("removeAllQuestion", { count: number(this.conversations.list().length) });
    byId("confirm-remove-all").showModal();
  }

  #removeAll() {
    this.onRemoved(this.conversations.list(), () => this.conversations.removeAll());
  }
}
