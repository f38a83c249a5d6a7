// The switch for thinking, next to the message field; only for models that can do both.

import { byId } from "./dom.js";

export class ThinkingSwitch {
  constructor(preferences, onChange) {
    this.preferences = preferences;
    byId("think").addEventListener("click", () => {
      preferences.set({ thinks: !preferences.thinks });
      onChange();
    });
  }

  /** `model` is {thinking}, or null. */
  draw(model) {
    byId("think").hidden = model?.thinking !== "optional";
    byId("think").setAttribute("aria-pressed", String(this.preferences.thinks));
  }

  /** The fields of a request to the model. */
  fields(model) {
    if (model?.thinking !== "optional") return {};
    return { chat_template_kwargs: { enable_thinking: this.preferences.thinks } };
  }
}
