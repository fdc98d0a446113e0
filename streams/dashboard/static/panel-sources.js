// Where the figures come from, and how old each is.

import { make, say, set } from "./dom.js";
import { ago } from "./format.js";

/** Show the sources, with ages by the gateway's clock. */
export function showSources(now, clockMs) {
  const host = document.getElementById("sources");
  while (host.children.length > now.sources.length) host.lastChild.remove();
  now.sources.forEach((source, place) => {
    const entry = host.children[place] ?? host.appendChild(make("li", {}, make("b"), make("span")));
    const ageMs = source.seen_ms === null ? null : Math.max(0, clockMs - source.seen_ms);
    const isOld = Boolean(source.trouble) || (source.expected_every_s !== null && (ageMs === null || ageMs > 4000 * source.expected_every_s));
    set(entry, "class", isOld ? "old" : "");
    say(entry.children[0], source.name);
    say(entry.children[1], source.trouble ?? (ageMs === null ? "not reported" : ago(ageMs)));
  });
}
