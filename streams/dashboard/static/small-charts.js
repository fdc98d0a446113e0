// Sparklines and histograms.

import { draw, set } from "./dom.js";

const POINTS = 90;

/** A line without axes. `show` takes [time, value] pairs; quantiles may come as a second series, drawn faintly. */
export class Spark {
  constructor(host, { height = 34, label }) {
    this.host = host;
    this.height = height;
    this.area = draw("path", { class: "spark-area" });
    this.second = draw("path", { class: "spark-second" });
    this.line = draw("path", { class: "spark-line" });
    this.svg = draw("svg", { class: "spark-svg", role: "img", "aria-label": label, preserveAspectRatio: "none", viewBox: `0 0 100 ${height}`, height });
    this.svg.append(this.area, this.second, this.line);
    host.replaceChildren(this.svg);
  }

  show(first, second = []) {
    const main = thin(first);
    const faint = thin(second);
    const known = [...main, ...faint].filter((value) => value !== null);
    const top = Math.max(1e-9, ...known) * 1.08;
    set(this.line, "d", this.path(main, top));
    set(this.second, "d", this.path(faint, top));
    set(this.area, "d", main.length && main.every((value) => value !== null) ? `${this.path(main, top)}V${this.height}H0Z` : "");
  }

  path(values, top) {
    const step = 100 / Math.max(1, values.length - 1);
    let pen = "M";
    let path = "";
    values.forEach((value, number) => {
      if (value === null) pen = "M";
      else {
        path += `${pen}${(number * step).toFixed(1)} ${(this.height - 1.5 - (value / top) * (this.height - 3)).toFixed(1)}`;
        pen = "L";
      }
    });
    return path;
  }
}

/** Means over equal stretches, at most 90 of them; null where nothing is known. */
function thin(pairs) {
  const size = Math.max(1, Math.ceil(pairs.length / POINTS));
  const means = [];
  for (let start = 0; start < pairs.length; start += size) {
    const known = pairs.slice(start, start + size).map((pair) => pair[1]).filter((value) => value !== null && value !== undefined);
    means.push(known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null);
  }
  return means;
}

/** Two histograms over the same bins: filled bars for now, an outline for then. */
export function histogram({ then, now }, label) {
  const bins = Math.max(then.length, now.length, 1);
  const top = Math.max(1e-9, ...then, ...now);
  const width = 100 / bins;
  const svg = draw("svg", { class: "histogram", role: "img", "aria-label": label, viewBox: "0 0 100 30", preserveAspectRatio: "none" });
  now.forEach((value, number) => {
    const height = (28 * value) / top;
    svg.append(draw("rect", { x: number * width + 0.6, y: 29 - height, width: Math.max(0.5, width - 1.2), height, class: "bar-now" }));
  });
  let path = `M0 29`;
  then.forEach((value, number) => {
    const y = 29 - (28 * value) / top;
    path += `V${y}H${(number + 1) * width}`;
  });
  svg.append(draw("path", { d: `${path}V29`, class: "bar-then" }));
  return svg;
}
