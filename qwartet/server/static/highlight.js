// Highlights comments, strings, numbers and keywords, line by line, so that code is coloured while it arrives. A
// heuristic that is good enough for reading, not a parser for each language.

const MAX_LINE_CHARS = 1000; // longer lines (data, minified code) stay plain
const MAX_LINES = 3000;

const words = (text) => new Set(text.split(" "));
const C_WORDS =
  "if else for while do switch case default break continue return goto sizeof typedef struct union enum static const " +
  "extern inline void int long short char float double bool unsigned signed auto true false nullptr NULL class public " +
  "private protected virtual override namespace using template typename new delete this try catch throw operator final";
const JS_WORDS =
  "if else for while do switch case default break continue return const let var function class extends new this super " +
  "import export from async await yield typeof instanceof in of try catch finally throw null undefined true false " +
  "interface type implements readonly enum public private protected static get set void delete";
const JAVA_WORDS =
  "if else for while do switch case default break continue return class interface extends implements new this super " +
  "import package public private protected static final abstract void int long short byte char float double boolean " +
  "true false null try catch finally throw throws enum record var val fun when object override string using namespace " +
  "async await foreach in is as func let guard struct protocol extension nil self mut pub fn impl trait use mod crate " +
  "match loop where move ref dyn unsafe type const go defer chan select range map make interface";
const PYTHON_WORDS =
  "if elif else for while break continue return def class import from as with try except finally raise pass lambda " +
  "yield async await global nonlocal assert del in is not and or None True False match case self";
const SHELL_WORDS = "if then else elif fi for in do done while until case esac function return local export set unset exit";
const RUBY_WORDS =
  "if elsif else unless end for while until do break next return def class module begin rescue ensure raise yield self " +
  "nil true false and or not require then case when function library";
const SQL_WORDS =
  "select from where and or not in is null insert into values update set delete create table index view drop alter add " +
  "join left right inner outer full on as group by order having limit offset union all distinct case when then else " +
  "end primary key foreign references default exists between like with asc desc count sum avg min max";
const DATA_WORDS = "true false null yes no on off";

const slashes = (list) => ({ words: words(list), comment: "//", blocks: { "/*": "*/" } });
const LANGUAGES = {
  c: { ...slashes(C_WORDS), blocks: { "/*": "*/" } },
  js: { ...slashes(JS_WORDS), blocks: { "/*": "*/", "`": "`" } },
  java: slashes(JAVA_WORDS),
  python: { words: words(PYTHON_WORDS), comment: "#", blocks: { '"""': '"""', "'''": "'''" } },
  shell: { words: words(SHELL_WORDS), comment: "#", blocks: {} },
  ruby: { words: words(RUBY_WORDS), comment: "#", blocks: {} },
  sql: { words: words(SQL_WORDS), comment: "--", blocks: { "/*": "*/" }, isCaseless: true },
  data: { words: words(DATA_WORDS), comment: "#", blocks: {} },
  css: { words: words("important"), comment: null, blocks: { "/*": "*/" } },
  html: { words: words("DOCTYPE"), comment: null, blocks: { "<!--": "-->" } },
};
const NAMES = {
  c: "c cpp c++ cc h hpp cuda cu objective-c arduino",
  js: "js javascript jsx ts typescript tsx mjs json5 vue svelte",
  java: "java kotlin kt scala cs csharp c# swift rust rs go golang dart php zig groovy",
  python: "python py python3 pycon",
  shell: "sh bash shell zsh console dockerfile make makefile powershell ps1",
  ruby: "ruby rb perl r julia lua elixir",
  sql: "sql mysql postgresql sqlite plsql",
  data: "json yaml yml toml ini conf properties",
  css: "css scss less",
  html: "html xml svg markup",
};
const LANGUAGE_OF_NAME = new Map(
  Object.entries(NAMES).flatMap(([language, names]) => names.split(" ").map((name) => [name, LANGUAGES[language]])),
);

const TOKEN = /"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?|\b\d[\w.]*|[\p{L}_$@][\p{L}\p{N}_$]*|\s+|[^]/uy;

/** Colours one piece of code, a line at a time; `parts` returns [kind or null, text] pairs that join to the line. */
export class Highlighter {
  until = null; // what ends a comment or string that began on an earlier line
  untilKind = null;
  numLines = 0;

  constructor(name) {
    this.language = LANGUAGE_OF_NAME.get(name.toLowerCase()) ?? null;
  }

  parts(line) {
    this.numLines += 1;
    if (this.language === null || line.length > MAX_LINE_CHARS || this.numLines > MAX_LINES) return [[null, line]];
    const parts = [];
    const push = (kind, text) => {
      if (text === "") return;
      if (parts.length > 0 && parts.at(-1)[0] === kind) parts.at(-1)[1] += text;
      else parts.push([kind, text]);
    };
    let at = 0;
    while (at < line.length) at = this.until === null ? this.readCode(line, at, push) : this.readBlock(line, at, push);
    return parts;
  }

  readBlock(line, at, push) {
    const found = line.indexOf(this.until, at);
    const end = found === -1 ? line.length : found + this.until.length;
    push(this.untilKind, line.slice(at, end));
    if (found !== -1) this.until = null;
    return end;
  }

  readCode(line, at, push) {
    const { comment, blocks, words: keywords, isCaseless } = this.language;
    for (const [opening, closing] of Object.entries(blocks)) {
      if (line.startsWith(opening, at)) {
        this.until = closing;
        this.untilKind = opening[0] === "/" || opening[0] === "<" ? "comment" : "string";
        push(this.untilKind, opening);
        return at + opening.length;
      }
    }
    if (comment !== null && line.startsWith(comment, at) && (comment !== "#" || /^$|\s/.test(line.slice(at - 1, at)))) {
      push("comment", line.slice(at));
      return line.length;
    }
    TOKEN.lastIndex = at;
    const token = TOKEN.exec(line)[0];
    const first = token[0];
    if (first === '"' || (first === "'" && token.length > 1)) push("string", token);
    else if (first >= "0" && first <= "9") push("number", token);
    else if (keywords.has(isCaseless ? token.toLowerCase() : token)) push("keyword", token);
    else push(line[at + token.length] === "(" && /^[\p{L}_]/u.test(token) ? "call" : null, token);
    return at + token.length;
  }
}
