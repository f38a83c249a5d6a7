// What does the person want of the page, apart from conversations? Kept in localStorage; the key in sessionStorage.

export const SAMPLING = [
  { name: "temperature", min: 0, max: 2, step: 0.05 },
  { name: "top_p", min: 0, max: 1, step: 0.01 },
  { name: "top_k", min: 0, max: 1000, step: 1 },
  { name: "repetition_penalty", min: 0.5, max: 2, step: 0.01 },
  { name: "max_tokens", min: 1, max: 1_000_000, step: 1 },
  { name: "seed", min: 0, max: Number.MAX_SAFE_INTEGER, step: 1 },
];

const NAME = "qwartet.preferences";
const KEY_NAME = "qwartet.key";

function read(storageName, name) {
  try {
    return window[storageName].getItem(name);
  } catch {
    return null; // blocked: the page works with what it holds in memory
  }
}

function write(storageName, name, value) {
  try {
    if (value === "") window[storageName].removeItem(name);
    else window[storageName].setItem(name, value);
  } catch {
    // blocked or full: Conversations tells the person
  }
}

function parsed(text) {
  try {
    const value = JSON.parse(text);
    return value !== null && typeof value === "object" ? value : {};
  } catch {
    return {};
  }
}

/** A number within the bounds of a field, or null. */
export function boundedNumber(text, { min, max, step }) {
  const number = typeof text === "string" && text.trim() !== "" ? Number(text) : NaN;
  const isWhole = step !== 1 || Number.isInteger(number);
  return number >= min && number <= max && isWhole ? number : null;
}

export class Preferences {
  key = read("sessionStorage", KEY_NAME) ?? "";

  constructor() {
    const stored = parsed(read("localStorage", NAME));
    const text = (value) => (typeof value === "string" ? value : "");
    this.language = text(stored.language); // "en", "zh" or "": the browser's
    this.theme = text(stored.theme); // "light", "dark" or "": the system's
    this.model = text(stored.model);
    this.opened = text(stored.opened); // id of the conversation that was open last
    this.isGreedy = stored.isGreedy === true;
    this.sampling = Object.fromEntries(SAMPLING.map(({ name }) => [name, text(stored.sampling?.[name])]));
  }

  set(values) {
    Object.assign(this, values);
    const { language, theme, model, opened, isGreedy, sampling } = this;
    write("localStorage", NAME, JSON.stringify({ language, theme, model, opened, isGreedy, sampling }));
  }

  setKey(key) {
    this.key = key;
    write("sessionStorage", KEY_NAME, key);
  }

  /** The fields of a request: only what was filled in; the rest is the model's own default. */
  samplingFields() {
    const fields = {};
    for (const field of SAMPLING) {
      const number = boundedNumber(this.sampling[field.name], field);
      if (number !== null) fields[field.name] = number;
    }
    if (this.isGreedy) {
      for (const name of ["top_p", "top_k", "seed"]) delete fields[name];
      fields.temperature = 0;
    }
    return fields;
  }
}
