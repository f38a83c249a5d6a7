// Text files in a message: read here, shown folded, sent as a fenced block under their name.

import { element } from "./dom.js";
import { number, t } from "./i18n.js";

const MAX_BYTES = 1_000_000; // of a file: more than fits in any context
const ENCODINGS = ["utf-8", "gb18030"]; // tried in this order if there is no byte order mark
const MARKS = [
  [[0xff, 0xfe], "utf-16le"],
  [[0xfe, 0xff], "utf-16be"],
];

/** The text that is sent for a turn: its message and its attachments. */
export function sentText({ content, attachments = [] }) {
  const parts = content === "" ? [] : [content];
  for (const { name, text } of attachments) {
    const longest = (text.match(/`{3,}/g) ?? []).reduce((length, run) => Math.max(length, run.length), 2);
    const fence = "`".repeat(longest + 1);
    parts.push(`${name}:\n${fence}\n${text}${text.endsWith("\n") ? "" : "\n"}${fence}`);
  }
  return parts.join("\n\n");
}

function decoded(bytes) {
  const marked = MARKS.find(([mark]) => mark.every((byte, place) => bytes[place] === byte));
  for (const encoding of marked ? [marked[1]] : ENCODINGS) {
    try {
      return new TextDecoder(encoding, { fatal: true }).decode(bytes);
    } catch {
      // not in this encoding
    }
  }
  return null;
}

/** The attachment {name, text} of a File, or a `problem` message. */
export async function readFile(file) {
  const values = { name: file.name, size: number(MAX_BYTES / 1e6) };
  if (file.size > MAX_BYTES) return { problem: t("fileTooLarge", values) };
  let bytes;
  try {
    bytes = new Uint8Array(await file.arrayBuffer());
  } catch {
    return { problem: t("fileUnreadable", values) };
  }
  const text = decoded(bytes);
  if (text === null || text.includes("\0")) return { problem: t("fileNotText", values) };
  if (text.trim() === "") return { problem: t("fileEmpty", values) };
  return { attachment: { name: file.name, text: text.replace(/\r\n?/g, "\n") } };
}

export function numLinesOf(text) {
  return text.split("\n").length - (text.endsWith("\n") ? 1 : 0);
}

/** An attachment as shown: its name, and its text once it is unfolded. */
export function foldedAttachment({ name, text }) {
  const head = element("summary", {}, element("b", { dir: "auto" }, name), element("span", {}, linesText(text)));
  const body = element("pre", { tabindex: "0", role: "group", "aria-label": name });
  const node = element("details", { class: "attachment" }, head, body);
  node.addEventListener("toggle", () => {
    if (node.open && body.textContent === "") body.textContent = text;
  });
  return node;
}

export function linesText(text) {
  const lines = numLinesOf(text);
  return t(lines === 1 ? "oneLine" : "numLines", { lines: number(lines) });
}
