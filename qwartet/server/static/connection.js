// Is the server there, and which models has it? It is asked again until it is ready, and for a key where it wants one.

import { listModels, RequestFailure } from "./api.js";
import { byId } from "./dom.js";
import { t } from "./i18n.js";
import { hideNotice, showNotice } from "./notices.js";

const FIRST_PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 5000;
const PASSES = new Set(["unready", "unreachable", "busy"]); // what may be otherwise a little later

export class Connection {
  #afterKey = null; // what to do when a key has been given
  #timer = null;
  #pauseMs = FIRST_PAUSE_MS;

  /** Callbacks: onModels(models), onKeyChange(). */
  constructor(preferences, callbacks) {
    Object.assign(this, { preferences, ...callbacks });
    byId("key").addEventListener("submit", () => this.#onKeyGiven(byId("key-field").value.trim()));
  }

  /** Learns what is served; is there an answer? A wrong key is asked for again; who is not ready, a little later. */
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
