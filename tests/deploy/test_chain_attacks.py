"""Attacks on the way of weights: all of them are refused, and a defence that is missing would be noticed."""

import pytest

from headrace.deploy.bench.chain_attacks import ATTACKS, corruptions, schedules
from headrace.deploy.bench.delta_size import measure_delta
from headrace.streams import chain
from headrace.streams.signing import TrustedKeys


def test_every_kind_of_corruption_is_refused_in_every_place() -> None:
    done: list[int] = []
    assert corruptions(4 * len(ATTACKS), seed=3, tell=done.append) == 0
    assert done == list(range(1, 4 * len(ATTACKS) + 1))


def test_without_signatures_corruptions_would_be_taken_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrustedKeys, "verify", lambda *arguments: None)
    assert corruptions(len(ATTACKS)) > 0


def test_no_delivery_leads_to_other_weights_than_those_named() -> None:
    assert schedules(300, seed=7) == 0


def test_without_a_look_at_the_bytes_deliveries_would_lead_to_other_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "_damage", lambda update, payload: None)
    assert schedules(50) > 0


def test_a_delta_of_a_thousand_rows_is_a_small_part_of_its_snapshot() -> None:
    measured = measure_delta(items=20_000, touched=100, deltas=2)
    assert 0 < measured["delta_share"] < 0.05
    assert measured["delta_apply_ms"] > 0
