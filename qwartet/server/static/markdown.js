// Renders Markdown while it arrives, as nodes created one by one: text of the model is never parsed as HTML. Complete
// blocks are drawn once; only the last one is redrawn when more text arrives.

import { parseBlocks } from "./blocks.js";
import { element } from "./dom.js";
import { linkNotes, noteReference, noteTarget } from "./footnotes.js";
import { Highlighter } from "./highlight.js";
import { parseInline } from "./inline.js";
import { t } from "./i18n.js";
import { typeset } from "./math.js";

const MAX_INLINE_DEPTH = 12; // of emphasis in emphasis; deeper marks are dropped
const MAX_LINES = 20_000; // of one text; the rest is not drawn, and a note says so
const MAX_SHARE = 0.25; // of the time, for drawing while text arrives

function openInline(piece) {
  if (piece.type === "open") return element(piece.tag);
  return element("a", { href: piece.url, title: piece.url, target: "_blank", rel: "noopener noreferrer nofollow" });
}

/** A formula, typeset if all of it is supported. */
function mathOf({ text, source, isBlock }) {
  return typeset(source, isBlock) ?? element("code", { class: "math" }, text);
}

/** Appends the pieces of a paragraph's text. */
export function appendInline(parent, text) {
  const stack = [parent];
  let numSkipped = 0; // opening pieces that are not drawn: too deep, or a link in a link
  let numLinks = 0;
  for (const piece of parseInline(text)) {
    const top = stack.at(-1);
    if (piece.type === "text") top.append(piece.text);
    else if (piece.type === "break") top.append(element("br"));
    else if (piece.type === "code") top.append(element("code", {}, piece.text));
    else if (piece.type === "math") top.append(mathOf(piece));
    else if (piece.type === "note") top.append(noteReference(piece.label));
    else if (piece.type === "open" || piece.type === "link") {
      const isInner = piece.type === "link" && numLinks > 0;
      if (numSkipped > 0 || isInner || stack.length > MAX_INLINE_DEPTH) {
        numSkipped += 1;
        continue;
      }
      if (piece.type === "link") numLinks += 1;
      const node = openInline(piece);
      top.append(node);
      stack.push(node);
    } else if (numSkipped > 0) numSkipped -= 1;
    else {
      if (piece.type === "unlink") numLinks -= 1;
      stack.pop();
    }
  }
}

/** Fenced code that can grow: complete lines are coloured once. */
class CodeView {
  numDrawn = 0; // complete lines
  lastLine = document.createTextNode("");

  constructor(language) {
    this.language = language;
    this.highlighter = new Highlighter(language);
    this.code = element("code", {}, this.lastLine);
    const label = language || t("code");
    const bar = element("div", { class: "code-bar" }, element("span", { class: "code-language" }, label));
    bar.append(element("button", { type: "button", class: "code-copy", "data-action": "copy-code" }, t("copy")));
    const pre = element("pre", { tabindex: "0", role: "group", "aria-label": t("codeIn", { language: label }) }, this.code);
    this.node = element("div", { class: "code" }, bar, pre);
  }

  /** Shows these lines, of which the first `numDrawn` are already drawn. */
  draw(lines, isOpen) {
    const numComplete = isOpen ? Math.max(lines.length - 1, 0) : lines.length;
    const fresh = document.createDocumentFragment();
    for (; this.numDrawn < numComplete; this.numDrawn += 1) {
      for (const [kind, text] of this.highlighter.parts(lines[this.numDrawn])) {
        fresh.append(kind === null ? text : element("span", { class: `code-${kind}` }, text));
      }
      fresh.append("\n");
    }
    this.code.insertBefore(fresh, this.lastLine);
    this.lastLine.data = isOpen ? (lines.at(-1) ?? "") : "";
  }
}

function cellOf(tag, text, align) {
  const cell = element(tag, align === "start" ? {} : { class: `align-${align}` });
  appendInline(cell, text);
  return cell;
}

/** Creates nodes from blocks. */
class BlockDrawer {
  lastCode = null; // the last CodeView

  drawAll(parent, blocks) {
    for (const block of blocks) {
      const node = this[block.type](block);
      node.setAttribute("dir", "auto");
      parent.append(node);
    }
    return parent;
  }

  paragraph({ text }) {
    const node = element("p");
    appendInline(node, text);
    return node;
  }

  heading({ level, text }) {
    const node = element(`h${Math.min(level + 2, 6)}`, { class: `level-${level}` }); // the page itself uses h1 and h2
    appendInline(node, text);
    return node;
  }

  rule() {
    return element("hr");
  }

  quote({ children }) {
    return this.drawAll(element("blockquote"), children);
  }

  list({ start, isLoose, items }) {
    const node = element(start === null ? "ul" : "ol", isLoose ? { class: "loose" } : {});
    if (start !== null && start !== 1) node.setAttribute("start", start);
    for (const item of items) node.append(this.item(item));
    return node;
  }

  item({ children, isDone }) {
    if (isDone === null) return this.drawAll(element("li"), children);
    const label = t(isDone ? "taskDone" : "taskOpen");
    const box = element("span", { class: isDone ? "box done" : "box", role: "img", "aria-label": label });
    return this.drawAll(element("li", { class: "task" }, box), children);
  }

  math({ text, source }) {
    const formula = mathOf({ text, source, isBlock: true });
    return element("div", { class: "formula", tabindex: "0", role: "group", "aria-label": t("formula") }, formula);
  }

  footnote({ label, children }) {
    return this.drawAll(noteTarget(label), children);
  }

  table({ head, align, rows }) {
    const row = (tag, cells) => element("tr", {}, ...cells.map((cell, column) => cellOf(tag, cell, align[column])));
    const body = element("tbody", {}, ...rows.map((cells) => row("td", cells)));
    const table = element("table", {}, element("thead", {}, row("th", head)), body);
    return element("div", { class: "table", tabindex: "0", role: "group", "aria-label": t("table") }, table);
  }

  code({ language, lines, isOpen }) {
    this.lastCode = new CodeView(language);
    this.lastCode.draw(lines, isOpen);
    return this.lastCode.node;
  }
}

/** The text of one answer, in a container of its own. `append` may be called for every token. */
export class MarkdownView {
  #tail = ""; // the source from the first block that may still change
  #tailNodes = [];
  #openCode = null; // the CodeView, if the tail is unclosed fenced code
  #heldReturn = ""; // "\r" at the end of a piece, perhaps half of a line end
  #numParsedLines = 0; // parsed complete lines of the tail
  #numLines = 0; // line ends so far
  #isFull = false;
  #drawer = new BlockDrawer();
  #frame = null;
  #notBefore = 0;

  constructor(container, afterDraw = () => {}) {
    this.container = container;
    this.afterDraw = afterDraw;
  }

  append(text) {
    const received = this.#heldReturn + text;
    this.#heldReturn = received.endsWith("\r") ? "\r" : "";
    this.#take(received.slice(0, received.length - this.#heldReturn.length).replace(/\r\n?/g, "\n"));
    this.#frame ??= requestAnimationFrame((time) => this.#onFrame(time));
  }

  /** Draws the rest and finishes. */
  finish() {
    if (this.#frame !== null) cancelAnimationFrame(this.#frame);
    this.#frame = null;
    if (this.#heldReturn) this.#take("\n");
    this.#heldReturn = "";
    this.#draw();
  }

  #take(text) {
    let end = text.length;
    for (let at = text.indexOf("\n"); at !== -1 && this.#numLines < MAX_LINES; at = text.indexOf("\n", at + 1)) {
      this.#numLines += 1;
      if (this.#numLines === MAX_LINES) end = at;
    }
    if (this.#isFull) return;
    this.#tail += text.slice(0, end);
    this.#isFull = this.#numLines === MAX_LINES;
  }

  #onFrame(time) {
    this.#frame = null;
    if (time < this.#notBefore) {
      this.#frame = requestAnimationFrame((later) => this.#onFrame(later));
      return;
    }
    const started = performance.now();
    this.flush();
    const took = performance.now() - started;
    this.#notBefore = started + took / MAX_SHARE;
  }

  flush() {
    this.#settle();
    this.#draw();
  }

  #draw() {
    const lines = this.#tail.split("\n");
    if (this.#isFull || !this.#growCode(lines)) this.#redrawTail(parseBlocks(lines));
    linkNotes(this.container);
    this.afterDraw();
  }

  /** Draws for good what later lines cannot change: all complete blocks except the last. */
  #settle() {
    const lines = this.#tail.split("\n");
    lines.pop(); // incomplete, or empty
    if (lines.length <= this.#numParsedLines || this.#isInsideOpenCode(lines)) return;
    this.#numParsedLines = lines.length;
    const blocks = parseBlocks(lines);
    const last = blocks.pop();
    if (blocks.length === 0) return;
    this.#removeTail();
    this.#drawer.drawAll(this.container, blocks);
    this.#tail = this.#tail.slice(lines.slice(0, last.line).reduce((length, line) => length + line.length + 1, 0));
    this.#numParsedLines = lines.length - last.line;
  }

  #isInsideOpenCode(lines) {
    if (this.#openCode === null) return false;
    const [block] = parseBlocks(lines);
    return block.type === "code" && block.isOpen;
  }

  #growCode(lines) {
    if (this.#openCode === null) return false;
    const blocks = parseBlocks(lines);
    const [block] = blocks;
    if (blocks.length !== 1 || block.type !== "code" || block.language !== this.#openCode.language) return false;
    this.#openCode.draw(block.lines, block.isOpen);
    if (!block.isOpen) this.#openCode = null;
    return true;
  }

  #redrawTail(blocks) {
    this.#removeTail();
    const fresh = this.#drawer.drawAll(document.createDocumentFragment(), blocks);
    if (this.#isFull) fresh.append(element("p", { class: "too-long" }, t("tooLong")));
    this.#tailNodes = [...fresh.childNodes];
    this.container.append(fresh);
    const isOpenCode = blocks.length === 1 && blocks[0].type === "code" && blocks[0].isOpen;
    this.#openCode = isOpenCode ? this.#drawer.lastCode : null;
  }

  #removeTail() {
    for (const node of this.#tailNodes) node.remove();
    this.#tailNodes = [];
    this.#openCode = null;
  }
}

/** Renders a complete text at once. */
export function drawMarkdown(container, text) {
  const view = new MarkdownView(container);
  view.append(text);
  view.finish();
}
