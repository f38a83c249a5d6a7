// The page's language: English or Chinese, switchable at any time.

import en from "./words_en.js";
import zh from "./words_zh.js";

const WORDS = { en, zh };
let language = document.documentElement.lang.startsWith("zh") ? "zh" : "en"; // set by first_paint.js

/** The text of a key, with {name} filled in. An unknown key is a bug in the page and is shown as it is. */
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

/** Fills in keys: data-t sets the text, data-t-label the accessible name, data-t-hint the placeholder. */
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
