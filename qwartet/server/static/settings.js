// The settings drawer.

import { byId, element } from "./dom.js";
import { currentLanguage, number, t, translate } from "./i18n.js";
import { SAMPLING, boundedNumber } from "./preferences.js";

/** The drawer. Callbacks: onSystem(text), onLanguage(code), onTheme(name), onKey(). */
export class Settings {
  #fields = new Map();

  constructor(preferences, callbacks) {
    Object.assign(this, { preferences, ...callbacks });
    this.dialog = byId("settings");
    this.#makeFields();
    byId("system").addEventListener("input", (event) => this.onSystem(event.target.value));
    byId("greedy").addEventListener("change", (event) => {
      this.preferences.set({ isGreedy: event.target.checked });
      this.#drawSampling();
    });
    byId("reset-sampling").addEventListener("click", () => this.#reset());
    byId("language").addEventListener("change", (event) => this.onLanguage(event.target.value));
    byId("theme").addEventListener("change", (event) => this.onTheme(event.target.value));
    byId("key-change").addEventListener("click", () => this.onKey());
  }

  #makeFields() {
    for (const field of SAMPLING) {
      const id = `sampling-${field.name}`;
      const problemId = `${id}-problem`;
      const isWhole = field.step === 1;
      const input = element("input", {
        id,
        type: "text",
        inputmode: isWhole ? "numeric" : "decimal",
        autocomplete: "off",
        "aria-describedby": problemId,
        "data-t-hint": "modelDefault",
      });
      const problem = element("p", { class: "problem-text", id: problemId });
      input.addEventListener("input", () => {
        this.preferences.set({ sampling: { [field.name]: input.value.trim() } });
        this.#drawField(field);
      });
      const label = element("label", { for: id, "data-t": field.name });
      byId("sampling-fields").append(element("div", { class: "field" }, label, input, problem));
      this.#fields.set(field.name, { input, problem });
    }
    translate(this.dialog);
  }

  #reset() {
    this.preferences.set({ isGreedy: false, sampling: Object.fromEntries(SAMPLING.map(({ name }) => [name, ""])) });
    this.#drawSampling();
  }

  #drawField(field) {
    const { input, problem } = this.#fields.get(field.name);
    const value = this.preferences.sampling[field.name];
    if (document.activeElement !== input) input.value = value;
    const isWrong = value !== "" && boundedNumber(value, field) === null;
    const bounds = { min: number(field.min, 2), max: number(field.max, 2) };
    input.setAttribute("aria-invalid", String(isWrong));
    problem.textContent = isWrong ? t(field.step === 1 ? "notWhole" : "outOfRange", bounds) : "";
    input.disabled = this.preferences.isGreedy && ["temperature", "top_p", "top_k", "seed"].includes(field.name);
  }

  #drawSampling() {
    byId("greedy").checked = this.preferences.isGreedy;
    for (const field of SAMPLING) this.#drawField(field);
  }

  /** Shows the current values. */
  draw({ system, version }) {
    byId("system").value = system;
    this.#drawSampling();
    for (const [name, value] of [["language", currentLanguage()], ["theme", this.preferences.theme]]) {
      for (const radio of byId(name).querySelectorAll("input")) radio.checked = radio.value === value;
    }
    const hasKey = this.preferences.key !== "";
    byId("key-state").textContent = t(hasKey ? "keySet" : "keyNone");
    byId("key-change").textContent = t(hasKey ? "keyForget" : "keyEnter");
    byId("version").textContent = version === null ? "" : t("version", { version });
  }
}
