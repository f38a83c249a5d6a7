// User preferences, kept in localStorage; the API key in sessionStorage.

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
const OPENED_NAME = "qwartet.opened";

function read(storageName, name) {
  try {
    return window[storageName].getItem(name);
  } catch {
    return null; // blocked: the page works from memory
  }
}

function write(storageName, name, value) {
  try {
    if (value === "") window[storageName].removeItem(name);
    else window[storageName].setItem(name, value);
  } catch {
    // blocked or full: Conversations tells the user
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

/** The number in a text if it is within the range of the field, else null. */
export function boundedNumber(text, { min, max, step }) {
  const number = typeof text === "string" && text.trim() !== "" ? Number(text) : NaN;
  const isWhole = step !== 1 || Number.isInteger(number);
  return number >= min && number <= max && isWhole ? number : null;
}

export class Preferences {
  key = read("sessionStorage", KEY_NAME) ?? "";

  constructor() {
    this.#take(parsed(read("localStorage", NAME)));
    // The conversation that was last open in this tab, else in any tab.
    this.opened = read("sessionStorage", OPENED_NAME) ?? this.opened;
  }

  #take(stored) {
    const text = (value) => (typeof value === "string" ? value : "");
    const oneOf = (value, ...known) => (known.includes(value) ? value : "");
    this.language = oneOf(stored.language, "en", "zh"); // "": the browser's
    this.theme = oneOf(stored.theme, "light", "dark"); // "": the system's
    this.model = text(stored.model);
    this.opened ??= text(stored.opened);
    this.isGreedy = stored.isGreedy === true;
    this.thinks = stored.thinks !== false;
    this.sampling = Object.fromEntries(SAMPLING.map(({ name }) => [name, text(stored.sampling?.[name])]));
  }

  /** Changes only these values, so that changes by other tabs are kept. */
  set({ sampling = {}, ...values }) {
    Object.assign(this, values);
    Object.assign(this.sampling, sampling);
    const stored = parsed(read("localStorage", NAME));
    const kept = { ...stored, ...values, sampling: { ...stored.sampling, ...sampling } };
    write("localStorage", NAME, JSON.stringify(kept));
  }

  setOpened(opened) {
    this.set({ opened });
    write("sessionStorage", OPENED_NAME, opened);
  }

  /** Another tab has changed the storage; calls `onChange` if preferences differ now. */
  onStorage(event, onChange) {
    if (event.key !== NAME || event.newValue === null) return;
    const before = JSON.stringify(this);
    this.#take(parsed(event.newValue));
    if (JSON.stringify(this) !== before) onChange();
  }

  setKey(key) {
    this.key = key;
    write("sessionStorage", KEY_NAME, key);
  }

  /** The sampling fields that are filled in; for the rest the model's defaults apply. */
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
