"""Smaller models: files that are as small as they say, load again, are served, and rank nearly as the model that they were made of."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from small_shop import STILL, walks

from headrace.online_model.compression.distillation import Distillation, DistillationPlan, student_shape
from headrace.online_model.compression.methods import METHODS, PUBLISHED, UnknownMethod, compressed, compressed_siblings
from headrace.online_model.compression.packed import FORMAT, BadPacked, Packing, packed, unpacked
from headrace.online_model.compression.pruning import chosen_share, pack_mask, prune, unpack_mask
from headrace.online_model.compression.quality import latencies_ms, ndcg
from headrace.online_model.compression.quantization import pack_nibbles, quantize, unpack_nibbles
from headrace.online_model.compression.served import ServedFile
from headrace.online_model.ranker import Ranker
from headrace.online_model.scorer import score_with
from headrace.online_model.training.examples import Example, TooFewExamples, split_by_time
from headrace.online_model.training.full_training import FullTraining
from headrace.online_model.training.plan import TrainingPlan
from headrace.online_model.transformer import TransformerShape
from headrace.online_model.weights import ModelCopy

ITEMS = 3000


@pytest.fixture(scope="module")
def shop() -> tuple[list[Example], list[Example]]:
    split = split_by_time(walks(shoppers=150), 0.3)
    return split.training, split.validation


@pytest.fixture(scope="module")
def trained(shop: tuple[list[Example], list[Example]]) -> ModelCopy:
    copy = FullTraining(shop[0], TrainingPlan(epochs=12, batch=32, negatives=64, patience=0), STILL).run().copy
    copy.renew_units()
    copy.version = 7
    return copy


@pytest.fixture(scope="module")
def student(shop: tuple[list[Example], list[Example]], trained: ModelCopy) -> ModelCopy:
    return Distillation(trained, shop[0], DistillationPlan(steps=250, batch=32, negatives=64)).run()


@pytest.fixture(scope="module")
def large() -> ModelCopy:
    copy = ModelCopy(TransformerShape(width=64, categories=64))
    copy.add_items([f"item-{number}" for number in range(ITEMS)])
    copy.renew_units()
    return copy


def cosines(one: ModelCopy, other: ModelCopy) -> torch.Tensor:
    size = len(one.items)
    return (one.units[1:size] * other.units[1:size]).sum(dim=1)


def test_the_full_file_holds_the_very_weights(trained: ModelCopy) -> None:
    again = unpacked(packed(trained, Packing()))
    assert again.items == trained.items
    assert again.rows == trained.rows
    assert again.version == 7
    for (name, ours), (_, theirs) in zip(again.model.named_parameters(), trained.model.named_parameters(), strict=True):
        assert name == "items.weight" or torch.equal(ours, theirs)
    assert cosines(again, trained).min() > 1 - 1e-6


@pytest.mark.parametrize(
    ("packing", "size", "cosine"),
    [(Packing(8), 0.27, 0.9999), (Packing(4), 0.17, 0.99), (Packing(32, 0.5), 0.6, 0.95), (Packing(8, 0.5), 0.19, 0.95)],
)
def test_a_file_is_as_small_as_its_numbers_and_its_vectors_point_as_before(
    large: ModelCopy, packing: Packing, size: float, cosine: float, tmp_path: Path
) -> None:
    file, full = tmp_path / "small", tmp_path / "full"
    file.write_bytes(packed(large, packing))
    full.write_bytes(packed(large, Packing()))
    assert file.stat().st_size <= size * full.stat().st_size
    again = unpacked(file.read_bytes())
    assert again.items == large.items
    assert cosines(again, large).mean() > cosine


@pytest.mark.parametrize("method", METHODS)
def test_what_every_method_makes_is_served_and_ranks_nearly_as_well(
    method: str, shop: tuple[list[Example], list[Example]], trained: ModelCopy, student: ModelCopy
) -> None:
    payload = compressed(trained, method, student=student, pruned_share=0.2)
    served = ServedFile(payload)
    whole, kept = ndcg(trained, shop[1]), ndcg(unpacked(payload), shop[1])
    assert whole > 0.5
    assert kept > 0.9 * whole
    history = shop[1][-1].history
    [scored] = served.score([history], best=5).scores
    assert len(scored.best_rows) == 5
    assert served.version == 7
    assert Ranker(served).rank([history], 3).sha256 == served.sha256


def test_eight_bits_keep_99_percent_of_the_quality(shop: tuple[list[Example], list[Example]], trained: ModelCopy) -> None:
    assert ndcg(unpacked(compressed(trained, "int8")), shop[1]) >= 0.99 * ndcg(trained, shop[1])


def test_the_student_is_half_as_wide_and_knows_the_same_items(trained: ModelCopy, student: ModelCopy) -> None:
    assert student.model.shape.width == trained.model.shape.width // 2
    assert student.items == trained.items
    assert student.version == trained.version
    assert student_shape(replace(STILL, width=64, heads=3), 1.4).heads == 1


def test_there_is_nothing_to_distil_from_steps_to_unknown_items(trained: ModelCopy, shop: tuple[list[Example], list[Example]]) -> None:
    stranger = [
        example._replace(target=msgspec.structs.replace(example.target, item_id="nobody knows it"), history=()) for example in shop[0][:20]
    ]
    with pytest.raises(TooFewExamples, match="at least one step"):
        Distillation(trained, stranger)


def test_siblings_of_a_snapshot_need_nothing_but_its_weights(trained: ModelCopy) -> None:
    siblings = compressed_siblings(trained)
    assert tuple(siblings) == PUBLISHED
    assert all(unpacked(payload).items == trained.items for payload in siblings.values())


def test_a_method_that_does_not_exist_or_lacks_its_student_is_refused(trained: ModelCopy) -> None:
    with pytest.raises(UnknownMethod, match="int8"):
        compressed_siblings(trained, ["int7"])
    with pytest.raises(ValueError, match="a student was expected"):
        compressed(trained, "student+int8")


def test_whole_numbers_survive_their_packing() -> None:
    numbers = torch.randint(-7, 8, (5, 9), dtype=torch.int8)
    assert torch.equal(unpack_nibbles(pack_nibbles(numbers), 45), numbers.flatten())
    mask = torch.rand(7, 11) < 0.5
    assert torch.equal(unpack_mask(pack_mask(mask), (7, 11)), mask)


@pytest.mark.parametrize("bits", [8, 4])
def test_rounding_is_off_by_half_a_step_at_most_where_nothing_is_clipped(bits: int) -> None:
    matrix = torch.randn(50, 16)
    matrix[3] = 0.0
    numbers, scales = quantize(matrix, 8 if bits == 8 else 4)
    error = (matrix - numbers * scales[:, None]).abs()
    clipped = numbers.abs() == (127 if bits == 8 else 7)
    assert bool((error <= scales[:, None] * 0.5001)[~clipped].all())
    assert not numbers[3].any()


def test_pruning_leaves_the_largest_and_goes_as_far_as_the_quality_allows() -> None:
    matrix = torch.arange(1.0, 11.0).view(2, 5)
    assert prune(matrix, 0.3).flatten().tolist() == [0, 0, 0, 4, 5, 6, 7, 8, 9, 10]
    assert prune(matrix, 0.0) is matrix
    assert chosen_share(lambda share: 1.0 - 0.02 * (share > 0.45)) == 0.4
    assert chosen_share(lambda share: 1.0 - share) == 0.0


def test_a_damaged_file_is_refused_with_the_reason(trained: ModelCopy) -> None:
    payload = packed(trained, Packing(8))
    told = {"format": FORMAT, "shape": "{}", "items": "1", "version": "1"}
    with pytest.raises(BadPacked, match="safetensors"):
        unpacked(payload[:-9])
    with pytest.raises(BadPacked, match="format"):
        unpacked(save(load(payload)))
    with pytest.raises(BadPacked, match="smaller model"):
        unpacked(save({"a": torch.zeros(1)}, told))
    header = int.from_bytes(payload[:8], "little")
    metadata = json.loads(payload[8 : 8 + header])["__metadata__"]
    tensors = load(payload)
    with pytest.raises(BadPacked, match="ids were expected"):
        unpacked(save(tensors, metadata | {"items": "29"}))
    with pytest.raises(BadPacked, match="finite"):
        unpacked(save(tensors | {"out_norm.weight": torch.full((16,), torch.nan)}, metadata))
    with pytest.raises(BadPacked, match="numbers were expected"):
        unpacked(save(tensors | {"items.units.int8": torch.zeros(3, dtype=torch.int8)}, metadata))


def test_what_is_loaded_answers_as_a_scorer_with_the_same_weights(trained: ModelCopy, shop: tuple[list[Example], list[Example]]) -> None:
    histories = [example.history for example in shop[1][-5:]]
    ours = ServedFile(packed(trained, Packing())).score(histories, best=10).scores
    theirs = score_with(trained, histories, best=10)
    for one, other in zip(ours, theirs, strict=True):
        assert np.allclose(one.best_logits, other.best_logits, atol=1e-4)
        assert one.normaliser == pytest.approx(other.normaliser, abs=1e-4)


def test_latency_is_told_for_each_copy(trained: ModelCopy, student: ModelCopy, shop: tuple[list[Example], list[Example]]) -> None:
    took = latencies_ms({"full": trained, "student": student}, shop[1], questions=5)
    assert all(milliseconds > 0 for milliseconds in took.values())


def test_the_onnx_file_says_what_torch_says(trained: ModelCopy, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    # The exporter leaves settings of its own in torch; it runs apart from the other tests.
    (tmp_path / "model").write_bytes(packed(trained, Packing()))
    program = (
        "import sys; from pathlib import Path; from headrace.online_model.compression.onnx_export import export;"
        "from headrace.online_model.compression.packed import unpacked;"
        "folder = Path(sys.argv[1]); copy = unpacked((folder / 'model').read_bytes());"
        "print(export(copy, folder / 'encoder.onnx').max_difference, export(copy, folder / 'best.onnx', 5).max_difference)"
    )
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(tmp_path)], capture_output=True, text=True, check=True, timeout=120
    )
    differences = [float(number) for number in told.stdout.split()]
    assert len(differences) == 2
    assert max(differences) < 1e-4
    assert (tmp_path / "encoder.onnx").stat().st_size > 0
