// Parses the text of a paragraph (emphasis, links, code) into a flat list of pieces, in linear time.
//
// Pieces: {type: "text" | "code", text}, {type: "math", text, source, isBlock}, {type: "note", label}, {type: "break"},
// {type: "open" | "close", tag}, {type: "link", url}, {type: "unlink"}; opening and closing ones nest. Images, and links
// other than web or mail addresses, stay text.

const SPECIAL = /[\\`*_~[\]!<&\n$]|https?:\/\//gi;
const ASCII_PUNCTUATION = /[!-/:-@[-`{-~]/;
const PUNCTUATION = /[\p{P}\p{S}]/u;
const CJK = /[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]/;
const ENTITY = /&(?:amp|lt|gt|quot|nbsp|#39);/y;
const ENTITIES = { "&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&nbsp;": "\u00a0", "&#39;": "'" };
const AUTOLINK = /<((?:https?:\/\/|mailto:)[^\s<>]{1,2000})>/iy;
const BARE_URL = /https?:\/\/[!#-;=?-Z^_a-z~]{1,2000}/iy; // ASCII only: Chinese text may follow without a space
const MATH = { "\\(": "\\)", "\\[": "\\]", $$: "$$" };
const NOTE = /\[\^([^\]\s[]{1,40})\]/y;
const MAX_DESTINATION = 2000;
const MAX_TITLE = 500;
const MAX_PARENTHESES = 32;
const MAX_PIECES = 20_000; // of one paragraph; the rest is plain text

/** The address if it is a web or mail address; else null. */
export function safeUrl(address) {
  if (!/^(?:https?:\/\/|mailto:)[\x21-\uffff]+$/i.test(address) || !URL.canParse(address)) return null;
  return ["http:", "https:", "mailto:"].includes(new URL(address).protocol) ? address : null;
}

/** The position of the next `needle`; one that was not found is not searched for again. */
class NextIndex {
  known = new Map();

  constructor(text) {
    this.text = text;
  }

  of(needle, from) {
    const known = this.known.get(needle);
    if (known === -1 || known >= from) return known;
    const found = this.text.indexOf(needle, from);
    this.known.set(needle, found);
    return found;
  }
}

/** The position of the next run of exactly `count` backticks. */
class BacktickRuns {
  positions = new Map();

  constructor(text) {
    for (let at = text.indexOf("`"); at !== -1; ) {
      let end = at;
      while (text[end] === "`") end += 1;
      const list = this.positions.get(end - at) ?? [];
      list.push(at);
      this.positions.set(end - at, list);
      at = text.indexOf("`", end);
    }
    for (const list of this.positions.values()) list.reverse();
  }

  next(count, from) {
    const list = this.positions.get(count) ?? [];
    while (list.length > 0 && list.at(-1) < from) list.pop();
    return list.at(-1) ?? -1;
  }
}

/** `(address "title")` at `at`: the address and its end, or null. */
function destinationAt(text, at) {
  if (text[at] !== "(") return null;
  const isSpace = (character) => character === " " || character === "\n";
  let i = at + 1;
  while (isSpace(text[i])) i += 1;
  let url = "";
  if (text[i] === "<") {
    const inside = text.slice(i + 1, i + 1 + MAX_DESTINATION);
    const length = inside.search(/[<>\n]/);
    if (length === -1 || inside[length] !== ">") return null;
    url = inside.slice(0, length);
    i += length + 2;
  } else {
    const from = i;
    let depth = 0;
    for (; i < text.length && !isSpace(text[i]); i += 1) {
      if (i - from > MAX_DESTINATION || depth > MAX_PARENTHESES) return null;
      if (text[i] === "(") depth += 1;
      else if (text[i] === ")" && (depth -= 1) < 0) break;
    }
    url = text.slice(from, i);
  }
  while (isSpace(text[i])) i += 1;
  if (text[i] === '"' || text[i] === "'") {
    const length = text.slice(i + 1, i + 1 + MAX_TITLE).indexOf(text[i]);
    if (length === -1) return null;
    i += length + 2;
    while (isSpace(text[i])) i += 1;
  }
  return text[i] === ")" ? { url, end: i + 1 } : null;
}

/** A run of `*`, `_` or `~`: may it open emphasis, may it close it? */
function runAt(text, at) {
  const character = text[at];
  let end = at;
  while (text[end] === character) end += 1;
  const before = text[at - 1] ?? " ";
  const after = text[end] ?? " ";
  const isFree = (inner, outer) =>
    !/\s/.test(inner) && (!PUNCTUATION.test(inner) || /\s/.test(outer) || PUNCTUATION.test(outer) || CJK.test(outer));
  const opens = isFree(after, before);
  const closes = isFree(before, after);
  const isUnderscore = character === "_";
  return {
    type: "run",
    character,
    length: end - at,
    count: end - at,
    canOpen: opens && (!isUnderscore || !closes || PUNCTUATION.test(before)),
    canClose: closes && (!isUnderscore || !opens || PUNCTUATION.test(after)),
    closed: [],
    opened: [],
  };
}

function isPair(opener, closer) {
  if (opener.character !== closer.character) return false;
  if (closer.character === "~") return opener.count === 2 && closer.count === 2;
  const isAmbiguous = opener.canClose || closer.canOpen;
  const isThird = (run) => run.length % 3 === 0;
  return !isAmbiguous || (opener.length + closer.length) % 3 !== 0 || (isThird(opener) && isThird(closer));
}

/** Pairs runs as CommonMark does; `floors` prevent repeated searches for the same kind of closer. */
function pairRuns(runs) {
  const open = [];
  const floors = new Map();
  const cutTo = (length) => {
    open.length = length;
    for (const [key, floor] of floors) if (floor > length) floors.set(key, length);
  };
  for (const run of runs) {
    const key = `${run.character}${run.canOpen}${run.length % 3}`;
    while (run.canClose && run.count > 0) {
      const floor = floors.get(key) ?? 0;
      let at = open.length - 1;
      while (at >= floor && !isPair(open[at], run)) at -= 1;
      if (at < floor) {
        floors.set(key, open.length);
        break;
      }
      const opener = open[at];
      const used = Math.min(opener.count, run.count, 2);
      const tag = run.character === "~" ? "del" : ["em", "strong"][used - 1];
      opener.opened.push(tag);
      run.closed.push(tag);
      opener.count -= used;
      run.count -= used;
      cutTo(opener.count === 0 ? at : at + 1);
    }
    if (run.canOpen && run.count > 0) open.push(run);
  }
}

class InlineParser {
  pieces = [];
  brackets = [];
  runs = []; // those not enclosed by a link yet

  constructor(text) {
    this.text = text;
    this.at = 0;
    this.nextIndex = new NextIndex(text);
  }

  parse() {
    while (this.at < this.text.length) {
      SPECIAL.lastIndex = this.at;
      const found = this.pieces.length < MAX_PIECES ? SPECIAL.exec(this.text) : null;
      const special = found ? found.index : this.text.length;
      if (special > this.at) this.pushText(this.text.slice(this.at, special));
      this.at = special;
      if (found) this.readSpecial(found[0]);
    }
    pairRuns(this.runs);
    return this.pieces.flatMap(piecesOfRun);
  }

  pushText(text) {
    this.pieces.push({ type: "text", text });
  }

  /** One piece of text that ends at `end`. */
  take(end, text = this.text.slice(this.at, end)) {
    this.pushText(text);
    this.at = end;
  }

  readSpecial(special) {
    if (special === "\n") {
      this.pieces.push({ type: "break" });
      this.at += 1;
    } else if (special === "\\") this.readEscape();
    else if (special === "`") this.readCode();
    else if (special === "$") this.readMath("$$") || this.readDollars() || this.take(this.at + 1);
    else if (special === "*" || special === "_" || special === "~") this.readRun();
    else if (special === "[") this.readNote() || this.openBracket(1);
    else if (special === "!") this.text[this.at + 1] === "[" ? this.openBracket(2) : this.take(this.at + 1);
    else if (special === "]") this.closeBracket();
    else if (special === "<") this.readLink(AUTOLINK) || this.take(this.at + 1);
    else if (special === "&") this.readEntity();
    else this.readLink(BARE_URL) || this.take(this.at + special.length);
  }

  readEscape() {
    const next = this.text[this.at + 1] ?? "";
    if (this.readMath(`\\${next}`)) return;
    if (next === "\n") this.at += 1;
    else if (next !== "" && ASCII_PUNCTUATION.test(next)) this.take(this.at + 2, next);
    else this.take(this.at + 1);
  }

  /** Markdown must not consume characters of a formula. */
  readMath(opening) {
    const closing = MATH[opening];
    if (!closing || !this.text.startsWith(opening, this.at)) return false;
    const end = this.nextIndex.of(closing, this.at + 2);
    if (end === -1) return false;
    this.pushMath(end + 2, 2, opening !== "\\(");
    return true;
  }

  pushMath(end, length, isBlock) {
    const text = this.text.slice(this.at, end);
    this.pieces.push({ type: "math", text, source: text.slice(length, -length), isBlock });
    this.at = end;
  }

  /** `$x$`, but not two amounts of money: no space inside the signs, no digit after them. */
  readDollars() {
    const end = this.text.indexOf("$", this.at + 1);
    if (end <= this.at + 1 || /\s/.test(this.text[this.at + 1]) || /[\s\\]/.test(this.text[end - 1])) return false;
    if (/[\d$]/.test(this.text[end + 1] ?? "") || this.text.slice(this.at, end).includes("`")) return false;
    this.pushMath(end + 1, 1, false);
    return true;
  }

  /** `[^1]`, which refers to a footnote if there is one. */
  readNote() {
    NOTE.lastIndex = this.at;
    const match = NOTE.exec(this.text);
    if (match === null) return false;
    this.pieces.push({ type: "note", label: match[1] });
    this.at += match[0].length;
    return true;
  }

  readCode() {
    this.backticks ??= new BacktickRuns(this.text);
    let start = this.at;
    while (this.text[start] === "`") start += 1;
    const count = start - this.at;
    const end = this.backticks.next(count, start);
    if (end === -1) {
      this.take(start);
      return;
    }
    let code = this.text.slice(start, end).replaceAll("\n", " ");
    if (code.startsWith(" ") && code.endsWith(" ") && code.trim() !== "") code = code.slice(1, -1);
    this.pieces.push({ type: "code", text: code });
    this.at = end + count;
  }

  readRun() {
    const run = runAt(this.text, this.at);
    this.pieces.push(run);
    this.runs.push(run);
    this.at += run.length;
  }

  openBracket(length) {
    this.brackets.push({ at: this.at, isImage: length === 2, piece: this.pieces.length, runs: this.runs.length });
    this.take(this.at + length);
  }

  closeBracket() {
    const opener = this.brackets.pop();
    const destination = opener ? destinationAt(this.text, this.at + 1) : null;
    if (destination === null) {
      this.take(this.at + 1);
      return;
    }
    const url = opener.isImage ? null : safeUrl(destination.url);
    if (url === null) {
      this.pieces.length = opener.piece;
      this.runs.length = opener.runs;
      this.pushText(this.text.slice(opener.at, destination.end));
    } else {
      pairRuns(this.runs.splice(opener.runs));
      this.pieces[opener.piece] = { type: "link", url };
      this.pieces.push({ type: "unlink" });
      this.brackets = []; // links do not nest
    }
    this.at = destination.end;
  }

  readLink(pattern) {
    pattern.lastIndex = this.at;
    const match = pattern.exec(this.text);
    if (match === null) return false;
    const shown = match[1] ?? withoutTrailingPunctuation(match[0]);
    const url = safeUrl(shown);
    if (url === null) return false;
    this.pieces.push({ type: "link", url }, { type: "text", text: shown }, { type: "unlink" });
    this.at += match[1] === undefined ? shown.length : match[0].length;
    return true;
  }

  readEntity() {
    ENTITY.lastIndex = this.at;
    const match = ENTITY.exec(this.text);
    if (match) this.take(this.at + match[0].length, ENTITIES[match[0]]);
    else this.take(this.at + 1);
  }
}

/** A sentence's punctuation after an address is not part of it; a closing parenthesis only if it was opened there. */
function withoutTrailingPunctuation(url) {
  let surplus = url.split(")").length - url.split("(").length;
  let end = url.length;
  for (; end > 0; end -= 1) {
    if (url[end - 1] === ")" && surplus > 0) surplus -= 1;
    else if (!/[.,;:!?'"*_~\\|]/.test(url[end - 1])) break;
  }
  return url.slice(0, end);
}

function piecesOfRun(piece) {
  if (piece.type !== "run") return piece;
  const pieces = piece.closed.map((tag) => ({ type: "close", tag }));
  if (piece.count > 0) pieces.push({ type: "text", text: piece.character.repeat(piece.count) });
  for (const tag of piece.opened.reverse()) pieces.push({ type: "open", tag });
  return pieces;
}

/** The pieces of one paragraph's text. */
export function parseInline(text) {
  return new InlineParser(text).parse();
}
