"""Prometheus metrics of the parts, and the small HTTP server on which each part shows them.

Names follow Prometheus' conventions: base units as suffix (`_seconds`, `_records`), `_total` for counters. What the process itself
uses (`process_cpu_seconds_total`, `process_resident_memory_bytes`, ...) comes from the client library.
"""

import json
import platform
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, Counter, Gauge, Histogram, generate_latest

# What the freshness goals in deploy/prometheus/ count by: the share of a histogram up to a bound of its own is exact.
GOAL_BOUNDS_S = (0.25, 1.0, 5.0)
# Fine steps of 1.2 from 0.5 ms to about 2 minutes, so that a p99 read off the buckets is right to a fifth.
LATENCY_BUCKETS = tuple(sorted([0.0005 * 1.2**step for step in range(68)] + list(GOAL_BOUNDS_S)))

BUILD = Gauge("headrace_build_info", "Always 1; which part this is, and what runs it", ["component", "version", "python"])
READY = Gauge("headrace_ready", "1 while this part is ready to work, as /readyz says")
LOGGED = Counter("headrace_log_messages", "Log lines of this level or worse than info", ["level"])

EVENTS = Counter("headrace_feature_events", "Events folded into feature rows")
REPLAYED = Counter("headrace_feature_events_replayed", "Events read again and passed over, since their row holds them already")
REPEATED = Counter("headrace_feature_events_repeated", "Events that their publisher sent twice, by the same event id")
LATE = Counter("headrace_feature_events_late", "Events later than the watermark, which the windows leave out")
FEATURE_WRITE = Histogram("headrace_feature_write_seconds", "Time to fold a batch and write its rows", buckets=LATENCY_BUCKETS)
STORE_DOWN = Gauge("headrace_feature_store_down", "1 while the online store refuses writes or does not answer")
FEATURE_LAG = Gauge("headrace_feature_lag_records", "Records published and not yet taken in by this worker, by topic", ["topic"])
FEATURE_AGE = Histogram(
    "headrace_feature_age_seconds",
    "Age of the rows that answers were made of, since their newest event was published",
    buckets=tuple(10**step for step in range(-3, 8)),
)
WRITES_REFUSED = Counter("headrace_feature_writes_refused", "Row writes refused, since another worker has written the row meanwhile")
ROWS_OF_OTHERS = Counter(
    "headrace_feature_rows_of_other_definitions", "Entities of whom a restore has found only rows that other feature definitions made"
)
STORE_BEHIND = Counter("headrace_feature_store_behind", "Times at which the online store was found to have lost rows")
UNKNOWN_ITEMS = Counter("headrace_predict_unknown_items", "Steps of asked histories that were passed over, since nobody knows their item")
REFUSED = Counter("headrace_dead_letters", "Records sent to dead-letters", ["component"])
UNREADABLE = Counter("headrace_unreadable_records", "Records passed over, since another part puts them into dead-letters", ["component"])
ROWS_WRITTEN = Counter("headrace_feature_rows_written", "Rows written to the online store", ["view"])
VERSIONS_ARCHIVED = Counter("headrace_archive_versions", "Row versions put into the archive's files", ["view"])
VERSIONS_MISSED = Counter("headrace_archive_versions_missed", "Row versions compacted away before they were archived", ["view"])
FEATURE_FRESHNESS = Histogram("headrace_feature_freshness_seconds", "Publish to readable in the online store", buckets=LATENCY_BUCKETS)

ARCHIVE_LAG = Gauge("headrace_archive_lag_records", "Records published and not yet read by this archiver, by topic", ["topic"])
RECOMMENDER_LAG = Gauge("headrace_recommender_lag_records", "Rows published and not yet taken in by this recommender, by topic", ["topic"])
PUBLISHER_WAITING = Gauge("headrace_publisher_waiting_events", "Events handed over for publishing that are not acknowledged yet")
RECOMMENDATIONS = Counter("headrace_recommendations", "Recommendations published")
RECOMMENDATION_FRESHNESS = Histogram(
    "headrace_recommendation_freshness_seconds", "Event published to its recommendation acknowledged", buckets=LATENCY_BUCKETS
)
SCORING = Histogram("headrace_scoring_seconds", "Time to score one batch of shoppers", buckets=LATENCY_BUCKETS)
PREQUENTIAL = Counter("headrace_prequential_events", "Events predicted before they were learned")
PREQUENTIAL_HITS = Counter("headrace_prequential_hits", "Of these, those whose item was among the first 20", ["model"])
MODEL_VERSION = Gauge("headrace_model_version", "The version of the weights that answer")
SWAPS = Counter("headrace_weight_swaps", "Weights swapped in")
SWAPS_REFUSED = Counter("headrace_weight_updates_refused", "Updates that were not taken in, or not when they came", ["reason"])
STORE_FAILURES = Counter("headrace_weight_store_failures", "Snapshots that could not be put into the weight store")
OUTCOMES_REFUSED = Counter("headrace_release_outcomes_refused", "Reports on release-outcomes that do not count", ["reason"])
RELEASES_SKIPPED = Counter("headrace_releases_skipped", "Decisions on model-releases that do not count", ["reason"])
STABLE_VERSION = Gauge("headrace_stable_version", "The version that answers whoever is not on trial")
LANE_ANSWERS = Counter("headrace_lane_answers", "Lists made by either lane of weights", ["lane"])
ASKED_TOGETHER = Histogram("headrace_asked_together", "Questions over HTTP that were answered as one batch", buckets=(1, 2, 3, 4, 6, 8))
LANE_OUTCOMES = Counter("headrace_lane_outcomes", "Lists that met a next step", ["lane"])
LANE_HITS = Counter("headrace_lane_hits", "Of these, those that held its item", ["lane"])
RELEASES = Counter("headrace_releases", "Decisions made by the release manager", ["action"])
WEIGHTS_FRESHNESS = Histogram(
    "headrace_weights_freshness_seconds", "Event published to its effect in served weights", buckets=LATENCY_BUCKETS
)
RANKING_REFUSED = Counter("headrace_ranking_weights_refused", "Ranking weights that were not taken up", ["reason"])
WEIGHTS_DELAY = Histogram(
    "headrace_weights_delay_seconds", "End of a training step to its weights being served here", buckets=LATENCY_BUCKETS
)

LEARNED = Counter("headrace_learned_events", "Events taken into training")
SKIPPED = Counter("headrace_learner_events_skipped", "Events left out of training because the learner could not keep up")
LEARNER_LAG = Gauge("headrace_learner_lag_records", "Records published and not yet learned or left out, by topic", ["topic"])
LEARNER_LAG_SECONDS = Gauge(
    "headrace_learner_lag_seconds", "Age since its publishing of the oldest event that waits to be learned; 0 for none"
)
LEARNER_WAITING = Gauge("headrace_learner_waiting_events", "Events that wait to be learned")
GATE_REFUSED = Counter("headrace_gate_refused", "Candidates that did not go out, by the check that refused them", ["check"])
SURGING = Counter("headrace_gate_surging_items", "Items that began to be left out of learning, since shoppers rushed to them")
GATE = Histogram("headrace_gate_seconds", "Time to judge a candidate", buckets=LATENCY_BUCKETS)
ROUNDS = Counter("headrace_training_rounds", "Training rounds", ["trigger", "outcome"])
ROUND = Histogram("headrace_training_round_seconds", "Time from taking up examples to published weights", buckets=LATENCY_BUCKETS)
LOSS = Gauge("headrace_prequential_loss", "Mean loss of the Transformer on events that it has not learned yet")
DRIFT_ALERTS = Counter("headrace_drift_alerts", "Drift alerts published", ["signal"])
DRIFT_OPEN = Gauge("headrace_drift_episodes_open", "Episodes of drift that have begun and are not resolved", ["signal", "severity"])
MEMORY_REACTIONS = Counter("headrace_memory_reactions", "Reactions to drift that the memories took in", ["action"])
MEMORY_REACTIONS_REFUSED = Counter("headrace_memory_reactions_refused", "Reactions of the memories that do not count", ["reason"])
ALERTS_DELIVERED = Counter("headrace_alerts_delivered", "Drift alerts handed over to a bridge's target", ["target"])
ALERTS_FAILED = Counter(
    "headrace_alert_deliveries_failed", "Attempts to hand over a drift alert that failed; each is made again", ["target"]
)


def tell_build(component: str, ready: Callable[[], bool]) -> None:
    """Say which part this process is, and let the metric of readiness ask `ready` at each scrape."""
    BUILD.labels(component, version("headrace"), platform.python_version()).set(1)
    READY.set_function(lambda: float(ready()))


class MetricsServer:
    """Serves /metrics and /healthz for one part, from a thread of its own. `port` 0 takes any free one."""

    def __init__(self, component: str, host: str, port: int) -> None:
        self.ready = threading.Event()
        ready = self.ready
        tell_build(component, ready.is_set)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/metrics":
                    self._answer(200, CONTENT_TYPE_LATEST, generate_latest(REGISTRY))
                elif self.path in ("/healthz", "/readyz"):
                    well = self.path == "/healthz" or ready.is_set()
                    body = json.dumps({"component": component, "ready": ready.is_set()}).encode()
                    self._answer(200 if well else 503, "application/json", body)
                else:
                    self._answer(404, "text/plain", b"not found; try /metrics, /healthz or /readyz\n")

            def _answer(self, status: int, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                """Say nothing: a scrape each second is no news."""

        self._server = ThreadingHTTPServer((host, port), Handler)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()
