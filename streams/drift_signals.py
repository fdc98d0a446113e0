"""The signals of a round of learning: what its events were like, and what the model made of them before it learned from them."""

from collections.abc import Callable, Sequence

from headrace.online_model.fine_tuning import Round
from headrace.online_model.watching.signals import Batch, EventSignals
from headrace.streams.shopper_histories import NewSteps


def round_batch(newest: Sequence[NewSteps], learned: Round, take_hits: Callable[[int], list[bool | None]]) -> Batch:
    """Return the signals of the new steps of a round, by event time.

    The loss is that of a shopper's last step. Hits come from the recommenders, which report counts: `take_hits` gives as many of them
    as there are events, so a hit stands beside an event of its time, which need not be its own.
    """
    losses = dict(zip(learned.places, learned.losses, strict=False))
    unseen = set(learned.new_items)
    steps = [
        (shopper.history[place].time_ms, number, place)
        for number, shopper in enumerate(newest)
        for place in range(len(shopper.history) - shopper.fresh, len(shopper.history))
    ]
    steps.sort()
    signals = EventSignals()
    for (_, number, place), hit in zip(steps, take_hits(len(steps)), strict=True):
        history = newest[number].history
        entry = history[place]
        signals.add(
            entry,
            history[:place],
            loss=losses.get(number) if place == len(history) - 1 else None,
            hit=hit,
            is_new_item=entry.item_id in unseen,
        )
        unseen.discard(entry.item_id)
    return signals.take()
