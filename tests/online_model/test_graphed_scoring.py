"""Scoring by static buffers finds what the scorer finds; on a GPU, by CUDA graphs and beside updates, too."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from links import Chain

from headrace.deploy.bench.scorer_peers import drawn_histories, drawn_model
from headrace.online_model.graphed_scoring import SIZES, Found, GraphedScoring
from headrace.online_model.half_units import GROUP, HalfUnits, products_by_group
from headrace.online_model.scorer import Scored, Scorer, score_with
from headrace.online_model.step_batch import encode_numbers
from headrace.online_model.transformer import TransformerShape
from headrace.online_model.weights import ModelCopy
from headrace.schemas import HistoryEntry

BEST = 50
ITEMS = 5000
KERNEL_CHECK = Path(__file__).with_name("half_units_on_cpu.py")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@pytest.fixture(scope="module")
def copy() -> ModelCopy:
    return drawn_model(ITEMS)


def graphed_of(copy: ModelCopy) -> tuple[GraphedScoring, HalfUnits]:
    half = HalfUnits(copy.units, len(copy.items))
    return GraphedScoring(copy.model, copy.units, half), half


def found_by(graphed: GraphedScoring, copy: ModelCopy, histories: list[list[HistoryEntry]], best: int = BEST) -> Found:
    return graphed.score(*encode_numbers(histories, copy.rows, copy.model.shape.length), best)


def assert_alike(found: Found, scored: list[Scored]) -> None:
    for place, one in enumerate(scored):
        assert found.vectors[place] == pytest.approx(one.vector, abs=1e-4)
        assert found.last_rows[place] == one.last_row
        assert found.logits[place] == pytest.approx(one.best_logits, abs=1e-4)
        assert found.normalisers[place] == pytest.approx(one.normaliser, abs=1e-4)
        # Which of two all but equal items comes first may differ, so each item is compared by its own number.
        ours = dict(zip(found.rows[place].tolist(), found.to_last[place].tolist(), strict=True))
        theirs = dict(zip(one.best_rows.tolist(), one.best_to_last.tolist(), strict=True))
        common = ours.keys() & theirs.keys()
        assert len(common) >= len(theirs) - 1
        assert [ours[row] for row in common] == pytest.approx([theirs[row] for row in common], abs=1e-4)


@pytest.mark.parametrize("count", [1, 3, 16, 40, SIZES[-1] + 5])
def test_it_finds_what_the_scorer_finds_in_batches_of_any_size(copy: ModelCopy, count: int) -> None:
    graphed, _ = graphed_of(copy)
    histories = drawn_histories(ITEMS, count, seed=count)

    assert_alike(found_by(graphed, copy, histories), score_with(copy, histories, best=BEST))


def test_what_a_batch_has_left_behind_does_not_touch_the_next(copy: ModelCopy) -> None:
    graphed, _ = graphed_of(copy)
    found_by(graphed, copy, drawn_histories(ITEMS, 16, seed=1))
    short = [[HistoryEntry("item-7", "view", 0)], [HistoryEntry("nobody knows it", "cart", 0)], [HistoryEntry("item-9", "purchase", 0)]]

    assert_alike(found_by(graphed, copy, short), score_with(copy, short, best=BEST))


def test_rows_that_change_and_items_that_come_are_found_at_once() -> None:
    copy = drawn_model(600)
    graphed, half = graphed_of(copy)
    histories = drawn_histories(600, 4, seed=2)
    found_by(graphed, copy, histories)
    copy.add_items([f"new-{number}" for number in range(40)])
    rows = torch.tensor([3, 5, *range(600, 640)])
    # The new items become those that the first history asks for most.
    copy.put_rows(rows, torch.from_numpy(score_with(copy, histories[:1])[0].vector).repeat(len(rows), 1) + 0.1 * torch.randn(len(rows), 64))
    half.put(rows, copy.units[rows], len(copy.items))

    found = found_by(graphed, copy, histories)

    assert_alike(found, score_with(copy, histories, best=BEST))
    assert set(range(600, 640)) <= set(found.rows[0].tolist())


def test_where_fewer_items_are_in_use_than_wanted_only_they_have_logits() -> None:
    copy = drawn_model(9)
    graphed, _ = graphed_of(copy)
    [scored] = score_with(copy, [[HistoryEntry("item-2", "view", 0)]], best=BEST)

    found = found_by(graphed, copy, [[HistoryEntry("item-2", "view", 0)]])

    assert found.rows[0, :8].tolist() == scored.best_rows.tolist()
    assert np.isneginf(found.logits[0, 8:]).all()
    assert found.normalisers[0] == pytest.approx(scored.normaliser, abs=1e-4)


def test_rounding_to_16_bits_leaves_the_best_of_many_nearly_equal_items_the_best() -> None:
    torch.manual_seed(3)
    vectors = 10.0 * torch.nn.functional.normalize(torch.randn(8, 64), dim=1)
    # 20,000 items in a cone around the first vector, so that logits lie close together.
    units = torch.nn.functional.normalize(vectors[:1] / 10.0 + 0.05 * torch.randn(20_480, 64), dim=1)
    exact = (vectors @ units.T)[:, 1:].topk(BEST, dim=1)

    ranking = HalfUnits(units, len(units)).best(units, vectors, BEST, 10.0)

    assert ranking.rows.tolist() == (exact.indices + 1).tolist()
    torch.testing.assert_close(ranking.logits, exact.values)
    torch.testing.assert_close(ranking.normalisers, (vectors @ units.T)[:, 1:].logsumexp(dim=1), rtol=0.0, atol=1e-3)


def test_tables_that_the_kernel_cannot_take_are_told() -> None:
    assert HalfUnits.fits(torch.empty(4096, 64), 100)
    assert not HalfUnits.fits(torch.empty(4096, 64), 200)
    assert not HalfUnits.fits(torch.empty(4100, 64), 10)
    assert not HalfUnits.fits(torch.empty(4096, 48), 10)
    assert not HalfUnits.fits(torch.empty(4096, 8), 10)


def test_the_kernel_writes_what_torch_reckons() -> None:
    """Triton's interpreter runs the kernel as it is, on the CPU; it must be told before Triton is loaded, so in a process of its own."""
    pytest.importorskip("triton")
    ran = subprocess.run(
        [sys.executable, KERNEL_CHECK], env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=200
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["equal"] * 3


@needs_gpu
def test_on_a_gpu_a_graph_finds_what_the_cpu_finds() -> None:
    there, here = ModelCopy(device="cuda"), ModelCopy()
    for one in (there, here):
        one.add_items([f"item-{number}" for number in range(1, ITEMS)])
    here.copy_from(there)
    graphed = there.graphed_scoring(BEST)
    assert graphed is not None
    graphed.make_ready(BEST)
    for count in (1, 7, 300):
        histories = drawn_histories(ITEMS, count, seed=count)
        assert_alike(found_by(graphed, there, histories), score_with(here, histories, best=BEST))


@needs_gpu
def test_on_a_gpu_each_answer_is_by_the_version_that_it_names_while_weights_are_swapped() -> None:
    chain = Chain(items=200, shape=TransformerShape(width=64))
    scorer, replica = Scorer(chain.copy.model.shape, "cuda"), Scorer(chain.copy.model.shape)
    histories = [[HistoryEntry(f"item-{number}", "view", 1000)] for number in range(8)]
    answers = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            answers.append(scorer.score(histories, [np.empty(0, np.int64)] * 8))

    scorer.apply(*chain.snapshot())
    replica.apply(*chain.snapshot())
    thread = threading.Thread(target=ask)
    thread.start()
    right = {replica.version: replica.score(histories, [np.empty(0, np.int64)] * 8)}
    for _ in range(100):
        link = chain.step(new_items=60)
        scorer.apply(*link, warm_up=lambda copy: score_with(copy, histories))
        replica.apply(*link)
        right[replica.version] = replica.score(histories, [np.empty(0, np.int64)] * 8)
    ended.set()
    thread.join()
    assert len({answer.version for answer in answers}) > 10
    for answer in answers:
        for one, other in zip(answer.scores, right[answer.version].scores, strict=True):
            assert one.best_logits == pytest.approx(other.best_logits, abs=1e-3)


def test_groups_have_the_size_that_the_kernel_is_told() -> None:
    largest, sums = products_by_group(torch.zeros(256, 16, dtype=torch.float16), torch.zeros(2, 16).half(), torch.tensor([200]), 0.0)
    assert largest.shape == (2, 256 // GROUP)
    assert sums.sum(dim=1).tolist() == [199.0, 199.0]
