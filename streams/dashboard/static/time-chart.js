// A chart of lines over time, with marks for what happened and a comb of ticks for swaps. Own SVG; read with pointer or arrow keys.

import { draw, make, say, set } from "./dom.js";
import { time, timeShort } from "./format.js";

const MARGIN = { left: 42, right: 10, top: 22, bottom: 24 };
const MARK_GAP = 74;

export class TimeChart {
  /** `lines` are {key, label, class}; `format` writes a value; `label` names the chart for those who do not see it. */
  constructor(host, { lines, format, label }) {
    this.host = host;
    this.lines = lines;
    this.format = format;
    this.data = null;
    this.cursor = null;
    this.svg = draw("svg", { class: "time-chart", role: "img", tabindex: "0", "aria-label": label });
    this.label = label;
    this.grid = draw("g", { class: "grid" });
    this.comb = draw("path", { class: "comb" });
    this.paths = lines.map((line) => draw("path", { class: `line ${line.class}` }));
    this.markLayer = draw("g", { class: "marks" });
    this.hair = draw("g", { class: "hair", visibility: "hidden" }, draw("line"), ...lines.map((line) => draw("circle", { r: 3.5, class: line.class })));
    this.svg.append(this.grid, this.comb, this.markLayer, ...this.paths, this.hair);
    this.readout = make("p", { class: "readout" });
    const keys = lines.map((line) => make("span", { class: `key ${line.class}` }, make("i"), line.label));
    this.legend = make("p", { class: "legend" }, ...keys, make("span", { class: "key swap" }, make("i"), "swap of weights"), make("span", { class: "key drift" }, make("i"), "drift"));
    host.replaceChildren(this.legend, this.svg, this.readout);
    new ResizeObserver(() => this.render()).observe(host);
    this.svg.addEventListener("pointermove", (event) => this.point(event.clientX));
    this.svg.addEventListener("pointerleave", () => this.move(null));
    this.svg.addEventListener("blur", () => this.move(null));
    this.svg.addEventListener("keydown", (event) => this.key(event));
  }

  /** Show points [{time, values: {key: number|null}}], marks [{time_ms, kind, label, id}] and swaps [time] in the span [from, to]. */
  show(data) {
    this.data = data;
    this.render();
  }

  render() {
    const width = this.host.clientWidth;
    if (!this.data || width < 50) return;
    const height = this.host.classList.contains("tall") ? Math.max(210, Math.min(280, width * 0.4)) : 150;
    set(this.svg, "viewBox", `0 0 ${width} ${height}`);
    set(this.svg, "height", height);
    const { points, from, to } = this.data;
    const highest = Math.max(0.02, ...points.flatMap((point) => this.lines.map((line) => point.values[line.key] ?? 0)));
    const top = nice(highest * 1.12);
    this.area = { left: MARGIN.left, right: width - MARGIN.right, top: MARGIN.top, bottom: height - MARGIN.bottom };
    const { left, right, bottom } = this.area;
    this.x = (ms) => left + ((ms - from) / (to - from)) * (right - left);
    this.y = (value) => bottom - (value / top) * (bottom - MARGIN.top);
    this.renderGrid(top, from, to);
    const gap = (2.5 * (to - from)) / Math.max(60, points.length) + 15_000;
    this.lines.forEach((line, number) => set(this.paths[number], "d", this.path(points, line.key, gap)));
    set(this.comb, "d", this.data.swaps.map((ms) => `M${this.x(ms).toFixed(1)} ${bottom}v-5`).join(""));
    this.renderMarks();
    this.renderHair();
    this.describe();
  }

  path(points, key, gap) {
    let path = "";
    let lastMs = null;
    for (const point of points) {
      const value = point.values[key];
      if (value === null || value === undefined) {
        lastMs = null;
        continue;
      }
      path += `${lastMs === null || point.time - lastMs > gap ? "M" : "L"}${this.x(point.time).toFixed(1)} ${this.y(value).toFixed(1)}`;
      lastMs = point.time;
    }
    return path;
  }

  renderGrid(top, from, to) {
    const { left, right, bottom } = this.area;
    const wanted = [];
    for (let step = 0; step <= 4; step += 1) {
      const value = (top * step) / 4;
      wanted.push(["line", { x1: left, x2: right, y1: this.y(value), y2: this.y(value), class: step ? "" : "base" }]);
      wanted.push(["text", { x: left - 8, y: this.y(value) + 4, "text-anchor": "end" }, this.format(value)]);
    }
    const stepMs = stepOf(to - from, (right - left) / 90);
    for (let ms = Math.ceil(from / stepMs) * stepMs; ms <= to; ms += stepMs) {
      const x = this.x(ms);
      if (x > left + 14 && x < right - 14) wanted.push(["text", { x, y: bottom + 17, "text-anchor": "middle" }, stepMs < 60_000 ? time(ms) : timeShort(ms)]);
    }
    reuse(this.grid, wanted);
  }

  renderMarks() {
    const { left, right, top, bottom } = this.area;
    const wanted = [];
    let free = -Infinity;
    for (const mark of this.data.marks) {
      const x = this.x(mark.time_ms);
      if (x < left || x > right) continue;
      wanted.push(["line", { x1: x, x2: x, y1: top - 6, y2: bottom, class: mark.kind, "data-mark": mark.id }]);
      if (x < free) continue;
      const near = x > right - MARK_GAP;
      wanted.push(["text", { x: near ? x - 5 : x + 5, y: top - 9, "text-anchor": near ? "end" : "start", class: mark.kind }, mark.label]);
      free = x + 12 + 6.2 * mark.label.length;
    }
    reuse(this.markLayer, wanted);
  }

  point(clientX) {
    if (!this.data?.points.length) return;
    const x = clientX - this.svg.getBoundingClientRect().left;
    const { points } = this.data;
    let nearest = 0;
    points.forEach((point, number) => {
      if (Math.abs(this.x(point.time) - x) < Math.abs(this.x(points[nearest].time) - x)) nearest = number;
    });
    this.move(points[nearest].time);
  }

  key(event) {
    const points = this.data?.points ?? [];
    if (!points.length) return;
    const last = points.length - 1;
    const found = this.cursor === null ? -1 : points.findIndex((point) => point.time >= this.cursor);
    const here = found < 0 ? last : found;
    const steps = Math.max(1, Math.round(last / 60));
    const next = { ArrowLeft: here - steps, ArrowRight: here + steps, Home: 0, End: last, Escape: null }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    this.move(next === null ? null : points[Math.max(0, Math.min(last, next))].time);
  }

  move(timeMs) {
    this.cursor = timeMs;
    this.renderHair();
  }

  renderHair() {
    const point = this.cursor === null ? null : this.data?.points.find((one) => one.time >= this.cursor);
    set(this.hair, "visibility", point ? "visible" : "hidden");
    set(this.readout, "aria-live", this.cursor === null ? "off" : "polite");
    const shown = point ?? this.data?.points[this.data.points.length - 1];
    if (!shown) return say(this.readout, "");
    const values = this.lines.map((line) => `${line.label} ${this.format(shown.values[line.key], 1)}`);
    say(this.readout, `${point ? time(shown.time) : "now"}: ${values.join(", ")}`);
    if (!point) return undefined;
    const [line, ...circles] = this.hair.children;
    const x = this.x(point.time);
    for (const [name, value] of Object.entries({ x1: x, x2: x, y1: this.area.top, y2: this.area.bottom })) set(line, name, value);
    this.lines.forEach(({ key }, number) => {
      const value = point.values[key];
      set(circles[number], "visibility", value === null || value === undefined ? "hidden" : "inherit");
      set(circles[number], "cx", x);
      set(circles[number], "cy", this.y(value ?? 0));
    });
    return undefined;
  }

  describe() {
    const last = this.data.points[this.data.points.length - 1];
    const values = last ? this.lines.map((line) => `${line.label} ${this.format(last.values[line.key], 1)}`).join(", ") : "nothing yet";
    const marks = this.data.marks.filter((mark) => mark.time_ms >= this.data.from).length;
    set(this.svg, "aria-label", `${this.label}. Now: ${values}. ${marks} marks. Arrow keys read single points.`);
  }
}

/** Make the children of a layer as wanted, keeping those that are there already. */
function reuse(layer, wanted) {
  wanted.forEach(([name, attributes, text], number) => {
    let element = layer.children[number];
    if (!element || element.tagName !== name) {
      const fresh = draw(name);
      if (element) element.replaceWith(fresh);
      else layer.append(fresh);
      element = fresh;
    }
    for (const key of element.getAttributeNames()) if (!(key in attributes)) element.removeAttribute(key);
    for (const [key, value] of Object.entries(attributes)) set(element, key, typeof value === "number" ? value.toFixed(1) : value);
    if (text !== undefined) say(element, text);
  });
  while (layer.children.length > wanted.length) layer.lastChild.remove();
}

/** The next round number at or above a value. */
export function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10].find((step) => step * power >= value - 1e-12) * power;
}

function stepOf(spanMs, places) {
  const steps = [30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600].map((seconds) => 1000 * seconds);
  return steps.find((step) => spanMs / step <= places) ?? steps[steps.length - 1];
}
