// One sentence and a state on top, with every reason.

import { make, say, set } from "./dom.js";

const WORDS = { healthy: "Healthy", "learning behind": "Learning behind", "drift going on": "Drift going on", stale: "Stale" };
const find = (id) => document.getElementById(id);

let told = "";

/** Show the state; `old` says that the stream is cut or the figures are old, which is staler than anything the gateway said. */
export function showHealth(now, old) {
  const state = old ? "stale" : (now?.state ?? "waiting");
  set(find("health"), "data-state", state);
  say(find("health-word"), WORDS[state] ?? "Connecting");
  const sentence = old || now?.sentence || "The first figures are on their way.";
  say(find("health-sentence"), sentence);
  const reasons = old ? [] : (now?.reasons ?? []);
  // The sentence tells one of them already.
  const shown = reasons.filter((reason) => !sentence.toLowerCase().includes(reason.toLowerCase()));
  const list = find("health-reasons");
  if (list.dataset.shown !== JSON.stringify(shown)) {
    list.dataset.shown = JSON.stringify(shown);
    list.replaceChildren(...shown.map((reason) => make("li", {}, reason)));
    list.hidden = shown.length === 0;
  }
  document.title = `${state === "healthy" || state === "waiting" ? "" : `${WORDS[state]} · `}Headrace`;
  // Read out when the state changes only, not each second.
  if (told !== state) {
    if (told) say(find("health-live"), `${WORDS[state] ?? state}. ${sentence}`);
    told = state;
  }
}
