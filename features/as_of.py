"""The row versions that were valid at instants of the past: DuckDB's ASOF join over the archive's files.

Two steps: which version answers each question is found from times alone, then its features are read; so the wide columns are
sorted for the answers only, not for all versions.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from headrace.features.archive import CHANGELOG_OFFSET, CREATED_TIME, EVENT_TIME

ASKED_MS = "asked_ms"
_TOLD_EVERY_S = 0.2
_TRIES = 5
_DAY_MS = 24 * 3600 * 1000

Progress = Callable[[float], object]


@dataclass(frozen=True)
class Versions:
    """The archived versions of a feature view: their folder, the Arrow type of each feature wanted, and how long a row is valid.

    A row is valid until it is more than `ttl_ms` old; 0 is for ever.
    """

    folder: Path
    join_key: str
    ttl_ms: int
    features: Mapping[str, Any]


def valid_versions(versions: Versions, keys: Sequence[str | None], asked_ms: Sequence[int], progress: Progress) -> Any:
    """Return an Arrow table with a row for each question, in their order: the features of the version that was valid, or nulls.

    That is the newest version of the entity from `asked_ms` or before; of those of one millisecond the last. `progress` is told
    the share that is done. Raises OSError and duckdb.Error where the files cannot be read.
    """
    import duckdb
    import pyarrow as pa

    questions = pa.table({"row": pa.array(range(len(keys)), pa.int64()), "key": pa.array(keys, pa.string()), ASKED_MS: asked_ms})
    for _ in range(_TRIES):
        files = _files(versions, asked_ms) if asked_ms else []
        if not files:
            break
        try:
            return _joined(versions, questions, files, progress)
        except duckdb.IOException:
            # An archiver may have merged small files, and removed them, since they were listed.
            if all(Path(file).exists() for file in files):
                raise
    else:
        raise OSError(f"{versions.folder}: its files were removed while they were read, {_TRIES} times; who else writes there?")
    return pa.table({name: pa.nulls(len(keys), kind) for name, kind in versions.features.items()})


def _joined(versions: Versions, questions: Any, files: list[str], progress: Progress) -> Any:
    import duckdb
    import pyarrow as pa

    schema = pa.schema(list(versions.features.items()))
    with duckdb.connect(config={"temp_directory": tempfile.gettempdir(), "autoinstall_known_extensions": False}) as database:
        database.register("questions", questions)
        present = {
            name for name, *_ in database.execute("DESCRIBE FROM read_parquet($files, union_by_name = true)", {"files": files}).fetchall()
        }
        with ThreadPoolExecutor(1) as thread:
            running = thread.submit(lambda: database.sql(_query(versions, present), params={"files": files}).to_arrow_table())
            _tell(running, database, progress)
            found: Any = running.result()
    progress(1.0)
    return found.select(list(versions.features)).cast(schema)


def _tell(running: "Future[Any]", database: Any, progress: Progress) -> None:
    while not wait([running], _TOLD_EVERY_S).done:
        progress(max(0.0, database.query_progress()) / 100)


def _query(versions: Versions, present: set[str]) -> str:
    """Return the join: first the version of each question by its times alone, then the features of that version."""
    key = _quoted(versions.join_key)
    chosen = ", ".join(f"versions.{_quoted(name)}" if name in present else f"NULL AS {_quoted(name)}" for name in versions.features)
    oldest = f"AND asked_ms - seen_ms <= {versions.ttl_ms}" if versions.ttl_ms else ""
    files = "read_parquet($files, union_by_name = true, filename = true, file_row_number = true)"
    # Names come from the definitions, and are quoted.
    return f"""
        WITH times AS (
            SELECT {key} AS key, epoch_ms({EVENT_TIME}) AS seen_ms, filename, file_row_number
            FROM {files} AS versions
            WHERE {key} IN (SELECT key FROM questions)
            QUALIFY row_number() OVER (PARTITION BY {key}, {EVENT_TIME} ORDER BY {CREATED_TIME} DESC, {CHANGELOG_OFFSET} DESC) = 1
        ), picked AS (
            SELECT row, filename, file_row_number
            FROM questions ASOF JOIN times ON questions.key = times.key AND questions.asked_ms >= times.seen_ms
            WHERE true {oldest}
        ), valid AS (
            SELECT picked.row, {chosen}
            FROM picked JOIN {files} AS versions USING (filename, file_row_number)
        )
        SELECT valid.* FROM questions LEFT JOIN valid USING (row) ORDER BY questions.row
    """  # noqa: S608


def _files(versions: Versions, asked_ms: Sequence[int]) -> list[str]:
    """Return the files of the days from which a version may be valid at one of the instants."""
    first = date.min if not versions.ttl_ms else _day(min(asked_ms) - versions.ttl_ms)
    last = _day(max(asked_ms))
    days = [folder for folder in versions.folder.glob("day=*") if first <= date.fromisoformat(folder.name.removeprefix("day=")) <= last]
    return sorted(str(file) for folder in days for file in folder.glob("*.parquet"))


def _day(time_ms: int) -> date:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=time_ms // _DAY_MS)).date()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
