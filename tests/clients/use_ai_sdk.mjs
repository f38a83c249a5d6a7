// The AI SDK: its provider for OpenAI, which speaks the Responses API, and the one for servers like this.

import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { API_KEY, assert, BASE_URL, MODEL, raises, run, WEATHER, whenBusy } from "./uses.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;
const openai = createOpenAI({ baseURL: BASE_URL, apiKey: API_KEY });
const like = (baseURL) =>
  createOpenAICompatible({ name: "ours", baseURL, apiKey: API_KEY, supportsStructuredOutputs: true, includeUsage: true });
const compatible = like(BASE_URL);
const City = z.object({ city: z.string().max(20) });
const tools = {
  get_weather: tool({
    description: "Tells the weather of a city.",
    inputSchema: City,
    execute: async ({ city }) => `sunny in ${city}`,
  }),
};

async function texts(model) {
  const answer = await generateText({ model, system: "Be brief.", prompt: "hello", temperature: 0 });
  assert(answer.text && answer.usage.outputTokens > 0);
}

async function streams(model) {
  const stream = streamText({ model, prompt: "hello", temperature: 0, onError: () => {} });
  let text = "";
  for await (const delta of stream.textStream) text += delta;
  assert(text && (await stream.finishReason) === "stop");
}

async function loops(model, providerOptions = {}) {
  const asked = { model, tools, prompt: WEATHER, temperature: 0, stopWhen: stepCountIs(3), providerOptions };
  const answer = await generateText(asked);
  assert(answer.steps.some((step) => step.toolResults.length), "no tool was called");
  const stream = streamText({ ...asked, onError: () => {} });
  await stream.consumeStream();
  assert((await stream.steps).some((step) => step.toolResults.length), "no tool was called in the stream");
}

async function objects(model) {
  const answer = await generateText({ model, prompt: WEATHER, temperature: 0, output: Output.object({ schema: City }) });
  assert(typeof answer.output.city === "string");
}

await run({
  chat: () => texts(compatible(MODEL)),
  stream: () => streams(compatible(MODEL)),
  tool_loop: () => loops(compatible(MODEL)),
  structured: () => objects(compatible(MODEL)),
  chat_of_the_openai_provider: async () => {
    for (const work of [texts, streams, loops, objects]) await work(openai.chat(MODEL));
  },
  responses: () => texts(openai(MODEL)),
  responses_stream: () => streams(openai(MODEL)),
  responses_tool_loop: () => loops(openai(MODEL)),
  responses_tool_loop_without_store: () => loops(openai(MODEL), { openai: { store: false } }),
  responses_structured: () => objects(openai(MODEL)),
  errors: () => raises(() => texts(compatible("x")), "not served"),
  retries: () => whenBusy((url) => texts(like(url)(MODEL))),
});
