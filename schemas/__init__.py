"""What travels between the parts of Headrace: typed messages, their wire format and the topics they live on."""

from headrace.schemas.dead_letters import DeadLetter
from headrace.schemas.drift_alerts import DriftAlert
from headrace.schemas.drift_state import DriftState
from headrace.schemas.events import Attribution, Click, Event, OrderLine, Purchase, shopper_id
from headrace.schemas.feature_rows import Cause, HistoryEntry, ItemChange, ItemRow, Pane, SessionRow, UserRow
from headrace.schemas.memory_reactions import MemoryReaction
from headrace.schemas.model_releases import ModelRelease, ReleaseOutcomes, VersionOutcome
from headrace.schemas.model_updates import ModelUpdate
from headrace.schemas.ranking_weights import RankingWeights
from headrace.schemas.recommendations import Recommendation, RecommendedItem
from headrace.schemas.wire import InvalidMessage, check_event, decode, encode, headers

__all__ = [
    "Attribution",
    "Cause",
    "Click",
    "DeadLetter",
    "DriftAlert",
    "DriftState",
    "Event",
    "HistoryEntry",
    "InvalidMessage",
    "ItemChange",
    "ItemRow",
    "MemoryReaction",
    "ModelRelease",
    "ModelUpdate",
    "OrderLine",
    "Pane",
    "Purchase",
    "RankingWeights",
    "Recommendation",
    "RecommendedItem",
    "ReleaseOutcomes",
    "SessionRow",
    "UserRow",
    "VersionOutcome",
    "check_event",
    "decode",
    "encode",
    "headers",
    "shopper_id",
]
