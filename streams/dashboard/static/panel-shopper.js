// One shopper: what they did, what is recommended to them, and why.

import { make, say } from "./dom.js";
import { ago, share, when } from "./format.js";

const STEPS = 12;
const ITEMS = 10;
const PARTS = {
  covisitation: "often goes with what was just seen",
  neighbours: "liked in similar visits",
  own_history: "seen before by this shopper",
  transformer: "expected by the Transformer",
  popularity: "popular now",
};
const VERBS = { view: "viewed", cart: "put into the cart", purchase: "bought" };
const find = (id) => document.getElementById(id);

export class ShopperPanel {
  constructor(clock) {
    this.clock = clock;
    this.askedMs = null;
    find("shopper-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.look(find("shopper-id").value.trim());
    });
  }

  showRecent(shoppers) {
    const host = find("recent");
    // Whoever is about to press one of them keeps it.
    if (host.contains(document.activeElement)) return;
    host.hidden = shoppers.length === 0;
    host.replaceChildren(
      host.firstElementChild,
      ...shoppers.map((id) => {
        const button = make("button", { type: "button", class: "chip" }, id);
        button.addEventListener("click", () => {
          find("shopper-id").value = id;
          this.look(id);
        });
        return button;
      }),
    );
  }

  async look(id) {
    const host = find("shopper-found");
    if (!id) return find("shopper-id").focus();
    host.setAttribute("aria-busy", "true");
    try {
      const name = encodeURIComponent(id);
      const [features, list] = await Promise.all([ask(`/v1/features?user_id=${name}`), ask(`/v1/recommendations/${name}?k=${ITEMS}`)]);
      this.askedMs = Date.now();
      host.replaceChildren(steps(features, this.clock()), items(list));
    } catch (error) {
      this.askedMs = null;
      host.replaceChildren(make("p", { class: "said bad" }, error.message));
    }
    host.removeAttribute("aria-busy");
    this.showAge();
    return undefined;
  }

  showAge() {
    say(find("shopper-age"), this.askedMs === null ? "" : `asked ${ago(Date.now() - this.askedMs)}`);
  }
}

async function ask(path) {
  const answer = await fetch(path, { headers: { accept: "application/json" } });
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.message ?? `${path} answered ${answer.status}`);
  return told;
}

function steps({ views }, clockMs) {
  const view = views.find((one) => one.features && "history_items" in one.features);
  const known = view?.features;
  const rows = (known?.history_items ?? [])
    .map((item, place) => ({ item, kind: known.history_kinds?.[place], ms: known.history_times_ms?.[place], category: known.history_categories?.[place] }))
    .slice(-STEPS)
    .reverse()
    .map(({ item, kind, ms, category }) =>
      make("li", { class: kind }, make("b", {}, item), make("small", {}, `${VERBS[kind] ?? kind}${category ? ` in ${category}` : ""}, ${when(ms, clockMs)}`)),
    );
  const title = make("h3", {}, "History, newest first");
  if (!rows.length) return make("div", {}, title, make("p", { class: "empty" }, view?.stale ? "Past its time to live, so not told." : "Nothing is known of this shopper."));
  return make("div", {}, title, make("ol", { class: "steps" }, ...rows));
}

function items(list) {
  const rows = list.items.map((item) => {
    const because = item.because.map((reason) => `${VERBS[reason.kind] ?? reason.kind} ${reason.item_id} (${share(reason.weight, 0)})`).join(", ");
    const bar = make("i", { class: "meter" }, make("i"));
    bar.firstChild.style.width = `${Math.min(100, (100 * item.score) / Math.max(1e-9, list.items[0].score))}%`;
    return make("li", {}, make("b", {}, item.item_id), bar, make("span", { class: "score" }, share(item.score)), make("small", {}, PARTS[item.part] ?? item.part, because ? `; because they ${because}` : ""));
  });
  const note = list.degraded ?? `by version ${list.model_version}, from ${list.history_length} steps, in ${list.latency_ms.toFixed(1)} ms`;
  return make("div", {}, make("h3", {}, "Recommended now"), rows.length ? make("ol", { class: "items" }, ...rows) : make("p", { class: "empty" }, "Nothing yet: no item is known."), make("p", { class: "empty" }, note));
}
