"""What the gateway takes and gives over HTTP, beside the events themselves."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from headrace.schemas.feature_rows import Kind, ShopperId
from headrace.schemas.fields import Amount, Count, Id, Sha256, ShortText, TimeMs
from headrace.schemas.model_releases import Lane
from headrace.schemas.recommendations import Part, Reason, RecommendedItem
from headrace.streams.settlement import Status

MOST_ITEMS = 100

ListLength = Annotated[int, Meta(ge=1, le=MOST_ITEMS, description="how many items are wanted, 1 to 100", examples=[20])]
Version = Annotated[Count, Meta(description="the weights' version; 0 before the first have arrived", examples=[12])]
WeightsName = Annotated[Sha256, Meta(description="the name of the weights that made this answer, as `model-updates` gives it")]
ListName = Annotated[
    Id | None,
    Meta(description="the list's name; an event whose `attribution.recommendation_id` names it counts for the version that made it"),
]
LaneName = Annotated[Lane | None, Meta(description="which lane answered: `stable`, or `trial` by the newest version", examples=["trial"])]
Milliseconds = Annotated[float, Meta(description="time spent on the answer, in milliseconds", examples=[3.1])]
Probability = Annotated[float, Meta(description="probability of being touched next", examples=[0.07])]


class EventOutcome(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one event.

    `acknowledged`: all replicas have it. `refused`: it is not valid, and `field`, `value` and `expected` say why.
    `buffer_full`, `failed`: it was not taken in; send it again. `unacknowledged`: it may still arrive; sent again
    it may count twice.
    """

    event_id: Annotated[str | None, Meta(description="null where the event names none", examples=["click-1"])]
    status: Status
    reason: Annotated[str | None, Meta(description="why it was not acknowledged")] = None
    field: Annotated[str | None, Meta(description="path of the wrong field", examples=["$.item_id"])] = None
    value: Annotated[str | None, Meta(description="what stood there, shortened", examples=["''"])] = None
    expected: Annotated[str | None, Meta(description="what should stand there", examples=["Expected `str` of length >= 1"])] = None


class EventsAnswer(Struct, frozen=True, kw_only=True):
    """One outcome for each event, in the order sent, and how many were acknowledged, refused, or neither of the two."""

    outcomes: list[EventOutcome]
    accepted: Annotated[int, Meta(description="acknowledged by all replicas", examples=[1])]
    refused: Annotated[int, Meta(description="not valid", examples=[0])]
    undelivered: Annotated[int, Meta(description="valid, but not acknowledged; send them again", examples=[0])]


class Problem(Struct, frozen=True, kw_only=True):
    """Why a request got no other answer. `field`, `value` and `expected` are null where it is about no field."""

    message: Annotated[str, Meta(description="the whole in one line")]
    field: Annotated[str | None, Meta(description="path or name of the wrong field", examples=["k"])] = None
    value: Annotated[str | None, Meta(description="what stood there, shortened", examples=["'1000'"])] = None
    expected: Annotated[str | None, Meta(description="what should stand there")] = None


class RefusedEvents(EventsAnswer, frozen=True, kw_only=True):
    """No event was taken in: the outcomes of all, and what is wrong with the first."""

    message: str
    field: str | None
    value: str | None
    expected: str | None


class Recommendations(Struct, frozen=True, kw_only=True):
    """The best items for a shopper, best first. `known` is false where the shopper has no row: then they are what is popular."""

    shopper_id: ShopperId
    items: list[RecommendedItem]
    model_version: Version
    weights_sha256: WeightsName
    history_length: Annotated[int, Meta(description="steps that the answer is made of", examples=[7])]
    known: bool
    degraded: Annotated[str | None, Meta(description="what the answer had to do without; null where nothing is amiss")] = None
    latency_ms: Milliseconds
    recommendation_id: ListName = None
    lane: LaneName = None


class PredictStep(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One step of a history. A step without a time counts as taken together with the one before it."""

    item_id: Id
    kind: Kind = "view"
    time_ms: TimeMs | None = None
    price: Amount | None = None
    category: ShortText | None = None


class PredictRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A history to go on from, oldest step first. Items may be unknown; of a long history the last 50 steps are used."""

    history: list[PredictStep]
    k: ListLength = 20
    shopper_id: Annotated[
        ShopperId | None, Meta(description="whose history it is, which decides the lane that answers; null for nobody's")
    ] = None
    explain: Annotated[
        bool, Meta(description="whether each item tells why it is there, and what every part of the mixture gave to its score")
    ] = False


class PredictedItem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An item, its probability of being touched next, and the part of the mixture that spoke loudest for it."""

    item_id: Id
    score: Probability
    part: Part
    shares: Annotated[dict[str, float] | None, Meta(description="what each part gave; they add up to the score")] = None
    because: Annotated[list[Reason] | None, Meta(description="the steps of the history that speak most for it, strongest first")] = None
    why: Annotated[str | None, Meta(description="the same in words", examples=["because you viewed tents-green-00"])] = None


class TransformerItem(Struct, frozen=True, kw_only=True):
    """An item and its probability according to the Transformer alone."""

    item_id: Id
    probability: Probability


class Prediction(Struct, frozen=True, kw_only=True):
    """What comes next after the history. `items` is the mixture's list; `transformer` the Transformer's own best items.

    All numbers of the Transformer, in both lists, are made by the weights that `model_version` and `weights_sha256` name.
    """

    items: list[PredictedItem]
    transformer: list[TransformerItem]
    model_version: Version
    weights_sha256: WeightsName
    history_length: Annotated[int, Meta(description="steps that the answer is made of", examples=[2])]
    unknown_items: Annotated[int, Meta(description="steps of these whose item nobody knows; they were passed over", examples=[0])]
    latency_ms: Milliseconds
    lane: LaneName = None


class ViewFeatures(Struct, frozen=True, kw_only=True):
    """The features of one view: null throughout where there is no row (`known` is false), and where it is past its time to live.

    What each means, its unit and its window is told in the project's `docs/features.md`.
    """

    view: Annotated[str, Meta(description="name of the feature view", examples=["user_now"])]
    entity: Annotated[dict[str, str], Meta(description="what it was read by", examples=[{"user_id": "ada"}])]
    known: Annotated[bool, Meta(description="whether all rows that it needs are there")]
    stale: Annotated[bool, Meta(description="whether one of them is past its time to live, so that it is not told")]
    age_ms: Annotated[int | None, Meta(description="since the newest event of the oldest of these rows was published; null without a row")]
    features: Annotated[dict[str, Any], Meta(description="values by name; null where not known", examples=[{"views_1h": 3}])]


class FeaturesAnswer(Struct, frozen=True, kw_only=True):
    """All that is known of what was asked for, as of `asked_ms`: first the views as stored, then those computed from them."""

    asked_ms: TimeMs
    views: list[ViewFeatures]
    latency_ms: Milliseconds


class RollbackRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Go back to version `to`, the stable one where it is null, and withdraw all later ones."""

    reason: ShortText = ""
    to: Annotated[Count | None, Meta(description="a version that was published whole; null for the stable one")] = None


class Health(Struct, frozen=True, kw_only=True):
    """Whether the gateway is well, and if not, why. What is degraded still answers, with less to go by."""

    status: Literal["ok", "degraded", "unwell"]
    reasons: Annotated[list[str], Meta(description="what has failed or is missing")]
