"""Promotions and rollbacks: seldom wrong where nothing is wrong, and soon where something is."""

import math
import statistics

import numpy as np
import pytest

from headrace.online_model.lane_evidence import LanePair
from headrace.online_model.release_policy import Decision, ReleasePolicy, ReleaseRules
from headrace.online_model.release_state import ReleaseState
from headrace.schemas import ModelRelease, ModelUpdate, ReleaseOutcomes, VersionOutcome
from headrace.schemas.model_releases import Lane

SECOND_MS = 1000


def update(version: int, base: int | None = None, created_ms: int = 0) -> ModelUpdate:
    """A snapshot of a version, or the delta that makes it of its base."""
    return ModelUpdate(
        model="next-item", kind="snapshot" if base is None else "delta", version=version, base_version=base or version,
        weights_sha256=f"{version:064x}", base_sha256=f"{base or version:064x}", payload_sha256="0" * 64, payload_bytes=0, payload_parts=1,
        payload_offset=0, trigger="count", feature_service="next_item", created_ms=created_ms, learned_events=0, learned_offsets={},
        learned_published_ms=[], holdout_loss=None, live_holdout_loss=None,
    )  # fmt: skip


def outcomes(started_ms: int, *versions: tuple[int, Lane, int, int], sequence: int = 1) -> ReleaseOutcomes:
    seen = [VersionOutcome(version=v, lane=lane, answered=n, hits=h, reciprocal_ranks=0.0, sequence=sequence) for v, lane, n, h in versions]
    return ReleaseOutcomes(model="next-item", instance="test", started_ms=started_ms, ended_ms=started_ms + SECOND_MS, versions=seen)


def apply(policy: ReleasePolicy, decision: Decision, now_ms: int, pinned: bool = False) -> None:
    before = policy.state.newest
    policy.saw_decision(
        policy.state.after(
            ModelRelease(
                model="next-item", sequence=before.sequence + 1 if before else 1, action=decision.action,
                stable_version=decision.version, stable_sha256=decision.sha256, withdrawn_to=decision.withdrawn_to,
                trial_share=decision.trial_share, pinned=pinned, reason=decision.reason, decided_by="test", decided_ms=now_ms,
            )
        )
    )  # fmt: skip


def started(rules: ReleaseRules | None = None) -> ReleasePolicy:
    """A policy whose stable version is 1, and that has seen versions up to 20, the last one whole."""
    policy = ReleasePolicy(rules)
    assert policy.decide(0) is None
    policy.saw_update(update(1))
    decision = policy.decide(0)
    assert decision is not None
    assert (decision.action, decision.version, decision.trial_share) == ("start", 1, 0.9)
    apply(policy, decision, 0)
    for version in range(2, 21):
        policy.saw_update(update(version, version - 1))
    policy.saw_update(update(20))
    return policy


def run(
    policy: ReleasePolicy, seconds: range, stable: float, trial: float, seed: int, lists: tuple[int, int] = (50, 450)
) -> tuple[int, Decision] | None:
    """Let lists be hit at these rates, so many a second of either lane; return the first decision and its second."""
    random = np.random.default_rng(seed)
    for second in seconds:
        hits = random.binomial(lists, (stable, trial)).tolist()
        version = policy.state.stable_version
        seen = (version, "stable", lists[0], hits[0]), (policy.newest_version, "trial", lists[1], hits[1])
        sequence = policy.state.newest.sequence if policy.state.newest else 0
        policy.saw_outcomes(outcomes(second * SECOND_MS, *seen, sequence=sequence))  # type: ignore[arg-type]
        decision = policy.decide((second + 1) * SECOND_MS)
        if decision is not None:
            return second + 1, decision
    return None


@pytest.mark.parametrize("rate", [0.02, 0.3, 0.8])
def test_a_trial_that_is_no_worse_is_rolled_back_in_at_most_alpha_of_the_periods(rate: float) -> None:
    alpha, periods = 0.05, 400
    wrong = 0
    for seed in range(periods):
        decided = run(started(ReleaseRules(alpha=alpha)), range(59), rate, rate, seed)
        wrong += decided is not None
    # Three standard errors above alpha, so that a right policy fails this once in a thousand runs.
    assert wrong / periods <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / periods)


def test_a_real_drop_is_found_within_ten_seconds_at_500_events_a_second() -> None:
    found = []
    for seed in range(60):
        decided = run(started(), range(60), 0.40, 0.20, seed)
        assert decided is not None
        assert decided[1].action == "rollback"
        found.append(decided[0])
    assert statistics.median(found) <= 5
    assert max(found) <= 10


def test_a_trial_that_turns_bad_late_is_not_shielded_by_how_good_it_was() -> None:
    found = []
    for seed in range(40):
        policy = started(ReleaseRules(promote_every_ms=10**9))
        assert run(policy, range(300), 0.3, 0.4, seed) is None
        decided = run(policy, range(300, 400), 0.3, 0.1, seed)
        assert decided is not None
        found.append(decided[0] - 300)
    assert statistics.median(found) <= 10


def test_a_rollback_names_what_it_withdraws_and_the_next_trial_is_a_small_one() -> None:
    policy = started()
    decided = run(policy, range(60), 0.5, 0.1, 1)
    assert decided is not None
    second, decision = decided
    assert (decision.action, decision.version, decision.withdrawn_to, decision.trial_share) == ("rollback", 1, 20, 0.1)
    assert decision.evidence["stable_hit_rate"] > decision.evidence["trial_hit_rate"]
    assert decision.evidence["evidence"] > decision.evidence["needed"]
    assert decision.reason.startswith("hits: ")
    apply(policy, decision, second * SECOND_MS)
    # Lists of withdrawn versions that come later count for nothing, nor what was built on them after the decision.
    policy.saw_update(update(21, 20))
    policy.saw_update(update(21))
    assert policy.decide(second * SECOND_MS) is None
    for later in range(second, second + 100):
        policy.saw_outcomes(outcomes(later * SECOND_MS, (20, "trial", 450, 0), (21, "trial", 450, 450), (1, "stable", 50, 25), sequence=2))
        assert policy.decide(later * SECOND_MS) is None
    # What builds on the stable version counts, and its promotion ends the probation.
    policy.saw_update(update(22, 1, later * SECOND_MS))
    policy.saw_update(update(22, None, later * SECOND_MS))
    decided = run(policy, range(later, later + 100), 0.5, 0.5, 2, lists=(450, 50))
    assert decided is not None
    assert (decided[1].action, decided[1].version, decided[1].trial_share) == ("promote", 22, 0.9)


def test_the_newest_whole_version_is_promoted_once_it_has_met_enough_lists_and_not_before_a_minute() -> None:
    policy = started()
    decided = run(policy, range(200), 0.3, 0.3, 3)
    assert decided is not None
    second, decision = decided
    assert (second, decision.action, decision.version, decision.sha256) == (60, "promote", 20, f"{20:064x}")
    apply(policy, decision, second * SECOND_MS)
    assert policy.state.stable_version == 20
    # With few lists it takes longer, and a version that was never published whole is not promoted.
    for version in range(21, 30):
        policy.saw_update(update(version, version - 1))
    assert run(policy, range(60, 300), 0.3, 0.3, 4) is None
    policy.saw_update(update(29, None, 300_000))
    decided = run(policy, range(300, 600), 0.3, 0.3, 5, lists=(2, 5))
    assert decided is not None
    assert decided[0] == 400
    assert decided[1].version == 29


def test_a_version_that_has_just_come_or_lags_behind_is_not_promoted_yet() -> None:
    policy = started()
    policy.saw_update(update(21, 20, 59_000))
    policy.saw_update(update(21, None, 59_000))
    decided = run(policy, range(61), 0.3, 0.3, 6)
    assert decided is not None
    assert decided[1].version == 20
    lagging = started(ReleaseRules(alpha=1e-60))
    assert run(lagging, range(200), 0.40, 0.37, 7, lists=(100, 900)) is None


def ranked(seconds: range, stable: float, trial: float, seed: int, rules: ReleaseRules) -> tuple[int, Decision] | None:
    """Let all lists be hit in 9 of 10 cases, at places that are drawn about as these numbers say; return the first decision."""
    policy, random = started(rules), np.random.default_rng(seed)
    for second in seconds:
        seen = []
        lanes: list[tuple[int, Lane, int, float]] = [(1, "stable", 50, stable), (20, "trial", 450, trial)]
        for version, lane, lists, chance in lanes:
            hits = int(random.binomial(lists, 0.9))
            ranks = 1.0 / np.minimum(random.geometric(chance, hits), 20)
            seen.append(
                VersionOutcome(
                    version=version, lane=lane, answered=lists, hits=hits, reciprocal_ranks=float(ranks.sum()),
                    squared_ranks=float((ranks**2).sum()), sequence=1,
                )
            )  # fmt: skip
        began = second * SECOND_MS
        policy.saw_outcomes(ReleaseOutcomes(model="next-item", instance="test", started_ms=began, ended_ms=began + 1, versions=seen))
        if (decision := policy.decide(began)) is not None:
            return second + 1, decision
    return None


def test_items_that_stand_lower_are_noticed_though_lists_are_hit_as_often() -> None:
    found = []
    for seed in range(20):
        decided = ranked(range(60), 0.4, 0.15, seed, ReleaseRules())
        assert decided is not None
        assert decided[1].reason.startswith("mean of 1/place: ")
        found.append(decided[0])
    assert statistics.median(found) <= 5
    alpha, periods = 0.05, 200
    wrong = sum(ranked(range(59), 0.3, 0.3, seed, ReleaseRules(alpha=alpha)) is not None for seed in range(periods))
    assert wrong / periods <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / periods)


def test_lists_that_are_clicked_less_are_withdrawn_though_they_are_hit_as_often() -> None:
    policy, random = started(), np.random.default_rng(9)
    for second in range(60):
        clicks = random.poisson((10, 20)).tolist()
        seen = [
            VersionOutcome(version=1, lane="stable", answered=100, hits=40, reciprocal_ranks=0.0, clicks=clicks[0], sequence=1),
            VersionOutcome(version=20, lane="trial", answered=400, hits=160, reciprocal_ranks=0.0, clicks=clicks[1], sequence=1),
        ]
        began = second * SECOND_MS
        policy.saw_outcomes(ReleaseOutcomes(model="next-item", instance="test", started_ms=began, ended_ms=began + 1, versions=seen))
        if (decision := policy.decide(began)) is not None:
            break
    assert decision is not None
    assert decision.action == "rollback"
    assert decision.reason.startswith("clicks: ")
    assert second <= 20


def test_lists_that_were_made_before_the_last_decision_count_for_nothing() -> None:
    policy = started()
    for second in range(100):
        policy.saw_outcomes(outcomes(second * SECOND_MS, (1, "stable", 500, 400), (20, "trial", 500, 10), sequence=0))
        assert policy.decide(second * SECOND_MS) is None
    assert policy.comparison().trial.answered == 0


def test_while_pinned_nothing_is_decided() -> None:
    policy = started()
    apply(policy, Decision("promote", 1, f"{1:064x}", 0.9, "pinned"), 0, pinned=True)
    assert run(policy, range(30), 0.9, 0.1, 8) is None


def test_evidence_of_nothing_is_none() -> None:
    assert [finding.what for finding in LanePair(0).findings() if finding.evidence > 0.1] == []
    assert ReleasePolicy().comparison().deficit == 0.0
    assert ReleaseState().trial_share == 1.0
