"""The rows of the dashboard: what is asked of Prometheus, and how it is told."""

from collections.abc import Sequence

from headrace.deploy.grafana.panels import Panel, Row

_RATE = "$__rate_interval"
_PART = 'part=~"$part"'


def _rate(metric: str, by: str = "", matchers: str = "") -> str:
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{{{matchers}}}[{_RATE}]))".replace("{}", "")


def _quantiles(metric: str, by: str = "") -> Sequence[tuple[str, str]]:
    """Return the median and the 99th percentile of a histogram."""
    grouped, name = f"le, {by}" if by else "le", f"{{{{{by}}}}} " if by else ""
    return [
        (f"histogram_quantile({share}, {_rate(f'{metric}_bucket', grouped)})", f"{name}{shown}")
        for share, shown in ((0.5, "p50"), (0.99, "p99"))
    ]


ROWS = [
    Row(
        "At a glance",
        [
            Panel("Parts up", "Of those that are scraped.", [('sum(up{job="headrace"})', "up")], kind="stat", width=3, steps={}),
            Panel(
                "Not ready",
                "Parts that run and are not ready.",
                [("count(headrace_ready == 0) or vector(0)", "parts")],
                kind="stat",
                width=3,
                steps={1: "red"},
            ),
            Panel(
                "Events a second", "Taken into feature rows.", [(_rate("headrace_feature_events_total"), "events")], kind="stat", width=3
            ),
            Panel(
                "Waiting records",
                "The most that any part is behind.",
                [("max(part:headrace_lag_records:sum)", "records")],
                kind="stat",
                width=3,
                steps={1000: "orange", 5000: "red"},
            ),
            Panel("Live version", "Of the weights that answer.", [("max(headrace_model_version)", "version")], kind="stat", width=3),
            Panel("Stable version", "What a rollback returns to.", [("max(headrace_stable_version)", "version")], kind="stat", width=3),
            Panel(
                "Open drift episodes",
                "As the alert bridge knows them.",
                [("sum(headrace_drift_episodes_open) or vector(0)", "episodes")],
                kind="stat",
                width=3,
                steps={1: "orange"},
            ),
            Panel(
                "Firing alerts",
                "Of the rules in deploy/prometheus.",
                [('count(ALERTS{alertstate="firing",alertname=~"Headrace.*"}) or vector(0)', "alerts")],
                kind="stat",
                width=3,
                steps={1: "red"},
            ),
        ],
    ),
    Row(
        "Flow",
        [
            Panel(
                "Events through the parts",
                "Events folded into rows, lists made, events learned.",
                [
                    (_rate("headrace_feature_events_total"), "folded"),
                    (_rate("headrace_recommendations_total"), "recommended by"),
                    (_rate("headrace_learned_events_total"), "learned"),
                    (_rate("headrace_learner_events_skipped_total"), "left out of learning"),
                ],
                "ops",
            ),
            Panel("Lag", "Records published and not yet taken in, by part.", [("part:headrace_lag_records:sum", "{{part}}")]),
            Panel(
                "Queues",
                "Events that wait inside a part.",
                [
                    ("sum(headrace_learner_waiting_events)", "to be learned"),
                    ("sum(headrace_publisher_waiting_events)", "to be acknowledged"),
                    ("sum(headrace_http_requests_in_progress)", "requests"),
                ],
            ),
            Panel(
                "Repeated, late, replayed events",
                "What the rows pass over, and what windows leave out.",
                [
                    (_rate("headrace_feature_events_repeated_total"), "sent twice"),
                    (_rate("headrace_feature_events_late_total"), "late"),
                    (_rate("headrace_feature_events_replayed_total"), "read again"),
                ],
                "ops",
            ),
            Panel(
                "Refused records",
                "Sent to dead-letters, or passed over since another part does that.",
                [
                    (_rate("headrace_dead_letters_total", "component"), "dead letters: {{component}}"),
                    (_rate("headrace_unreadable_records_total", "component"), "passed over: {{component}}"),
                ],
                "ops",
            ),
            Panel(
                "Learner's lag in time",
                "Age of the oldest event that waits to be learned.",
                [("max(headrace_learner_lag_seconds)", "age")],
                "s",
            ),
        ],
    ),
    Row(
        "Freshness",
        [
            Panel(
                "Feature freshness",
                "Published to readable in the online store. Goal: 99% within 0.25 s.",
                _quantiles("headrace_feature_freshness_seconds"),
                "s",
            ),
            Panel(
                "Recommendation freshness",
                "Published to its list acknowledged. Goal: 99% within 1 s.",
                _quantiles("headrace_recommendation_freshness_seconds"),
                "s",
            ),
            Panel(
                "Weights freshness",
                "Published to its effect in served weights. Goal: 99% within 5 s.",
                _quantiles("headrace_weights_freshness_seconds"),
                "s",
            ),
            Panel(
                "Late share, last 5 minutes",
                "Of each goal; above 1% the month's budget shrinks.",
                [("kind:headrace_late:ratio_rate5m", "{{kind}}")],
                "percentunit",
                steps={0.01: "orange", 0.144: "red"},
            ),
            Panel("Age of rows behind answers", "Since the newest event of the shopper.", _quantiles("headrace_feature_age_seconds"), "s"),
            Panel(
                "Time to write and to score",
                "A batch of rows, and a batch of lists.",
                [*_quantiles("headrace_feature_write_seconds")[1:], *_quantiles("headrace_scoring_seconds")[1:]],
                "s",
            ),
        ],
    ),
    Row(
        "Quality",
        [
            Panel(
                "Hits among the first 20, by model",
                "Of the next steps, foreseen before they were learned; popularity is the baseline.",
                [("model:headrace_hit_ratio:rate15m", "{{model}}")],
                "percentunit",
            ),
            Panel(
                "Hits by lane",
                "The newest weights on trial, beside the stable ones.",
                [("lane:headrace_hit_ratio:rate15m", "{{lane}}")],
                "percentunit",
            ),
            Panel(
                "Loss before learning",
                "Of the Transformer, on events that it has not learned yet.",
                [("max(headrace_prequential_loss)", "loss")],
                minimum=None,
            ),
            Panel(
                "Lists by lane", "How many lists each lane has made.", [(_rate("headrace_lane_answers_total", "lane"), "{{lane}}")], "ops"
            ),
            Panel(
                "Unknown items asked about",
                "Steps of asked histories whose item nobody knows.",
                [(_rate("headrace_predict_unknown_items_total"), "steps")],
                "ops",
            ),
        ],
    ),
    Row(
        "Versions, gate, refusals",
        [
            Panel(
                "Versions",
                "Which weights answer in each part, and which are stable.",
                [(f"max by (part) (headrace_model_version{{{_PART}}}) > 0", "{{part}}"), ("max(headrace_stable_version)", "stable")],
            ),
            Panel("Swaps", "Weights swapped in, by part.", [(_rate("headrace_weight_swaps_total", "part"), "{{part}}")], "ops"),
            Panel(
                "Refused updates by reason",
                "What scorers did not take in.",
                [
                    ("sum by (reason) (increase(headrace_weight_updates_refused_total[5m]))", "{{reason}}"),
                    ("sum by (reason) (increase(headrace_ranking_weights_refused_total[5m]))", "ranking: {{reason}}"),
                ],
            ),
            Panel(
                "Rounds and the gate",
                "Rounds of training by what began them and what the gate said.",
                [(_rate("headrace_training_rounds_total", "trigger, outcome"), "{{trigger}} {{outcome}}")],
                "ops",
            ),
            Panel("Round time", "From taking up examples to published weights.", _quantiles("headrace_training_round_seconds"), "s"),
            Panel(
                "Training step to served",
                "From the end of a step to its weights being served.",
                _quantiles("headrace_weights_delay_seconds"),
                "s",
            ),
            Panel(
                "Decisions",
                "Promotions and rollbacks, and decisions that do not count.",
                [
                    ("sum by (action) (increase(headrace_releases_total[5m]))", "{{action}}"),
                    ("sum by (reason) (increase(headrace_releases_skipped_total[5m]))", "does not count: {{reason}}"),
                    ("sum by (reason) (increase(headrace_release_outcomes_refused_total[5m]))", "outcomes that do not count: {{reason}}"),
                ],
            ),
        ],
    ),
    Row(
        "Drift",
        [
            Panel(
                "Alerts by signal",
                "Published on drift-alerts.",
                [("sum by (signal) (increase(headrace_drift_alerts_total[5m]))", "{{signal}}")],
            ),
            Panel(
                "Open episodes",
                "By signal and severity.",
                [("sum by (signal, severity) (headrace_drift_episodes_open)", "{{signal}} {{severity}}")],
            ),
            Panel(
                "What the memories do about drift",
                "In each recommender and gateway; beside it, reactions that do not count.",
                [
                    ("sum by (part, action) (increase(headrace_memory_reactions_total[5m]))", "{{part}}: {{action}}"),
                    ("sum by (reason) (increase(headrace_memory_reactions_refused_total[5m]))", "does not count: {{reason}}"),
                ],
            ),
            Panel(
                "Deliveries",
                "What the alert bridge handed over, and attempts that failed.",
                [
                    ("sum by (target) (increase(headrace_alerts_delivered_total[5m]))", "{{target}}"),
                    ("sum by (target) (increase(headrace_alert_deliveries_failed_total[5m]))", "{{target}} failed"),
                ],
            ),
        ],
    ),
    Row(
        "HTTP",
        [
            Panel("Requests", "By route.", [(_rate("headrace_http_requests_total", "route"), "{{route}}")], "reqps"),
            Panel(
                "Latency, p99",
                "From a request to its whole answer, by route.",
                _quantiles("headrace_http_request_seconds", "route")[1:],
                "s",
            ),
            Panel(
                "Errors",
                "The share of answers that are errors of ours.",
                [
                    (
                        'sum by (route) (rate(headrace_http_requests_total{status=~"5.."}[$__rate_interval])) / '
                        + _rate("headrace_http_requests_total", "route"),
                        "{{route}}",
                    )
                ],
                "percentunit",
            ),
        ],
    ),
    Row(
        "Stores and resources",
        [
            Panel(
                "Stores",
                "Down, behind, writes refused since another worker was first, and snapshots that found no place.",
                [
                    ("max(headrace_feature_store_down)", "down"),
                    (_rate("headrace_feature_store_behind_total"), "found to have lost rows"),
                    (_rate("headrace_feature_writes_refused_total"), "writes refused"),
                    (_rate("headrace_feature_rows_of_other_definitions_total"), "rows of other definitions"),
                    (_rate("headrace_weight_store_failures_total"), "snapshots not stored"),
                ],
            ),
            Panel(
                "Rows written",
                "To the online store and to the archive.",
                [
                    (_rate("headrace_feature_rows_written_total", "view"), "store: {{view}}"),
                    (_rate("headrace_archive_versions_total", "view"), "archive: {{view}}"),
                    (_rate("headrace_archive_versions_missed_total", "view"), "missed by the archive: {{view}}"),
                ],
                "ops",
            ),
            Panel(
                "Warnings and errors logged",
                "By part; the logs tell which.",
                [(f"sum by (part, level) (increase(headrace_log_messages_total{{{_PART}}}[5m]))", "{{part}} {{level}}")],
            ),
            Panel("CPU", "Cores in use, by part.", [(f"sum by (part) (rate(process_cpu_seconds_total{{{_PART}}}[{_RATE}]))", "{{part}}")]),
            Panel("Memory", "Resident, by part.", [(f"sum by (part) (process_resident_memory_bytes{{{_PART}}})", "{{part}}")], "bytes"),
            Panel("Open files", "By part.", [(f"sum by (part) (process_open_fds{{{_PART}}})", "{{part}}")]),
            Panel(
                "What runs",
                "Versions of each part.",
                [("count by (component, version, python) (headrace_build_info)", "{{component}} {{version}} on Python {{python}}")],
            ),
            Panel(
                "Uptime",
                "Since each part was started.",
                [(f"time() - max by (part) (process_start_time_seconds{{{_PART}}})", "{{part}}")],
                "s",
            ),
        ],
    ),
]
