// What is a conversation called before the person names it? By what was said first.

const MAX_CHARS = 60;

export function titleOf(text) {
  const line = text.trim().split("\n", 1)[0];
  const characters = Array.from(line.slice(0, 4 * MAX_CHARS));
  if (characters.length <= MAX_CHARS) return characters.join("");
  return `${characters.slice(0, MAX_CHARS - 1).join("").trimEnd()}…`;
}
