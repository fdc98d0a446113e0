"""A learner of a small shop in which ten shoppers go round the same ring of items, and decisions about its versions."""

import threading

from headrace.features.online_store import OnlineStore
from headrace.schemas import HistoryEntry, ModelRelease
from headrace.schemas.model_releases import Action
from headrace.schemas.model_updates import MODEL
from headrace.streams.model_access import ModelAccess
from headrace.streams.release_log import ReleaseLog, ReleasePublisher, publish_and_wait
from headrace.streams.trainer import Trainer
from headrace.streams.training_buffer import Example, ExampleBuffer

MOST_EVENTS = 4000


def examples(first: int, count: int = 40) -> list[Example]:
    """Return the views of the events from `first` on."""
    return [
        Example(
            f"shopper-{number % 10}",
            (HistoryEntry(f"item-{(number // 10 + number) % 12}", "view", number),),
            number,
            number,
            "clicks/0",
            number,
        )
        for number in range(first, first + count)
    ]


def learner(kafka: str, store: OnlineStore, access: ModelAccess | None = None) -> Trainer:
    """Return one that has published its first weights, or taken up those that are there."""
    made = Trainer(kafka, store, ExampleBuffer(lambda done: None), access=access)
    end(made)
    return made


def end(made: Trainer) -> None:
    """Let it begin and end in order."""
    stop = threading.Event()
    stop.set()
    made.run(stop, threading.Event())


def learn_until(made: Trainer, version: int, first: int, most: int = MOST_EVENTS) -> int:
    """Let it learn until it has published a version, from the event `first` to that of number `most`; the gate may refuse some rounds."""
    while made._newest_version < version:
        made.learn("count", examples(first))
        first += 40
        assert first < most
    return first


def release(
    kafka: str, action: Action, version: int, sha256: str, withdrawn_to: int = 0, access: ModelAccess | None = None
) -> ModelRelease:
    """Publish a decision, signed where `access` has a key, and wait until it counts."""
    access = access or ModelAccess()
    key = access.key()
    assert key is not None or access.trusted is None
    log = ReleaseLog(kafka, "test", access.trusted)
    newest = log.state.newest
    made = ModelRelease(
        model=MODEL, sequence=newest.sequence + 1 if newest else 1, action=action, stable_version=version, stable_sha256=sha256,
        withdrawn_to=withdrawn_to, trial_share=0.5, reason="test", decided_by="test", decided_ms=1, key_id=key.key_id if key else None,
    )  # fmt: skip
    publish_and_wait(log, ReleasePublisher(kafka, "test", key), made)
    log.close()
    return made
