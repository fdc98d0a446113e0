"""The feature services that models name: which views each reads. Feast's definitions and our own reader follow this one table."""

from collections.abc import Collection
from dataclasses import dataclass

from headrace.features.asked import ASKED_VIEWS, ITEM_NOW, SESSION_NOW, USER_ITEM, USER_NOW, AskedView
from headrace.features.columns import ITEMS, SESSIONS, USERS, VIEWS, View
from headrace.features.online_store import FEATURE_SERVICE


@dataclass(frozen=True)
class Service:
    """A feature service: the views whose rows are read, and those that are computed from them at the time of asking."""

    name: str
    views: tuple[View, ...]
    asked: tuple[AskedView, ...]
    description: str

    @property
    def columns(self) -> tuple[str, ...]:
        """The full names of all features, 'view__column', as Feast writes them."""
        parts: tuple[View | AskedView, ...] = (*self.views, *self.asked)
        return tuple(f"{view.name}__{column.name}" for view in parts for column in view.columns)

    @property
    def join_keys(self) -> tuple[str, ...]:
        """What an entity must name."""
        return tuple(view.join_key for view in self.views)


NEXT_ITEM = Service(FEATURE_SERVICE, (USERS, ITEMS), (), "what the next-item model reads")
RANKING = Service("ranking", (USERS, ITEMS), (USER_NOW, ITEM_NOW, USER_ITEM), "a shopper beside an item, at the time of asking")
VISIT = Service("visit", (SESSIONS,), (SESSION_NOW,), "a visit, at the time of asking")
SERVICES = (NEXT_ITEM, RANKING, VISIT)


def all_of(join_keys: Collection[str]) -> Service:
    """Return everything that is known of entities which name these join keys."""
    views = tuple(view for view in VIEWS if view.join_key in join_keys)
    asked = tuple(view for view in ASKED_VIEWS if all(base in views for base in view.of))
    return Service(f"all of {', '.join(view.join_key for view in views)}", views, asked, "all that is known")
