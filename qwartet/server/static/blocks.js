// Splits Markdown into blocks: CommonMark and tables, in linear time.
//
// Left out on purpose: raw HTML (shown as text); reference links, indented code and underlined headings, which models do
// not intend when they write something similar. Nesting ends at MAX_DEPTH: deeper markers are text.

const MAX_DEPTH = 8;
const MATH = { "\\[": "\\]", $$: "$$" };
const FOOTNOTE = /^\[\^([^\]\s[]{1,40})\]:[ \t]*/;
const TASK = /^\[([ xX])\][ \t]+(?=\S)/;
const MAX_COLUMNS = 64; // of a table; rows are not padded, so that short rows cannot multiply into many cells

const isBlank = (line) => line.trim() === "";

function indentOf(line) {
  let columns = 0;
  for (const character of line) {
    if (character === " ") columns += 1;
    else if (character === "\t") columns += 4 - (columns % 4);
    else break;
  }
  return columns;
}

/** The line without its first `columns` columns of whitespace. */
function withoutIndent(line, columns) {
  let at = 0;
  let passed = 0;
  while (passed < columns && (line[at] === " " || line[at] === "\t")) {
    passed += line[at] === "\t" ? 4 - (passed % 4) : 1;
    at += 1;
  }
  return line.slice(at);
}

function runLength(text, character) {
  let count = 0;
  while (text[count] === character) count += 1;
  return count;
}

function fenceOf(trimmed) {
  const character = trimmed[0];
  if (character !== "`" && character !== "~") return null;
  const count = runLength(trimmed, character);
  const info = trimmed.slice(count);
  if (count < 3 || (character === "`" && info.includes("`"))) return null;
  return { character, count, info: info.trim() };
}

function closesFence(trimmed, fence) {
  const count = runLength(trimmed, fence.character);
  return count >= fence.count && isBlank(trimmed.slice(count));
}

/** Tracks the lines of a container: is fenced code open inside it? */
class FenceTracker {
  open = null;

  feed(line) {
    const trimmed = line.trimStart();
    if (this.open === null) this.open = fenceOf(trimmed);
    else if (closesFence(trimmed, this.open)) this.open = null;
  }
}

function isRule(trimmed) {
  const character = trimmed[0];
  if (character !== "-" && character !== "*" && character !== "_") return false;
  let count = 0;
  for (const other of trimmed) {
    if (other === character) count += 1;
    else if (other !== " " && other !== "\t") return false;
  }
  return count >= 3;
}

function headingOf(trimmed) {
  const level = runLength(trimmed.slice(0, 7), "#");
  if (level === 0 || level > 6) return null;
  const rest = trimmed.slice(level);
  if (rest !== "" && rest[0] !== " " && rest[0] !== "\t") return null;
  const text = rest.trim();
  let end = text.length;
  while (text[end - 1] === "#") end -= 1;
  const isClosed = end === 0 || text[end - 1] === " " || text[end - 1] === "\t";
  return { level, text: isClosed ? text.slice(0, end).trimEnd() : text };
}

/** The marker of a list item: its kind, its column, and the column where the item's text begins. */
function markerOf(line) {
  const indent = indentOf(line);
  const trimmed = line.trimStart();
  const match = /^(?:[-+*]|\d{1,9}[.)])(?=[ \t]|$)/.exec(trimmed.slice(0, 12));
  if (match === null) return null;
  const width = match[0].length;
  const rest = trimmed.slice(width);
  const spaces = isBlank(rest) ? 1 : Math.min(indentOf(rest), 4);
  const number = parseInt(match[0], 10);
  return {
    kind: match[0].at(-1), // "-", "+", "*", "." or ")": another marker starts another list
    number: Number.isNaN(number) ? null : number,
    indent,
    contentIndent: indent + width + spaces,
    rest: rest.trimStart(),
  };
}

/** The closing sign of a formula that starts on this line, if the line contains nothing else; else null. */
function mathEndOf(trimmed) {
  const end = MATH[trimmed.slice(0, 2)];
  if (!end) return null;
  const at = trimmed.indexOf(end, 2);
  return at === -1 || at === trimmed.trimEnd().length - 2 ? end : null;
}

/** Does this line interrupt a paragraph? */
function interrupts(line, depth) {
  const trimmed = line.trimStart();
  if (fenceOf(trimmed) || headingOf(trimmed) || isRule(trimmed)) return true;
  if (mathEndOf(trimmed)) return true;
  if (depth >= MAX_DEPTH) return false;
  if (FOOTNOTE.test(trimmed.slice(0, 50))) return true;
  if (trimmed[0] === ">") return true;
  const marker = markerOf(line);
  return marker !== null && marker.rest !== "" && (marker.number === null || marker.number === 1);
}

function cellsOf(line) {
  let row = line.trim();
  if (row[0] === "|") row = row.slice(1);
  const cells = [];
  let cell = "";
  let from = 0;
  for (let at = row.indexOf("|"); at !== -1; at = row.indexOf("|", at + 1)) {
    if (row[at - 1] === "\\") {
      cell += `${row.slice(from, at - 1)}|`;
    } else {
      cells.push((cell + row.slice(from, at)).trim());
      cell = "";
      if (cells.length > MAX_COLUMNS) return cells;
    }
    from = at + 1;
  }
  const last = (cell + row.slice(from)).trim();
  if (last !== "") cells.push(last);
  return cells;
}

/** The header of a table at line i and the alignment of its columns, or null. */
function tableHeadAt(lines, i) {
  const below = lines[i + 1];
  if (below === undefined || !lines[i].includes("|") || !/^[ \t|:-]+$/.test(below) || !below.includes("-")) return null;
  const rules = cellsOf(below);
  const head = cellsOf(lines[i]);
  if (head.length !== rules.length || head.length === 0 || head.length > MAX_COLUMNS) return null;
  if (!rules.every((rule) => /^:?-+:?$/.test(rule))) return null;
  const align = rules.map((rule) => {
    if (rule.endsWith(":")) return rule.startsWith(":") ? "center" : "end";
    return "start";
  });
  return { head, align };
}

function readTable(lines, i, { head, align }) {
  const rows = [];
  let next = i + 2;
  while (next < lines.length && lines[next].includes("|")) {
    rows.push(cellsOf(lines[next]).slice(0, head.length));
    next += 1;
  }
  return [{ type: "table", head, align, rows }, next];
}

function readCode(lines, i, fence) {
  const indent = indentOf(lines[i]);
  let next = i + 1;
  while (next < lines.length && !closesFence(lines[next].trimStart(), fence)) next += 1;
  const code = lines.slice(i + 1, next).map((line) => withoutIndent(line, indent));
  const isOpen = next === lines.length;
  return [{ type: "code", language: fence.info.split(/\s/, 1)[0], lines: code, isOpen }, isOpen ? next : next + 1];
}

/** A formula on lines of its own; without an end it is a paragraph, up to the next blank line. */
function readMath(lines, i, end) {
  const own = [];
  for (let next = i; next < lines.length && !isBlank(lines[next]); next += 1) {
    const line = lines[next].trim();
    own.push(line);
    if (line.endsWith(end) && (next > i || line.length >= 4)) {
      const text = own.join("\n");
      return [{ type: "math", text, source: text.slice(2, -2) }, next + 1];
    }
  }
  return [{ type: "paragraph", text: own.join("\n") }, i + own.length];
}

function readFootnote(lines, i, depth) {
  const [mark, label] = FOOTNOTE.exec(lines[i].trimStart());
  const own = [lines[i].trimStart().slice(mark.length)];
  let next = i + 1;
  for (; next < lines.length && !isBlank(lines[next]); next += 1) {
    if (indentOf(lines[next]) < 2 && interrupts(lines[next], depth)) break;
    own.push(withoutIndent(lines[next], 4));
  }
  return [{ type: "footnote", label, children: parseBlocks(own, depth + 1) }, next];
}

function readQuote(lines, i, depth) {
  const own = [];
  const fence = new FenceTracker();
  let next = i;
  for (; next < lines.length; next += 1) {
    const trimmed = lines[next].trimStart();
    let line;
    if (trimmed[0] === ">") line = trimmed.slice(trimmed[1] === " " ? 2 : 1);
    else if (continuesParagraph(own, trimmed, fence, depth)) line = trimmed;
    else break;
    own.push(line);
    fence.feed(line);
  }
  return [{ type: "quote", children: parseBlocks(own, depth + 1) }, next];
}

/** CommonMark's lazy continuation: a line without the container's marker continues the text before it. */
function continuesParagraph(own, trimmed, fence, depth) {
  return trimmed !== "" && fence.open === null && !isBlank(own.at(-1)) && !interrupts(trimmed, depth);
}

function readItem(lines, i, marker, depth) {
  const task = TASK.exec(marker.rest.slice(0, 20));
  const first = marker.rest.slice(task ? task[0].length : 0);
  const own = [first];
  const fence = new FenceTracker();
  fence.feed(first);
  let next = i + 1;
  for (; next < lines.length; next += 1) {
    const line = lines[next];
    let inner;
    if (isBlank(line)) inner = "";
    // Two columns suffice, whatever the marker's width: models indent by two under "1." as well.
    else if (indentOf(line) >= marker.indent + 2) inner = withoutIndent(line, marker.contentIndent);
    else if (markerOf(line) === null && continuesParagraph(own, line.trimStart(), fence, depth)) inner = line.trimStart();
    else break;
    own.push(inner);
    fence.feed(inner);
  }
  const hadBlankEnd = isBlank(own.at(-1)) && own.length > 1;
  const children = parseBlocks(own, depth + 1);
  return { children, isDone: task ? task[1] !== " " : null, next, hadBlankEnd };
}

function readList(lines, i, first, depth) {
  const items = [];
  let isLoose = false;
  let endedBlank = false;
  let next = i;
  for (let marker = first; marker !== null && marker.kind === first.kind; ) {
    isLoose ||= endedBlank;
    const item = readItem(lines, next, marker, depth);
    isLoose ||= item.children.filter((child) => child.type === "paragraph").length > 1;
    items.push({ children: item.children, isDone: item.isDone });
    endedBlank = item.hadBlankEnd;
    next = item.next;
    marker = next < lines.length && !isRule(lines[next].trim()) ? markerOf(lines[next]) : null;
  }
  return [{ type: "list", start: first.number, isLoose, items }, next];
}

function readParagraph(lines, i, depth) {
  const own = [lines[i].trim()];
  let next = i + 1;
  while (next < lines.length && !isBlank(lines[next])) {
    if (interrupts(lines[next], depth) || tableHeadAt(lines, next)) break;
    own.push(lines[next].trim());
    next += 1;
  }
  return [{ type: "paragraph", text: own.join("\n") }, next];
}

function readBlock(lines, i, depth) {
  const trimmed = lines[i].trimStart();
  const fence = fenceOf(trimmed);
  if (fence) return readCode(lines, i, fence);
  const heading = headingOf(trimmed);
  if (heading) return [{ type: "heading", ...heading }, i + 1];
  if (isRule(trimmed)) return [{ type: "rule" }, i + 1];
  const mathEnd = mathEndOf(trimmed);
  if (mathEnd) return readMath(lines, i, mathEnd);
  if (depth < MAX_DEPTH) {
    if (FOOTNOTE.test(trimmed.slice(0, 50))) return readFootnote(lines, i, depth);
    if (trimmed[0] === ">") return readQuote(lines, i, depth);
    const marker = markerOf(lines[i]);
    if (marker) return readList(lines, i, marker, depth);
  }
  const head = tableHeadAt(lines, i);
  return head ? readTable(lines, i, head) : readParagraph(lines, i, depth);
}

/**
 * The blocks of these lines, each with `line`, the number of its first line.
 * A block that is followed by another one no longer changes, whatever lines come later.
 */
export function parseBlocks(lines, depth = 0) {
  const blocks = [];
  let i = 0;
  while (i < lines.length) {
    if (isBlank(lines[i])) {
      i += 1;
      continue;
    }
    const [block, next] = readBlock(lines, i, depth);
    blocks.push({ ...block, line: i });
    i = next;
  }
  return blocks;
}
