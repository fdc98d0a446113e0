// The page: frames come in by the stream, the state takes them, and the panels show what has changed.

import { say, set } from "./dom.js";
import { ago, duration, time } from "./format.js";
import { DriftPanel } from "./panel-drift.js";
import { FlowPanel } from "./panel-flow.js";
import { showHealth } from "./panel-health.js";
import { QualityPanel } from "./panel-quality.js";
import { ShopperPanel } from "./panel-shopper.js";
import { showSources } from "./panel-sources.js";
import { VersionsPanel } from "./panel-versions.js";
import { rollbackDialog } from "./rollback.js";
import { State } from "./state.js";
import { Stream } from "./stream.js";
import { themeButton } from "./theme.js";

const OLD_MS = 6000;
const COARSE_EVERY_MS = 60_000;
const DAY_MS = 86_400_000;
const find = (id) => document.getElementById(id);

export const state = new State();
const flow = new FlowPanel();
const quality = new QualityPanel(chooseRange);
const versions = new VersionsPanel();
const drift = new DriftPanel();
const shopper = new ShopperPanel(() => state.clockMs());
let cut = null;
let isDrawn = true;
let coarseAskedMs = 0;

/** The page's own update: take a frame in; it is drawn with the next picture of the screen. */
export function takeFrame(frame, receivedMs = Date.now()) {
  state.take(frame, receivedMs);
  if (isDrawn) {
    isDrawn = false;
    // A hidden page gets no pictures, and takes frames in all the same.
    requestAnimationFrame(drawNow);
  }
}

/** Draw what has changed since the last time. */
export function drawNow() {
  isDrawn = true;
  const { changed } = state;
  if (!state.now || changed.size === 0) return;
  const has = (...names) => names.some((name) => changed.has(name));
  // Told once, for whoever measures how soon figures are there.
  if (!performance.getEntriesByName("figures").length) performance.mark("figures");
  if (has("now")) flow.showNow(state.now);
  if (has("points")) flow.showPoints(state);
  if (has("points", "coarse", "marks", "range")) quality.show(state);
  if (has("versions", "releases", "now")) versions.show(state);
  if (has("drift")) drift.show(state);
  if (has("signals")) drift.showSignals(state);
  if (has("shoppers")) shopper.showRecent(state.shoppers);
  changed.clear();
  showAges();
}

/** Show how old everything is; also runs while nothing comes. */
function showAges() {
  const { now } = state;
  const ageMs = now ? Date.now() - state.receivedMs : null;
  const isOld = cut !== null || (ageMs !== null && ageMs > OLD_MS);
  document.body.classList.toggle("old", isOld && now !== null);
  let old = "";
  if (now && isOld) old = `Nothing has come for ${duration(ageMs)}: all figures are from ${time(state.receivedMs)}.`;
  else if (!now && cut) old = "The gateway does not answer, so nothing is known.";
  showHealth(now, old);
  if (now) {
    const clockMs = state.clockMs();
    showSources(now, clockMs);
    for (const element of document.querySelectorAll("[data-age]")) {
      const newest = { now: state.receivedMs, versions: state.versions?.[0] ? state.versions[0].created_ms + state.skewMs : null, drift: state.receivedMs }[element.dataset.age];
      say(element, newest === null ? "" : ago(Math.max(0, Date.now() - newest)));
    }
  }
  shopper.showAge();
  const banner = find("banner");
  banner.hidden = cut === null;
  if (cut) {
    const waitMs = Math.max(0, cut.nextTryMs - Date.now());
    say(find("banner-text"), `The stream is cut since ${time(cut.cutSinceMs)}. ${waitMs > 900 ? `Trying again in ${duration(waitMs)}.` : "Trying again."}`);
  }
  set(find("link"), "data-link", cut ? "cut" : isOld ? "old" : now ? "live" : "connecting");
  say(find("link-text"), cut ? "cut" : isOld ? "old" : now ? "live" : "connecting");
}

function chooseRange(rangeMs) {
  if (rangeMs >= DAY_MS) askCoarse();
  state.changed.add("range");
  drawNow();
}

function askCoarse() {
  coarseAskedMs = Date.now();
  ask("coarse");
}

async function ask(resolution) {
  try {
    const answer = await fetch(`/v1/dashboard/history?resolution=${resolution}`);
    if (!answer.ok) throw new Error(`the gateway answered ${answer.status}`);
    state.takeHistory(await answer.json());
    if (isDrawn) {
      isDrawn = false;
      requestAnimationFrame(drawNow);
    }
  } catch (error) {
    // The stream tells of a gateway that is away; the curves are asked for again once it is back.
    console.warn(`the curves could not be read: ${error.message}`);
  }
}

const stream = new Stream("/v1/dashboard/stream", takeFrame, (told) => {
  cut = told === "live" ? null : told;
  // What passed while the stream was cut is in the history.
  if (told === "live") ask("fine");
  showAges();
});

flow.attach(state);
rollbackDialog(state);
themeButton(find("theme"));
find("retry").addEventListener("click", () => stream.tryNow());
setInterval(() => {
  if (quality.rangeMs >= DAY_MS && Date.now() - coarseAskedMs > COARSE_EVERY_MS) askCoarse();
  showAges();
}, 1000);
// A test stops the stream and pushes frames itself.
export const stopStream = () => stream.stop();
stream.open();
