// Converts LaTeX formulas to MathML, which browsers render natively. Covers the commands that appear in most answers; a
// formula with an unknown command is shown as source.

import {
  ACCENTS, ALPHABETS, ENVIRONMENTS, FUNCTIONS, IGNORED, INTEGRALS, LARGE, LETTERS, LIMITS, OPERATORS, SPACES, UNDER_ACCENTS,
} from "./math_symbols.js";

const MATHML = "http://www.w3.org/1998/Math/MathML";
const TOKEN = /\\(?:(?:operatorname|tag)\*|[a-zA-Z]+|[^])|\d+(?:[.,]\d+)*|[ \t\r\n]+|[^]/gu;
const MAX_CHARS = 20_000;
const MAX_DEPTH = 40;
const FENCES = new Set(["(", ")", "[", "]", "{", "}", "|", "‖", "⟨", "⟩", "⌊", "⌋", "⌈", "⌉", "/"]);
const SIGNS = new Set(["+", "−", "±", "∓"]);
const TEXTS = new Set(["text", "textrm", "textnormal", "mbox", "textit", "textbf", "texttt", "textsf", "tag", "tag*"]);
const UPRIGHT = new Set(["mathrm", "operatorname", "operatorname*", "mathsf", "mathtt", "mathit", "mathnormal"]);
const BOLD = new Set(["mathbf", "boldsymbol", "bm", "pmb", "bold"]);

/** Unsupported input: the formula is shown as source. */
class UnknownError extends Error {}

function make(tag, attributes = {}, ...children) {
  const node = document.createElementNS(MATHML, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const rowOf = (nodes) => (nodes.length === 1 ? nodes[0] : make("mrow", {}, ...nodes));
const space = (em) => make("mspace", { width: `${em}em` });
const fence = (sign) => make("mo", { fence: "true", stretchy: "true" }, sign);

function inAlphabet(text, { upper, lower, digit, apart }) {
  const one = (character) => {
    if (apart.has(character)) return apart.get(character);
    const code = character.charCodeAt(0);
    if (character >= "A" && character <= "Z") return String.fromCodePoint(upper + code - 65);
    if (character >= "a" && character <= "z") return String.fromCodePoint(lower + code - 97);
    return digit && character >= "0" && character <= "9" ? String.fromCodePoint(digit + code - 48) : character;
  };
  return Array.from(text, one).join("");
}

/** A symbol that stands for itself. */
function plain(token) {
  if (/^\d/.test(token)) return make("mn", {}, token);
  if (token === "-") return make("mo", {}, "−");
  if (token === "~") return space(0.25);
  if (/^[\u2e80-\u9fff\uff00-\uffef]$/u.test(token)) return make("mtext", {}, token);
  if (/^\p{L}$/u.test(token)) return make("mi", {}, token);
  return make("mo", FENCES.has(token) ? { stretchy: "false" } : {}, token);
}

class Parser {
  #at = 0;
  #depth = 0;

  constructor(source, isBlock) {
    this.tokens = source.match(TOKEN) ?? [];
    this.isBlock = isBlock;
  }

  /** The complete formula; its lines become rows. */
  parse() {
    const rows = this.#cells(null);
    return rows.length === 1 && rows[0].length === 1 ? rows[0][0] : [this.#table(rows, "rl")];
  }

  #peek() {
    while (/^\s/.test(this.tokens[this.#at] ?? "")) this.#at += 1;
    return this.tokens[this.#at] ?? null;
  }

  #next() {
    const token = this.#peek();
    if (token === null) throw new UnknownError("the formula ends too early");
    this.#at += 1;
    return token;
  }

  #expect(wanted) {
    if (this.#next() !== wanted) throw new UnknownError(`no ${wanted}`);
  }

  /** Runs one level deeper. An error ends the formula, so the depth is restored only on success. */
  #deeper(read) {
    this.#depth += 1;
    if (this.#depth > MAX_DEPTH) throw new UnknownError("nested too deep");
    const result = read();
    this.#depth -= 1;
    return result;
  }

  /** Nodes up to one of `ends`, which is not consumed; null is the end of the formula. */
  #row(ends) {
    return this.#deeper(() => this.#rowHere(ends));
  }

  #rowHere(ends) {
    const nodes = [];
    for (let token = this.#peek(); token !== null && !ends.includes(token); token = this.#peek()) {
      if (token === "}") throw new UnknownError("a brace too many");
      const node = this.#scripted();
      if (!node) continue;
      // Otherwise a sign after an operator would be spaced like one between two terms.
      if (SIGNS.has(node.textContent) && nodes.at(-1)?.localName === "mo") node.setAttribute("form", "prefix");
      nodes.push(node);
    }
    if (this.#peek() === null && !ends.includes(null)) throw new UnknownError("the formula ends too early");
    return nodes;
  }

  /** An atom with its superscript and subscript. */
  #scripted() {
    const token = this.#peek();
    const base = token === "^" || token === "_" ? { node: make("mrow") } : this.#atom();
    let [above, below] = [null, null];
    for (;;) {
      const sign = this.#peek();
      if (sign === "'") {
        let primes = "";
        for (; this.#peek() === "'"; this.#at += 1) primes += "′";
        above = above ? make("mrow", {}, make("mo", {}, primes), above) : make("mo", {}, primes);
      } else if (sign === "^" || sign === "_") {
        this.#at += 1;
        const script = this.#argument();
        if (sign === "^") above = above ? make("mrow", {}, above, script) : script;
        else if (below) throw new UnknownError("two subscripts");
        else below = script;
      } else if (sign === "\\limits" || sign === "\\nolimits") this.#at += 1;
      else break;
    }
    if (base === null) return above || below ? this.#withScripts({ node: make("mrow") }, above, below) : null;
    return this.#withScripts(base, above, below);
  }

  #withScripts({ node, hasLimits = false }, above, below) {
    if (!above && !below) return node;
    const [both, sub, sup] = hasLimits && this.isBlock ? ["munderover", "munder", "mover"] : ["msubsup", "msub", "msup"];
    if (above && below) return make(both, {}, node, below, above);
    return below ? make(sub, {}, node, below) : make(sup, {}, node, above);
  }

  /** {node, hasLimits}, or null if nothing is drawn. */
  #atom() {
    const token = this.#next();
    if (token === "{") {
      const nodes = this.#row(["}"]);
      this.#expect("}");
      return { node: make("mrow", {}, ...nodes) };
    }
    if (token === "&") throw new UnknownError("a cell outside of a table");
    if (!token.startsWith("\\")) return { node: plain(token) };
    return this.#command(token.slice(1));
  }

  /** A group in braces, or a single symbol. */
  #argument() {
    if (this.#peek() === "}") throw new UnknownError("an argument is missing");
    const { node } = this.#deeper(() => this.#atom()) ?? {};
    if (!node) throw new UnknownError("an argument is missing");
    return node;
  }

  /** The source text in braces. */
  #textArgument() {
    this.#expect("{");
    let text = "";
    for (let open = 1; ; this.#at += 1) {
      const token = this.tokens[this.#at];
      if (token === undefined) throw new UnknownError("a text without an end");
      if (token === "{") open += 1;
      else if (token === "}" && (open -= 1) === 0) break;
      else text += token.replace(/^\\([^a-zA-Z])$/, "$1");
    }
    this.#at += 1;
    return text;
  }

  #command(name) {
    if (LETTERS.has(name)) return { node: make("mi", {}, LETTERS.get(name)) };
    if (OPERATORS.has(name)) return { node: make("mo", { stretchy: "false" }, OPERATORS.get(name)) };
    if (LARGE.has(name)) return { node: make("mo", { largeop: "true" }, LARGE.get(name)), hasLimits: true };
    if (INTEGRALS.has(name)) return { node: make("mo", { largeop: "true" }, INTEGRALS.get(name)) };
    if (FUNCTIONS.has(name)) return { node: make("mi", {}, name) };
    if (LIMITS.has(name)) return { node: make("mi", {}, name), hasLimits: true };
    if (SPACES.has(name)) return { node: space(SPACES.get(name)) };
    if (IGNORED.has(name)) return null;
    return { node: this.#built(name), hasLimits: name === "underbrace" || name === "overbrace" || name === "operatorname*" };
  }

  /** A node built from arguments. */
  #built(name) {
    if (/^[dt]?frac$|^cfrac$/.test(name)) return make("mfrac", {}, this.#argument(), this.#argument());
    if (/^[dt]?binom$/.test(name)) {
      const inner = make("mfrac", { linethickness: "0" }, this.#argument(), this.#argument());
      return make("mrow", {}, fence("("), inner, fence(")"));
    }
    if (name === "sqrt") return this.#root();
    if (TEXTS.has(name)) return this.#text(name);
    if (UPRIGHT.has(name)) return make("mi", { mathvariant: "normal" }, this.#textArgument());
    if (BOLD.has(name)) return make("mrow", { class: "bold" }, this.#argument());
    if (ALPHABETS.has(name)) return make("mi", {}, inAlphabet(this.#argument().textContent, ALPHABETS.get(name)));
    if (ACCENTS.has(name)) return make("mover", { accent: "true" }, this.#argument(), make("mo", {}, ACCENTS.get(name)));
    if (UNDER_ACCENTS.has(name)) return make("munder", {}, this.#argument(), make("mo", {}, UNDER_ACCENTS.get(name)));
    if (name === "left") return this.#fenced();
    if (name === "begin") return this.#environment();
    if (name === "boxed") return make("mrow", { class: "boxed" }, this.#argument());
    if (name === "overset" || name === "stackrel") {
      const above = this.#argument();
      return make("mover", {}, this.#argument(), above);
    }
    if (name === "underset") {
      const below = this.#argument();
      return make("munder", {}, this.#argument(), below);
    }
    if (name === "xrightarrow") return make("mover", {}, make("mo", { stretchy: "true" }, "→"), this.#argument());
    if (name === "pmod") {
      const inside = [make("mi", {}, "mod"), space(0.3), this.#argument()];
      return make("mrow", {}, space(1), make("mo", {}, "("), ...inside, make("mo", {}, ")"));
    }
    if (name === "bmod" || name === "mod") return make("mo", {}, "mod");
    throw new UnknownError(`\\${name}`);
  }

  #root() {
    if (this.#peek() !== "[") return make("msqrt", {}, this.#argument());
    this.#at += 1;
    const index = this.#row(["]"]);
    this.#expect("]");
    return make("mroot", {}, this.#argument(), rowOf(index));
  }

  #text(name) {
    const text = this.#textArgument().replace(/\s+/g, "\u00a0");
    if (!name.startsWith("tag")) return make("mtext", name === "textbf" ? { class: "bold" } : {}, text);
    return make("mrow", {}, space(2), make("mtext", {}, `(${text})`));
  }

  #delimiter() {
    const token = this.#next();
    if (token === ".") return "";
    const sign = token.startsWith("\\") ? OPERATORS.get(token.slice(1)) : token;
    if (!sign || !(FENCES.has(sign) || sign === "<" || sign === ">" || "↑↓↕⇑⇓".includes(sign))) throw new UnknownError(token);
    return { "<": "⟨", ">": "⟩" }[sign] ?? sign;
  }

  #fenced() {
    const open = this.#delimiter();
    const nodes = this.#row(["\\right"]);
    this.#expect("\\right");
    const close = this.#delimiter();
    return this.#between(open, nodes, close);
  }

  #between(open, nodes, close) {
    return make("mrow", {}, ...(open ? [fence(open)] : []), ...nodes, ...(close ? [fence(close)] : []));
  }

  #environment() {
    const name = this.#textArgument();
    if (!ENVIRONMENTS.has(name)) throw new UnknownError(name);
    const [open, close] = ENVIRONMENTS.get(name);
    const columns = name === "array" ? this.#textArgument().replace(/[^lcr]/g, "") : "";
    const rows = this.#cells("\\end");
    this.#expect("\\end");
    if (this.#textArgument() !== name) throw new UnknownError("another environment ends");
    const isAligned = /align|split|eqnarray/.test(name);
    const sides = columns || (isAligned ? "rl" : name.endsWith("cases") ? "l" : "c");
    return this.#between(open, [this.#table(rows, sides)], close);
  }

  /** Rows of cells up to `end`; an empty last row is dropped. */
  #cells(end) {
    const rows = [[]];
    for (;;) {
      rows.at(-1).push(this.#row(["&", "\\\\", end]));
      const token = this.#peek();
      if (token === end) break;
      this.#at += 1;
      if (token === "\\\\") rows.push([]);
    }
    const last = rows.at(-1);
    if (rows.length > 1 && last.length === 1 && last[0].length === 0) rows.pop();
    return rows;
  }

  /** `sides`: l, c or r for each column, repeated if there are more columns. */
  #table(rows, sides) {
    const side = { l: "left", c: "center", r: "right" };
    const cell = (nodes, column) => make("mtd", { class: `math-${side[sides[column % sides.length]]}` }, ...nodes);
    return make("mtable", {}, ...rows.map((cells) => make("mtr", {}, ...cells.map(cell))));
  }
}

/** The formula as <math>, or null if something in it is not supported; `isBlock`: on lines of its own. */
export function typeset(source, isBlock) {
  if (source.length > MAX_CHARS || source.trim() === "") return null;
  try {
    const nodes = new Parser(source, isBlock).parse();
    return make("math", isBlock ? { display: "block" } : {}, make("mrow", {}, ...nodes));
  } catch (error) {
    if (error instanceof UnknownError) return null;
    throw error;
  }
}
