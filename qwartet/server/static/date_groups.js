// Groups the conversation list by date: days first, then months, then years.

import { t } from "./i18n.js";

const DAY_MS = 86_400_000;

/** The heading for a conversation last changed at `time`, as of `now`; both in milliseconds. */
function headingOf(time, now) {
  const midnight = new Date(now).setHours(0, 0, 0, 0);
  if (time >= midnight) return t("today");
  const days = Math.ceil((midnight - time) / DAY_MS);
  if (days <= 1) return t("yesterday");
  if (days <= 7) return t("lastDays", { days: 7 });
  if (days <= 30) return t("lastDays", { days: 30 });
  const date = new Date(time);
  const isThisYear = date.getFullYear() === new Date(now).getFullYear();
  return date.toLocaleDateString(document.documentElement.lang, isThisYear ? { month: "long" } : { year: "numeric" });
}

/** Conversations, newest first, in groups: [{heading, conversations}]. */
export function groupsOf(conversations, now = Date.now()) {
  const groups = [];
  for (const conversation of conversations) {
    const heading = headingOf(conversation.updated, now);
    if (groups.at(-1)?.heading !== heading) groups.push({ heading, conversations: [] });
    groups.at(-1).conversations.push(conversation);
  }
  return groups;
}
