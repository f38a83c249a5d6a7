// In which language does the page speak? English or Chinese, switched while it runs.

import en from "./words_en.js";
import zh from "./words_zh.js";

const WORDS = { en, zh };
let language = document.documentElement.lang.startsWith("zh") ? "zh" : "en"; // first_paint.js has chosen

/** The text of a key, with {name} filled in. A key that does not exist is a mistake in the page: it shows as itself. */
export function t(key, values = {}) {
  const words = Object.hasOwn(WORDS[language], key) ? WORDS[language][key] : String(key);
  return words.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

export function currentLanguage() {
  return language;
}

export function setLanguage(wanted) {
  language = (wanted || navigator.language).toLowerCase().startsWith("zh") ? "zh" : "en";
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  translate(document);
}

/** Fills in everything that names a key: data-t its text, data-t-label its accessible name, data-t-hint, the placeholder. */
export function translate(root) {
  for (const node of root.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t);
  for (const node of root.querySelectorAll("[data-t-label]")) {
    node.setAttribute("aria-label", t(node.dataset.tLabel));
    if (node.matches("button")) node.title = t(node.dataset.tLabel);
  }
  for (const node of root.querySelectorAll("[data-t-hint]")) node.placeholder = t(node.dataset.tHint);
}

export function number(value, maximumFractionDigits = 0) {
  return new Intl.NumberFormat(document.documentElement.lang, { maximumFractionDigits }).format(value);
}
