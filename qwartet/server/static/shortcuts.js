// Keyboard shortcuts: the list that "?" shows, and the global keys.

import { byId, element } from "./dom.js";
import { t } from "./i18n.js";

const isMac = /Mac|iPhone|iPad/.test(navigator.platform);
const COMMAND = isMac ? "⌘" : "Ctrl";
const ALT = isMac ? "⌥" : "Alt";

const LIST = [
  [["Enter"], "keySend"],
  [["Shift", "Enter"], "keyNewLine"],
  [["↑"], "keyEditLast"],
  [["Esc"], "keyStop"],
  [[COMMAND, "K"], "keySearch"],
  [[ALT, "N"], "keyNew"],
  [["?"], "keyShortcuts"],
];

const isWriting = (node) => node.matches("input:not([type=radio], [type=checkbox]), textarea, select");

export function showShortcuts() {
  const rows = LIST.flatMap(([keys, words]) => [
    element("dt", {}, ...keys.map((key) => element("kbd", {}, key))),
    element("dd", {}, t(words)),
  ]);
  byId("shortcut-list").replaceChildren(...rows);
  byId("shortcuts").showModal();
}

/** `actions`: onStop, onSearch, onNew. */
export function listenToKeys({ onStop, onSearch, onNew }) {
  document.addEventListener("keydown", (event) => {
    const isElsewhere = document.querySelector("dialog[open], :popover-open") !== null;
    if (event.isComposing || event.defaultPrevented || isElsewhere) return;
    const isCommand = (isMac ? event.metaKey : event.ctrlKey) && !event.altKey && !event.shiftKey;
    let act = null;
    if (event.key === "Escape") onStop();
    else if (isCommand && event.key.toLowerCase() === "k") act = onSearch;
    else if (event.altKey && !event.ctrlKey && !event.metaKey && event.code === "KeyN") act = onNew;
    else if (event.key === "?" && !isWriting(event.target)) act = showShortcuts;
    if (act === null) return;
    event.preventDefault();
    act();
  });
}
