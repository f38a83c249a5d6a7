// The page's state, and what each control does.

import { readVersion } from "./api.js";
import { Answering } from "./answering.js";
import { sentText } from "./attachments.js";
import { Composer } from "./composer.js";
import { drawRoom, dropOldest, summaryOf } from "./context_room.js";
import { Connection } from "./connection.js";
import { ROOT } from "./conversation.js";
import { Conversations } from "./conversations.js";
import { byId, copyText, element } from "./dom.js";
import { NEW } from "./drafts.js";
import { currentLanguage, setLanguage, t } from "./i18n.js";
import { Library } from "./library.js";
import { ModelPicker } from "./model_picker.js";
import { announce, hideNotice, prepareDialog, redrawNotices, showNotice, showToast } from "./notices.js";
import { Preferences } from "./preferences.js";
import { Settings } from "./settings.js";
import { listenToKeys, showShortcuts } from "./shortcuts.js";
import { Sidebar } from "./sidebar.js";
import { ThinkingSwitch } from "./thinking_switch.js";
import { titleOf } from "./title.js";
import { Transcript } from "./transcript.js";

const MAX_ANNOUNCED_CHARS = 3000;

class App {
  version = null;

  constructor() {
    this.preferences = new Preferences();
    setLanguage(this.preferences.language);
    this.conversations = new Conversations((trouble) => this.onStorageTrouble(trouble));
    this.picker = new ModelPicker(this.preferences, () => this.drawModel());
    this.thinking = new ThinkingSwitch(this.preferences, () => this.drawModel());
    this.answering = new Answering(this.conversations, {
      request: () => this.request(),
      onBegin: (conversation) => this.onBegin(conversation),
      onText: (turn, text) => this.transcript.append(turn, text),
      onReasoning: (turn) => this.transcript.showReasoning(turn),
      onEnd: (conversation, turn) => this.onEnd(conversation, turn),
    });
    this.connection = new Connection(this.preferences, {
      onModels: (models) => this.onModels(models),
      onKeyChange: () => this.drawSettings(),
    });
    this.transcript = new Transcript({ onEdited: (turn, text) => this.sendEdited(turn, text) });
    this.composer = new Composer({
      onSend: (text, attachments) => this.send(text, attachments),
      onStop: () => this.answering.stop(this.conversation),
      onEditLast: () => this.transcript.editLast(),
    });
    this.makeLists();
    this.listen();
    this.open(this.conversations.get(this.preferences.opened) ?? this.conversations.create());
    this.connection.connect();
  }

  makeLists() {
    this.library = new Library(this.conversations, {
      onChange: () => this.drawState(),
      onOpen: (conversation) => this.open(conversation),
      onRemoved: (removed, remove) => this.remove(removed, remove),
    });
    this.sidebar = new Sidebar({
      onOpen: (id) => this.open(this.conversations.get(id) ?? this.conversations.create()),
      onOptions: (id, opener) => this.library.showMenu(this.conversations.get(id), opener),
    });
    this.settings = new Settings(this.preferences, {
      onSystem: (text) => this.setSystem(text),
      onLanguage: (language) => this.setLanguage(language),
      onTheme: (theme) => this.setTheme(theme),
      onKey: () => this.connection.changeKey(),
    });
  }

  // User actions

  listen() {
    const openNew = () => this.open(this.conversations.create());
    const actions = {
      new: openNew,
      settings: () => this.openSettings(),
      shortcuts: showShortcuts,
      options: (button) => this.library.showMenu(this.conversation, button),
      retry: () => this.regenerate(),
      regenerate: () => this.regenerate(),
      continue: () => this.continue(),
      earlier: (button) => this.showVersion(button, -1),
      later: (button) => this.showVersion(button, 1),
      "drop-oldest": () => this.dropOldest(),
      "send-all": () => this.setSentFrom(""),
      summarise: (button) => this.summarise(button),
      "enter-key": () => this.connection.askKey(() => this.regenerate()),
      copy: (button) => this.copy(sentText(this.transcript.turnOf(button)), button),
      "copy-code": (button) => this.copy(button.closest(".code").querySelector("code").textContent, button),
    };
    document.addEventListener("click", (event) => {
      const button = event.target.closest("[data-action]");
      if (button) actions[button.dataset.action]?.(button);
    });
    listenToKeys({
      onStop: () => this.answering.stop(this.conversation),
      onSearch: () => this.sidebar.focusSearch(),
      onNew: openNew,
    });
    for (const dialog of document.querySelectorAll("dialog")) prepareDialog(dialog);
    byId("switch-language").addEventListener("click", () => this.setLanguage(currentLanguage() === "en" ? "zh" : "en"));
    byId("switch-theme").addEventListener("click", () => this.setTheme(this.isDark() ? "light" : "dark"));
    window.addEventListener("storage", (event) => this.onOtherTab(event));
    document.addEventListener("visibilitychange", () => document.hidden || this.compareVersions());
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
    this.preferences.setOpened(conversation.id);
    hideNotice("removed");
    this.draw();
    this.transcript.scrollToEnd();
    this.composer.open(this.conversations.get(conversation.id) ? conversation.id : NEW);
  }

  draw() {
    this.conversation.pin();
    this.transcript.draw(this.conversation);
    byId("welcome").hidden = this.conversation.turns.size > 0;
    this.drawStarters();
    this.drawState();
    this.drawSettings();
    this.answering.watch(this.conversation);
  }

  /** Draws everything that changes with each turn. */
  drawState() {
    const { id, title } = this.conversation;
    const isKept = this.conversations.get(id) !== null;
    if (isKept) hideNotice("removed");
    this.sidebar.draw(this.conversations.list(), id, (other) => this.answering.isMakingIn(other));
    byId("title").textContent = title || t("untitled");
    byId("options").disabled = !isKept;
    document.title = title ? `${title} · Qwartet` : t("pageTitle");
    const isBusy = this.answering.isBusy(this.conversation);
    byId("send").hidden = isBusy;
    byId("stop").hidden = !isBusy;
    byId("switch-language").textContent = currentLanguage() === "en" ? "中文" : "English";
    byId("switch-language").lang = currentLanguage() === "en" ? "zh-CN" : "en";
    this.drawRoom();
  }

  drawModel() {
    this.thinking.draw(this.picker.chosen);
    this.drawRoom();
  }

  drawRoom() {
    if (this.conversation) drawRoom(this.conversation, this.picker.chosen);
  }

  drawStarters() {
    const starters = [1, 2, 3, 4].map((i) => {
      const text = t(`starter${i}Text`);
      const button = element("button", { type: "button" }, element("b", {}, t(`starter${i}`)), element("span", {}, text));
      button.addEventListener("click", () => this.send(text, []));
      return element("li", {}, button);
    });
    byId("starters").replaceChildren(...starters);
  }

  /** Deletes conversations; if the open one is among them, another is opened. */
  remove(removed, remove) {
    for (const conversation of removed) this.answering.stopAll(conversation);
    remove();
    if (removed.includes(this.conversation)) this.open(this.conversations.list()[0] ?? this.conversations.create());
    else this.drawState();
  }

  onOtherTab(event) {
    this.preferences.onStorage(event, () => {
      this.applyTheme();
      this.drawInLanguage();
      this.drawModel();
    });
    const changes = this.conversations.onStorage(event, (turn) => this.answering.isHere(turn));
    for (const { conversation, turn, isRemoved } of changes) this.onChange(conversation, turn, isRemoved);
  }

  /** Another tab has changed a conversation. */
  onChange(conversation, turn, isRemoved) {
    if (isRemoved) this.answering.stopAll(conversation);
    if (conversation.id !== this.conversation.id) {
      this.drawState();
    } else if (isRemoved && conversation.turns.size > 0) {
      this.drawState();
      const run = () => {
        this.conversations.restore(conversation);
        this.open(conversation);
      };
      showNotice("removed", () => t("removedElsewhere"), { label: "keepIt", run });
    } else {
      this.conversation = conversation; // it may have been deleted and restored
      hideNotice("removed");
      if (turn) this.transcript.refresh(turn);
      this.draw();
    }
  }

  onStorageTrouble(trouble) {
    if (trouble === null) hideNotice("storage");
    else showNotice("storage", () => t(trouble === "full" ? "storageFull" : "storageBlocked"));
  }

  // Answers

  request() {
    const { chosen } = this.picker;
    const settings = { ...this.preferences.samplingFields(), ...this.thinking.fields(chosen) };
    return { model: chosen?.id, settings, key: this.preferences.key };
  }

  /** Sends a message at the end of the conversation, unless an answer is in progress there. */
  send(text, attachments) {
    if (this.answering.isBusy(this.conversation)) return false;
    this.say(this.conversation.last, text, attachments);
    return true;
  }

  say(parent, text, attachments) {
    const { conversation } = this;
    if (conversation.turns.size === 0 && !conversation.isNamed) conversation.title = titleOf(text || attachments[0].name);
    const turn = conversation.add(parent, { role: "user", content: text, attachments });
    this.conversations.saveFields(conversation, "title", "updated", "chosen");
    this.conversations.saveTurn(conversation, turn);
    this.answering.answer(conversation, turn);
  }

  sendEdited(turn, text) {
    this.answering.stop(this.conversation);
    const parent = turn.parent === ROOT ? null : this.conversation.turns.get(turn.parent);
    this.say(parent, text, turn.attachments);
  }

  regenerate() {
    const question = this.conversation.path.findLast(({ role }) => role === "user");
    if (question && !this.answering.isBusy(this.conversation)) this.answering.answer(this.conversation, question);
  }

  continue() {
    const { conversation } = this;
    if (this.answering.isBusy(conversation)) return;
    this.answering.continue(conversation, conversation.last);
  }

  showVersion(button, step) {
    const turn = this.transcript.turnOf(button);
    const versions = this.conversation.versionsOf(turn);
    const wanted = versions[versions.indexOf(turn) + step];
    this.conversation.choose(wanted);
    this.conversations.saveFields(this.conversation, "chosen");
    this.draw();
    this.transcript.focusOn(wanted, button.dataset.action);
  }

  onBegin(conversation) {
    if (conversation !== this.conversation) return;
    this.transcript.refresh(conversation.last);
    this.draw();
    this.transcript.scrollToEnd();
    this.composer.open(conversation.id);
    announce(t("answering"));
  }

  onEnd(conversation, turn) {
    if (this.answering.isKept(conversation)) this.conversations.saveFields(conversation, "updated");
    this.transcript.refresh(turn);
    this.drawState();
    if (turn.finish === "failed") this.compareVersions();
    if (conversation !== this.conversation || conversation.last !== turn) return;
    if (turn.finish === "failed") {
      announce(t("answerFailed", { text: t(turn.failure.kind) }));
      if (turn.failure.kind === "key") this.connection.askKey(() => this.regenerate());
    } else if (turn.finish === "stopped") announce(t("answerStopped"));
    else announce(t("answerDone", { text: this.transcript.textOf(turn).slice(0, MAX_ANNOUNCED_CHARS) }));
  }

  // The context

  dropOldest() {
    const { conversation } = this;
    const hasFailed = conversation.last.finish === "failed";
    if (!dropOldest(conversation)) {
      showToast(t("nothingToDrop"));
      return;
    }
    this.setSentFrom(conversation.sentFrom);
    if (hasFailed) this.regenerate();
  }

  setSentFrom(sentFrom) {
    this.conversation.sentFrom = sentFrom;
    this.conversations.saveFields(this.conversation, "sentFrom");
    this.draw();
  }

  async summarise(button) {
    const { conversation } = this;
    button.disabled = true;
    showToast(t("summarising"));
    try {
      const summary = await summaryOf(conversation, this.request(), this.picker.chosen?.maxModelLen);
      const next = this.conversations.create();
      next.system = conversation.system;
      this.open(next);
      this.composer.put({ text: t("summaryDraft", { summary }), attachments: [] });
      showToast(t("summarised"));
    } catch (error) {
      showToast(t("summaryFailed", { text: t(error.kind ?? "failed") }));
    } finally {
      button.disabled = false;
    }
  }

  // The server

  async onModels(models) {
    this.picker.offer(models);
    await this.compareVersions();
    this.drawSettings();
  }

  /** The first version read is the page's own; if the server has another one now, asks for a reload. */
  async compareVersions() {
    const version = await readVersion(this.preferences.key);
    this.version ??= version;
    if (version === this.version) hideNotice("updated");
    else if (version !== null) {
      showNotice("updated", () => t("updated", { version }), { label: "reload", run: () => location.reload() });
    }
  }

  // Preferences

  drawSettings() {
    this.settings.draw({ system: this.conversation.system, version: this.version });
  }

  openSettings() {
    this.drawSettings();
    this.sidebar.hide();
    this.settings.dialog.showModal();
  }

  setSystem(text) {
    this.conversation.system = text;
    this.transcript.drawSystem(text);
    if (this.conversation.turns.size > 0) this.conversations.saveFields(this.conversation, "system");
  }

  setLanguage(language) {
    this.preferences.set({ language });
    this.drawInLanguage();
  }

  drawInLanguage() {
    setLanguage(this.preferences.language);
    this.draw();
    this.picker.draw();
    redrawNotices();
  }

  isDark() {
    const { theme } = this.preferences;
    return theme ? theme === "dark" : window.matchMedia("(prefers-color-scheme: dark)").matches;
  }

  setTheme(theme) {
    this.preferences.set({ theme });
    this.applyTheme();
    this.drawSettings();
  }

  applyTheme() {
    const { theme } = this.preferences;
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
  }
}

new App();
