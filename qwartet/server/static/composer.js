// The message field, its attachments, and the draft of each conversation.

import { foldedAttachment, numLinesOf, readFile } from "./attachments.js";
import { byId, button, element, fitHeight, isPlainEnter } from "./dom.js";
import { Drafts } from "./drafts.js";
import { t } from "./i18n.js";
import { showToast } from "./notices.js";

const LONG_PASTE_CHARS = 2000;
const LONG_PASTE_LINES = 30;
const TOUCH = window.matchMedia("(hover: none) and (pointer: coarse)");

export class Composer {
  #drafts = new Drafts();
  #draftId = null;
  #attachments = [];

  /** Callbacks: onSend(text, attachments) returns whether it was sent; onStop(); onEditLast(). */
  constructor(callbacks) {
    Object.assign(this, callbacks);
    this.field = byId("message");
    this.form = byId("composer");
    this.#listenToField();
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    byId("stop").addEventListener("click", () => this.onStop());
    byId("attach").addEventListener("click", () => byId("files").click());
    byId("files").addEventListener("change", () => this.#takeFiles(byId("files")));
    this.#listenToDrops();
  }

  #listenToField() {
    this.field.addEventListener("input", () => {
      fitHeight(this.field);
      this.#keep();
    });
    this.field.addEventListener("keydown", (event) => {
      if (event.key === "ArrowUp" && this.field.value === "" && !event.isComposing) {
        event.preventDefault();
        this.onEditLast();
      }
      if (!isPlainEnter(event) || TOUCH.matches) return; // touch keyboards have no Shift + Enter
      event.preventDefault();
      this.#send();
    });
    this.field.addEventListener("paste", (event) => this.#onPaste(event));
  }

  #listenToDrops() {
    const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
    document.addEventListener("dragover", (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      this.form.classList.add("dropping");
    });
    document.addEventListener("dragleave", (event) => {
      if (event.relatedTarget === null) this.form.classList.remove("dropping");
    });
    document.addEventListener("drop", (event) => {
      this.form.classList.remove("dropping");
      if (!hasFiles(event)) return;
      event.preventDefault();
      this.#attachFiles([...event.dataTransfer.files]);
    });
  }

  /** Shows the draft of a conversation. */
  open(draftId) {
    if (draftId !== this.#draftId) this.put(this.#drafts.get(draftId), draftId);
    if (!TOUCH.matches) this.field.focus();
  }

  /** Shows this draft and stores it. */
  put({ text, attachments }, draftId = this.#draftId) {
    this.#draftId = draftId;
    this.field.value = text;
    this.#attachments = [...attachments];
    fitHeight(this.field);
    this.#changed();
  }

  #keep() {
    this.#drafts.set(this.#draftId, { text: this.field.value, attachments: this.#attachments });
  }

  #send() {
    const text = this.field.value;
    const attachments = this.#attachments;
    if (text.trim() === "" && attachments.length === 0) return;
    const draftId = this.#draftId;
    if (!this.onSend(text, attachments)) return;
    this.#drafts.set(draftId, { text: "", attachments: [] });
    this.put({ text: "", attachments: [] });
  }

  #onPaste(event) {
    const files = [...(event.clipboardData?.files ?? [])];
    const text = event.clipboardData?.getData("text/plain") ?? "";
    if (files.length > 0 && text === "") {
      event.preventDefault();
      this.#attachFiles(files);
    } else if (text.length > LONG_PASTE_CHARS || numLinesOf(text) > LONG_PASTE_LINES) {
      event.preventDefault();
      this.#attach({ name: t("pastedText"), text: text.replace(/\r\n?/g, "\n") });
    }
  }

  #takeFiles(input) {
    const files = [...input.files];
    input.value = ""; // so that the same file can be chosen again
    this.#attachFiles(files);
  }

  async #attachFiles(files) {
    const draftId = this.#draftId;
    const problems = [];
    for (const file of files) {
      const { attachment, problem } = await readFile(file);
      if (problem) problems.push(problem);
      else if (draftId === this.#draftId) this.#attach(attachment);
    }
    if (problems.length > 0) showToast(problems.join(" "));
    this.field.focus();
  }

  #attach(attachment) {
    this.#attachments.push(attachment);
    this.#changed();
  }

  #changed() {
    this.#keep();
    byId("attached").replaceChildren(...this.#attachments.map((attachment) => this.#chip(attachment)));
  }

  #chip(attachment) {
    const values = { name: attachment.name };
    const unfold = button("unfold", "putIntoMessage", { className: "quiet" });
    unfold.addEventListener("click", () => {
      this.#detach(attachment);
      this.field.setRangeText(attachment.text, this.field.selectionStart, this.field.selectionEnd, "end");
      this.field.dispatchEvent(new Event("input"));
    });
    const remove = button("detach", "detach", { iconName: "close", hasText: false, className: "round", values });
    remove.addEventListener("click", () => this.#detach(attachment));
    return element("li", {}, foldedAttachment(attachment), unfold, remove);
  }

  #detach(attachment) {
    this.#attachments = this.#attachments.filter((other) => other !== attachment);
    this.#changed();
    this.field.focus();
  }
}
