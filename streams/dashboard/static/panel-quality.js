// Live quality against popularity, over time, with what happened marked on the curve.

import { tableIn } from "./dom.js";
import { count, share, time, timeShort } from "./format.js";
import { TimeChart } from "./time-chart.js";

const DAY_MS = 86_400_000;
const MOST_SWAPS = 400;
const SHORTEST_MS = 120_000;

export class QualityPanel {
  /** `onRange` is called with the range in milliseconds when another is chosen. */
  constructor(onRange) {
    this.rangeMs = 600_000;
    this.points = [];
    this.chart = new TimeChart(document.getElementById("quality-chart"), {
      lines: [
        { key: "live", label: "live model", class: "live" },
        { key: "popularity", label: "popularity", class: "baseline" },
      ],
      format: (value, digits = 0) => share(value, digits),
      label: "Share of next steps foreseen, over time",
    });
    this.table = tableIn(document.getElementById("quality-table"), () => this.rows());
    const buttons = [...document.querySelectorAll("#quality [data-range]")];
    for (const button of buttons) {
      button.addEventListener("click", () => {
        this.rangeMs = Number(button.dataset.range);
        for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
        onRange(this.rangeMs);
      });
    }
  }

  show(state) {
    const isDay = this.rangeMs >= DAY_MS;
    const rows = isDay ? state.coarse : state.points;
    const to = rows.length ? Math.max(rows[rows.length - 1][0], state.now?.made_ms ?? 0) : state.clockMs();
    // A gateway that has just begun shows its few minutes at full width.
    const begunMs = Math.min(to - SHORTEST_MS, state.now?.started_ms ?? to);
    const from = Math.max(to - this.rangeMs, begunMs);
    const windowMs = isDay ? 900_000 : 120_000;
    this.points = smoothed(rows, state, windowMs).filter((point) => point.time >= from - windowMs / 4);
    const version = state.column("model_version");
    const swaps = [];
    for (let number = 1; number < rows.length; number += 1) {
      if (rows[number][0] >= from && rows[number][version] > rows[number - 1][version]) swaps.push(rows[number][0]);
    }
    this.chart.show({ points: this.points, marks: state.marks, swaps: swaps.slice(-MOST_SWAPS), from, to });
    this.table();
  }

  rows() {
    const step = Math.max(1, Math.floor(this.points.length / 12));
    const chosen = this.points.filter((_, number) => (this.points.length - 1 - number) % step === 0);
    return {
      heads: ["Time", "Live model", "Popularity", "Tested"],
      rows: chosen.reverse().map((point) => [
        this.rangeMs >= DAY_MS ? timeShort(point.time) : time(point.time),
        share(point.values.live),
        share(point.values.popularity),
        count(point.tested),
      ]),
    };
  }
}

/** The shares over a window that ends at each point; null where fewer than 20 steps were tested in it. */
function smoothed(rows, state, windowMs) {
  const [tested, live, popularity] = ["tested", "live_hits", "popularity_hits"].map((name) => state.column(name));
  const found = [];
  const sums = [0, 0, 0];
  let first = 0;
  for (const row of rows) {
    sums[0] += row[tested];
    sums[1] += row[live];
    sums[2] += row[popularity];
    while (rows[first][0] <= row[0] - windowMs) {
      sums[0] -= rows[first][tested];
      sums[1] -= rows[first][live];
      sums[2] -= rows[first][popularity];
      first += 1;
    }
    const enough = sums[0] >= 20;
    found.push({ time: row[0], tested: sums[0], values: { live: enough ? sums[1] / sums[0] : null, popularity: enough ? sums[2] / sums[0] : null } });
  }
  return found;
}
