"""`headrace features history`: a file of entities and instants, answered with the features that could be read then."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct

from headrace.deploy.counting import counting
from headrace.deploy.feature_repository import apply, open_store
from headrace.deploy.settings import Settings


class UnreadableQuestions(ValueError):
    """The file of entities and instants cannot be read."""


class NoSuchService(ValueError):
    """The feature service is not in Feast's registry."""


class HistoryReport(Struct):
    """How many rows were asked about, and by feature view how many entities had a row that was valid at the instant.

    `refused` lines of a file of events were no events.
    """

    rows: int
    found: dict[str, int]
    seconds: float
    refused: int = 0

    def line(self) -> str:
        """Return it as one readable line."""
        found = ", ".join(f"{count} with a row of {view}" for view, count in self.found.items())
        refused = f"; {self.refused} lines that are no events were left out" if self.refused else ""
        return f"{self.rows} rows answered in {self.seconds:.1f} s: {found}{refused}"


def answer_file(questions: Path, service: str, out: Path, settings: Settings, *, registry: Path | None, plain: bool) -> HistoryReport:
    """Write the questions with the features of the service to a Parquet file.

    Raises UnreadableQuestions, NoSuchService, CannotAnswer, OSError.
    """
    frame = _read(questions)
    store = _store(settings, registry)
    from feast.errors import FeatureServiceNotFoundException

    from headrace.features.history import point_in_time

    try:
        asked = store.get_feature_service(service)
    except FeatureServiceNotFoundException:
        names = ", ".join(sorted(known.name for known in store.list_feature_services()))
        raise NoSuchService(f"--service: a feature service was expected, one of {names}; the value is {service!r}") from None
    started_s = time.monotonic()
    with counting("history", plain) as show:
        answered = point_in_time(store, frame, asked, lambda view, share: show(int(share * 100), 100, f"% of {view}"))
    _write(answered, out)
    seen = {view.name_to_use(): f"{view.name_to_use()}__seen_ms" for view in asked.feature_view_projections}
    found = {view: int(answered[name].notna().sum()) for view, name in seen.items() if name in answered.columns}
    return HistoryReport(len(answered), found, round(time.monotonic() - started_s, 3))


def write_examples(
    events: Path | None,
    out: Path,
    settings: Settings,
    *,
    limit: int | None,
    open_sessions: int,
    seed: int,
    registry: Path | None,
    plain: bool,
) -> HistoryReport:
    """Write each step of a file of events, or of Kafka's, with its shopper's history just before, to a Parquet file.

    Raises CannotAnswer, InvalidMessage, OSError, and what `kafka_events` raises.
    """
    from headrace.deploy.placed_events import kafka_events, placed_events
    from headrace.deploy.training_frames import COLUMNS, frames_of
    from headrace.features.columns import USER_VIEW

    store = _store(settings, registry)
    started_s = time.monotonic()
    refused: list[str] = []
    with counting("examples", plain) as show:
        arrivals = (
            placed_events(events, limit=limit, open_sessions=open_sessions, seed=seed, refuse=refused.append)
            if events is not None
            else kafka_events(settings.kafka, refuse=refused.append, progress=lambda done, total: show(done, total, "events"))[:limit]
        )
        frame = frames_of(arrivals, store, lambda view, share: show(int(share * 100), 100, f"% of {view}"))
    _write(frame, out)
    found = {USER_VIEW: int(frame[COLUMNS[0]].notna().sum())}
    return HistoryReport(len(frame), found, round(time.monotonic() - started_s, 3), len(refused))


def _read(questions: Path) -> Any:
    """Return the file as a pandas frame. In a CSV file the columns that end in '_id' are texts, whatever they look like."""
    import pandas as pd

    try:
        if questions.suffix == ".parquet":
            return pd.read_parquet(questions)
        names = pd.read_csv(questions, nrows=0).columns
        return pd.read_csv(questions, converters={name: lambda text: text or None for name in names if name.endswith("_id")})
    except (ValueError, OSError) as error:
        raise UnreadableQuestions(f"{questions}: a Parquet or a CSV file with a line of column names was expected; {error}") from None


def _store(settings: Settings, registry: Path | None) -> Any:
    """Return Feast's store; its registry is written first where there is none."""
    place = registry or settings.home / "feast" / "registry.db"
    if not place.exists():
        apply(place, settings.redis, settings.archive)
    return open_store(place, settings.redis)


def _write(answered: Any, out: Path) -> None:
    with _aside(out) as aside:
        answered.to_parquet(aside, index=False)


@contextmanager
def _aside(out: Path) -> Iterator[Path]:
    """Give a path to write to; what is written there becomes `out` once it is whole."""
    aside = out.with_name(f".{out.name}.part")
    try:
        yield aside
        aside.replace(out)
    finally:
        aside.unlink(missing_ok=True)
