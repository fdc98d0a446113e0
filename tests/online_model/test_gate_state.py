"""What a gate remembers survives the end of its process: the next candidates are judged as if it had gone on."""

import copy
import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load
from torch import Tensor

from headrace.online_model import chain_anchor, surges
from headrace.online_model.fine_tuning import Round, TuningPlan
from headrace.online_model.gate import Gate
from headrace.online_model.gate_state import BadGateState, Since, TunerState, decode_state, encode_state
from headrace.online_model.held_back import HeldBack
from headrace.online_model.history_ring import KeptHistories, Mask
from headrace.online_model.resumable_tuner import ResumableTuner
from headrace.online_model.surges import ItemSurges
from headrace.online_model.transformer import NextItemTransformer, TransformerShape
from headrace.online_model.trusted_set import TrustedSet
from headrace.online_model.weights import REUSED, ROWS, ModelCopy
from headrace.schemas import HistoryEntry

SHAPE = TransformerShape(width=16, layers=1, heads=2, length=8, categories=16)
PLAN = TuningPlan(steps=2, batch=64, negatives=64, replay=20_000, recent=2000, held_back=128, held_back_share=0.2)
ITEMS, PATHS = 300, 30


class MixableTuner(ResumableTuner):
    """Mixes up the targets of a round where it is told to."""

    mixes = False

    def _part(self, usable: KeptHistories, aside: Mask) -> tuple[KeptHistories, KeptHistories]:
        learned, kept = super()._part(usable, aside)
        if self.mixes:
            last = learned.lengths - 1
            learned.numbers[np.arange(len(last)), last] = learned.numbers[np.arange(len(last)), last][::-1].copy()
        return learned, kept


class Stream:
    """Rounds of shoppers who follow paths through the items, with an accident now and then; the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._shoppers = 1000 * seed

    def round(self, pushed: str = "") -> tuple[list[list[HistoryEntry]], list[str]]:
        histories = [self._history() for _ in range(60)]
        if pushed:
            histories += [[*self._history()[:2], HistoryEntry(pushed, "view", 9000)] for _ in range(30)]
        self._shoppers += len(histories)
        return histories, [f"shopper-{self._shoppers - number}" for number in range(len(histories))]

    def _history(self) -> list[HistoryEntry]:
        path, place = self._random.randrange(PATHS), self._random.randrange(ITEMS // PATHS)
        steps = [path + PATHS * ((place + step) % (ITEMS // PATHS)) for step in range(4)]
        steps = [self._random.randrange(ITEMS) if self._random.random() < 0.1 else item for item in steps]
        return [HistoryEntry(f"item-{item}", "view", 1000 * number) for number, item in enumerate(steps)]


def learn(tuner: ResumableTuner, given: tuple[list[list[HistoryEntry]], list[str]]) -> Round:
    """Run a round and do as its verdict says."""
    histories, shoppers = given
    learned = tuner.run(histories, shoppers=shoppers, fresh=[len(history) for history in histories])
    if learned.verdict.passed:
        tuner.accept(learned.touched, learned.new_items, tuner.live.version + 1, f"{tuner.live.version + 1:064d}")
    else:
        tuner.reject()
    return learned


def sent(tuner: ResumableTuner, given: tuple[list[list[HistoryEntry]], list[str]]) -> tuple[Tensor, list[int]] | None:
    """Run a round; return the touched and the reused rows that its delta names, None where it was refused."""
    histories, shoppers = given
    learned = tuner.run(histories, shoppers=shoppers, fresh=[len(history) for history in histories])
    if not learned.verdict.passed:
        tuner.reject()
        return None
    tensors = load(tuner.payload(learned))
    tuner.accept(learned.touched, learned.new_items, tuner.live.version + 1, f"{tuner.live.version + 1:064d}")
    return tensors[ROWS], tensors[REUSED].tolist()


def grown_tuner(rounds: int, seed: int = 1, trusted: TrustedSet | None = None) -> MixableTuner:
    tuner, stream = MixableTuner(ModelCopy(SHAPE), PLAN, seed, trusted=trusted), Stream(seed)
    for _ in range(rounds):
        learn(tuner, stream.round())
    return tuner


@pytest.fixture(scope="module")
def settled() -> MixableTuner:
    """A tuner that has learned for a while; tests take copies."""
    return grown_tuner(60)


@pytest.fixture
def tuner(settled: MixableTuner) -> MixableTuner:
    return copy.deepcopy(settled)


def travelled(state: TunerState) -> TunerState:
    """The state as it is after its way through bytes."""
    return decode_state(*encode_state(state))


def with_another_gate(tuner: MixableTuner) -> MixableTuner:
    """A copy of a tuner that learns the same, judged by a gate that was made from the state of the first one's."""
    other = copy.deepcopy(tuner)
    state = travelled(tuner.state())
    other._held_back = HeldBack(PLAN.held_back, SHAPE.length + 1)
    other.gate = Gate(other.live, other._held_back, TrustedSet(), PLAN.gate)
    other.gate.restore(state.gate, other.live)
    other._surges = ItemSurges(PLAN.surges)
    other._surges.restore(state.surges)
    return other


def restarted(tuner: MixableTuner) -> MixableTuner:
    """The tuner of a new process, with the same weights and what the gate of the first one remembered."""
    made = MixableTuner(copy.deepcopy(tuner.live), PLAN)
    made.restore(travelled(tuner.state()))
    return made


def told(learned: Round) -> tuple[bool, str, str, dict[str, float], tuple[str, ...], tuple[str, ...]]:
    """All of a verdict but how long it took."""
    verdict = learned.verdict
    metrics = {name: value for name, value in verdict.metrics.items() if name not in {"gate_ms", "answer_ms"}}
    return verdict.passed, verdict.check, verdict.reason, metrics, verdict.items, learned.surging


@pytest.mark.parametrize("rounds", [0, 5, 20, 60])
def test_a_restored_gate_judges_the_next_candidates_as_the_one_that_went_on(rounds: int, settled: MixableTuner) -> None:
    first = copy.deepcopy(settled) if rounds == 60 else grown_tuner(rounds)
    second = with_another_gate(first)
    stream = Stream(7)
    verdicts = []
    for number in range(40):
        first.mixes = second.mixes = number == 21
        given = stream.round("item-5" if 25 <= number < 30 else "")
        verdicts.append(told(learn(first, given)))
        assert told(learn(second, copy.deepcopy(given))) == verdicts[-1], number
    # Both have renewed their anchor meanwhile, and something was refused.
    assert first.gate.anchor.evidence == second.gate.anchor.evidence
    assert first.gate.anchor.age_rounds == second.gate.anchor.age_rounds < 40
    assert verdicts[21][1] == "labels"
    assert any("item-5" in surging for *_, surging in verdicts)


def test_after_a_restart_mixed_up_labels_are_refused_at_once_and_a_new_gate_would_let_them_through(tuner: MixableTuner) -> None:
    kept, blank = restarted(tuner), MixableTuner(copy.deepcopy(tuner.live), PLAN)
    kept.mixes = blank.mixes = True
    given = Stream(8).round()
    assert learn(kept, given).verdict.check == "labels"
    assert learn(blank, given).verdict.passed


def test_after_a_restart_honest_rounds_pass(tuner: MixableTuner) -> None:
    stream = Stream(9)
    refused = 0
    for _ in range(4):
        again = restarted(tuner)
        refused += sum(not learn(again, stream.round()).verdict.passed for _ in range(15))
        tuner = again
    assert refused <= 1


def test_updates_that_came_after_the_state_count_as_let_through(tuner: MixableTuner) -> None:
    state = travelled(tuner.state())
    before, stream = copy.deepcopy(tuner.live.model), Stream(10)
    updates = [update for _ in range(6) if (update := sent(tuner, stream.round())) is not None]
    age = tuner.gate.anchor.age_rounds
    again = MixableTuner(copy.deepcopy(tuner.live), PLAN)
    again.restore(state, Since(before, updates))
    assert again.gate.anchor.age_rounds == age
    assert same_rows(again.gate.anchor.model, tuner.gate.anchor.model, tuner.gate.anchor.items)
    assert set(again.gate.anchor.moved().tolist()) <= set(tuner.gate.anchor.moved().tolist())
    assert np.array_equal(again.gate._anchor_counts, tuner.gate._anchor_counts)
    assert np.abs(again.gate._live_counts - tuner.gate._live_counts).sum() <= 0.05 * tuner.gate._live_counts.sum()
    assert sum(learn(again, stream.round()).verdict.passed for _ in range(20)) >= 19


def test_rows_that_stand_for_other_items_since_are_forgotten(tuner: MixableTuner) -> None:
    state = travelled(tuner.state())
    named = int(tuner.gate._held_back.newest(1).numbers[0, 0, 0])
    again = MixableTuner(copy.deepcopy(tuner.live), PLAN)
    again.restore(state, Since(copy.deepcopy(tuner.live.model), [(torch.tensor([named]), [named])]))
    assert not again.gate.anchor.has(named)
    assert not (again.gate._held_back.all().numbers[:, :, 0] == named).any()
    assert not any((one.numbers[:, :, 0] == named).any() for one in again.gate.trusted._kept)
    assert named not in again._ledger.recent


def test_the_operator_s_trusted_set_is_not_replaced_by_a_kept_one(tuner: MixableTuner) -> None:
    given = [[HistoryEntry(f"item-{number}", "view", 1), HistoryEntry(f"item-{number + 30}", "view", 2)] for number in range(5)]
    again = MixableTuner(copy.deepcopy(tuner.live), PLAN, trusted=TrustedSet(given))
    again.restore(travelled(tuner.state()))
    assert len(again.gate._tried) == 5
    assert not again.gate.trusted.is_open


def test_an_anchor_with_too_many_rows_is_left_out_and_the_live_weights_take_its_place(
    tuner: MixableTuner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain_anchor, "MOST_ANCHOR_ROWS", 10)
    state = tuner.state()
    assert state.gate.anchor is None
    again = MixableTuner(copy.deepcopy(tuner.live), PLAN)
    again.restore(travelled(state))
    assert again.gate.anchor.age_rounds == 0
    assert same_rows(again.gate.anchor.model, tuner.live.model, len(tuner.live.items))
    assert learn(again, Stream(11).round()).verdict.passed


def test_of_usual_numbers_the_largest_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surges, "MOST_USUAL_ITEMS", 3)
    known = ItemSurges()
    for _ in range(20):
        known.notice([[f"item-{number}" for number in range(shopper)] for shopper in range(10)])
    assert sorted(known.state().usual) == ["item-0", "item-1", "item-2"]


def test_a_state_of_other_weights_is_refused(tuner: MixableTuner) -> None:
    state = tuner.state()
    wider = ResumableTuner(ModelCopy(replace(SHAPE, width=32)), PLAN)
    with pytest.raises(BadGateState, match="does not fit"):
        wider.restore(state)
    beyond = replace(state.gate, negatives=np.array([10**6]))
    with pytest.raises(BadGateState, match="rows that the item table does not have"):
        ResumableTuner(copy.deepcopy(tuner.live), PLAN).restore(replace(state, gate=beyond))


@pytest.mark.parametrize("damage", ["cut", "no JSON", "no arrays", "other JSON"])
def test_bytes_that_hold_no_state_are_refused(tuner: MixableTuner, damage: str) -> None:
    words, arrays = encode_state(tuner.state())
    damaged = {
        "cut": (words[:-10], arrays),
        "no JSON": (b"\x80\x04", arrays),
        "no arrays": (words, b""),
        "other JSON": (b'{"gate": 1}', arrays),
    }[damage]
    with pytest.raises(BadGateState):
        decode_state(*damaged)


def same_rows(ours: NextItemTransformer, theirs: NextItemTransformer, items: int) -> bool:
    mine, others = dict(ours.named_parameters()), dict(theirs.named_parameters())
    names: Sequence[str] = list(mine)
    return all(torch.equal(mine[name][:items], others[name][:items]) for name in names)
