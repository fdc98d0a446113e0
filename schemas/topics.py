"""Every topic: its name, key, partitions, retention and schema. Nothing else in Headrace spells a topic's name."""

from dataclasses import dataclass, field
from typing import Literal

from msgspec import Struct

from headrace.schemas.dead_letters import DeadLetter
from headrace.schemas.drift_alerts import DriftAlert
from headrace.schemas.drift_state import DriftState
from headrace.schemas.events import Click, Purchase
from headrace.schemas.feature_rows import ItemChange, ItemRow, UserRow
from headrace.schemas.memory_reactions import MemoryReaction
from headrace.schemas.model_releases import ModelRelease, ReleaseOutcomes
from headrace.schemas.model_updates import ModelUpdate
from headrace.schemas.ranking_weights import RankingWeights
from headrace.schemas.recommendations import Recommendation

DAY_MS = 24 * 3600 * 1000
PARTITIONS = 4


@dataclass(frozen=True)
class Topic:
    """A Kafka topic. `key` names what the record key holds; `message` is None where the value is raw bytes."""

    name: str
    key: str
    message: type[Struct] | None
    summary: str
    partitions: int = PARTITIONS
    cleanup: Literal["delete", "compact"] = "delete"
    retention_ms: int = 7 * DAY_MS
    max_bytes: int = 1_000_000
    config: dict[str, str] = field(default_factory=dict)

    def broker_config(self) -> dict[str, str]:
        """Return the topic-level settings for Kafka's admin API."""
        base = {"cleanup.policy": self.cleanup, "max.message.bytes": str(self.max_bytes + 1000)}
        if self.cleanup == "delete":
            base["retention.ms"] = str(self.retention_ms)
        return base | self.config


CLICKS = Topic("clicks", "shopper id", Click, "views and cart additions, published by the shop", retention_ms=30 * DAY_MS)
PURCHASES = Topic("purchases", "shopper id", Purchase, "paid orders, published by the shop", retention_ms=30 * DAY_MS)
ITEM_CHANGES = Topic("item-changes", "item id", ItemChange, "events regrouped by item, between feature workers")
# Every version of a row is there for a week, so that the archiver may be away for as long.
_ALL_VERSIONS = {"min.compaction.lag.ms": str(7 * DAY_MS)}
USER_FEATURES = Topic("user-features", "shopper id", UserRow, "changelog of the user rows", cleanup="compact", config=_ALL_VERSIONS)
ITEM_FEATURES = Topic("item-features", "item id", ItemRow, "changelog of the item rows", cleanup="compact", config=_ALL_VERSIONS)
RECOMMENDATIONS = Topic(
    "recommendations", "shopper id", Recommendation, "ranked items for each shopper who did something", retention_ms=DAY_MS
)
MODEL_UPDATES = Topic("model-updates", "model", ModelUpdate, "the chain of model versions", partitions=1, retention_ms=30 * DAY_MS)
MODEL_WEIGHTS = Topic(
    "model-weights", "model", None, "the versions' bytes (safetensors), in parts", partitions=1, config={"retention.bytes": str(4 << 30)}
)
RANKING_WEIGHTS = Topic(
    "ranking-weights", "model", RankingWeights, "what mixture and ranking network have learned", partitions=1, cleanup="compact"
)
MEMORY_REACTIONS = Topic(
    "memory-reactions", "model", MemoryReaction, "what the memories forget on drift, and what they recall", partitions=1
)
MODEL_RELEASES = Topic(
    "model-releases", "model", ModelRelease, "which version answers whom, decision by decision", partitions=1, retention_ms=365 * DAY_MS
)
RELEASE_OUTCOMES = Topic(
    "release-outcomes", "model", ReleaseOutcomes, "how well each version's lists did, from the recommenders", partitions=1
)
DRIFT_ALERTS = Topic("drift-alerts", "signal", DriftAlert, "episodes of drift, from start to end", partitions=1, retention_ms=30 * DAY_MS)
DRIFT_STATE = Topic("drift-state", "signal", DriftState, "how each watched signal stands", partitions=1, cleanup="compact")
DEAD_LETTERS = Topic(
    "dead-letters",
    "topic it came from",
    DeadLetter,
    "refused records with the reason",
    partitions=1,
    retention_ms=30 * DAY_MS,
    max_bytes=4_000_000,
)

TOPICS = (
    CLICKS,
    PURCHASES,
    ITEM_CHANGES,
    USER_FEATURES,
    ITEM_FEATURES,
    RECOMMENDATIONS,
    MODEL_UPDATES,
    MODEL_WEIGHTS,
    RANKING_WEIGHTS,
    MEMORY_REACTIONS,
    MODEL_RELEASES,
    RELEASE_OUTCOMES,
    DRIFT_ALERTS,
    DRIFT_STATE,
    DEAD_LETTERS,
)
BY_NAME = {topic.name: topic for topic in TOPICS}
