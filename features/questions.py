"""Questions about the past: a frame with the keys of entities and, in its column `event_timestamp`, the instants asked about."""

from typing import Any

from headrace.features.archive import EVENT_TIME


class CannotAnswer(ValueError):
    """A question about the past that has no answer: it names a column or a view that is not there or has no history."""


def asked_ms_of(frame: Any) -> list[int]:
    """Return the instants in ms since 1970; what is finer than a millisecond is cut off, as a reader's clock does.

    They may be times, in UTC where no zone is told, as texts too (ISO 8601), or whole milliseconds. Raises CannotAnswer.
    """
    import pandas as pd

    if EVENT_TIME not in getattr(frame, "columns", ()):
        raise CannotAnswer(f"{EVENT_TIME}: a column with the instants asked about was expected; there are {_told(frame)}")
    column = frame[EVENT_TIME]
    if column.isna().any():
        raise CannotAnswer(f"{EVENT_TIME}: row {int(column.isna().to_numpy().argmax())} tells no time; each row needs one")
    if pd.api.types.is_integer_dtype(column.dtype):
        return [int(value) for value in column]
    try:
        times = pd.to_datetime(column, utc=True, format=None if pd.api.types.is_datetime64_any_dtype(column.dtype) else "ISO8601")
    except (ValueError, TypeError) as error:
        raise CannotAnswer(f"{EVENT_TIME}: times as in ISO 8601, or whole milliseconds since 1970, were expected; {error}") from None
    return [int(value) for value in times.dt.as_unit("ns").astype("int64") // 1_000_000]


def keys_of(frame: Any, join_key: str) -> list[str | None]:
    """Return the keys as texts, None for a missing one. Whole numbers are taken for the texts of their digits. Raises CannotAnswer."""
    import pandas as pd

    if join_key not in frame.columns:
        raise CannotAnswer(f"{join_key}: a column with this key was expected; there are {_told(frame)}")
    column = frame[join_key]
    are_numbers = pd.api.types.is_integer_dtype(column.dtype)
    keys: list[str | None] = []
    for key, missing in zip(column.tolist(), column.isna(), strict=True):
        if not (missing or are_numbers or isinstance(key, str)):
            raise CannotAnswer(f"{join_key}: texts or whole numbers were expected; a value is {key!r}")
        keys.append(None if missing else str(key))
    return keys


def _told(frame: Any) -> str:
    return ", ".join(map(str, getattr(frame, "columns", ()))) or f"none, but {type(frame).__name__}"
