"""Growing the archive's small files together: an archiver writes one a minute for each partition, which readers would pay for.

A merged file is written beside those that it was made of, and renamed as any other; they are removed some time later, when nobody
who listed the folder before is reading them any more. Meanwhile a version lies in two files, which readers do not mind.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from headrace.features.archive import Stretch, files_of
from headrace.features.archive_folder import ArchiveFolder

FEWEST = 12


def merge_small(folder: ArchiveFolder, newest: Stretch, day: str, rows_a_file: int, merged_before: set[Path]) -> list[Path]:
    """Merge the small files of a day and a partition where there are 12 or more in a row; return those that were merged.

    A file is small that has up to half of `rows_a_file`. The stretch that was written last is left alone, since by it the next
    archiver knows where to go on, and so are files that were merged before and not removed yet. Raises OSError.
    """
    found = files_of(folder.view_folder(newest.topic), newest.topic, newest.partition, day)
    files = sorted((stretch, file) for stretch, file in found if stretch != newest and file not in merged_before)
    if len(files) < FEWEST:
        return []
    merged: list[Path] = []
    for run in _runs([(stretch, file, pq.read_metadata(file).num_rows) for stretch, file in files], rows_a_file):
        first, last = run[0][0], max(stretch.last for stretch, _ in run)
        table = pa.concat_tables([pq.read_table(file, partitioning=None) for _, file in run], promote_options="default")
        folder.write(Stretch(newest.topic, newest.partition, first.first, last), table.replace_schema_metadata(None))
        merged += [file for _, file in run]
    return merged


def _runs(files: list[tuple[Stretch, Path, int]], rows_a_file: int) -> list[list[tuple[Stretch, Path]]]:
    """Return the runs of 12 or more neighbouring small files, each of up to `rows_a_file` rows together."""
    runs: list[list[tuple[Stretch, Path]]] = [[]]
    held = 0
    for stretch, file, rows in files:
        small = rows <= rows_a_file // 2
        if not small or held + rows > rows_a_file:
            runs.append([])
            held = 0
        if small:
            runs[-1].append((stretch, file))
            held += rows
    return [run for run in runs if len(run) >= FEWEST]
