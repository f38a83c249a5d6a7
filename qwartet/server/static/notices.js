// Messages outside the conversation: notices that stay until resolved, and toasts that disappear.

import { byId, element, icon } from "./dom.js";
import { translate } from "./i18n.js";

const TOAST_MS = 10_000;
let toastTimer = null;
const drawn = new Map(); // name of a notice -> fills in its text in the current language

/** Shows one notice per `name`; `words()` returns its text; `action`: {label (a key), run}, or null. */
export function showNotice(name, words, action = null) {
  hideNotice(name);
  const text = element("p");
  const node = element("div", { class: "notice", "data-notice": name }, icon("alert"), text);
  if (action) {
    const act = element("button", { type: "button", class: "quiet", "data-t": action.label });
    act.addEventListener("click", action.run);
    node.append(act);
  }
  const close = element("button", { type: "button", class: "round", "data-t-label": "close" });
  close.append(icon("close"));
  close.addEventListener("click", () => hideNotice(name));
  node.append(close);
  const draw = () => {
    text.textContent = words();
    translate(node);
  };
  draw();
  drawn.set(name, draw);
  byId("notices").append(node);
}

export function redrawNotices() {
  for (const draw of drawn.values()) draw();
}

export function hideNotice(name) {
  drawn.delete(name);
  byId("notices").querySelector(`[data-notice="${name}"]`)?.remove();
}

/** Disappears after ten seconds, but not under the pointer or while it has the focus. */
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

/** Announces a text to screen readers. */
export function announce(text) {
  byId("announcer").textContent = text;
}

/** Lets a dialog close with its buttons and with a click outside; Esc works anyway. */
export function prepareDialog(dialog) {
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog || event.target.closest("[data-close]")) dialog.close();
  });
}
