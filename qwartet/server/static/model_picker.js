// Selects the model: a menu if there are several, a name if there is one.

import { byId, element } from "./dom.js";
import { t } from "./i18n.js";
import { hideNotice, showNotice } from "./notices.js";

export class ModelPicker {
  models = [];
  chosen = null; // {id, maxModelLen, isChat, thinking}; null until the server responds

  constructor(preferences, onChange) {
    Object.assign(this, { preferences, onChange });
    byId("model").addEventListener("change", (event) => this.#choose(event.target.value));
  }

  offer(models) {
    this.models = models;
    const wanted = models.find(({ id, isChat }) => id === this.preferences.model && isChat);
    this.#set(wanted ?? models.find(({ isChat }) => isChat) ?? models[0] ?? null);
  }

  #choose(id) {
    this.preferences.set({ model: id });
    this.#set(this.models.find((model) => model.id === id));
  }

  #set(model) {
    this.chosen = model;
    this.draw();
    this.onChange();
  }

  draw() {
    const options = this.models.map(({ id, isChat }) => {
      const option = element("option", { value: id }, id);
      option.disabled = !isChat;
      return option;
    });
    const select = byId("model");
    select.replaceChildren(...options);
    select.value = this.chosen?.id ?? "";
    select.parentElement.hidden = this.models.length < 2;
    byId("model-name").hidden = this.models.length > 1;
    byId("model-name").textContent = this.chosen?.id ?? "";
    const { chosen } = this;
    if (chosen && !chosen.isChat) showNotice("no-chat", () => t("noChat", { id: chosen.id }));
    else hideNotice("no-chat");
  }
}
