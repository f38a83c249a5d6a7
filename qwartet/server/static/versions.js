// Switches between versions of a turn: two arrows with the position between them.

import { button, element } from "./dom.js";
import { number, t } from "./i18n.js";

/** Shows in `node` that a turn is version `place` (from 1) of `count`; nothing if there is only one. */
export function drawVersions(node, place, count) {
  node.hidden = count < 2;
  if (count < 2) {
    node.replaceChildren();
    return;
  }
  const arrow = (action, key, isOff) => {
    const made = button(action, key, { iconName: action, hasText: false, className: "round" });
    made.disabled = isOff;
    return made;
  };
  const values = { place: number(place), count: number(count) };
  const said = element("span", { class: "visually-hidden" }, t("versionOf", values));
  const shown = element("span", { "aria-hidden": "true" }, `${values.place} / ${values.count}`);
  node.replaceChildren(
    arrow("earlier", "earlierVersion", place === 1),
    element("span", { class: "version-place" }, said, shown),
    arrow("later", "laterVersion", place === count),
  );
}
