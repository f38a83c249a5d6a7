// How is something told that belongs to no answer? Notices that stay until they are settled, toasts that pass.

import { byId, element, icon } from "./dom.js";
import { t } from "./i18n.js";

const TOAST_MS = 10_000;
let toastTimer = null;

/** One notice of each `name`; `action`: {label, run}, or null. */
export function showNotice(name, text, action = null) {
  hideNotice(name);
  const node = element("div", { class: "notice", "data-notice": name }, icon("alert"), element("p", {}, text));
  if (action) {
    const act = element("button", { type: "button", class: "quiet" }, action.label);
    act.addEventListener("click", action.run);
    node.append(act);
  }
  const close = element("button", { type: "button", class: "round", "aria-label": t("close"), title: t("close") });
  close.append(icon("close"));
  close.addEventListener("click", () => hideNotice(name));
  node.append(close);
  byId("notices").append(node);
}

export function hideNotice(name) {
  byId("notices").querySelector(`[data-notice="${name}"]`)?.remove();
}

/** Passes after ten seconds, but not under the pointer or while it has the focus. */
export function showToast(text, action = null) {
  const toast = byId("toast");
  const hide = () => {
    if (toast.matches(":hover, :focus-within")) toastTimer = setTimeout(hide, TOAST_MS / 4);
    else toast.replaceChildren();
  };
  const parts = [element("span", {}, text)];
  if (action) {
    const act = element("button", { type: "button", class: "quiet" }, action.label);
    act.addEventListener("click", () => {
      toast.replaceChildren();
      action.run();
    });
    parts.push(act);
  }
  toast.replaceChildren(...parts);
  clearTimeout(toastTimer);
  toastTimer = setTimeout(hide, TOAST_MS);
}

/** Says it to a screen reader. */
export function announce(text) {
  byId("announcer").textContent = text;
}

/** A dialog that closes by its own buttons, by Esc, and by a click beside it. */
export function prepareDialog(dialog) {
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog || event.target.closest("[data-close]")) dialog.close();
  });
}
