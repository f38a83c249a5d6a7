// openai for npm: the official client.

import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { API_KEY, assert, BASE_URL, CITY, MODEL, raises, run, WEATHER, whenBusy } from "./uses.mjs";

const client = new OpenAI({ baseURL: BASE_URL, apiKey: API_KEY });
const hello = [{ role: "user", content: "hello" }];
const asked = [{ role: "user", content: WEATHER }];
const weather = { name: "get_weather", description: "Tells the weather of a city.", parameters: CITY, strict: true };
const City = z.object({ city: z.string().max(20) });

await run({
  async chat() {
    const answer = await client.chat.completions.create({ model: MODEL, messages: hello });
    assert(answer.choices[0].message.content);
  },

  async stream() {
    const stream = client.chat.completions.stream({ model: MODEL, messages: hello });
    let text = "";
    stream.on("content", (delta) => (text += delta));
    assert((await stream.finalContent()) === text && text);
  },

  async tool_loop() {
    const runner = client.chat.completions.runTools({
      model: MODEL,
      messages: asked,
      temperature: 0,
      tools: [
        {
          type: "function",
          function: { ...weather, parse: JSON.parse, function: ({ city }) => `sunny in ${city}` },
        },
      ],
    });
    assert(await runner.finalContent());
    assert(runner.messages.some((message) => message.role === "tool"));
  },

  async structured() {
    const answer = await client.chat.completions.parse({
      model: MODEL, messages: asked, temperature: 0, response_format: zodResponseFormat(City, "city"),
    });
    assert(answer.choices[0].message.parsed.city);
  },

  async responses() {
    const answer = await client.responses.create({ model: MODEL, input: "hello", temperature: 0 });
    const stream = client.responses.stream({ model: MODEL, input: "hello", temperature: 0 });
    let text = "";
    stream.on("response.output_text.delta", (event) => (text += event.delta));
    assert((await stream.finalResponse()).output_text === answer.output_text && text === answer.output_text);
  },

  async responses_tool_loop() {
    const tools = [{ type: "function", ...weather }];
    const first = await client.responses.create({ model: MODEL, input: asked, tools, tool_choice: "required" });
    const call = first.output.at(-1);
    assert(JSON.parse(call.arguments).city !== undefined);
    const result = { type: "function_call_output", call_id: call.call_id, output: "sunny" };
    const final = await client.responses.create({ model: MODEL, input: [...asked, ...first.output, result], tools });
    assert(final.status === "completed");
  },

  async responses_structured() {
    const text = { format: zodTextFormat(City, "city") };
    const answer = await client.responses.parse({ model: MODEL, input: WEATHER, temperature: 0, text });
    assert(answer.output_parsed.city);
  },

  async errors() {
    await raises(() => client.chat.completions.create({ model: "x", messages: hello }), "404");
    await raises(() => client.chat.completions.create({ model: MODEL, messages: hello, temperature: -1 }), "400");
    await raises(() => client.withOptions({ apiKey: "wrong" }).models.list(), "401");
  },

  async retries() {
    await whenBusy(async (baseURL) => {
      const answer = await client.withOptions({ baseURL }).chat.completions.create({ model: MODEL, messages: hello });
      assert(answer.choices[0].message.content);
    });
  },
});
