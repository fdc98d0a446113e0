// Flow, lag and the three kinds of freshness.

import { fill, make, say, tableIn } from "./dom.js";
import { count, duration, NONE, share, time } from "./format.js";
import { Spark } from "./small-charts.js";

const KINDS = { feature: "from publishing to the feature row", recommendation: "from publishing to the list", weights: "from publishing to served weights" };
const NAMES = { "feature-worker": "Feature worker", recommender: "Recommender", learner: "Learner" };
const tile = (name) => document.getElementById(`tile-${name}`);

export class FlowPanel {
  constructor() {
    this.sparks = Object.fromEntries(
      ["events", ...Object.keys(KINDS)].map((name) => [name, new Spark(tile(name).querySelector(".spark"), { label: `${name}, the last half hour` })]),
    );
    this.lags = Object.fromEntries(
      Object.keys(NAMES).map((part) => {
        const host = make("div", { class: "spark" });
        return [part, { host, spark: new Spark(host, { height: 22, label: `${NAMES[part]}: records waiting, the last half hour` }) }];
      }),
    );
    this.facts = document.getElementById("flow-facts");
  }

  attach(state) {
    this.table = tableIn(document.getElementById("flow-table"), () => rows(state));
  }

  showNow(now) {
    this.figure("events", count(now.events_per_s), `${count(now.lists_per_s)} lists a second`);
    for (const kind of Object.keys(KINDS)) {
      const fresh = now.freshness[kind];
      this.figure(kind, duration(fresh.p50_ms), fresh.samples ? `p99 ${duration(fresh.p99_ms)}` : "nothing in the last minute");
      tile(kind).title = `${KINDS[kind]}; ${fresh.samples} samples of the last minute`;
    }
    fill(
      document.querySelector("#lag-rows tbody"),
      now.lag.map((lag) => [
        { text: NAMES[lag.part] ?? lag.part, header: true },
        { text: count(lag.records), class: "n" },
        { text: lag.behind_s === null ? NONE : lag.behind_s < 1 ? "< 1 s" : duration(1000 * lag.behind_s), class: lag.behind_s > 15 ? "n bad" : "n" },
        { text: this.lags[lag.part]?.host ?? "", class: "tiny" },
      ]),
    );
    this.fact("Answers", `${count(now.answers_per_s)} a second`, now.answers_p99_ms === null ? "" : `p99 ${duration(now.answers_p99_ms)}`);
    this.fact("Dead letters", count(now.dead_letters), now.dead_letters_new ? `${count(now.dead_letters_new)} since the gateway started` : "none new");
    this.fact("Served version", now.model_version ? String(now.model_version) : NONE, "by this gateway");
    const { quality } = now;
    this.fact("Next step foreseen", share(quality.live), `popularity ${share(quality.popularity)}, ${count(quality.tested)} tested`);
  }

  showPoints(state) {
    this.sparks.events.show(state.series("events"));
    for (const kind of Object.keys(KINDS)) this.sparks[kind].show(state.series(`${kind}_p50_ms`), state.series(`${kind}_p99_ms`));
    for (const [part, { spark }] of Object.entries(this.lags)) spark.show(state.series(`lag_${part.replace("-", "_")}`));
    this.table?.();
  }

  figure(name, value, under) {
    say(tile(name).querySelector("b"), value);
    say(tile(name).querySelector(".under"), under);
  }

  fact(name, value, note) {
    let entry = this.facts.querySelector(`[data-fact="${name}"]`);
    if (!entry) {
      entry = make("div", { "data-fact": name }, make("dt", {}, name), make("dd", {}, make("b"), " ", make("small")));
      this.facts.append(entry);
    }
    say(entry.querySelector("b"), value);
    say(entry.querySelector("small"), note);
  }
}

function rows(state) {
  const wanted = ["lag_feature_worker", "lag_recommender", "lag_learner", "feature_p50_ms", "recommendation_p50_ms", "weights_p50_ms"];
  const places = wanted.map((name) => state.column(name));
  const events = state.column("events");
  return {
    heads: ["Time", "Events", "Waiting: features", "lists", "learner", "Fresh: features", "lists", "weights"],
    rows: state.points
      .slice(-15)
      .reverse()
      .map((point) => [
        time(point[0]),
        count(point[events]),
        ...places.map((place, number) => (number < 3 ? count(point[place]) : duration(point[place]))),
      ]),
  };
}
