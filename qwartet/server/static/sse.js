// Parses server-sent events from a stream of bytes; only their `data:` fields.

const MAX_EVENT_CHARS = 1_000_000;

/** Yields the data of each event; ignores comments (`: ping`) and other fields. Throws if an event is too long. */
export async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let unread = "";
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (unread + value).split("\n");
      unread = lines.pop();
      if (unread.length > MAX_EVENT_CHARS) throw new RangeError("an event without an end");
      for (const line of lines) {
        const text = line.endsWith("\r") ? line.slice(0, -1) : line;
        if (text.startsWith("data:")) data.push(text.slice(text[5] === " " ? 6 : 5));
        else if (text === "" && data.length > 0) {
          yield data.join("\n");
          data = [];
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
