// Creates DOM nodes one by one, from attributes and text: never from HTML strings.

import { t } from "./i18n.js";

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** An icon from the sheet in index.html, hidden from screen readers. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** A button with text, or with only an icon; the text is then its accessible name. */
export function button(action, key, { iconName = null, hasText = true, className = "quiet", values = {} } = {}) {
  const label = t(key, values);
  const node = element("button", { type: "button", class: className, "data-action": action });
  if (iconName) node.append(icon(iconName));
  if (hasText) node.append(element("span", {}, label));
  else {
    node.setAttribute("aria-label", label);
    node.title = label;
  }
  return node;
}

/** Enter, except when it confirms input method text (which Safari reports only as keyCode 229). */
export function isPlainEnter(event) {
  return event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229;
}

/** Fits the height to the text; CSS sets the limits. */
export function fitHeight(textarea) {
  textarea.style.height = "auto";
  textarea.style.height = `${textarea.scrollHeight}px`;
}

export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text); // the clipboard is not available over plain HTTP from another machine
  }
}

function copyBySelection(text) {
  const field = element("textarea", { class: "visually-hidden", "aria-hidden": "true" });
  field.value = text;
  const focused = document.activeElement;
  document.body.append(field);
  field.select();
  const isCopied = document.execCommand("copy");
  field.remove();
  focused?.focus();
  return isCopied;
}
