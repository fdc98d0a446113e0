// Versions with what the gate measured, the lanes that answer, and the decisions.

import { fill, make, say, tableIn } from "./dom.js";
import { ago, bytes, count, number, share, time } from "./format.js";

const SHOWN = 12;
const TRIGGERS = { start: "the start", count: "enough events", time: "time", drift: "drift" };
const find = (id) => document.getElementById(id);

export class VersionsPanel {
  constructor() {
    this.state = null;
    tableIn(find("decisions"), () => decisions(this.state));
  }

  show(state) {
    this.state = state;
    const versions = state.versions ?? [];
    find("versions-empty").hidden = versions.length > 0;
    find("versions").hidden = versions.length === 0;
    fill(find("versions").tBodies[0], versions.slice(0, SHOWN).map((line) => row(line, state)));
    this.showLanes(state.releases, versions[0]?.version ?? null);
  }

  showLanes(releases, newest) {
    const host = find("lanes");
    if (!releases?.reported) {
      if (!host.querySelector(".empty")) host.replaceChildren(make("p", { class: "empty" }, "Release lanes: not reported. Every shopper is answered by the newest version."));
      return;
    }
    const { stable_version: stable, trial_share: onTrial } = releases;
    const lanes = [
      ["stable", stable, 1 - onTrial],
      ["trial", newest, onTrial],
    ];
    if (!host.querySelector(".lane")) host.replaceChildren(...lanes.map(() => make("div", { class: "lane" }, make("b"), make("span"), make("i", { class: "meter" }, make("i")), make("small"))));
    lanes.forEach(([lane, version, part], place) => {
      const [name, shown, meter, note] = host.children[place].children;
      say(name, lane === "stable" ? "Stable" : "Trial");
      say(shown, version === null ? "no version" : `version ${version}`);
      meter.firstChild.style.width = `${100 * part}%`;
      const seen = releases.outcomes.filter((outcome) => outcome.lane === lane);
      const answered = seen.reduce((sum, outcome) => sum + outcome.answered, 0);
      const hits = seen.reduce((sum, outcome) => sum + outcome.hits, 0);
      say(note, `${share(part, 0)} of shoppers${answered ? `; ${share(hits / answered)} of ${count(answered)} lists hit, 10 min` : "; no outcomes yet"}`);
    });
  }
}

function row(line, state) {
  const change = line.holdout_loss === null || line.live_holdout_loss === null ? null : line.holdout_loss / line.live_holdout_loss - 1;
  const isStable = state.releases?.reported && state.releases.stable_version === line.version;
  const withdrawn = state.releases?.withdrawn.some(([kept, last]) => line.version > kept && line.version <= last);
  const tags = [isStable ? "stable" : null, state.now?.model_version === line.version ? "served" : null, withdrawn ? "withdrawn" : null, line.whole ? "whole" : null];
  const shown = tags.filter(Boolean);
  const metrics = Object.entries(line.metrics).map(([name, value]) => `${name} ${number(value)}`).join(", ");
  const name = make("span", { title: [line.sha256, metrics].filter(Boolean).join("; ") }, String(line.version), ...shown.flatMap((tag) => [" ", make("em", { class: `tag ${tag}` }, tag)]));
  return [
    { text: name, header: true },
    { text: ago(Math.max(0, state.clockMs() - line.created_ms)) },
    { text: TRIGGERS[line.trigger] ?? line.trigger, class: "wide" },
    { text: number(line.holdout_loss), class: "n" },
    { text: number(line.live_holdout_loss), class: "n wide" },
    { text: change === null ? "–" : `${change <= 0 ? "−" : "+"}${Math.abs(100 * change).toFixed(1)}%`, class: `n ${change === null ? "" : change <= 0 ? "good" : "worse"}` },
    { text: bytes(line.payload_bytes), class: "n wide" },
  ];
}

function decisions(state) {
  return {
    heads: ["When", "Decision", "Stable", "On trial", "By", "Why"],
    rows: (state?.releases?.decisions ?? []).map((one) => [time(one.decided_ms), one.action, String(one.stable_version), one.pinned ? "none, pinned" : share(one.trial_share, 0), one.decided_by, one.reason]),
  };
}
