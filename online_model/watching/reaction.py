"""What is done about drift, whether it helped, and when it is taken back: a pure policy.

A reaction is decided when an episode begins. Its worth is measured: the quality before the drift, when it was decided, and once it has had
its time. What won back too little of the loss is withdrawn, and not tried again for a while; an episode that is known from before gets what
helped then, and nothing that did not. So that drift, reaction and the drift that a reaction makes do not chase each other, there is a pause
between two reactions of a kind and a most for an hour.
"""

from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import Any, cast

import msgspec

from headrace.online_model.watching.configuration import ReactionName
from headrace.online_model.watching.episodes import EpisodeChange
from headrace.schemas.drift_alerts import DriftReaction

HOUR_MS = 3_600_000
# What came in the last minute before a decision may already be worse for the drift.
BEFORE_MS, USUAL_MS = 60_000, 30 * 60_000
EPISODES_KEPT = 100
COLLAPSED = 0.7


@dataclass(frozen=True)
class Reaction:
    """What to do for an episode: `rate_scale` multiplies learning rates and `replay_share` is the replay's, both for `events`.

    `memory_keep` is the share of old evidence that the memories keep, 1 for all; with `memory_cut` they do not look at older events any
    more, until it is withdrawn. `begun_ms` is when it was decided.
    """

    name: ReactionName
    episode_id: str
    begun_ms: int
    rate_scale: float = 1.0
    replay_share: float = 0.5
    memory_keep: float = 1.0
    events: int = 0
    memory_cut: bool = False


# How strongly each is done: learning takes more of what is new while it is hurried.
_STRENGTH: dict[str, dict[str, Any]] = {
    "learn_faster": {"rate_scale": 2.0, "replay_share": 0.35, "events": 16_384, "memory_keep": 0.2},
    "forget_faster": {"memory_keep": 0.2},
    "forget_slower": {"memory_keep": 1.0},
}


class Reactions:
    """Decides on reactions, measures them, and withdraws what did not help.

    `most_an_hour` bounds all of them, `cool_down_ms` is the pause between two of the same name, four times as long where the last was
    withdrawn. After `settle_ms` a reaction must have won back `least_won_back` of the quality that was lost; where less than
    `least_lost` of the usual quality was lost there was nothing to win, and it is withdrawn too. With `only_tell` nothing is decided.
    """

    def __init__(
        self,
        *,
        only_tell: bool = False,
        most_an_hour: int = 4,
        cool_down_ms: int = 600_000,
        settle_ms: int = 120_000,
        least_won_back: float = 0.25,
        least_lost: float = 0.02,
    ) -> None:
        self.only_tell = only_tell
        self.most_an_hour = most_an_hour
        self.cool_down_ms = cool_down_ms
        self.settle_ms = settle_ms
        self.least_won_back = least_won_back
        self.least_lost = least_lost
        self._qualities: deque[tuple[int, float]] = deque()
        self._done: dict[str, list[DriftReaction]] = {}
        self._cut: deque[str] = deque(maxlen=EPISODES_KEPT)

    def decide(self, change: EpisodeChange, quality: float, now_ms: int) -> Reaction | None:
        """Return what to do about a change, or None. `quality` is the share of hits among the first 20 right now."""
        if self.only_tell or change.state != "started" or change.reaction == "only_tell" or change.episode_id in self._done:
            return None
        name = self._name_for(change)
        if name is None or self._must_pause(name, now_ms):
            return None
        begun = DriftReaction(name=name, state="begun", begun_ms=now_ms, quality_before=self._usual(now_ms), quality_at=quality)
        self._done[change.episode_id] = [begun]
        while len(self._done) > EPISODES_KEPT:
            del self._done[next(iter(self._done))]
        return Reaction(name, change.episode_id, now_ms, **_STRENGTH.get(name, {}))

    def deepen(self, quality: float, now_ms: int) -> list[Reaction]:
        """Return the reactions under way that must go further, each once: so much is lost that older events mislead more than they help.

        Where fewer shoppers have changed, the older events still help the others.
        """
        deeper: list[Reaction] = []
        if self.only_tell:
            return deeper
        for episode_id, reactions in self._done.items():
            for reaction in reactions:
                strength = _STRENGTH.get(reaction.name, {})
                lost_much = reaction.quality_before is not None and quality < COLLAPSED * reaction.quality_before
                if reaction.state == "begun" and lost_much and "memory_keep" in strength and episode_id not in self._cut:
                    self._cut.append(episode_id)
                    deeper.append(Reaction(cast(ReactionName, reaction.name), episode_id, now_ms, **strength, memory_cut=True))
        return deeper

    def measure(self, quality: float, now_ms: int) -> list[tuple[str, DriftReaction]]:
        """Take in the quality now; return reactions that are settled (kept or withdrawn) with the episode that each belongs to."""
        self._qualities.append((now_ms, quality))
        while self._qualities[0][0] < now_ms - USUAL_MS:
            self._qualities.popleft()
        settled = []
        for episode_id, reactions in self._done.items():
            for place, reaction in enumerate(reactions):
                if reaction.state == "begun" and now_ms >= (reaction.begun_ms or 0) + self.settle_ms:
                    state = "kept" if self._has_helped(reaction, quality) else "withdrawn"
                    reactions[place] = msgspec.structs.replace(reaction, state=state, quality_after=quality)
                    settled.append((episode_id, reactions[place]))
        return settled

    def of(self, episode_id: str) -> list[DriftReaction]:
        """Return what was done for an episode, oldest first."""
        return list(self._done.get(episode_id, ()))

    def saved(self) -> dict[str, Any]:
        """Return all that is remembered, as JSON can hold it."""
        return {"qualities": [list(one) for one in self._qualities], "done": msgspec.to_builtins(self._done), "cut": list(self._cut)}

    def restore(self, saved: dict[str, Any]) -> None:
        """Take up what was saved."""
        self._qualities = deque((int(time_ms), float(quality)) for time_ms, quality in saved.get("qualities", ()))
        self._cut = deque(saved.get("cut", ()), maxlen=EPISODES_KEPT)
        self._done = msgspec.convert(saved.get("done", {}), dict[str, list[DriftReaction]])

    def _name_for(self, change: EpisodeChange) -> ReactionName | None:
        """Return what the watch asks for; None where the same was withdrawn when things looked alike before."""
        before = self._done.get(change.known_episode or "", ())
        withdrawn = any(reaction.name == change.reaction and reaction.state == "withdrawn" for reaction in before)
        return None if withdrawn else change.reaction

    def _must_pause(self, name: ReactionName, now_ms: int) -> bool:
        begun = [reaction for reactions in self._done.values() for reaction in reactions if reaction.begun_ms is not None]
        if sum(now_ms - (reaction.begun_ms or 0) < HOUR_MS for reaction in begun) >= self.most_an_hour:
            return True
        of_name = [reaction for reaction in begun if reaction.name == name]
        if not of_name:
            return False
        last = max(of_name, key=lambda reaction: reaction.begun_ms or 0)
        pause_ms = self.cool_down_ms * (4 if last.state == "withdrawn" else 1)
        return now_ms - (last.begun_ms or 0) < max(pause_ms, self.settle_ms)

    def _usual(self, now_ms: int) -> float | None:
        """Return the quality as it was before the last minute; None where none was measured."""
        before = [quality for time_ms, quality in self._qualities if time_ms <= now_ms - BEFORE_MS]
        return median(before) if before else None

    def _has_helped(self, reaction: DriftReaction, quality: float) -> bool:
        before, at = reaction.quality_before, reaction.quality_at
        if before is None or at is None:
            # Nothing is known of before: it has helped where things are better than when it began.
            return at is not None and quality > at
        lost = before - at
        return lost >= self.least_lost * before and quality - at >= self.least_won_back * lost
