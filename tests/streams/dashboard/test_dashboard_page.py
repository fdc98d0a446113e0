"""The dashboard in a real browser, before a real gateway."""

import re
from typing import Any

import httpx
import pytest
from page_gateway import TOKEN, Gateway
from playwright.sync_api import Browser, Page, expect

from headrace.schemas import Click, DriftAlert, DriftState, HistoryEntry, ModelRelease, ModelUpdate, UserRow
from headrace.schemas.drift_alerts import DriftCause
from headrace.schemas.topics import CLICKS, DRIFT_ALERTS, DRIFT_STATE, MODEL_RELEASES, MODEL_UPDATES
from headrace.schemas.wire import now_ms
from headrace.streams.release_log import ReleaseLog

# Two frames of the page's own update, of a gateway whose time is the page's.
PUSH = """async ([frames, draws]) => {
  const page = await import('/dashboard/app.js');
  for (const frame of frames) page.takeFrame(frame);
  if (draws) page.drawNow();
}"""
CONTRASTS = """() => {
  const channel = (value) => (value /= 255) <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const ground = (element) => {
    for (let here = element; here; here = here.parentElement) {
      const colour = numbers(getComputedStyle(here).backgroundColor);
      if (colour.length < 4 || colour[3] > 0.9) return colour;
    }
    return [255, 255, 255];
  };
  const weak = [];
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility() || element.closest('.skip, .unseen, svg')) continue;
    const [one, other] = [light(numbers(getComputedStyle(element).color)), light(ground(element))].sort();
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (ratio < 4.5) weak.push(`${element.tagName} ${element.className} ${element.textContent.slice(0, 20)} ${ratio.toFixed(2)}`);
  }
  return weak;
}"""


def alert(number: int, state: Any = "started", **changes: Any) -> DriftAlert:
    told: dict[str, Any] = {
        "alert_id": f"page-{number}-{state}",
        "signal": "prequential_loss",
        "detector": "ADWIN",
        "severity": "warning",
        "level_before": 3.2,
        "level_after": 4.4,
        "window": 300,
        "observations": 9000,
        "model_version": 7,
        "event_time_ms": now_ms(),
        "created_ms": now_ms(),
        "reaction": "rounds begin sooner",
        "episode_id": f"page-{number}",
        "state": state,
    }
    return DriftAlert(**(told | changes))


def update(version: int, **changes: Any) -> ModelUpdate:
    told: dict[str, Any] = {
        "model": "next-item",
        "kind": "delta",
        "version": version,
        "base_version": version - 1,
        "weights_sha256": "a" * 64,
        "base_sha256": "b" * 64,
        "payload_sha256": "c" * 64,
        "payload_bytes": 123_000,
        "payload_parts": 1,
        "payload_offset": 0,
        "trigger": "count",
        "feature_service": "next_item",
        "created_ms": now_ms(),
        "learned_events": 512,
        "learned_offsets": {},
        "learned_published_ms": [],
        "holdout_loss": 3.9,
        "live_holdout_loss": 4.0,
    }
    return ModelUpdate(**(told | changes))


def test_the_page_comes_alive_and_shows_what_is_published(page: Page, gateway: Gateway) -> None:
    expect(page.locator("#health-word")).not_to_have_text("Connecting")
    expect(page.locator("#lag-rows tbody tr")).to_have_count(3)
    for number in range(40):
        click = Click(event_id=f"page-{now_ms()}-{number}", event_time_ms=now_ms(), item_id="lamp", user_id="ada")
        gateway.publish(CLICKS, click, "ada")
    expect(page.locator("#tile-events b")).to_have_text(re.compile(r"^[1-9]\d*$"), timeout=10_000)
    gateway.publish(MODEL_UPDATES, update(900_001))
    first = page.locator("#versions tbody tr").first
    expect(first.locator("th")).to_contain_text("900001", timeout=10_000)
    expect(first).to_contain_text("−2.5%")
    page.evaluate(PUSH, [[], True])
    assert page.title().endswith("Headrace")


def test_a_drift_alert_marks_the_curve_and_names_the_cause_until_it_is_resolved(page: Page, gateway: Gateway) -> None:
    causes = [DriftCause(signal="price", share=0.7, level_before=20.0, level_after=31.0, segment={"category": "tents"})]
    gateway.publish(DRIFT_ALERTS, alert(1, causes=causes, signals=["prequential_loss", "price"]))
    expect(page.locator("#quality-chart line[data-mark=page-1]")).to_have_count(1, timeout=10_000)
    episode = page.locator("[data-episode=page-1]")
    expect(episode).to_contain_text("3.2 → 4.4")
    expect(episode.locator(".causes")).to_contain_text("price (category tents)")
    expect(page.locator("#health")).to_have_attribute("data-state", "drift going on")
    expect(page.locator("#health-live")).to_contain_text("Drift going on")
    page.goto(f"{gateway.url}/#drift/page-1")
    expect(episode).to_have_attribute("data-linked", "")
    expect(episode).to_be_focused()
    expect(episode).to_be_in_viewport()
    gateway.publish(DRIFT_ALERTS, alert(1, "resolved"))
    expect(episode).to_have_attribute("data-state", "resolved", timeout=10_000)
    expect(episode.locator(".causes")).to_contain_text("price")
    expect(page.locator("#quality-chart line[data-mark=page-1]")).to_have_count(1)


def test_states_of_signals_show_their_histograms_then_and_now(page: Page, gateway: Gateway) -> None:
    state = DriftState(
        signal="price[category=tents]",
        detector="KS",
        state="drifting",
        level=17.25,
        baseline=12.5,
        since_ms=now_ms() - 60_000,
        histogram_then=[0.5, 0.3, 0.2],
        histogram_now=[0.2, 0.3, 0.5],
        edges=[0, 10, 20, 40],
        reported_ms=now_ms(),
    )
    gateway.publish(DRIFT_STATE, state, state.signal)
    row = page.locator("#signals tbody tr")
    expect(row).to_contain_text("drifting", timeout=10_000)
    expect(row).to_contain_text("17.3")
    expect(row.locator("svg .bar-now")).to_have_count(3)
    expect(row.locator("svg")).to_have_attribute("aria-label", re.compile("from 20: then 20%, now 50%"))


def test_a_rollback_needs_the_right_token_and_is_shown_once_it_counts(page: Page, gateway: Gateway) -> None:
    for version in (900_010, 900_011):
        gateway.publish(MODEL_UPDATES, update(version), "next-item")
    log = ReleaseLog(gateway.bootstrap, "test-page")
    promoted = ModelRelease(
        model="next-item",
        sequence=log.state.newest.sequence + 1 if log.state.newest else 1,
        action="promote",
        stable_version=900_010,
        stable_sha256="a" * 64,
        trial_share=0.9,
        reason="for a test",
        decided_by="test",
        decided_ms=now_ms(),
    )
    gateway.publish(MODEL_RELEASES, promoted, "next-item")
    expect(page.locator("#lanes")).to_contain_text("version 900010", timeout=10_000)
    expect(page.locator("#lanes")).to_contain_text("10% of shoppers")
    page.locator("#rollback-open").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#rollback-to option").first).to_have_text("version 900010, the stable one")
    page.get_by_label("Reason, for the record").fill("hits fell")
    page.get_by_label("Admin token").fill("guessed")
    page.keyboard.press("Enter")
    expect(page.locator("#rollback-said")).to_have_class("bad", timeout=10_000)
    expect(page.locator("#rollback-said")).to_contain_text("Bearer")
    assert page.locator("#quality-chart line.rollback").count() == 0
    page.get_by_label("Admin token").fill(TOKEN)
    page.locator("#rollback-send").click()
    expect(page.locator("#rollback-said")).to_have_text(re.compile(r"Rolled back: version 900010 answers all"), timeout=20_000)
    assert page.get_by_label("Admin token").input_value() == ""
    assert page.evaluate("JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie])") == '[{},{},""]'
    page.keyboard.press("Escape")
    expect(page.locator("#quality-chart line.rollback")).to_have_count(1, timeout=10_000)
    expect(page.locator("#versions tbody tr", has_text="900011")).to_contain_text("withdrawn")
    expect(page.locator("#health-reasons, #health-sentence").first).not_to_be_empty()
    page.locator("#decisions summary").click()
    expect(page.locator("#decisions")).to_contain_text("hits fell")


def test_a_shopper_is_shown_with_history_list_and_reasons_and_markup_stays_text(page: Page, gateway: Gateway) -> None:
    name = "<img src=x onerror=alert(1)>"
    row = UserRow(
        shopper_id=name, history=[HistoryEntry("tent", "cart", now_ms() - 5000)], steps=1, carts=1, updated_ms=now_ms(), seen_ms=now_ms()
    )
    gateway.app.state.parts.store.write([row], [])
    others = [[HistoryEntry("tent", "view", now_ms() - 9000), HistoryEntry("stove", "view", now_ms() - 8000)] for _ in range(20)]
    for number, history in enumerate(others):
        gateway.app.state.parts.live.ranker.learn(UserRow(shopper_id=f"page-{number}", history=history, steps=2, updated_ms=now_ms()))
    page.get_by_label("Shopper id").fill(name)
    page.keyboard.press("Enter")
    expect(page.locator("#shopper-found .steps")).to_contain_text("tent")
    expect(page.locator("#shopper-found .steps")).to_contain_text("put into the cart")
    expect(page.locator("#shopper-found .items li").first).to_contain_text("stove")
    expect(page.locator("#shopper-found .items li").first).to_contain_text("because they put into the cart tent")
    page.evaluate(PUSH, [[{"revision": 1, "shoppers": [name]}], True])
    expect(page.locator("#recent button")).to_have_text(name)
    assert page.locator("img").count() == 0


def test_everything_is_reached_by_keyboard_in_the_order_of_the_page(page: Page) -> None:
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        told = page.evaluate(
            "() => { const e = document.activeElement; const r = e.getBoundingClientRect();"
            "return [e.id || e.dataset.range || e.textContent.trim().slice(0, 30), getComputedStyle(e).outlineStyle, r.width > 0] }"
        )
        if told[0].startswith("Skip to the figures") or (seen and told[0] == seen[0]):
            break
        assert told[1] != "none", f"{told[0]} shows no focus"
        assert told[2], f"{told[0]} has focus and is not seen"
        seen.append(told[0])
    for wanted in ("theme", "600000", "rollback-open", "shopper-id", "The same as a table"):
        assert wanted in seen, seen
    assert seen.index("600000") < seen.index("rollback-open") < seen.index("shopper-id")
    page.locator("#quality-table summary").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#quality-table")).to_have_attribute("open", "")
    page.locator("#quality-chart svg").focus()
    page.evaluate(PUSH, [[{"revision": 1, "point": [now_ms() + 5000, *[30] * 5, *[None] * 12]}], True])
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#quality-chart .readout")).to_have_text(re.compile(r"^\d\d:\d\d:\d\d: live model"))
    page.locator("#rollback-open").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#rollback-reason")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#rollback")).not_to_be_visible()
    expect(page.locator("#rollback-open")).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_in_light_and_dark_and_the_button_overrides_the_system(browser: Browser, gateway: Gateway, scheme: Any) -> None:
    with browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme=scheme) as context:
        page = context.new_page()
        page.goto(gateway.url)
        page.locator("#link[data-link=live]").wait_for(timeout=10_000)
        page.evaluate(PUSH, [[{"revision": 1, "drift": drift_of_all_kinds()}], True])
        page.evaluate("import('/dashboard/app.js').then((page) => page.stopStream())")
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == {"light": "rgb(246, 246, 244)", "dark": "rgb(16, 19, 23)"}[scheme]
        assert page.evaluate(CONTRASTS) == []
        page.locator("#theme").click()
        page.locator("#theme").click()
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 19, 23)"
        page.reload()
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        assert page.evaluate("Object.keys(localStorage)") == ["headrace-colours"]


def test_on_a_phone_nothing_runs_out_of_the_page(browser: Browser, gateway: Gateway) -> None:
    with browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True) as context:
        page = context.new_page()
        page.goto(gateway.url)
        page.locator("#link[data-link=live]").wait_for(timeout=10_000)
        drift = drift_of_all_kinds()
        page.evaluate(PUSH, [[{"revision": 1, "drift": drift, "shoppers": ["x" * 136]}], True])
        for summary in page.locator("details > summary").all():
            summary.click()
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        small = page.evaluate(
            "[...document.querySelectorAll('button')].filter((e) => e.checkVisibility() && e.getBoundingClientRect().height < 30).length"
        )
        assert small == 0


def test_a_cut_stream_is_told_at_once_and_taken_up_again_with_what_was_missed(page: Page, gateway: Gateway) -> None:
    expect(page.locator("#banner")).to_be_hidden()
    gateway.stop()
    try:
        expect(page.locator("#banner")).to_contain_text("The stream is cut since", timeout=10_000)
        expect(page.locator("#health-word")).to_have_text("Stale")
        expect(page.locator("#link")).to_have_attribute("data-link", "cut")
        expect(page.locator("body")).to_have_class(re.compile("old"))
        assert "Stale" in page.title()
    finally:
        gateway.start()
    page.get_by_role("button", name="Try now").click()
    expect(page.locator("#banner")).to_be_hidden(timeout=20_000)
    expect(page.locator("#link")).to_have_attribute("data-link", "live", timeout=10_000)
    expect(page.locator("body")).not_to_have_class(re.compile("old"))


def test_figures_that_grow_old_on_a_living_stream_are_greyed_too(page: Page) -> None:
    page.evaluate(
        """async () => { const page = await import('/dashboard/app.js'); const { now } = page.state; page.stopStream();
        page.takeFrame({ revision: 1, now }, Date.now() - 30000); page.drawNow(); }"""
    )
    expect(page.locator("#health-sentence")).to_contain_text(re.compile(r"Nothing has come for (30|31|32) s"))


def test_the_page_and_its_files_may_do_little_and_are_sent_once(gateway: Gateway) -> None:
    with httpx.Client(base_url=gateway.url) as client:
        answer = client.get("/")
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "<script>" not in answer.text
        assert not re.search(r"\son\w+=|style=|https?://", answer.text)
        files = set(re.findall(r'(?:href|src)="(/dashboard/[\w.-]+)"', answer.text))
        assert len(files) > 10
        total = 0
        for path in ["/", *files]:
            first = client.get(path)
            assert first.status_code == 200
            assert first.headers["content-encoding"] == "gzip"
            total += int(first.headers["content-length"])
            again = client.get(path, headers={"if-none-match": first.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
        assert total < 60_000, "the whole page travels in less than 60 KB"
        assert client.get("/dashboard/../gateway.py").status_code == 404
        assert client.get("/dashboard/none.js").status_code == 404


def drift_of_all_kinds() -> dict[str, Any]:
    base = {
        "signal": "prequential_loss_of_a_very_long_name_that_nobody_would_choose",
        "signals": ["a", "b"],
        "kind": "concept",
        "detector": "ADWIN",
        "segment": {"category": "tents"},
        "started_ms": now_ms(),
        "since_ms": None,
        "told_ms": now_ms(),
        "level_before": 3.0,
        "level_after": 4.0,
        "p_value": 0.001,
        "model_version": 3,
        "reaction": "the next 8 rounds of fine-tuning begin at an eighth of the usual number of events",
        "causes": [{"signal": "price", "share": 0.6, "level_before": 1.0, "level_after": 2.0, "segment": {"country": "SE"}}],
        "reactions": [{"name": "fine-tune", "state": "kept", "quality_before": 0.3, "quality_at": 0.2, "quality_after": 0.29}],
        "known_episode": None,
        "picture": None,
    }
    kinds = [("started", "warning"), ("ongoing", "critical"), ("started", "info"), ("resolved", "info")]
    episodes = [
        base | {"episode_id": f"kind-{number}", "state": state, "severity": severity} for number, (state, severity) in enumerate(kinds)
    ]
    return {"going_on": 3, "episodes": episodes}
