"""Feast's store is opened once for the whole run: importing Feast and writing its registry take many seconds."""

from collections.abc import Callable
from typing import Any

import pytest

from headrace.deploy.feature_repository import apply, open_store


@pytest.fixture(scope="session")
def feast_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Return a function that applies the repository and opens Feast's store for a Redis URL, once for each URL."""
    folder = tmp_path_factory.mktemp("feast")
    stores: dict[str, Any] = {}

    def opened(url: str) -> Any:
        if url not in stores:
            registry = folder / f"{len(stores)}" / "registry.db"
            assert apply(registry, url) == [
                *("user", "item", "session"),
                *("user_activity", "item_activity", "session_activity"),
                *("user_now", "item_now", "session_now", "user_item"),
                *("next_item", "ranking", "visit"),
            ]
            stores[url] = open_store(registry, url)
        return stores[url]

    return opened
