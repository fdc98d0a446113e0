// Numbers and times as they are read.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const date = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit" });
const clockShort = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });

export const NONE = "–";
const missing = (value) => value === null || value === undefined || Number.isNaN(value);

/** A count: 1,234; 12.3k from 100,000 on. */
export function count(value) {
  if (missing(value)) return NONE;
  if (Math.abs(value) >= 1e6) return `${(value / 1e6).toFixed(1)}M`;
  if (Math.abs(value) >= 1e5) return `${(value / 1e3).toFixed(0)}k`;
  return whole.format(value);
}

/** A duration given in milliseconds: 4 ms, 1.2 s, 3 min. */
export function duration(ms) {
  if (missing(ms)) return NONE;
  if (ms < 10) return `${ms.toFixed(ms < 1 ? 1 : 0)} ms`;
  if (ms < 1000) return `${ms.toFixed(0)} ms`;
  if (ms < 10_000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 120_000) return `${(ms / 1000).toFixed(0)} s`;
  if (ms < 7_200_000) return `${(ms / 60_000).toFixed(0)} min`;
  if (ms < 172_800_000) return `${(ms / 3_600_000).toFixed(0)} h`;
  return `${(ms / 86_400_000).toFixed(0)} days`;
}

/** When something was: how long ago, or from two days on the date. */
export const when = (ms, nowMs) => (missing(ms) ? NONE : nowMs - ms < 172_800_000 ? ago(Math.max(0, nowMs - ms)) : date.format(ms));

/** How long ago, given in milliseconds. */
export const ago = (ms) => (missing(ms) ? NONE : ms < 1500 ? "now" : `${duration(ms)} ago`);

export const share = (value, digits = 1) => (missing(value) ? NONE : `${(100 * value).toFixed(digits)}%`);
export const number = (value, digits = 3) => (missing(value) ? NONE : value.toFixed(digits));
export const short = (value) => (missing(value) ? NONE : Math.abs(value) >= 100 ? whole.format(value) : Number(value.toPrecision(3)).toString());
export const time = (ms) => (missing(ms) ? NONE : clock.format(ms));
export const timeShort = (ms) => (missing(ms) ? NONE : clockShort.format(ms));

export function bytes(value) {
  if (missing(value)) return NONE;
  if (value < 1000) return `${value} B`;
  if (value < 1e6) return `${(value / 1e3).toFixed(0)} KB`;
  return `${(value / 1e6).toFixed(1)} MB`;
}

/** A word with its number: 1 signal, 3 signals. */
export const several = (value, word) => `${count(value)} ${word}${value === 1 ? "" : "s"}`;
