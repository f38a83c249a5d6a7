// What the scripts of the npm clients share; see uses.py.

export const BASE_URL = process.env.CLIENTS_BASE_URL;
export const BUSY_URL = process.env.CLIENTS_BUSY_URL;
export const API_KEY = process.env.CLIENTS_API_KEY;
export const MODEL = "demo";
export const WEATHER = "What is the weather in Oslo?";
export const CITY = {
  type: "object",
  properties: { city: { type: "string", maxLength: 20 } },
  required: ["city"],
  additionalProperties: false,
};
const headers = { authorization: `Bearer ${API_KEY}`, "content-type": "application/json" };

export function assert(condition, words = "") {
  if (!condition) throw new Error(`wrong answer ${words}`);
}

export async function raises(work, words) {
  try {
    await work();
  } catch (error) {
    assert(String(error.message).includes(words), `${words} is not in ${error.message}`);
    return;
  }
  throw new Error("no error");
}

async function refused() {
  const text = await (await fetch(BUSY_URL.replace(/\/v1$/, "/metrics"), { headers })).text();
  const lines = text.split("\n").filter((line) => line.includes('status="429"'));
  return lines.reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
}

/** Does `work` with a server that answers the next request 429, and serves it when it comes again. */
export async function whenBusy(work) {
  const leaving = new AbortController();
  const body = JSON.stringify({ prompt: "one two", max_tokens: 1900, ignore_eos: true, stream: true });
  const hold = () => fetch(`${BUSY_URL}/completions`, { method: "POST", headers, body, signal: leaving.signal });
  const held = [await hold(), await hold()];
  await held[0].body.getReader().read(); // runs; the other one waits
  const before = await refused();
  const releasing = (async () => {
    for (let turn = 0; turn < 600 && (await refused()) === before; turn++) {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    leaving.abort();
  })();
  await work(BUSY_URL);
  await releasing;
  assert((await refused()) > before, "the client was never refused");
}

/** Does all uses, whatever becomes of each: a line of JSON each. */
export async function run(uses) {
  for (const [use, work] of Object.entries(uses)) {
    const started = Date.now();
    let detail = "";
    try {
      await work();
    } catch (error) {
      detail = `${error.name}: ${error.message}`.slice(0, 1500);
    }
    const seconds = (Date.now() - started) / 1000;
    console.log(JSON.stringify({ use, ok: !detail, detail, seconds }));
  }
}
