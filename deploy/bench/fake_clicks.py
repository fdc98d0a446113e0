"""Campaigns for one item: fake shoppers click on it round after round, and it is counted how many real shoppers are then shown it.

A fake shopper is new, clicks on two items that real shoppers clicked on lately, and then on the target; the share of fake clicks counts
the clicks on the target alone. Who is shown what is taken from lists of held-out shoppers, whom the model has never learned from.
"""

import copy
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from headrace.deploy.bench.learned_rounds import History, LearnedRound
from headrace.online_model.fine_tuning import FineTuner, Round
from headrace.online_model.scorer import score_with
from headrace.online_model.weights import ModelCopy
from headrace.schemas import HistoryEntry

LISTED = 20
# After how many rounds of a campaign lists are counted.
LOOKS = (1, 2, 4, 8)
FEWEST_LISTS = 4


@dataclass(frozen=True)
class Campaign:
    """In how many of `lists` the target stood `before`, and `after` so many rounds; `refused` of the rounds were refused."""

    target: str
    lists: int
    before: int
    after: dict[int, int]
    refused: int


def run_campaign(
    tuner: FineTuner, rounds: Sequence[LearnedRound], share: float, target: str, panel: Sequence[History], dice: np.random.Generator
) -> Campaign:
    """Run a campaign on a copy of the tuner through the rounds to come; `share` is that of fake clicks in the stream, 0 for none."""
    tuner = copy.deepcopy(tuner)
    before = lists_with(tuner.live, panel)[target]
    after: dict[int, int] = {}
    refused = 0
    for number, one in enumerate(rounds[: LOOKS[-1]], 1):
        learned = learn(tuner, one, fake_shoppers(one, share, target, number, dice))
        refused += not learned.verdict.passed
        if number in LOOKS:
            after[number] = lists_with(tuner.live, panel)[target]
    return Campaign(target, len(panel), before, after, refused)


def fake_shoppers(real: LearnedRound, share: float, target: str, number: int, dice: np.random.Generator) -> list[History]:
    """Return the histories of fake shoppers, as many as make `share` of all clicks with those of a round."""
    count = round(real.events * share / (1.0 - share))
    lately = [entry.item_id for history in real.histories for entry in history[-2:]]
    newest_ms = max(history[-1].time_ms for history in real.histories)
    return [
        [
            HistoryEntry(item, "view", newest_ms + 1000 * place + number)
            for place, item in enumerate([*(lately[at] for at in dice.integers(len(lately), size=2)), target])
        ]
        for _ in range(count)
    ]


def learn(tuner: FineTuner, real: LearnedRound, fakes: Iterable[History] = (), steps: int | None = None) -> Round:
    """Let the tuner run a round, with fake shoppers among the real ones, and settle it as the trainer does."""
    extra = list(fakes)
    names = [f"fake-{id(extra)}-{place}" for place in range(len(extra))]
    learned = tuner.run(
        [*real.histories, *extra], steps, shoppers=[*real.shoppers, *names], fresh=[*real.fresh, *(len(history) for history in extra)]
    )
    settle(tuner, learned)
    return learned


def settle(tuner: FineTuner, learned: Round) -> None:
    """Take over what has passed, and drop what has not."""
    if learned.verdict.passed:
        tuner.payload(learned)
        tuner.accept(learned.touched, learned.new_items, tuner.live.version + 1, tuner.live.sha256)
    else:
        tuner.reject()


def targets(live: ModelCopy, panel: Sequence[History], count: int, dice: np.random.Generator) -> list[str]:
    """Return items, drawn by lot among those that some of the lists show, so that a growth can be told."""
    shown = sorted(item for item, lists in lists_with(live, panel).items() if lists >= FEWEST_LISTS)
    return [shown[place] for place in dice.permutation(len(shown))[:count]] if shown else []


def lists_with(live: ModelCopy, panel: Sequence[History]) -> Counter[str]:
    """Return in how many of the panel's lists of the Transformer's 20 best items each item stands."""
    counts: Counter[str] = Counter()
    for first in range(0, len(panel), 64):
        for scored in score_with(live, panel[first : first + 64], best=LISTED, normalised=False):
            counts.update(live.items[row] for row in scored.best_rows.tolist())
    return counts


def growth(campaigns: Sequence[Campaign]) -> dict[str, float]:
    """Return how many times as often targets were shown, at the worst look of each measure: all together, the median, and one in ten."""
    sums = [sum(one.after[look] for one in campaigns) / max(1, sum(one.before for one in campaigns)) for look in LOOKS]
    single = [[one.after[look] / max(1, one.before) for one in campaigns] for look in LOOKS]
    return {
        "all": max(sums),
        "median": max(float(np.median(ratios)) for ratios in single),
        "p90": max(float(np.quantile(ratios, 0.9)) for ratios in single),
        "after_the_last_round": sums[-1],
    }
