"""Weights that travel arrive whole or not at all."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from links import SHAPE, Chain, frozen, manifest, same
from msgspec.structs import replace
from safetensors.torch import load, save
from torch import Tensor

from headrace.online_model.payload_layout import shapes_of, whole_names
from headrace.online_model.transformer import TransformerShape
from headrace.online_model.weights import FIRST_CAPACITY, BadUpdate, MissingLink, ModelCopy, delta_payload

Tensors = dict[str, Tensor]


@pytest.fixture
def chain() -> Chain:
    return Chain()


@pytest.fixture
def follower(chain: Chain) -> ModelCopy:
    """A copy that has followed the chain to its second version."""
    copy = ModelCopy(SHAPE)
    copy.apply(*chain.snapshot())
    copy.apply(*chain.step(new_items=2))
    return copy


def test_a_snapshot_makes_an_equal_copy(chain: Chain) -> None:
    copy = ModelCopy(SHAPE)
    copy.apply(*chain.snapshot())
    assert same(frozen(copy), frozen(chain.copy))


def test_a_delta_takes_a_copy_to_the_next_version(chain: Chain, follower: ModelCopy) -> None:
    assert follower.version == 2
    assert same(frozen(follower), frozen(chain.copy))
    follower.apply(*chain.step(new_items=0))
    assert same(frozen(follower), frozen(chain.copy))


@given(seed=st.integers(0, 10_000), length=st.integers(1, 12), late=st.integers(0, 12))
@settings(max_examples=25, deadline=None)
def test_any_chain_of_deltas_ends_where_a_snapshot_of_the_end_does(seed: int, length: int, late: int) -> None:
    chain = Chain(items=seed % 20, seed=seed)
    step_by_step, joined_late, at_once = ModelCopy(SHAPE), ModelCopy(SHAPE), ModelCopy(SHAPE)
    step_by_step.apply(*chain.snapshot())
    for number in range(length):
        if number == late % length:
            joined_late.apply(*chain.snapshot())
        link = chain.step()
        step_by_step.apply(*link)
        if number >= late % length:
            joined_late.apply(*link)
    at_once.apply(*chain.snapshot())
    assert same(frozen(step_by_step), frozen(at_once))
    assert same(frozen(joined_late), frozen(at_once))


def test_a_snapshot_replaces_whatever_was_there(follower: ModelCopy) -> None:
    other = Chain(items=3, seed=9)
    follower.apply(*other.snapshot())
    assert same(frozen(follower), frozen(other.copy))


def test_the_table_grows_with_the_catalogue(chain: Chain, follower: ModelCopy) -> None:
    follower.apply(*chain.step(new_items=FIRST_CAPACITY))
    assert follower.model.capacity == 2 * FIRST_CAPACITY
    assert same(frozen(follower), frozen(chain.copy))


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=150, deadline=None)
def test_a_flipped_bit_anywhere_is_refused_and_changes_nothing(place: float, bit: int) -> None:
    update, payload = LINK
    spoilt = bytearray(payload)
    spoilt[int(place * len(payload))] ^= 1 << bit
    with pytest.raises(BadUpdate, match="not those of its manifest"):
        FOLLOWER.apply(update, bytes(spoilt))
    assert same(frozen(FOLLOWER), BEFORE)


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.integers(0, 40), header=st.booleans())
@settings(max_examples=300, deadline=None)
def test_spoilt_bytes_with_a_manifest_of_their_own_are_refused_as_bad_or_are_sound(place: float, bit: int, cut: int, header: bool) -> None:
    """Whoever wrote the manifest may have been wrong too; then only what is inside can tell."""
    update, payload = LINK
    spoilt = bytearray(payload)
    spoilt[int(place * (900 if header else len(payload)))] ^= 1 << bit
    body = bytes(spoilt[: len(spoilt) - cut // 10])
    forged = manifest(body, kind="delta", version=3, base_version=update.base_version, base_sha256=update.base_sha256)
    copy = ModelCopy(SHAPE)
    copy.copy_from(FOLLOWER)
    try:
        copy.apply(forged, body)
    except BadUpdate:
        assert same(frozen(copy), BEFORE)
        return
    assert all(bool(torch.isfinite(values).all()) for values in frozen(copy)[4])
    assert len(copy.items) == len(copy.rows) + 1


@pytest.mark.parametrize("length", [0, 1, 7, 8, 100, -1])
def test_a_payload_cut_short_is_refused(chain: Chain, follower: ModelCopy, length: int) -> None:
    before = frozen(follower)
    update, payload = chain.step()
    with pytest.raises(BadUpdate):
        follower.apply(update, payload[:length])
    cut = manifest(payload[:length], kind="delta", version=3, base_version=2, base_sha256=follower.sha256)
    with pytest.raises(BadUpdate, match="not safetensors"):
        follower.apply(cut, payload[:length])
    assert same(frozen(follower), before)


def test_a_lost_link_is_told_as_such_and_a_snapshot_heals_it(chain: Chain, follower: ModelCopy) -> None:
    before = frozen(follower)
    chain.step()
    later = chain.step()
    with pytest.raises(MissingLink, match="builds on version 3"):
        follower.apply(*later)
    assert same(frozen(follower), before)
    follower.apply(*chain.snapshot())
    assert same(frozen(follower), frozen(chain.copy))


def test_a_link_of_another_branch_is_refused_though_its_number_fits(chain: Chain, follower: ModelCopy) -> None:
    other = Chain(seed=5)
    other.step()
    with pytest.raises(MissingLink):
        follower.apply(*other.step())


def test_a_name_that_does_not_follow_from_base_and_payload_is_refused(chain: Chain, follower: ModelCopy) -> None:
    update, payload = chain.step()
    with pytest.raises(BadUpdate, match="does not follow"):
        follower.apply(replace(update, weights_sha256="0" * 64), payload)


def test_a_network_of_another_shape_is_refused(chain: Chain) -> None:
    wider = ModelCopy(TransformerShape(width=16, layers=1, heads=1, length=5, categories=16))
    with pytest.raises(BadUpdate, match="here is"):
        wider.apply(*chain.snapshot())
    deeper = ModelCopy(TransformerShape(width=8, layers=2, heads=1, length=5, categories=16))
    with pytest.raises(BadUpdate, match=r"missing or unknown: blocks\.1"):
        deeper.apply(*chain.snapshot())


def put(name: str, value: Tensor) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors[name] = value

    return change


def poison(name: str, value: float) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors[name].view(-1)[0] = value

    return change


def text(value: bytes) -> Tensor:
    return torch.tensor(list(value), dtype=torch.uint8)


NAN, INF = float("nan"), float("inf")
# The follower has 14 items, in rows 1 to 14; the delta that is spoilt names two more and gives values for rows 3, 15 and 16.
SPOILT: dict[str, tuple[Callable[[Tensors], None], str]] = {
    "a NaN in a dense weight": (poison("positions", NAN), "positions holds values that are not finite"),
    "an infinity in a row": (poison("items.values", INF), "items.values holds values that are not finite"),
    "numbers of double precision": (put("items.values", torch.zeros(3, 8, dtype=torch.float64)), "holds torch.float64"),
    "whole numbers for weights": (put("positions", torch.zeros(5, 8, dtype=torch.int32)), "positions holds"),
    "an infinity in half precision": (
        put("positions", torch.full((5, 8), INF, dtype=torch.float16)),
        "positions holds values that are not",
    ),
    "infinities that cancel out": (put("items.values", torch.tensor([[INF] * 8, [-INF] * 8, [0.0] * 8])), "values that are not finite"),
    "a category's row outside of the table": (put("categories.rows", torch.tensor([2, 16])), "rows of categories lie outside"),
    "a category's row twice": (put("categories.rows", torch.tensor([2, 2])), "come twice"),
    "values for other categories": (put("categories.values", torch.zeros(3, 8)), r"categories.values has shape \(3, 8\)"),
    "the whole table of categories": (put("categories.weight", torch.zeros(16, 8)), "missing or unknown: categories.weight"),
    "an unknown tensor": (put("items.extra", torch.zeros(1)), "missing or unknown: items.extra"),
    "a missing tensor": (lambda tensors: tensors.__delitem__("out_norm.bias"), "missing or unknown: out_norm.bias"),
    "a dense weight of another shape": (put("positions", torch.zeros(4, 8)), r"positions has shape \(4, 8\)"),
    "a row outside of the table": (put("items.rows", torch.tensor([3, 16, 17])), "outside of the table of 17"),
    "a negative row": (put("items.rows", torch.tensor([-1, 15, 16])), "outside of the table"),
    "a row twice": (put("items.rows", torch.tensor([15, 15, 16])), "come twice"),
    "a new item without values": (put("items.rows", torch.tensor([3, 4, 16])), "1 item rows have no values"),
    "rows that are no whole numbers": (put("items.rows", torch.tensor([3.0, 15.0, 16.0])), "items.rows is not a row of"),
    "values for other rows": (put("items.values", torch.zeros(2, 8)), r"items.values has shape \(2, 8\), not \(3, 8\)"),
    "values of another width": (put("items.values", torch.zeros(3, 9)), r"items.values has shape \(3, 9\)"),
    "an item named twice": (put("items.new", text(b"a\na")), "names an item twice"),
    "an item that has a row": (put("items.new", text(b"item-3\nnew")), "names an item twice"),
    "an item without a name": (put("items.new", text(b"a\n")), "empty id"),
    "ids that are not UTF-8": (put("items.new", text(b"\xff\nb")), "ids of new items"),
    "ids that are no bytes": (put("items.new", torch.tensor([300])), "items.new is not a row of"),
    "a row to be reused that has no item": (put("items.reused", torch.tensor([15])), "rows to be reused"),
    "a row to be reused twice": (put("items.reused", torch.tensor([3, 3])), "rows to be reused"),
    "more rows to be reused than new items": (put("items.reused", torch.tensor([3, 4, 5])), "rows to be reused"),
    "a reused row without values": (put("items.reused", torch.tensor([4])), "outside of the table of 16"),
    "a shape that is one number": (put("shape", torch.tensor(8)), "shape is not a row of"),
}


@pytest.mark.parametrize(("change", "told"), SPOILT.values(), ids=SPOILT)
def test_contents_that_make_no_sense_are_refused_and_change_nothing(
    follower: ModelCopy, change: Callable[[Tensors], None], told: str
) -> None:
    whole = whole_names(dict(follower.model.named_parameters()), "delta")
    tensors = {name: parameter.detach().clone() for name, parameter in follower.model.named_parameters() if name in whole}
    tensors |= {
        "categories.rows": torch.tensor([2, 9]),
        "categories.values": torch.zeros(2, 8),
        "items.rows": torch.tensor([3, 15, 16]),
        "items.values": torch.zeros(3, 8),
        "items.new": text(b"a\nb"),
        "items.reused": torch.zeros(0, dtype=torch.int64),
        "shape": torch.tensor([8, 1, 1, 5, 16, 10_000]),
    }
    sound = save(tensors)
    change(tensors)
    spoilt = save(tensors)
    before = frozen(follower)
    link = {"version": 3, "base_version": follower.version, "base_sha256": follower.sha256}
    with pytest.raises(BadUpdate, match=told):
        follower.apply(manifest(spoilt, kind="delta", **link), spoilt)
    assert same(frozen(follower), before)
    follower.apply(manifest(sound, kind="delta", **link), sound)
    assert follower.items[-2:] == ["a", "b"]


def test_tensors_that_differ_from_what_the_manifest_tells_are_refused(chain: Chain, follower: ModelCopy) -> None:
    update, payload = chain.step()
    shapes = shapes_of(payload)
    assert shapes["positions"] == [5, 8]
    for wrong in (shapes | {"positions": [8, 5]}, shapes | {"extra": [1]}):
        with pytest.raises(BadUpdate, match="shapes that the manifest tells"):
            follower.apply(replace(update, shapes=wrong), payload)
    follower.apply(replace(update, shapes=shapes), payload)
    assert follower.version == update.version


def test_a_delta_alone_is_rounded_and_a_snapshot_says_exactly_what_it_made(chain: Chain, follower: ModelCopy) -> None:
    """Whoever starts from the snapshot is bit by bit where the followers of the deltas are, unit vectors included."""
    for _ in range(5):
        follower.apply(*chain.step())
    late = ModelCopy(SHAPE)
    late.apply(*chain.snapshot())
    assert same(frozen(late), frozen(follower))
    assert torch.equal(late.units[: len(late.items)], follower.units[: len(late.items)])
    assert torch.equal(late.model.positions, late.model.positions.half().float())
    assert load(chain.snapshot()[1])["items.values"].dtype == torch.float32


def test_unit_vectors_follow_the_item_table_through_any_update(chain: Chain, follower: ModelCopy) -> None:
    for link in (chain.step(new_items=1), chain.snapshot(), chain.step(new_items=FIRST_CAPACITY), chain.step()):
        if link[0].version >= follower.version:
            follower.apply(*link)
        table = follower.model.items.weight[1 : len(follower.items)]
        assert torch.allclose(follower.units[1 : len(follower.items)], table / table.norm(dim=1, keepdim=True), atol=1e-6)
        assert not follower.units[0].any()


def test_a_new_item_may_take_the_row_of_one_that_is_gone(chain: Chain, follower: ModelCopy) -> None:
    chain.copy.add_items(["heir", "late"], reused=[4])
    payload = delta_payload(chain.copy, torch.tensor([4, 15]), ["heir", "late"], [4])
    link = {"version": 3, "base_version": follower.version, "base_sha256": follower.sha256}
    follower.apply(manifest(payload, kind="delta", **link), payload)
    assert (follower.rows["heir"], follower.rows["late"]) == (4, 15)
    assert "item-3" not in follower.rows
    assert follower.items == chain.copy.items
    assert follower.epoch == 1


def test_the_epoch_rises_when_rows_come_to_stand_for_other_items_and_only_then(chain: Chain, follower: ModelCopy) -> None:
    assert follower.epoch == 0
    follower.apply(*chain.step(new_items=1))
    follower.apply(*chain.snapshot())
    assert follower.epoch == 0
    follower.apply(*Chain(items=3, seed=9).snapshot())
    assert follower.epoch == 1
    other = ModelCopy(SHAPE)
    other.add_items(["someone else's"])
    follower.copy_from(other)
    assert follower.epoch == 2


def test_a_snapshot_that_leaves_rows_out_is_refused(chain: Chain) -> None:
    _, payload = chain.snapshot()
    tensors = load(payload)
    tensors["items.rows"], tensors["items.values"] = tensors["items.rows"][1:], tensors["items.values"][1:]
    partial = save(tensors)
    with pytest.raises(BadUpdate, match="1 item rows have no values"):
        ModelCopy(SHAPE).apply(manifest(partial, version=1), partial)


def test_a_copy_can_take_over_from_one_with_a_smaller_table(follower: ModelCopy) -> None:
    larger = ModelCopy(SHAPE)
    larger.add_items([f"other-{number}" for number in range(FIRST_CAPACITY)])
    larger.copy_from(follower)
    assert same(frozen(larger), frozen(follower))


def _example() -> tuple[ModelCopy, Chain]:
    chain, copy = Chain(), ModelCopy(SHAPE)
    copy.apply(*chain.snapshot())
    copy.apply(*chain.step(new_items=2))
    return copy, chain


# For the properties: a copy, the link that comes next, and what the copy held before it.
FOLLOWER, _CHAIN = _example()
LINK = _CHAIN.step(new_items=2)
BEFORE = frozen(FOLLOWER)
