// What happens when? The page's state, and what every control does with it.

import { listModels, readVersion, RequestFailure } from "./api.js";
import { Conversations, titleOf } from "./conversations.js";
import { byId, copyText, element, fitHeight, isPlainEnter } from "./dom.js";
import { download, fileName, toJson, toMarkdown } from "./export.js";
import { Generation } from "./generation.js";
import { currentLanguage, number, setLanguage, t } from "./i18n.js";
import { ModelPicker } from "./model_picker.js";
import { announce, hideNotice, prepareDialog, showNotice, showToast } from "./notices.js";
import { Preferences } from "./preferences.js";
import { Settings } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { Transcript } from "./transcript.js";

const MAX_ANNOUNCED_CHARS = 3000;
const NEARLY_FULL = 0.85; // of the context
const TOUCH = window.matchMedia("(hover: none) and (pointer: coarse)");

class App {
  generations = new Map(); // conversation id -> the answer that is being made
  afterKey = null; // what to do when a key has been given
  version = null;

  constructor() {
    this.preferences = new Preferences();
    setLanguage(this.preferences.language);
    this.conversations = new Conversations((trouble) => this.onStorageTrouble(trouble));
    this.picker = new ModelPicker(this.preferences, () => this.drawContext());
    this.transcript = new Transcript({ onEdited: (turn, text) => this.sendEdited(turn, text) });
    this.sidebar = new Sidebar({
      onOpen: (id) => this.open(this.conversations.get(id) ?? this.conversations.create()),
      onOptions: (id, opener) => this.showMenu(this.conversations.get(id), opener),
    });
    this.settings = new Settings(this.preferences, {
      onSystem: (text) => this.setSystem(text),
      onLanguage: (language) => this.setLanguage(language),
      onTheme: (theme) => this.setTheme(theme),
      onKey: () => this.changeKey(),
    });
    this.listen();
    this.open(this.conversations.get(this.preferences.opened) ?? this.conversations.create());
    this.connect();
  }

  // What the person does

  listen() {
    const actions = {
      new: () => this.open(this.conversations.create()),
      settings: () => this.openSettings(),
      options: (button) => this.showMenu(this.conversation, button),
      retry: () => this.regenerate(),
      regenerate: () => this.regenerate(),
      "enter-key": () => this.askKey(() => this.regenerate()),
      copy: (button) => this.copy(this.transcript.turnOf(button).content, button),
      "copy-code": (button) => this.copy(button.closest(".code").querySelector("code").textContent, button),
    };
    document.addEventListener("click", (event) => {
      const button = event.target.closest("[data-action]");
      if (button) actions[button.dataset.action]?.(button);
    });
    document.addEventListener("keydown", (event) => this.onKey(event));
    this.listenToComposer();
    this.listenToDialogs();
    byId("switch-language").addEventListener("click", () => this.setLanguage(currentLanguage() === "en" ? "zh" : "en"));
    byId("switch-theme").addEventListener("click", () => this.setTheme(this.isDark() ? "light" : "dark"));
    byId("menu").addEventListener("click", (event) => this.onMenu(event.target.closest("[data-menu]")?.dataset.menu));
    window.addEventListener("storage", (event) => this.onOtherTab(event));
    window.addEventListener("pagehide", () => {
      for (const { conversation } of this.generations.values()) this.conversations.save(conversation);
    });
  }

  listenToComposer() {
    const field = byId("message");
    field.addEventListener("input", () => fitHeight(field));
    field.addEventListener("keydown", (event) => {
      if (!isPlainEnter(event) || TOUCH.matches) return; // a screen's keyboard has no Shift + Enter
      event.preventDefault();
      this.sendMessage();
    });
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.sendMessage();
    });
    byId("stop").addEventListener("click", () => this.stop());
  }

  listenToDialogs() {
    for (const dialog of document.querySelectorAll("dialog")) prepareDialog(dialog);
    byId("key").addEventListener("submit", () => this.onKeyGiven(byId("key-field").value.trim()));
    byId("rename").addEventListener("submit", () => this.rename(byId("rename-field").value.trim()));
  }

  onKey(event) {
    const isElsewhere = document.querySelector("dialog[open], :popover-open") !== null;
    if (event.key === "Escape" && !event.isComposing && !event.defaultPrevented && !isElsewhere) this.stop();
  }

  async copy(text, button) {
    const isCopied = await copyText(text);
    announce(t(isCopied ? "copied" : "copyFailed"));
    if (!isCopied) showToast(t("copyFailed"));
    button.classList.toggle("done", isCopied);
    setTimeout(() => button.classList.remove("done"), 1500);
  }

  // Conversations

  open(conversation) {
    this.conversation = conversation;
    this.preferences.set({ opened: conversation.id });
    this.draw();
    this.transcript.scrollToEnd();
    if (!TOUCH.matches) byId("message").focus();
  }

  draw() {
    this.transcript.draw(this.conversation);
    byId("welcome").hidden = this.conversation.turns.length > 0;
    this.drawStarters();
    this.drawState();
    this.settings.draw({ system: this.conversation.system, version: this.version });
  }

  /** What changes with every turn. */
  drawState() {
    const { id, title } = this.conversation;
    this.sidebar.draw(this.conversations.list(), id, (other) => this.generations.has(other));
    byId("title").textContent = title || t("untitled");
    byId("options").disabled = this.conversations.get(id) === null;
    document.title = title ? `${title} · Qwartet` : t("pageTitle");
    const isMaking = this.generations.has(id);
    byId("send").hidden = isMaking;
    byId("stop").hidden = !isMaking;
    byId("switch-language").textContent = currentLanguage() === "en" ? "中文" : "English";
    byId("switch-language").lang = currentLanguage() === "en" ? "zh-CN" : "en";
    this.drawContext();
  }

  drawContext() {
    const used = this.conversation?.turns.findLast((turn) => turn.figures?.totalTokens)?.figures.totalTokens;
    const all = this.picker.chosen?.maxModelLen;
    byId("context").hidden = !used || !all;
    if (!used || !all) return;
    const bar = byId("context-bar");
    bar.max = all;
    bar.value = used;
    bar.classList.toggle("nearly-full", used / all > NEARLY_FULL);
    byId("context-text").textContent = t("contextOf", { used: number(used), all: number(all) });
  }

  drawStarters() {
    const starters = [1, 2, 3, 4].map((i) => {
      const text = t(`starter${i}Text`);
      const button = element("button", { type: "button" }, element("b", {}, t(`starter${i}`)), element("span", {}, text));
      button.addEventListener("click", () => this.say(text));
      return element("li", {}, button);
    });
    byId("starters").replaceChildren(...starters);
  }

  showMenu(conversation, opener) {
    this.menuConversation = conversation;
    const menu = byId("menu");
    menu.showPopover();
    const { bottom, right } = opener.getBoundingClientRect();
    menu.style.top = `${Math.min(bottom + 4, window.innerHeight - menu.offsetHeight - 8)}px`;
    menu.style.left = `${Math.max(8, Math.min(right, window.innerWidth - 8) - menu.offsetWidth)}px`;
    menu.querySelector("button").focus();
  }

  onMenu(choice) {
    if (!choice) return;
    byId("menu").hidePopover();
    const conversation = this.menuConversation;
    if (choice === "rename") {
      byId("rename-field").value = conversation.title;
      byId("rename").showModal();
      byId("rename-field").select();
    } else if (choice === "exportMarkdown") {
      download(fileName(conversation, "md"), "text/markdown", toMarkdown(conversation));
    } else if (choice === "exportJson") {
      download(fileName(conversation, "json"), "application/json", toJson(conversation));
    } else this.remove(conversation);
  }

  rename(title) {
    if (title === "") return;
    Object.assign(this.menuConversation, { title, isNamed: true });
    this.conversations.save(this.menuConversation);
    this.drawState();
  }

  remove(conversation) {
    this.generations.get(conversation.id)?.stop();
    this.conversations.remove(conversation.id);
    const wasOpen = conversation === this.conversation;
    if (wasOpen) this.open(this.conversations.list()[0] ?? this.conversations.create());
    else this.drawState();
    const undo = () => {
      this.conversations.save(conversation);
      this.open(conversation);
    };
    showToast(t("removed", { title: conversation.title }), { label: t("undo"), run: undo });
  }

  save(conversation) {
    if (conversation.turns.length > 0) this.conversations.save(conversation);
  }

  onOtherTab(event) {
    const id = this.conversations.onStorage(event);
    if (id === null) return;
    const changed = this.conversations.get(id);
    if (id === this.conversation.id && changed && !this.generations.has(id)) {
      this.conversation = changed;
      this.draw();
    } else this.drawState();
  }

  onStorageTrouble(trouble) {
    showNotice("storage", t(trouble === "full" ? "storageFull" : "storageBlocked"));
  }

  // Answers

  sendMessage() {
    const field = byId("message");
    if (field.value.trim() === "" || this.generations.has(this.conversation.id)) return;
    const text = field.value;
    field.value = "";
    fitHeight(field);
    this.say(text);
  }

  say(text) {
    const { conversation } = this;
    if (conversation.turns.length === 0 && !conversation.isNamed) conversation.title = titleOf(text);
    conversation.turns.push({ role: "user", content: text });
    this.generate();
  }

  sendEdited(turn, text) {
    const { turns } = this.conversation;
    this.stop();
    turns.length = turns.indexOf(turn);
    this.say(text);
  }

  regenerate() {
    const { turns } = this.conversation;
    if (this.generations.has(this.conversation.id)) return;
    if (turns.at(-1)?.role === "assistant") turns.pop();
    this.generate();
  }

  stop() {
    this.generations.get(this.conversation.id)?.stop();
  }

  generate() {
    const { conversation } = this;
    const model = this.picker.chosen?.id;
    const turn = { role: "assistant", content: "", model, finish: null };
    conversation.turns.push(turn);
    conversation.updated = Date.now();
    const generation = new Generation(conversation, turn, {
      save: () => this.isKept(conversation) && this.save(conversation),
      onText: (text) => this.transcript.append(turn, text),
      onEnd: () => this.onEnd(generation),
    });
    this.generations.set(conversation.id, generation);
    this.save(conversation);
    this.draw();
    this.transcript.scrollToEnd();
    announce(t("answering"));
    generation.run({ model, settings: this.preferences.samplingFields(), key: this.preferences.key });
  }

  /** Not removed since: an answer that ends late must not bring its conversation back. */
  isKept(conversation) {
    return this.conversations.get(conversation.id) === conversation;
  }

  onEnd({ conversation, turn }) {
    if (this.generations.get(conversation.id)?.turn === turn) this.generations.delete(conversation.id);
    const text = this.transcript.end(turn);
    this.drawState();
    if (conversation !== this.conversation || conversation.turns.at(-1) !== turn) return;
    if (turn.finish === "failed") {
      announce(t("answerFailed", { text: t(turn.failure.kind) }));
      if (turn.failure.kind === "key") this.askKey(() => this.regenerate());
    } else if (turn.finish === "stopped") announce(t("answerStopped"));
    else announce(t("answerDone", { text: text.slice(0, MAX_ANNOUNCED_CHARS) }));
  }

  // The server

  /** Learns what is served; is there an answer? A wrong key is asked for again. */
  async connect() {
    const { key } = this.preferences;
    hideNotice("server");
    try {
      this.picker.offer(await listModels(key));
    } catch (error) {
      if (!(error instanceof RequestFailure)) throw error;
      if (error.kind === "key") this.askKey(this.afterKey);
      else showNotice("server", t(error.kind), { label: t("retry"), run: () => this.connect() });
      return false;
    }
    this.version = await readVersion(key);
    this.settings.draw({ system: this.conversation.system, version: this.version });
    return true;
  }

  askKey(afterwards) {
    this.afterKey = afterwards;
    byId("key-problem").hidden = this.preferences.key === "";
    byId("key-field").value = "";
    if (!byId("key").open) byId("key").showModal();
  }

  async onKeyGiven(key) {
    if (key === "") return;
    this.preferences.setKey(key);
    if (!(await this.connect())) return;
    const afterwards = this.afterKey;
    this.afterKey = null;
    afterwards?.();
  }

  changeKey() {
    if (this.preferences.key === "") this.askKey(null);
    else this.preferences.setKey("");
    this.settings.draw({ system: this.conversation.system, version: this.version });
  }

  // Preferences

  openSettings() {
    this.settings.draw({ system: this.conversation.system, version: this.version });
    this.sidebar.hide();
    this.settings.dialog.showModal();
  }

  setSystem(text) {
    this.conversation.system = text;
    this.transcript.drawSystem(text);
    this.save(this.conversation);
  }

  setLanguage(language) {
    this.preferences.set({ language });
    setLanguage(language);
    this.draw();
    this.picker.draw();
  }

  isDark() {
    const { theme } = this.preferences;
    return theme ? theme === "dark" : window.matchMedia("(prefers-color-scheme: dark)").matches;
  }

  setTheme(theme) {
    this.preferences.set({ theme });
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    this.settings.draw({ system: this.conversation.system, version: this.version });
  }
}

new App();
