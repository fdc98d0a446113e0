// Frames as the gateway sends them, pushed through the page's own update: a moment and a version each second, a point each two, drift and
// shoppers now and then. Every fourth is drawn. Called with [number of the first frame, how many]; returns how many were drawn.
async ([first, updates]) => {
  const page = await import("/dashboard/app.js");
  page.stopStream();
  const { state } = page;
  const now = structuredClone(state.now);
  const version = structuredClone(state.versions[0]);
  const episode = {
    signal: "loss", signals: ["loss"], state: "started", kind: "concept", severity: "warning", detector: "ADWIN", segment: {},
    since_ms: null, level_before: 3, level_after: 4, p_value: null, model_version: 1, reaction: "told", causes: [], reactions: [],
    known_episode: null, picture: null,
  };
  let draws = 0;
  for (let number = first; number < first + updates; number += 1) {
    const ms = now.made_ms + 1000;
    const wave = Math.sin(number / 300);
    now.made_ms = ms;
    const frame = { revision: number, now: { ...now, sentence: `moment ${number}`, events_per_s: 300 + 100 * wave } };
    frame.versions = Array.from({ length: 60 }, (_, back) => ({ ...version, version: 1000 + number - back, created_ms: ms - 1000 * back }));
    if (number % 2 === 0) {
      const known = { time_ms: ms, tested: 30, live_hits: 10 + Math.round(5 * wave), popularity_hits: 3, model_version: 1000 + number };
      frame.point = state.columns.map((name) => known[name] ?? 50 + 40 * wave);
    }
    if (number % 60 === 0) {
      const at = (back) => ({ ...episode, episode_id: `e-${number}-${back}`, started_ms: ms - 60_000 * back, told_ms: ms });
      const episodes = Array.from({ length: 40 }, (_, back) => at(back));
      frame.drift = { going_on: 1, episodes };
      frame.marks = episodes.map((one) => ({ time_ms: one.started_ms, kind: "drift", label: "drift: loss", id: one.episode_id }));
    }
    if (number % 10 === 0) frame.shoppers = Array.from({ length: 8 }, (_, place) => `shopper-${number + place}`);
    page.takeFrame(frame, ms);
    if (number % 4 === 0) {
      page.drawNow();
      draws += 1;
    }
    // The browser gets its turn, as it would between two seconds.
    if (number % 200 === 0) await new Promise((resolve) => requestAnimationFrame(resolve));
  }
  return draws;
}
