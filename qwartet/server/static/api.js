// Calls the OpenAI API at the page's own origin, and classifies failures.

import { eventsOf } from "./sse.js";

/**
 * A request without a complete answer. `kind` is one of
 * "unreachable" (no response), "cut" (the stream ended too early), "key" (401), "busy" (429), "unready" (503),
 * "too_long" (context), "refused" (other 4xx), "failed" (5xx, or an error in the stream), "strange" (not this API).
 */
export class RequestFailure extends Error {
  constructor(kind, detail = "", retryAfterS = null) {
    super(detail || kind);
    this.kind = kind;
    this.detail = detail;
    this.retryAfterS = retryAfterS;
  }
}

const KIND_OF_STATUS = { 401: "key", 429: "busy", 503: "unready" };
const MAX_RETRY_AFTER_S = 600;

function failureOf(error, status = null, retryAfterS = null) {
  const detail = typeof error?.message === "string" ? error.message.slice(0, 500) : "";
  if (error?.code === "context_length_exceeded") return new RequestFailure("too_long", detail);
  if (status === null) return new RequestFailure("failed", detail);
  return new RequestFailure(KIND_OF_STATUS[status] ?? (status < 500 ? "refused" : "failed"), detail, retryAfterS);
}

async function failureOfResponse(response) {
  const seconds = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
  const retryAfterS = seconds > 0 ? Math.min(seconds, MAX_RETRY_AFTER_S) : null;
  let error = null;
  try {
    error = (await response.json()).error;
  } catch {
    // Not an answer of our server, perhaps of a proxy: the status is enough.
  }
  return failureOf(error, response.status, retryAfterS);
}

async function request(path, key, options = {}) {
  const headers = { ...options.headers };
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new RequestFailure("unreachable");
  }
  if (!response.ok) throw await failureOfResponse(response);
  return response;
}

/** The served models: [{id, maxModelLen, isChat, thinking}]. */
export async function listModels(key) {
  const response = await request("v1/models", key);
  let body = null;
  try {
    body = await response.json();
  } catch {
    // Handled below, like other unexpected bodies.
  }
  if (!Array.isArray(body?.data)) throw new RequestFailure("strange");
  return body.data.map((model) => ({
    id: String(model.id),
    maxModelLen: Number.isFinite(model.max_model_len) ? model.max_model_len : null,
    isChat: model.is_chat !== false,
    thinking: model.thinking ?? "never",
  }));
}

/** The server's version, or null. */
export async function readVersion(key) {
  try {
    return String((await (await request("version", key)).json()).version);
  } catch {
    return null;
  }
}

function readChunk(data) {
  let chunk;
  try {
    chunk = JSON.parse(data);
  } catch {
    throw new RequestFailure("strange");
  }
  if (chunk.error) throw failureOf(chunk.error);
  const choice = chunk.choices?.[0];
  return {
    text: choice?.delta?.content ?? "",
    reasoning: choice?.delta?.reasoning_content ?? "",
    finishReason: choice?.finish_reason ?? null,
    usage: chunk.usage ?? null,
    model: typeof chunk.model === "string" ? chunk.model : null,
  };
}

/**
 * Streams one answer: yields {text, reasoning, finishReason, usage, model}. `settings` are request fields that override
 * the model's defaults; `isContinued`: the last message is the beginning of the answer. Throws RequestFailure, or
 * AbortError after `signal`.
 */
export async function* streamChat({ model, messages, isContinued = false, settings, key, signal }) {
  const body = { model, messages, stream: true, stream_options: { include_usage: true }, ...settings };
  if (isContinued) Object.assign(body, { add_generation_prompt: false, continue_final_message: true });
  const response = await request("v1/chat/completions", key, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  if (!response.headers.get("Content-Type")?.startsWith("text/event-stream")) throw new RequestFailure("strange");
  try {
    for await (const data of eventsOf(response.body)) {
      if (data === "[DONE]") return;
      yield readChunk(data);
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof RequestFailure) throw error;
    throw new RequestFailure("cut");
  }
  throw new RequestFailure("cut");
}
