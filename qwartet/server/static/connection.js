// Finds out whether the server is ready and what it serves; retries, and asks the user for a key if needed.

import { listModels, RequestFailure } from "./api.js";
import { byId } from "./dom.js";
import { t } from "./i18n.js";
import { hideNotice, showNotice } from "./notices.js";

const FIRST_PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 5000;
const PASSES = new Set(["unready", "unreachable", "busy"]); // may be over soon: worth a retry

export class Connection {
  #afterKey = null; // called once a key is accepted
  #timer = null;
  #pauseMs = FIRST_PAUSE_MS;

  /** Callbacks: onModels(models), onKeyChange(). */
  constructor(preferences, callbacks) {
    Object.assign(this, { preferences, ...callbacks });
    byId("key").addEventListener("submit", () => this.#onKeyGiven(byId("key-field").value.trim()));
  }

  /** Lists the models; returns whether that worked. Asks for a key if needed; retries while the server is not ready. */
  async connect() {
    clearTimeout(this.#timer);
    let models;
    try {
      models = await listModels(this.preferences.key);
    } catch (error) {
      if (!(error instanceof RequestFailure)) throw error;
      this.#onFailure(error);
      return false;
    }
    hideNotice("server");
    this.#pauseMs = FIRST_PAUSE_MS;
    this.onModels(models);
    return true;
  }

  #onFailure({ kind, detail }) {
    if (kind === "key") {
      hideNotice("server");
      this.askKey(this.#afterKey);
      return;
    }
    const isPassing = PASSES.has(kind);
    const words = () => {
      const reason = kind === "unready" && detail !== "" ? `${t(kind)} (${detail})` : t(kind);
      return isPassing ? `${reason} ${t("asksAgain")}` : reason;
    };
    showNotice("server", words, { label: "retry", run: () => this.connect() });
    if (!isPassing) return;
    this.#timer = setTimeout(() => this.connect(), this.#pauseMs);
    this.#pauseMs = Math.min(1.5 * this.#pauseMs, LONGEST_PAUSE_MS);
  }

  askKey(afterwards) {
    this.#afterKey = afterwards;
    byId("key-problem").hidden = this.preferences.key === "";
    byId("key-field").value = "";
    if (!byId("key").open) byId("key").showModal();
  }

  async #onKeyGiven(key) {
    if (key === "") return;
    this.preferences.setKey(key);
    this.onKeyChange();
    if (!(await this.connect())) return;
    const afterwards = this.#afterKey;
    this.#afterKey = null;
    afterwards?.();
  }

  changeKey() {
    if (this.preferences.key === "") this.askKey(null);
    else this.preferences.setKey("");
    this.onKeyChange();
  }
}
