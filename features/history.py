"""Training data: what an online read would have returned at an instant of the past, for any entities and instants."""

from collections.abc import Callable
from typing import Any

from headrace.features.archive import EVENT_TIME
from headrace.features.as_of import ASKED_MS
from headrace.features.questions import CannotAnswer, asked_ms_of

__all__ = ["CannotAnswer", "point_in_time"]


def point_in_time(store: Any, entity_frame: Any, features: Any, progress: Callable[[str, float], object] = lambda view, share: None) -> Any:
    """Return the frame with the features as they could be read at the instant in its column `event_timestamp`.

    `store` is a `feast.FeatureStore` of our repository, `features` a feature service, its name, or references such as
    `user_activity:views`. `entity_frame` is a pandas frame or an Arrow table with the join keys (`user_id`, `item_id`), as texts or
    whole numbers, and `event_timestamp`, as times (in UTC where no zone is told) or whole milliseconds since 1970; other columns
    are kept.

    The result is a pandas frame: one row for each row asked, in the same order, repeated questions among them; features are named
    `view__feature`; where an entity has no row that was valid then, all features of the view are null. Whole numbers are `Int64`.
    On-demand features get the instant as their `asked_ms`. `progress` is told the view and the share that is done.

    Raises CannotAnswer; OSError and duckdb.Error where the archive cannot be read; what Feast raises for a name that it lacks.
    """
    import pandas as pd
    import pyarrow as pa

    from headrace.features.offline_store import ArchiveJob

    frame = entity_frame.to_pandas() if isinstance(entity_frame, pa.Table) else entity_frame
    asked_ms = asked_ms_of(frame)
    instants = pd.to_datetime(pd.Series(asked_ms, dtype="int64"), unit="ms", utc=True)
    questions = frame.reset_index(drop=True).assign(**{EVENT_TIME: instants, ASKED_MS: asked_ms})
    if isinstance(features, str):
        features = [features] if ":" in features else store.get_feature_service(features)
    job = store.get_historical_features(entity_df=questions, features=features, full_feature_names=True)
    if not isinstance(job, ArchiveJob):
        raise CannotAnswer(
            f"offline_store: the one of Headrace was expected in feature_store.yaml; history comes from a {type(job).__name__}"
        )
    job.progress = progress
    found = job.to_arrow().select(_names(features))
    told = found.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    told.index = frame.index
    return pd.concat([frame.drop(columns=told.columns.intersection(frame.columns)), told], axis=1)


def _names(features: Any) -> list[str]:
    """Return the columns that are asked for, in Feast's full form."""
    if not hasattr(features, "feature_view_projections"):
        return [reference.replace(":", "__", 1) for reference in features]
    return [f"{view.name_to_use()}__{field.name}" for view in features.feature_view_projections for field in view.features]
