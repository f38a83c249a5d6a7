// The default title of a conversation: its first message.

const MAX_CHARS = 60;

export function titleOf(text) {
  const line = text.trim().split("\n", 1)[0];
  const characters = Array.from(line.slice(0, 4 * MAX_CHARS));
  if (characters.length <= MAX_CHARS) return characters.join("");
  return `${characters.slice(0, MAX_CHARS - 1).join("").trimEnd()}…`;
}
