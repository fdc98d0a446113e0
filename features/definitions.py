"""The Feast repository: entities, feature views and the feature services that models name.

Only Feast's own commands and readers import this; the parts of Headrace write and read the same rows through
`headrace.features.online_store`. What the columns mean is written in `columns.py`.
"""

import inspect
from datetime import timedelta
from typing import Any

from feast import Entity, FeatureService, FeatureView, Field, FileSource, OnDemandFeatureView, PushSource, RequestSource, ValueType
from feast.types import Array, Float64, Int64, String

from headrace.features import asked
from headrace.features.columns import ITEMS, SESSIONS, USERS, View
from headrace.features.feast_asked import ASKED_MS, INPUTS
from headrace.features.services import NEXT_ITEM, RANKING, VISIT, Service

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

asking = RequestSource(name="asking", schema=[Field(name=ASKED_MS, dtype=Int64, description="the time of asking, in ms since 1970")])


# Feast keeps the text of these functions and runs it by itself: whatever one needs, it imports. Several entities come as lists of
# values, for which Feast's `singleton` would return the first alone.
def user_now(columns: dict[str, list[object]]) -> dict[str, list[object]]:
    """What changes with the time of asking, of a shopper."""
    from headrace.features.feast_asked import answer

    return answer("user_now", columns)


def item_now(columns: dict[str, list[object]]) -> dict[str, list[object]]:
    """What changes with the time of asking, of an item."""
    from headrace.features.feast_asked import answer

    return answer("item_now", columns)


def session_now(columns: dict[str, list[object]]) -> dict[str, list[object]]:
    """What changes with the time of asking, of a visit."""
    from headrace.features.feast_asked import answer

    return answer("session_now", columns)


def user_item(columns: dict[str, list[object]]) -> dict[str, list[object]]:
    """A shopper beside an item."""
    from headrace.features.feast_asked import answer

    return answer("user_item", columns)


def _on_demand(view: asked.AskedView, function: Any) -> OnDemandFeatureView:
    """Return Feast's form of a computed view. Its answers are Float64, since Feast takes no Float32 from a Python function."""
    return OnDemandFeatureView(
        name=view.name,
        # Without what they mean: Feast compares them with the bare fields that it infers.
        schema=[Field(name=column.name, dtype=_TYPES[column.kind]) for column in view.columns],
        sources=[*(_VIEWS[base.name][list(INPUTS[base.name])] for base in view.of), asking],
        mode="python",
        udf=function,
        udf_string=inspect.getsource(function),
        description=function.__doc__ or "",
    )


def _service(service: Service) -> FeatureService:
    return FeatureService(
        name=service.name,
        features=[*(_VIEWS[view.name] for view in service.views), *(_ASKED_VIEWS[view.name] for view in service.asked)],
        description=service.description,
    )


_VIEWS = {view.name: view for view in (user_activity, item_activity, session_activity)}
_ASKED_VIEWS = {
    view.name: _on_demand(view, function)
    for view, function in (
        (asked.USER_NOW, user_now),
        (asked.ITEM_NOW, item_now),
        (asked.SESSION_NOW, session_now),
        (asked.USER_ITEM, user_item),
    )
}

next_item, ranking, visit = _service(NEXT_ITEM), _service(RANKING), _service(VISIT)

ALL: tuple[Any, ...] = (user, item, session, *_VIEWS.values(), *_ASKED_VIEWS.values(), next_item, ranking, visit)
