"""The Feast repository: entities, feature views and the feature service that the model names.

Only Feast's own commands and readers import this; the parts of Headrace write and read the same rows through
`headrace.features.online_store`.
"""

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource, ValueType
from feast.types import Array, Float64, Int64, String

from headrace.features.online_store import FEATURE_SERVICE, ITEM_VIEW, USER_VIEW

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING, description="a shopper: a user id, or session:ID of a guest")
item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING, description="what the shop sells")

user_history = FeatureView(
    name=USER_VIEW,
    entities=[user],
    ttl=timedelta(days=30),
    schema=[
        Field(name="history_items", dtype=Array(String), description="the last 50 items, oldest first"),
        Field(name="history_kinds", dtype=Array(String), description="view, cart or purchase, beside history_items"),
        Field(name="history_times_ms", dtype=Array(Int64), description="event times, beside history_items"),
        Field(name="steps", dtype=Int64, description="how many items there ever were in the history"),
        Field(name="views", dtype=Int64),
        Field(name="carts", dtype=Int64),
        Field(name="purchases", dtype=Int64, description="orders"),
        Field(name="updated_ms", dtype=Int64, description="event time of the newest event"),
        Field(name="offsets", dtype=String, description="the last offset taken in of each partition, as JSON"),
    ],
    source=PushSource(name="user_rows", batch_source=FileSource(path="user_history.parquet", timestamp_field="event_timestamp")),
)

item_counts = FeatureView(
    name=ITEM_VIEW,
    entities=[item],
    ttl=timedelta(days=90),
    schema=[
        Field(name="views", dtype=Int64),
        Field(name="carts", dtype=Int64),
        Field(name="purchases", dtype=Int64, description="orders that hold the item"),
        Field(name="units", dtype=Int64, description="pieces sold"),
        Field(name="decayed_views", dtype=Float64, description="views, halved every 24 h of event time, as of updated_ms"),
        Field(name="decayed_purchases", dtype=Float64, description="orders, halved likewise"),
        Field(name="price", dtype=Float64, description="the last price seen"),
        Field(name="category", dtype=String),
        Field(name="updated_ms", dtype=Int64, description="event time of the newest event"),
        Field(name="offsets", dtype=String, description="the last offset taken in of each partition, as JSON"),
    ],
    source=PushSource(name="item_rows", batch_source=FileSource(path="item_counts.parquet", timestamp_field="event_timestamp")),
)

next_item = FeatureService(name=FEATURE_SERVICE, features=[user_history, item_counts], description="what the next-item model reads")
