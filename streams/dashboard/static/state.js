// What the page knows: the newest of each section of the stream, and the curves in bounded arrays.

const FINE_POINTS = 900;

/** Holds the sections and the points; `take` is the page's own update, for each frame of the stream. */
export class State {
  constructor() {
    this.columns = null;
    this.points = [];
    this.coarse = [];
    this.now = null;
    this.marks = [];
    this.versions = null;
    this.releases = null;
    this.drift = null;
    this.signals = null;
    this.shoppers = [];
    this.receivedMs = 0;
    this.skewMs = 0;
    this.changed = new Set();
  }

  /** Take in one frame, received at `receivedMs` by the browser's clock. */
  take(frame, receivedMs = Date.now()) {
    for (const name of ["now", "marks", "versions", "releases", "drift", "signals", "shoppers"]) {
      if (name in frame) {
        this[name] = frame[name];
        this.changed.add(name);
      }
    }
    if (frame.now) {
      this.receivedMs = receivedMs;
      this.skewMs = receivedMs - frame.now.made_ms;
    }
    if (frame.point) this.add(frame.point);
  }

  /** Take in one fine point; what is older than half an hour goes. */
  add(point) {
    const last = this.points[this.points.length - 1];
    if (last && point[0] <= last[0]) return;
    this.points.push(point);
    if (this.points.length > FINE_POINTS) this.points.shift();
    this.changed.add("points");
  }

  /** Take in a history; the points that came meanwhile stay. */
  takeHistory(history) {
    this.columns = history.columns;
    if (history.resolution === "coarse") {
      this.coarse = history.rows;
      this.changed.add("coarse");
      return;
    }
    const until = history.rows.length ? history.rows[history.rows.length - 1][0] : 0;
    this.points = [...history.rows, ...this.points.filter((point) => point[0] > until)].slice(-FINE_POINTS);
    this.changed.add("points");
  }

  /** The gateway's clock now, as far as the stream tells it. */
  clockMs() {
    return Date.now() - this.skewMs;
  }

  /** The place of a column in a point; -1 before the first history has told the columns. */
  column(name) {
    return this.columns ? this.columns.indexOf(name) : -1;
  }

  /** [time, value] of a column, for the small charts. */
  series(name) {
    const place = this.column(name);
    return place < 0 ? [] : this.points.map((point) => [point[0], point[place]]);
  }
}
