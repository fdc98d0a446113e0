"""Feast's offline store over the archive: `get_historical_features` with one answer for each question, in the order asked.

Feast's own store for files leaves out the questions whose entity had no valid row, and repeated ones, gives the rest in an order of
its own, and may take the wrong one of two versions of the same millisecond; it takes sixty times as long, too. Here the join as of
an instant is that of `as_of.py`; all else is Feast's. Feast loads this module by its name in `feature_store.yaml`.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from feast.infra.offline_stores.dask import DaskOfflineStore, DaskOfflineStoreConfig, DaskRetrievalJob
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.types import from_feast_to_pyarrow_type

from headrace.features.archive import ARCHIVED, EVENT_TIME
from headrace.features.as_of import Versions, valid_versions
from headrace.features.questions import CannotAnswer, asked_ms_of, keys_of

ARCHIVED_VIEWS = sorted(archived.view.name for archived in ARCHIVED.values())


class ArchiveOfflineStoreConfig(DaskOfflineStoreConfig):
    """What `offline_store` in `feature_store.yaml` may hold."""

    # Feast's own two names are all that the base class allows.
    type: Any = "headrace.features.offline_store.ArchiveOfflineStore"


class ArchiveJob(DaskRetrievalJob):
    """A question that is answered when its result is asked for. `progress` is told the view and the share that is done."""

    def __init__(self, answer: Callable[["ArchiveJob"], pa.Table], **about: Any) -> None:
        super().__init__(evaluation_function=lambda: None, **about)
        self.progress: Callable[[str, float], object] = lambda view, share: None
        self._answer = answer

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._answer(self)

    def _to_df_internal(self, timeout: int | None = None) -> Any:
        return self._answer(self).to_pandas()


class ArchiveOfflineStore(DaskOfflineStore):
    """Reads row versions that the archiver has put down."""

    # `created_timestamp` is an order and no clock.
    supports_filter_by_created_timestamp = False

    @staticmethod
    def get_historical_features(
        config: Any,
        feature_views: list[Any],
        feature_refs: list[str],
        entity_df: Any,
        registry: Any,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        **kwargs: Any,
    ) -> RetrievalJob:
        """Return the job that answers a frame of entities and instants; without a frame Feast's own. Raises CannotAnswer."""
        if entity_df is None:
            return DaskOfflineStore.get_historical_features(
                config, feature_views, feature_refs, entity_df, registry, project, full_feature_names, **kwargs
            )
        asked_ms = asked_ms_of(entity_df)
        wanted: dict[str, list[str]] = {}
        for reference in feature_refs:
            view, _, feature = reference.partition(":")
            wanted.setdefault(view, []).append(feature)
        asked = [(view, wanted.get(view.projection.name_to_use(), [])) for view in feature_views]
        parts = [(view.projection.name_to_use(), *_versions(view, names, Path(config.repo_path or ""))) for view, names in asked]
        keys = {join_key: keys_of(entity_df, join_key) for _, join_key, _ in parts}

        def answer(job: ArchiveJob) -> pa.Table:
            table = pa.Table.from_pandas(entity_df, preserve_index=False)
            for name, join_key, versions in parts:
                found = valid_versions(versions, keys[join_key], asked_ms, partial(job.progress, name))
                for feature in versions.features:
                    table = table.append_column(f"{name}__{feature}" if full_feature_names else feature, found[feature])
            return table

        return ArchiveJob(
            answer,
            full_feature_names=full_feature_names,
            on_demand_feature_views=OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            metadata=RetrievalMetadata(feature_refs, [name for name in entity_df.columns if name != EVENT_TIME]),
            repo_path=str(config.repo_path),
        )


def _versions(view: Any, names: list[str], repo_path: Path) -> tuple[str, Versions]:
    """Return the column of the questions that holds the keys of a view, and where and what its versions are."""
    if view.name not in ARCHIVED_VIEWS:
        raise CannotAnswer(f"{view.name}: its rows have no changelog, so no history; there is one of {', '.join(ARCHIVED_VIEWS)}")
    [join_key] = [column.name for column in view.entity_columns]
    types = {field.name: from_feast_to_pyarrow_type(field.dtype) for field in view.features if field.name in names}
    ttl_ms = int(view.ttl.total_seconds() * 1000) if view.ttl else 0
    asked_key = (view.projection.join_key_map or {}).get(join_key, join_key)
    return asked_key, Versions(repo_path / view.batch_source.path, join_key, ttl_ms, types)
