"""Whether a torn answer would be found: the check is tried on answers that were torn on purpose."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from headrace.deploy.answer_check import AnswerCheck
from headrace.deploy.asker import Answer
from headrace.deploy.bench.manifests import manifest_of
from headrace.online_model.fine_tuning import FineTuner, TuningPlan
from headrace.online_model.scorer import Scorer
from headrace.online_model.weights import NO_WEIGHTS, ModelCopy, chained_sha256, snapshot_payload
from headrace.schemas import HistoryEntry, ModelUpdate

HISTORY = (HistoryEntry("lamp", "view", 1000, price=9.5), HistoryEntry("bulb", "view", 31_000, category="lights"))


@pytest.fixture(scope="module")
def chain() -> list[tuple[ModelUpdate, bytes]]:
    """Four versions as real fine-tuning makes them, so that the differences between neighbours are as small as in life."""
    torch.manual_seed(1)
    live = ModelCopy()
    live.add_items(["lamp", "bulb", "vase", "chair"])
    payload = snapshot_payload(live)
    live.version, live.sha256 = 1, chained_sha256(NO_WEIGHTS, hashlib.sha256(payload).hexdigest())
    links = [(manifest_of(payload, "snapshot", (0, NO_WEIGHTS), 1, live.sha256), payload)]
    tuner = FineTuner(live, TuningPlan(steps=1, batch=16, negatives=16))
    while live.version < 4:
        learned = tuner.run([[*HISTORY, HistoryEntry("vase", "view", 32_000)], [HistoryEntry("chair", "view", 0), HISTORY[0]]] * 4)
        payload = tuner.payload(learned)
        name = chained_sha256(live.sha256, hashlib.sha256(payload).hexdigest())
        links.append((manifest_of(payload, "delta", (live.version, live.sha256), live.version + 1, name), payload))
        tuner.accept(learned.touched, learned.new_items, live.version + 1, name)
    return links


@pytest.fixture(scope="module")
def answers(chain: list[tuple[ModelUpdate, bytes]]) -> list[Answer]:
    scorer, given = Scorer(), []
    for update, payload in chain:
        scorer.apply(update, payload)
        batch = scorer.score([HISTORY], [np.zeros(0, np.int64)])
        [scored] = batch.scores
        names = ["", "lamp", "bulb", "vase", "chair"]
        shares = np.exp(scored.best_logits - scored.normaliser).tolist()
        told = {names[row]: share for row, share in zip(scored.best_rows.tolist(), shares, strict=True)}
        given.append(Answer(HISTORY, told, batch.version, batch.sha256))
    return given


def checked(answers: list[Answer], chain: list[tuple[ModelUpdate, bytes]]) -> tuple[int, int, int]:
    check = AnswerCheck(answers)
    for update, payload in chain:
        check.take(update, payload)
    result = check.result()
    return result.checked, result.torn, result.unknown


def test_answers_made_with_the_weights_that_they_name_pass(answers: list[Answer], chain: list[tuple[ModelUpdate, bytes]]) -> None:
    assert checked([*answers, *answers], chain) == (8, 0, 0)


def test_an_answer_made_with_the_neighbouring_version_is_torn(answers: list[Answer], chain: list[tuple[ModelUpdate, bytes]]) -> None:
    torn = replace(answers[2], probabilities=answers[1].probabilities)
    assert checked([answers[0], torn], chain) == (2, 1, 0)


def test_one_item_from_another_version_is_enough(answers: list[Answer], chain: list[tuple[ModelUpdate, bytes]]) -> None:
    torn = replace(answers[2], probabilities=answers[2].probabilities | {"vase": answers[3].probabilities["vase"]})
    assert checked([torn], chain) == (1, 1, 0)


def test_a_name_that_is_not_that_of_its_version_is_torn(answers: list[Answer], chain: list[tuple[ModelUpdate, bytes]]) -> None:
    assert checked([replace(answers[1], sha256=answers[2].sha256)], chain) == (1, 1, 0)


def test_answers_of_either_lane_are_made_again_across_a_rollback(answers: list[Answer], chain: list[tuple[ModelUpdate, bytes]]) -> None:
    fork = FineTuner(_weights_of(chain[:1]), TuningPlan(steps=1, batch=16, negatives=16), seed=7)
    learned = fork.run([[*HISTORY, HistoryEntry("chair", "view", 33_000)]] * 8)
    payload = fork.payload(learned)
    name = chained_sha256(fork.live.sha256, hashlib.sha256(payload).hexdigest())
    link = manifest_of(payload, "delta", (1, fork.live.sha256), 5, name), payload
    scorer = Scorer()
    scorer.apply(*chain[0])
    scorer.apply(*link)
    batch = scorer.score([HISTORY], [np.zeros(0, np.int64)])
    with scorer.live() as copy:
        shares = np.exp(batch.scores[0].best_logits - batch.scores[0].normaliser).tolist()
        told = {copy.items[row]: share for row, share in zip(batch.scores[0].best_rows.tolist(), shares, strict=True)}
    given = [
        replace(answers[0], lane="stable"),
        replace(answers[3], lane="trial"),
        Answer(HISTORY, told, batch.version, batch.sha256, "trial"),
        # Made by the withdrawn version, and said to be by the one after the rollback.
        Answer(HISTORY, answers[3].probabilities, batch.version, batch.sha256, "trial"),
    ]
    check = AnswerCheck(given)
    for update, bytes_of_it in [*chain, chain[0], link]:
        check.take(update, bytes_of_it)
    result = check.result()
    assert (result.checked, result.torn, result.unknown, result.lanes) == (4, 1, 0, {"stable": 1, "trial": 3})


def _weights_of(links: list[tuple[ModelUpdate, bytes]]) -> ModelCopy:
    copy = ModelCopy()
    for update, payload in links:
        copy.apply(update, payload)
    return copy


def test_a_version_that_is_not_on_the_chain_is_told_apart(answers: list[Answer], chain: list[tuple[ModelUpdate, bytes]]) -> None:
    assert checked([replace(answers[1], version=9)], chain) == (0, 0, 1)
