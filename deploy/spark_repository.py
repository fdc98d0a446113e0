"""The Feast repository over backfilled rows, with Feast's own offline store for Spark: history beyond one machine, joined there.

The entities, feature views and services are those of `features/definitions.py`; only the sources of the views differ. It has a
registry of its own, and no online store.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headrace.deploy.spark_events import is_url
from headrace.features.archive import CREATED_TIME, EVENT_TIME


def open_spark_store(registry: Path, rows: str) -> Any:
    """Return a `feast.FeatureStore` whose history is the folder or URL `rows`, as `headrace features backfill` writes it.

    Feast works in the Spark session that is open (`spark_session.open_spark`). Writes the registry file anew.
    """
    folder = rows.rstrip("/") if is_url(rows) else str(Path(rows).resolve())
    registry.parent.mkdir(parents=True, exist_ok=True)
    with quiet():
        # Loading this asks Python to show warnings again.
        import feast.infra.offline_stores.contrib.spark_offline_store.spark  # noqa: F401
    with quiet():
        from feast import FeatureStore, FeatureView, RepoConfig

        from headrace.features import definitions as of

        entities = {part.name: part for part in of.ALL if not hasattr(part, "entities") and hasattr(part, "join_key")}
        parts = [_over_spark(part, entities, folder) if isinstance(part, FeatureView) else part for part in of.ALL]
        settings = {
            "project": "headrace",
            "provider": "local",
            "registry": str(registry.resolve()),
            "online_store": None,
            "offline_store": {"type": "spark"},
            "entity_key_serialization_version": 3,
        }
        store = FeatureStore(config=RepoConfig(**settings, repo_path=registry.resolve().parent))
        store.apply(parts)
    return store


def _over_spark(view: Any, entities: dict[str, Any], folder: str) -> Any:
    """Return a feature view that reads its rows by Spark; by the days of the folders it leaves out what cannot be valid."""
    from feast import FeatureView
    from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource

    source = SparkSource(
        name=f"{view.name}_history",
        path=f"{folder}/{view.name}",
        file_format="parquet",
        timestamp_field=EVENT_TIME,
        created_timestamp_column=CREATED_TIME,
        date_partition_column="day",
    )
    return FeatureView(
        name=view.name,
        entities=[entities[name] for name in view.entities],
        ttl=view.ttl,
        schema=view.schema,
        source=source,
        description=view.description,
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep back what Feast and Spark warn of each other's age and of their own youth; nobody here can act on it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
