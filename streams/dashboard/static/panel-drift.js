// Episodes of drift with their causes, and how each watched signal stands, then and now.

import { fill, make } from "./dom.js";
import { ago, count, several, short, share, when } from "./format.js";
import { histogram } from "./small-charts.js";

const SHOWN = 6;
const CAUSES = 4;
const SIGNAL_OLD_MS = 300_000;
const STATES = { warming_up: "warming up", stable: "stable", drifting: "drifting" };
const find = (id) => document.getElementById(id);
const segment = (parts) => Object.entries(parts ?? {}).map(([name, value]) => `${name} ${value}`).join(", ");

export class DriftPanel {
  constructor() {
    this.followed = "";
    addEventListener("hashchange", () => this.follow());
  }

  show(state) {
    const episodes = state.drift?.episodes ?? [];
    const host = find("episodes");
    const linked = named();
    const shown = episodes.filter((one, place) => place < SHOWN || one.episode_id === linked);
    if (!shown.length) host.replaceChildren(make("p", { class: "empty" }, "No drift has been reported."));
    else host.replaceChildren(...shown.map((one) => episode(one, state.clockMs(), linked)), rest(episodes.length - shown.length));
    if (this.followed !== linked) this.follow();
  }

  /** Go to the episode that the address names, as alerts link to it, once it is there. */
  follow() {
    const linked = named();
    const found = document.querySelector(`[data-episode="${CSS.escape(linked)}"]`);
    if (!linked || !found) return;
    this.followed = linked;
    for (const one of document.querySelectorAll("[data-episode]")) one.toggleAttribute("data-linked", one === found);
    found.focus({ preventScroll: true });
    found.scrollIntoView({ block: "center" });
  }

  showSignals(state) {
    const host = find("signals");
    if (!state.signals?.length) {
      host.replaceChildren(make("p", { class: "empty" }, "Not reported: nobody tells how the watched signals stand."));
      return;
    }
    const body = make("tbody");
    const heads = ["Signal", "Usual, now", "Values then, now"].map((name, place) => make("th", { scope: "col", class: place ? "n" : "" }, name));
    fill(body, state.signals.map((one) => signal(one, state.clockMs())));
    const table = make("table", { class: "plain" }, make("thead", {}, make("tr", {}, ...heads)), body);
    host.replaceChildren(make("div", { class: "scroll signals", tabindex: "0", role: "region", "aria-label": "Watched signals" }, table));
  }
}

/** The episode of an address such as /#drift/ID; empty where it names none. */
function named() {
  const [, id] = /^#drift\/(.+)$/.exec(location.hash) ?? [];
  try {
    return id ? decodeURIComponent(id) : "";
  } catch {
    // No such name: the address is not one of ours.
    return "";
  }
}

function episode(one, clockMs, linked) {
  const others = one.signals.filter((name) => name !== one.signal);
  const where = segment(one.segment);
  const moved = `${short(one.level_before)} → ${short(one.level_after)}`;
  const causes = one.causes.slice(0, CAUSES).map((cause) => {
    const bar = make("i", { class: "meter" }, make("i"));
    bar.firstChild.style.width = `${Math.round(100 * Math.max(0, Math.min(1, cause.share)))}%`;
    const place = segment(cause.segment);
    return make("li", {}, make("span", {}, cause.signal + (place ? ` (${place})` : "")), bar, make("small", {}, `${share(cause.share, 0)}; ${short(cause.level_before)} → ${short(cause.level_after)}`));
  });
  const reactions = one.reactions.map((reaction) => {
    const quality = [reaction.quality_before, reaction.quality_at, reaction.quality_after].map((value) => share(value));
    return make("li", {}, `${reaction.name}: ${reaction.state}`, make("small", {}, ` foreseen before, at, after: ${quality.join(", ")}`));
  });
  const known = one.known_episode ? `; known: like ${one.known_episode}` : "";
  return make(
    "article",
    { class: "episode", "data-state": one.state, "data-episode": one.episode_id, "data-linked": one.episode_id === linked, tabindex: "-1" },
    make("header", {}, make("h3", {}, one.signal), make("em", { class: `tag ${one.state === "resolved" ? "resolved" : one.severity}` }, one.state === "resolved" ? "resolved" : one.severity), make("span", { class: "moved" }, moved)),
    make("p", {}, `Seen by ${one.detector} ${ago(Math.max(0, clockMs - one.started_ms))} at version ${one.model_version}${where ? `, in ${where}` : ""}${others.length ? `, with ${several(others.length, "other signal")}: ${others.slice(0, 4).join(", ")}` : ""}${known}.`),
    causes.length ? make("ol", { class: "causes", "aria-label": "Causes, the strongest first" }, ...causes) : null,
    reactions.length ? make("ul", { class: "reactions" }, ...reactions) : make("p", { class: "reaction" }, one.reaction),
    one.picture && /^\/[^/#]/.test(one.picture) ? make("p", {}, make("a", { href: one.picture }, "Picture")) : null,
  );
}

function rest(number) {
  return number > 0 ? make("p", { class: "empty" }, `and ${count(number)} earlier`) : make("span");
}

function signal(one, clockMs) {
  const then = one.histogram_then ?? [];
  const now = one.histogram_now ?? [];
  const bars = then.length || now.length ? histogram({ then, now }, `${one.signal}: ${described(then, now, one.edges ?? [])}`) : "not reported";
  const old = clockMs - one.reported_ms > SIGNAL_OLD_MS;
  const note = old ? `told ${ago(clockMs - one.reported_ms)}` : one.state === "drifting" && one.since_ms ? `since ${when(one.since_ms, clockMs)}` : "";
  const tag = make("em", { class: `tag signal-${one.state}` }, STATES[one.state] ?? one.state);
  return [
    { text: make("span", { title: one.detector }, one.signal, make("small", {}, tag, note ? ` ${note}` : "")), header: true },
    { text: `${short(one.baseline)} → ${short(one.level)}`, class: "n" },
    { text: bars, class: "hist" },
  ];
}

function described(then, now, edges) {
  return now.map((value, place) => `from ${short(edges[place])}: then ${share(then[place], 0)}, now ${share(value, 0)}`).join("; ");
}
