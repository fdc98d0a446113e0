// The stream of frames: it reconnects with growing pauses, and tells when nothing has come for too long.

const SILENT_MS = 8000;
const FIRST_PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 30_000;

export class Stream {
  /** `onFrame` gets each frame, `onState` gets "live" or {cutSinceMs, nextTryMs}. */
  constructor(url, onFrame, onState) {
    this.url = url;
    this.onFrame = onFrame;
    this.onState = onState;
    this.pauseMs = FIRST_PAUSE_MS;
    this.heardMs = Date.now();
    this.cutSinceMs = null;
    this.timer = null;
    setInterval(() => this.watch(), 1000);
    addEventListener("online", () => this.tryNow());
  }

  open() {
    clearTimeout(this.timer);
    this.timer = null;
    this.source?.close();
    this.heardMs = Date.now();
    const source = (this.source = new EventSource(this.url));
    source.addEventListener("message", (event) => {
      this.heard();
      this.onFrame(JSON.parse(event.data));
    });
    source.addEventListener("heartbeat", () => this.heard());
    source.addEventListener("error", () => this.cut());
  }

  /** Close it for good. */
  stop() {
    this.isStopped = true;
    clearTimeout(this.timer);
    this.source?.close();
  }

  /** Connect at once, whatever the pause. */
  tryNow() {
    if (this.cutSinceMs !== null) this.open();
  }

  heard() {
    this.heardMs = Date.now();
    this.pauseMs = FIRST_PAUSE_MS;
    if (this.cutSinceMs !== null || !this.isLive) {
      this.isLive = true;
      this.cutSinceMs = null;
      this.onState("live");
    }
  }

  watch() {
    if (!this.isStopped && this.timer === null && Date.now() - this.heardMs > SILENT_MS) this.cut();
  }

  cut() {
    this.source?.close();
    this.isLive = false;
    this.cutSinceMs ??= this.heardMs;
    // Not all pages at once, when a gateway comes back.
    const pauseMs = this.pauseMs * (0.75 + 0.5 * Math.random());
    this.pauseMs = Math.min(LONGEST_PAUSE_MS, 2 * this.pauseMs);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.open(), pauseMs);
    this.onState({ cutSinceMs: this.cutSinceMs, nextTryMs: Date.now() + pauseMs });
  }
}
