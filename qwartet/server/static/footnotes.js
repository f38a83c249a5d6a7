// Footnotes: a reference is plain text until its note arrives, then a link to it.

import { element } from "./dom.js";
import { t } from "./i18n.js";

const MAX_LINKS = 50; // of one text: each changes a paragraph, whose direction the browser then computes again
let numLinked = 0; // gives every note an id, whatever its label

/** `[^label]` within a text. */
export function noteReference(label) {
  return element("span", { class: "note-reference", "data-note": label }, `[^${label}]`);
}

/** The note itself; the caller adds its content. */
export function noteTarget(label) {
  const mark = element("span", { class: "note-label", "aria-label": t("footnote", { label }), role: "img" }, label);
  return element("div", { class: "footnote", "data-note": label }, mark);
}

/** Turns references into links once their notes are drawn. */
export function linkNotes(container) {
  const targets = new Map();
  for (const target of container.querySelectorAll(".footnote")) {
    if (!targets.has(target.dataset.note)) targets.set(target.dataset.note, target);
  }
  if (targets.size === 0) return;
  for (const reference of [...container.querySelectorAll(".note-reference")].slice(0, MAX_LINKS)) {
    const target = targets.get(reference.dataset.note);
    if (!target || reference.querySelector(`a[href="#${target.id}"]`)) continue;
    if (target.id === "") {
      numLinked += 1;
      target.id = `note-${numLinked}`;
    }
    const label = t("footnote", { label: reference.dataset.note });
    const link = element("a", { href: `#${target.id}`, "aria-label": label }, reference.dataset.note);
    reference.replaceChildren(element("sup", {}, link));
  }
}
