"""The gateway's answers: what a shopper wants, what follows a history that comes with the question, and what is known."""

import secrets
import time

from headrace.features.asked import AskedView
from headrace.features.services import all_of
from headrace.online_model.examined import TOLD
from headrace.online_model.explaining import in_words
from headrace.schemas import HistoryEntry, InvalidMessage, RecommendedItem, decode
from headrace.schemas.events import GUEST_PREFIX
from headrace.schemas.wire import now_ms
from headrace.streams import metrics
from headrace.streams.gateway_events import read_object
from headrace.streams.gateway_messages import (
    FeaturesAnswer,
    PredictedItem,
    Prediction,
    PredictRequest,
    PredictStep,
    Recommendations,
    TransformerItem,
    ViewFeatures,
)
from headrace.streams.gateway_parts import GatewayParts
from headrace.streams.live_scorer import Asked

STEPS_USED = 50


def recommendations(parts: GatewayParts, shopper_id: str, k: int) -> Recommendations:
    """Return the `k` best items for a shopper; what is popular, and `degraded`, while the online store does not answer."""
    started_s = time.perf_counter()
    row, degraded = parts.user_row(shopper_id)
    history = row.history[-STEPS_USED:] if row is not None else []
    if row is not None:
        metrics.FEATURE_AGE.observe(max(0, now_ms() - row.seen_ms) / 1000)
    sequence = parts.live.lanes.sequence
    ranked = parts.live.rank_one(Asked(history, k, shopper_id))
    name = secrets.token_hex(12)
    parts.reports.outcomes.made(name, (ranked.version, ranked.lane, sequence))
    return Recommendations(
        shopper_id=shopper_id,
        items=[
            RecommendedItem(item_id=item.item_id, score=round(item.score, 6), part=item.part, because=list(item.reasons))
            for item in ranked.items
        ],
        model_version=ranked.version,
        weights_sha256=ranked.sha256,
        history_length=len(history),
        known=row is not None,
        degraded=degraded,
        latency_ms=_elapsed_ms(started_s),
        recommendation_id=name,
        lane=ranked.lane,
    )


def prediction(parts: GatewayParts, body: bytes) -> Prediction:
    """Return what follows the history in the body. Raises NotJson or InvalidMessage."""
    started_s = time.perf_counter()
    read_object(body)
    asked = decode(PredictRequest, body)
    history = _with_times(asked.history[-STEPS_USED:])
    ranked = parts.live.rank_one(Asked(history, asked.k, asked.shopper_id, with_transformer=True))
    items = [
        PredictedItem(
            item_id=item.item_id,
            score=item.score,
            part=item.part,
            shares=dict(zip(TOLD, item.shares, strict=True)) if asked.explain else None,
            because=list(item.reasons) if asked.explain else None,
            why=in_words(item.item_id, item.part, item.reasons) if asked.explain else None,
        )
        for item in ranked.items
    ]
    own = list(ranked.transformer.items())[: asked.k]
    unknown_items = sum(not parts.live.ranker.knows(entry.item_id) for entry in history)
    metrics.UNKNOWN_ITEMS.inc(unknown_items)
    return Prediction(
        items=items,
        transformer=[TransformerItem(item_id=item, probability=probability) for item, probability in own],
        model_version=ranked.version,
        weights_sha256=ranked.sha256,
        history_length=len(history),
        unknown_items=unknown_items,
        latency_ms=_elapsed_ms(started_s),
        lane=ranked.lane,
    )


def features(parts: GatewayParts, user_id: str | None, session_id: str | None, item_id: str | None) -> FeaturesAnswer:
    """Return all that is known of a shopper, a visit and an item, or of those of them that are asked for.

    A session without a user is that of a guest, who is known as a shopper by it. Raises InvalidMessage where nothing is asked for,
    redis.RedisError.
    """
    started_s = time.perf_counter()
    if user_id is None and session_id is not None:
        user_id = f"{GUEST_PREFIX}{session_id}"
    asked = {"user_id": user_id, "item_id": item_id, "session_id": session_id}
    entity = {key: value for key, value in asked.items() if value is not None}
    if not entity:
        raise InvalidMessage("user_id", None, "a user_id, a session_id or an item_id was expected")
    service = all_of(entity)
    asked_ms = now_ms()
    [found] = parts.features.read(service, [entity], asked_ms)
    views = [
        ViewFeatures(
            view=view.name,
            entity={base.join_key: entity[base.join_key] for base in (view.of if isinstance(view, AskedView) else (view,))},
            known=found.known(view),
            stale=found.stale(view),
            age_ms=found.age_ms(view),
            features=found.of(view),
        )
        for view in service.parts
    ]
    return FeaturesAnswer(asked_ms=asked_ms, views=views, latency_ms=_elapsed_ms(started_s))


def _with_times(steps: list[PredictStep]) -> list[HistoryEntry]:
    """Return the steps with the times that are missing taken from the step before, or at the start from the first that has one."""
    time_ms = next((step.time_ms for step in steps if step.time_ms is not None), 0)
    history = []
    for step in steps:
        time_ms = time_ms if step.time_ms is None else step.time_ms
        history.append(HistoryEntry(step.item_id, step.kind, time_ms, step.price, step.category))
    return history


def _elapsed_ms(started_s: float) -> float:
    return round(1000 * (time.perf_counter() - started_s), 3)
