"""The signals of a round of learning: what its events were like, and what the model made of them before it learned from them."""

from collections.abc import Callable, Sequence

from headrace.online_model.fine_tuning import Round
from headrace.online_model.watching.signals import Batch, EventSignals
from headrace.streams.shopper_histories import NewSteps


class RoundSignals:
    """Gathers the signals of rounds. What it keeps of shoppers between rounds is gone after a restart, and comes again with their steps.

    `take_hits` gives as many outcomes of lists as it is asked for, or None for those that are missing: recommenders report counts, so a
    hit stands beside an event of its time, which need not be its own.
    """

    def __init__(self, take_hits: Callable[[int], list[bool | None]]) -> None:
        self._take_hits = take_hits
        self._events = EventSignals()

    def batch(self, newest: Sequence[NewSteps], learned: Round) -> Batch:
        """Return the signals of the new steps of a round, by event time. The loss is that of a shopper's last step."""
        losses = dict(zip(learned.places, learned.losses, strict=False))
        unseen = set(learned.new_items)
        steps = [
            (shopper.history[place].time_ms, number, place)
            for number, shopper in enumerate(newest)
            for place in range(len(shopper.history) - shopper.fresh, len(shopper.history))
        ]
        steps.sort()
        for (_, number, place), hit in zip(steps, self._take_hits(len(steps)), strict=True):
            history = newest[number].history
            entry = history[place]
            surface = _surface(newest[number], place)
            self._events.add(
                entry,
                history[:place],
                shopper_id=newest[number].shopper_id,
                loss=losses.get(number) if place == len(history) - 1 else None,
                hit=hit,
                is_new_item=entry.item_id in unseen,
                segment={"surface": surface} if surface else None,
            )
            unseen.discard(entry.item_id)
        return self._events.take()


def _surface(shopper: NewSteps, place: int) -> str | None:
    return shopper.surfaces[place - len(shopper.history)] if shopper.surfaces else None
