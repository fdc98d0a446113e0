"""Training data: what an online read would have returned at an instant of the past, for any entities and instants.

Feast keeps the definitions: which views a feature service names, where their row versions lie, and for how long a row is valid. The
join itself is DuckDB's, since that of Feast's file store leaves rows out and gives them in another order: see `docs/features.md`
and the tests, which hold both beside each other. Of each entity's versions the newest one counts that was readable at the instant
asked about, and none where that was older than the view's time to live.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from headrace.features.archive import ARCHIVED, EVENT_TIME
from headrace.features.as_of import ASKED_MS, Versions, valid_versions


class CannotAnswer(ValueError):
    """A question about the past that has no answer: it names a column or a view that is not there or has no history."""


@dataclass(frozen=True)
class _Part:
    """What is asked of one feature view: its versions, the column of the frame with their keys, and the features in the answer."""

    view: str
    versions: Versions
    asked_key: str
    wanted: frozenset[str]


def point_in_time(store: Any, entity_frame: Any, features: Any, progress: Callable[[str, float], object] = lambda view, share: None) -> Any:
    """Return the frame with the features as they could be read at the instant in its column `event_timestamp`.

    `store` is a `feast.FeatureStore`, `features` a feature service, its name, or references such as `user_activity:views`.
    `entity_frame` is a pandas frame or an Arrow table with the join keys (`user_id`, `item_id`), as texts or whole numbers, and
    `event_timestamp`, as times (in UTC where no zone is told) or whole milliseconds since 1970; other columns are kept.

    The result is a pandas frame: one row for each row asked, in the same order, repeated questions among them; features are named
    `view__feature`; where an entity has no row that was valid then, all features of the view are null. Whole numbers are `Int64`.
    On-demand features are computed with `asked_ms`, the instant itself. `progress` is told the view and the share that is done.

    Raises CannotAnswer; OSError and duckdb.Error where the archive cannot be read.
    """
    import pandas as pd
    import pyarrow as pa

    frame = entity_frame.to_pandas() if isinstance(entity_frame, pa.Table) else entity_frame
    asked_ms = _asked_ms(frame)
    parts, on_demand = _parts(store, features)
    columns: dict[str, Any] = {}
    for part in parts:
        answers = valid_versions(part.versions, _keys(frame, part), asked_ms, partial(progress, part.view))
        columns |= {f"{part.view}__{name}": answers[name] for name in part.versions.features}
    kept = [f"{part.view}__{name}" for part in parts for name in part.versions.features if name in part.wanted]
    found = pa.table(columns | {ASKED_MS: pa.array(asked_ms, pa.int64())})
    for view, wanted in on_demand:
        made = view.transform_arrow(_with_request(view, found, frame), full_feature_names=True)
        for name in wanted:
            found = found.append_column(name, made[name])
            kept.append(name)
    whole = {pa.int64(): pd.Int64Dtype()}
    told = found.select(kept).to_pandas(types_mapper=whole.get)
    told.index = frame.index
    return pd.concat([frame.drop(columns=[name for name in kept if name in frame.columns]), told], axis=1)


def _asked_ms(frame: Any) -> list[int]:
    """Return the instants asked about in ms since 1970; what is finer than a millisecond is cut off, as a reader's clock does."""
    import pandas as pd

    if EVENT_TIME not in frame.columns:
        raise CannotAnswer(f"{EVENT_TIME}: a column with the instants asked about was expected; there are {', '.join(frame.columns)}")
    column = frame[EVENT_TIME]
    if pd.api.types.is_integer_dtype(column.dtype) and not column.hasnans:
        return [int(value) for value in column]
    try:
        times = pd.to_datetime(column, utc=True, format=None if pd.api.types.is_datetime64_any_dtype(column.dtype) else "ISO8601")
    except (ValueError, TypeError) as error:
        raise CannotAnswer(f"{EVENT_TIME}: times as in ISO 8601, or whole milliseconds since 1970, were expected; {error}") from None
    if times.hasnans:
        raise CannotAnswer(f"{EVENT_TIME}: row {int(times.isna().to_numpy().argmax())} tells no time; each row needs one")
    return [int(value) for value in times.dt.as_unit("ns").astype("int64") // 1_000_000]


def _keys(frame: Any, part: _Part) -> list[str | None]:
    import pandas as pd

    if part.asked_key not in frame.columns:
        raise CannotAnswer(f"{part.asked_key}: this join key of {part.view} was expected as a column; there are {', '.join(frame.columns)}")
    column = frame[part.asked_key]
    keys = [None if missing else value for value, missing in zip(column.tolist(), column.isna(), strict=True)]
    if pd.api.types.is_integer_dtype(column.dtype):
        return [None if key is None else str(key) for key in keys]
    for key in keys:
        if key is not None and not isinstance(key, str):
            raise CannotAnswer(f"{part.asked_key}: texts or whole numbers were expected; a value is {key!r}")
    return keys


def _parts(store: Any, features: Any) -> tuple[list[_Part], list[tuple[Any, list[str]]]]:
    """Return what is asked of each feature view, and each on-demand view with the names of the columns asked of it."""
    asked = _projections(store, features)
    on_demand_views = {view.name: view for view in store.list_on_demand_feature_views()}
    wanted: dict[str, dict[str, Any]] = {}
    sources: dict[str, tuple[str, Mapping[str, str], dict[str, Any]]] = {}
    on_demand = []

    def need(projection: Any, names: Sequence[str] | None) -> str:
        name = str(projection.name_to_use())
        _, _, fields = sources.setdefault(name, (projection.name, projection.join_key_map or {}, {}))
        fields |= {field.name: field for field in projection.features if names is None or field.name in names}
        return name

    for projection, names in asked:
        if projection.name in on_demand_views:
            view = on_demand_views[projection.name].with_projection(projection)
            for source in view.source_feature_view_projections.values():
                wanted.setdefault(need(source, None), {})
            chosen = [field.name for field in projection.features if names is None or field.name in names]
            on_demand.append((view, [f"{projection.name_to_use()}__{name}" for name in chosen]))
        else:
            used = need(projection, names)
            wanted.setdefault(used, {}).update({f.name: f for f in projection.features if names is None or f.name in names})
    parts = [
        _part(store.get_feature_view(source), name, keys, fields, frozenset(wanted[name]), store.repo_path)
        for name, (source, keys, fields) in sources.items()
    ]
    return parts, on_demand


def _projections(store: Any, features: Any) -> list[tuple[Any, list[str] | None]]:
    """Return the projections that are asked, each with the names of its features, or None for all."""
    if isinstance(features, str) and ":" not in features:
        features = store.get_feature_service(features)
    if hasattr(features, "feature_view_projections"):
        return [(projection, None) for projection in features.feature_view_projections]
    names: dict[str, list[str]] = {}
    for reference in [features] if isinstance(features, str) else features:
        view, colon, feature = str(reference).partition(":")
        if not colon:
            raise CannotAnswer(f"{reference!r}: a reference such as 'user_activity:views' was expected")
        names.setdefault(view, []).append(feature)
    known = {view.name: view.projection for view in [*store.list_feature_views(), *store.list_on_demand_feature_views()]}
    for view, asked in names.items():
        if view not in known:
            raise CannotAnswer(f"{view}: no such feature view; there are {', '.join(sorted(known))}")
        missing = set(asked) - {field.name for field in known[view].features}
        if missing:
            raise CannotAnswer(f"{view}: it has no feature {', '.join(sorted(missing))}")
    return [(known[view], asked) for view, asked in names.items()]


def _part(view: Any, name: str, keys: Mapping[str, str], fields: Mapping[str, Any], wanted: frozenset[str], repo_path: Path) -> _Part:
    from feast.types import from_feast_to_pyarrow_type

    archived = {part.view.name for part in ARCHIVED.values()}
    if view.name not in archived:
        raise CannotAnswer(f"{view.name}: its rows have no changelog and no history; there is one of {', '.join(sorted(archived))}")
    [join_key] = [column.name for column in view.entity_columns]
    folder = Path(repo_path or "") / view.batch_source.path
    ttl_ms = int(view.ttl.total_seconds() * 1000) if view.ttl else 0
    types = {field.name: from_feast_to_pyarrow_type(field.dtype) for field in fields.values()}
    return _Part(name, Versions(folder, join_key, ttl_ms, types), keys.get(join_key, join_key), wanted)


def _with_request(view: Any, found: Any, frame: Any) -> Any:
    """Return the features with what else an on-demand view asks for, from the frame."""
    import pyarrow as pa

    for source in view.source_request_sources.values():
        for field in source.schema:
            if field.name not in found.column_names:
                if field.name not in frame.columns:
                    raise CannotAnswer(f"{field.name}: {view.name} asks for it; give it as a column of the frame")
                found = found.append_column(field.name, pa.array(frame[field.name]))
    return found
