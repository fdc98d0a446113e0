"""Which versions there are, who is answered by which, and how well each does: read from the topics when it is asked for."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, TypeVar

from confluent_kafka import Message, TopicPartition
from msgspec import Meta, Struct

from headrace.online_model.release_state import ReleaseState
from headrace.schemas import InvalidMessage, ModelRelease, ModelUpdate, ReleaseOutcomes, decode
from headrace.schemas.fields import Count, Id, Sha256, TimeMs
from headrace.schemas.model_releases import Lane
from headrace.schemas.model_updates import MODEL
from headrace.schemas.topics import MODEL_UPDATES, RELEASE_OUTCOMES, Topic
from headrace.streams import kafka
from headrace.streams.outcome_reports import OutcomeReader
from headrace.streams.release_log import ReleaseLog
from headrace.streams.signing import TrustedKeys

UPDATES_READ = 5000
OUTCOMES_READ = 5000
VERSIONS_SHOWN = 200
DECISIONS_SHOWN = 50

M = TypeVar("M", bound=Struct)
Standing = Literal["stable", "newest", "on trial", "passed", "withdrawn"]


class LaneFigures(Struct, frozen=True, kw_only=True):
    """Of a version's lists in one lane: how many met a next step, how many held its item, and the events that name one."""

    lane: Lane
    answered: Count
    hits: Count
    hit_rate: float
    mean_reciprocal_rank: float
    clicks: Count


class ModelVersion(Struct, frozen=True, kw_only=True):
    """A version: `whole` tells whether it was published as a snapshot too, and so can be promoted.

    `stable` answers whoever is not on trial, `newest` the others; `on trial` are those between, `passed` those before the stable one.
    """

    version: Count
    base_version: Count
    sha256: Sha256
    whole: bool
    created_ms: TimeMs
    trigger: str
    learned_events: Count
    holdout_loss: float | None
    live_holdout_loss: float | None
    metrics: dict[str, float]
    standing: Standing
    outcomes: list[LaneFigures]


class ModelList(Struct, frozen=True, kw_only=True):
    """The release state, the newest decisions and the newest versions, the newest first. `decided` is false before the first decision."""

    model: Id
    decided: bool
    stable_version: Count
    stable_sha256: str
    newest_version: Count
    trial_share: Annotated[float, Meta(description="the share of shoppers who get the newest version; 0 while pinned")]
    pinned: bool
    decisions: list[ModelRelease]
    versions: list[ModelVersion]


def read_models(bootstrap: str, trusted: TrustedKeys | None = None) -> ModelList:
    """Read the list of versions from the newest records of the topics. Raises KafkaException."""
    releases = ReleaseLog(bootstrap, "model-list", trusted)
    releases.close()
    updates = [update for record in _newest(bootstrap, MODEL_UPDATES, UPDATES_READ) if (update := _read(ModelUpdate, record))]
    # Whoever follows the topic for its own sake tells of what does not count.
    reader = OutcomeReader(trusted, quiet=True)
    reports = (
        reader.read(record.value(), record.headers(), record.offset()) for record in _newest(bootstrap, RELEASE_OUTCOMES, OUTCOMES_READ)
    )
    outcomes = [seen for seen in reports if seen is not None]
    return listed(updates, releases.state, releases.counted, outcomes)


def listed(
    updates: Iterable[ModelUpdate], state: ReleaseState, decisions: Sequence[ModelRelease], outcomes: Iterable[ReleaseOutcomes]
) -> ModelList:
    """Return the list that these records add up to."""
    by_version: dict[int, ModelUpdate] = {}
    whole: set[int] = set()
    for update in updates:
        if update.kind == "snapshot":
            whole.add(update.version)
            by_version.setdefault(update.version, update)
        else:
            by_version[update.version] = update
    figures = _figures(outcomes)
    newest = max((version for version in by_version if not state.withdraws(version)), default=0)
    shown = sorted(by_version, reverse=True)[:VERSIONS_SHOWN]
    return ModelList(
        model=MODEL,
        decided=state.newest is not None,
        stable_version=state.stable_version,
        stable_sha256=state.stable_sha256,
        newest_version=newest,
        trial_share=state.trial_share,
        pinned=state.newest.pinned if state.newest else False,
        decisions=list(decisions[::-1][:DECISIONS_SHOWN]),
        versions=[
            ModelVersion(
                version=version,
                base_version=by_version[version].base_version,
                sha256=by_version[version].weights_sha256,
                whole=version in whole,
                created_ms=by_version[version].created_ms,
                trigger=by_version[version].trigger,
                learned_events=by_version[version].learned_events,
                holdout_loss=by_version[version].holdout_loss,
                live_holdout_loss=by_version[version].live_holdout_loss,
                metrics=by_version[version].metrics,
                standing=_standing(version, newest, state),
                outcomes=figures.get(version, []),
            )
            for version in shown
        ],
    )


def _standing(version: int, newest: int, state: ReleaseState) -> Standing:
    if state.withdraws(version):
        return "withdrawn"
    if version == state.stable_version:
        return "stable"
    if version == newest:
        return "newest"
    return "on trial" if version > state.stable_version else "passed"


def _figures(outcomes: Iterable[ReleaseOutcomes]) -> dict[int, list[LaneFigures]]:
    sums: dict[tuple[int, Lane], list[float]] = {}
    for message in outcomes:
        for seen in message.versions:
            total = sums.setdefault((seen.version, seen.lane), [0, 0, 0.0, 0])
            for place, more in enumerate((seen.answered, seen.hits, seen.reciprocal_ranks, seen.clicks)):
                total[place] += more
    figures: dict[int, list[LaneFigures]] = {}
    for (version, lane), (answered, hits, ranks, clicks) in sorted(sums.items()):
        figures.setdefault(version, []).append(
            LaneFigures(
                lane=lane,
                answered=int(answered),
                hits=int(hits),
                hit_rate=round(hits / answered, 4) if answered else 0.0,
                mean_reciprocal_rank=round(ranks / answered, 4) if answered else 0.0,
                clicks=int(clicks),
            )
        )
    return figures


def _newest(bootstrap: str, topic: Topic, count: int) -> Iterable[Message]:
    consumer = kafka.consumer(bootstrap, "model-list")
    try:
        low, high = kafka.watermarks(consumer, topic.name, 0)
        position = max(low, high - count)
        consumer.assign([TopicPartition(topic.name, 0, position)])
        while position < high:
            records = kafka.next_batch(consumer, count, 10.0)
            if not records:
                break
            position = (records[-1].offset() or 0) + 1
            yield from (record for record in records if (record.offset() or 0) < high)
    finally:
        consumer.close()


def _read(kind: type[M], record: Message) -> M | None:
    try:
        return decode(kind, record.value(), record.headers())
    except InvalidMessage:
        # Whoever follows the topic for its own sake tells of it.
        return None
