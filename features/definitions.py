"""The Feast repository: entities, feature views and the feature services that models name.

Only Feast's own commands and readers import this; the parts of Headrace write and read the same rows through
`headrace.features.online_store`. What the columns mean is written in `columns.py`.
"""

from datetime import timedelta
from typing import Any

from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource, ValueType
from feast.types import Array, Float64, Int64, String

from headrace.features.columns import ITEMS, SESSIONS, USERS, View
from headrace.features.online_store import FEATURE_SERVICE

_TYPES: dict[str, Any] = {
    "int64_val": Int64,
    "double_val": Float64,
    "string_val": String,
    "int64_list_val": Array(Int64),
    "double_list_val": Array(Float64),
    "string_list_val": Array(String),
}


def _feature_view(view: View, entity: Entity) -> FeatureView:
    fields = [
        Field(name=column.name, dtype=_TYPES[column.kind], description=column.meaning, tags={"unit": column.unit})
        for column in view.columns
    ]
    # What the archiver writes; `apply` puts the archive's own folder in. Visits are not archived, and their folder stays empty.
    archive = FileSource(path=f"../archive/{view.name}", timestamp_field="event_timestamp", created_timestamp_column="created_timestamp")
    return FeatureView(
        name=view.name,
        entities=[entity],
        ttl=timedelta(seconds=view.ttl_s),
        schema=fields,
        source=PushSource(name=f"{view.name}_rows", batch_source=archive),
    )


user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING, description="a shopper: a user id, or session:ID of a guest")
item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING, description="what the shop sells")
session = Entity(
    name="session", join_keys=["session_id"], value_type=ValueType.STRING, description="a visit, by the id that its events carry"
)

user_activity = _feature_view(USERS, user)
item_activity = _feature_view(ITEMS, item)
session_activity = _feature_view(SESSIONS, session)

next_item = FeatureService(name=FEATURE_SERVICE, features=[user_activity, item_activity], description="what the next-item model reads")

ALL = (user, item, session, user_activity, item_activity, session_activity, next_item)
