"""Carrying out reactions to drift: what the policy has decided is done to learning, memories, releases and the offline retraining."""

import logging
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from confluent_kafka import KafkaException

from headrace.online_model.fine_tuning import DRIFT_SCALE, FineTuner
from headrace.online_model.watching.reaction import Reaction
from headrace.streams.memory_reactions import MemoryReactionPublisher
from headrace.streams.release_log import ReleaseVoid
from headrace.streams.release_requests import NotDecidable, ReleaseRequests
from headrace.streams.training_buffer import ExampleBuffer

log = logging.getLogger(__name__)

HURRIED_ROUNDS = 8
USUAL_EVENTS = 4096
REMEMBERED = ("learn_faster", "forget_faster", "forget_slower")
# The tuner's own falling back is not used: the rate is set anew before each round.
_NO_FALL = 1_000_000_000


@dataclass(frozen=True)
class Done:
    """What became of a decision, in words; `proposed` where a person has to do it."""

    state: Literal["begun", "proposed"]
    words: str


class DriftActions:
    """Does to the learner what reactions ask for; used by its thread alone. `tuner` gives the one that learns now.

    `fall_back` rolls back to the stable version for a reason and returns what it did, or None where it cannot. `retrain` is a command
    that trains from the offline store, run at most once at a time; without it, retraining is only proposed. `memories` tells those that
    rank what their memories shall forget; without it, that is only proposed.
    """

    def __init__(
        self,
        tuner: Callable[[], FineTuner],
        buffer: ExampleBuffer,
        fall_back: Callable[[str], str | None] | None = None,
        retrain: str = "",
        memories: MemoryReactionPublisher | None = None,
    ) -> None:
        self._tuner = tuner
        self._buffer = buffer
        self._fall_back = fall_back
        self._retrain = shlex.split(retrain)
        self._memories = memories
        self._training: subprocess.Popen[bytes] | None = None
        self._faster: Reaction | None = None
        self._events_left = 0

    def begin(self, reaction: Reaction, reason: str) -> Done:
        """Carry out a reaction, as far as it can be done from here; `reason` is told to whoever hears of a rollback."""
        if reaction.name == "learn_faster":
            begun = self._learn_faster(reaction)
            forgotten = self._forget(reaction)
            return begun if forgotten.state == "proposed" else Done("begun", f"{forgotten.words}; {begun.words}")
        if reaction.name == "fine_tune":
            self._buffer.hurry(1)
            return Done("begun", "a round of fine-tuning begins at once")
        if reaction.name == "fall_back":
            told = self._fall_back(reason) if self._fall_back is not None else None
            return Done("begun", told) if told else Done("proposed", "proposed: headrace models rollback")
        if reaction.name == "retrain":
            return self._retrain_offline()
        if reaction.name in REMEMBERED:
            return self._forget(reaction)
        return Done("begun", "only told")

    def deepen(self, reaction: Reaction) -> Done:
        """Let the memories go further than they were told when the reaction began."""
        return self._forget(reaction)

    def end(self, name: str, episode_id: str) -> None:
        """Take a reaction back, as far as it still goes on. What was published stays; a rollback is undone by later promotions.

        What the memories were told to cut off is looked at again; what counts less goes on to count less.
        """
        if name == "learn_faster" and self._faster is not None and self._faster.episode_id == episode_id:
            self._learn_as_usual()
        if name in REMEMBERED and self._memories is not None:
            try:
                self._memories.recall(episode_id)
            except KafkaException as error:
                log.warning("the memories were not told to recall", extra={"episode": episode_id, "reason": str(error)})

    def learned(self, events: int) -> None:
        """Count the events of a round: learning falls back to its usual rate in a straight line."""
        if self._faster is None:
            return
        self._events_left -= events
        if self._events_left <= 0:
            self._learn_as_usual()
        else:
            left = self._events_left / (self._faster.events or USUAL_EVENTS)
            self._quicken(1.0 + (_scale(self._faster) - 1.0) * left, self._faster.replay_share)

    def _learn_faster(self, reaction: Reaction) -> Done:
        self._faster, self._events_left = reaction, reaction.events or USUAL_EVENTS
        scale = _scale(reaction)
        self._quicken(scale, reaction.replay_share)
        self._buffer.hurry(HURRIED_ROUNDS)
        return Done(
            "begun",
            f"learning rates are {scale:g} times the usual and fall back within {self._events_left} events, {reaction.replay_share:.0%} of "
            f"what is learned is replayed; the next {HURRIED_ROUNDS} rounds begin at an eighth of the usual number of events",
        )

    def _learn_as_usual(self) -> None:
        self._faster, self._events_left = None, 0
        self._tuner().quicken(1.0)

    def _forget(self, reaction: Reaction) -> Done:
        words = f"the memories keep {reaction.memory_keep:.0%} of older evidence"
        if reaction.memory_cut:
            words += ", and look no more at events before now"
        if self._memories is None:
            return Done("proposed", f"proposed: {words}")
        try:
            self._memories.forget(reaction.episode_id, reaction.memory_keep, cut=reaction.memory_cut)
        except KafkaException as error:
            log.warning("the memories were not told to forget", extra={"episode": reaction.episode_id, "reason": str(error)})
            return Done("proposed", f"proposed, since Kafka did not take it: {words}")
        return Done("begun", words)

    def _quicken(self, scale: float, replay_share: float) -> None:
        self._tuner().quicken(scale, _NO_FALL, replay_share)

    def _retrain_offline(self) -> Done:
        if not self._retrain:
            return Done("proposed", "proposed: headrace train, on the archive")
        if self._training is not None and self._training.poll() is None:
            return Done("begun", "retraining goes on already")
        try:
            self._training = subprocess.Popen(self._retrain, stdin=subprocess.DEVNULL)
        except OSError as error:
            log.warning("retraining could not be started", extra={"command": self._retrain[0], "reason": str(error)})
            return Done("proposed", f"proposed: retraining, since {self._retrain[0]!r} could not be started")
        return Done("begun", f"retraining from the offline store has begun: {self._retrain[0]}")


def falling_back(requests: ReleaseRequests) -> Callable[[str], str | None]:
    """Return what rolls back to the stable version by a signed decision; None comes back where there is nothing to go back to."""

    def fall_back(reason: str) -> str | None:
        try:
            release = requests.rollback(reason)
        except (NotDecidable, ReleaseVoid, KafkaException) as error:
            log.warning("not fallen back", extra={"reason": str(error)})
            return None
        return f"rolled back to version {release.stable_version}; versions up to {release.withdrawn_to} are withdrawn"

    return fall_back


def _scale(reaction: Reaction) -> float:
    return reaction.rate_scale if reaction.rate_scale > 1.0 else DRIFT_SCALE
