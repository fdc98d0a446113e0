"""The feature services that models name: which views each reads. Feast's definitions and our own reader follow this one table."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

from headrace.features.asked import ASKED_VIEWS, ITEM_NOW, SESSION_NOW, USER_ITEM, USER_NOW, AskedView
from headrace.features.columns import ITEMS, SESSIONS, USERS, VIEWS, View

# That of the next-item model.
FEATURE_SERVICE = "next_item"


@dataclass(frozen=True)
class Service:
    """A feature service: the views whose rows are read, and those that are computed from them at the time of asking."""

    name: str
    views: tuple[View, ...]
    asked: tuple[AskedView, ...]
    description: str

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The full names of all features, 'view__column', as Feast writes them."""
        return tuple(f"{view.name}__{column.name}" for view in self.parts for column in view.columns)

    @cached_property
    def places(self) -> dict[str, tuple[int, int]]:
        """Where each feature lies, by its full name: the number of its view among `parts`, and of its column there."""
        return {
            f"{view.name}__{column.name}": (part, place)
            for part, view in enumerate(self.parts)
            for place, column in enumerate(view.columns)
        }

    @cached_property
    def parts(self) -> tuple[View | AskedView, ...]:
        """The stored views, then the computed ones."""
        return (*self.views, *self.asked)

    @cached_property
    def rows_of(self) -> tuple[tuple[int, ...], ...]:
        """The numbers, among `views`, of those that each of `parts` needs."""
        needed = [part.of if isinstance(part, AskedView) else (part,) for part in self.parts]
        return tuple(tuple(self.views.index(view) for view in views) for views in needed)

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
