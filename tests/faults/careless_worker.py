"""A feature worker whose rows forget which events they hold: the negative control of the tests of exactness."""

import sys

from msgspec.structs import replace

from headrace.deploy import cli
from headrace.features import folding
from headrace.features.place import Place
from headrace.schemas import Event, ItemChange, ItemRow, UserRow

fold_user, fold_item = folding.fold_user, folding.fold_item


def forgetful_user(row: UserRow, event: Event, place: Place) -> UserRow:
    """Fold as if the row knew neither offsets nor event ids."""
    after = fold_user(replace(row, offsets={}, recent={}), event, place)
    return replace(after, offsets=row.offsets | after.offsets, recent=row.recent | after.recent)


def forgetful_item(row: ItemRow, change: ItemChange) -> ItemRow:
    """Fold as if the row knew no offsets."""
    after = fold_item(replace(row, offsets={}), change)
    return replace(after, offsets=row.offsets | after.offsets)


if __name__ == "__main__":
    folding.fold_user = forgetful_user
    folding.fold_item = forgetful_item
    sys.argv[1:] = ["run", "feature-worker"]
    cli.main()
