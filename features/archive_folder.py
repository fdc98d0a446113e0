"""The folder of archived row versions, as its writer uses it: whole files only, and nothing twice after a crash.

Files are written aside, in a folder that no reader looks into, and renamed once they are whole. What is archived is told by the
files alone: a writer goes on behind the highest offset that they hold.
"""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from headrace.features.archive import ARCHIVED, Stretch, by_day, day_of, days_of, files_of, with_days

ASIDE = ".writing"
ROW_GROUP = 20_000


class ArchiveFolder:
    """The archive under `root`. For each partition of a changelog there is one writer at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def view_folder(self, topic: str) -> Path:
        """Return the folder of the view that a changelog belongs to."""
        return self.root / ARCHIVED[topic].view.name

    def take_up(self, topic: str, partition: int) -> int | None:
        """Clear away what a killed writer left unfinished, and return the highest offset archived; None where there is none.

        Of a stretch that spreads over several days, only some files may have been renamed: those go, since all of it comes again.
        Also removed are files whose offsets all lie within another file of the same day. Raises OSError.
        """
        for left_over in (self.root / ASIDE).glob(f"*~{topic}-{partition}-*"):
            left_over.unlink()
        files: dict[Stretch, list[Path]] = {}
        for stretch, file in files_of(self.view_folder(topic), topic, partition):
            files.setdefault(stretch, []).append(file)
        newest_first = sorted(files, key=lambda stretch: (stretch.last, -stretch.first), reverse=True)
        for place, stretch in enumerate(newest_first):
            if {day_of(file) for file in files[stretch]} >= days_of(files[stretch][0]):
                self._drop_contained(newest_first[place:], files)
                return stretch.last
            for file in files[stretch]:
                file.unlink()
        return None

    def write(self, stretch: Stretch, table: pa.Table) -> list[Path]:
        """Put down the versions of a stretch, and return the files. Raises OSError."""
        return self.publish(self.write_aside(stretch, table))

    def write_aside(self, stretch: Stretch, table: pa.Table) -> list[tuple[Path, Path]]:
        """Write the versions of a stretch where no reader looks; return for each file where it lies and where it belongs."""
        (self.root / ASIDE).mkdir(parents=True, exist_ok=True)
        days = by_day(table)
        return [self._write_aside(stretch, day, with_days(part, list(days))) for day, part in days.items()]

    def publish(self, written: list[tuple[Path, Path]]) -> list[Path]:
        """Rename files that were written aside, so that readers find them."""
        for aside, file in written:
            file.parent.mkdir(parents=True, exist_ok=True)
            aside.replace(file)
            _sync(file.parent)
        return [file for _, file in written]

    def _write_aside(self, stretch: Stretch, day: str, table: pa.Table) -> tuple[Path, Path]:
        aside = self.root / ASIDE / f"{day}~{stretch.file_name}"
        pq.write_table(table, aside, compression="zstd", row_group_size=ROW_GROUP)
        _sync(aside)
        return aside, self.view_folder(stretch.topic) / f"day={day}" / stretch.file_name

    def _drop_contained(self, stretches: list[Stretch], files: dict[Stretch, list[Path]]) -> None:
        """Remove files that another one of the same day holds whole: a writer was killed while it merged them into that one."""
        widest: dict[str, Stretch] = {}
        for stretch in sorted(stretches, key=lambda part: (part.first, -part.last)):
            for file in files[stretch]:
                day = day_of(file)
                if day in widest and widest[day].holds(stretch):
                    file.unlink()
                elif day not in widest or stretch.last > widest[day].last:
                    widest[day] = stretch


def _sync(place: Path) -> None:
    """Have a file's bytes, or a folder's names, on the disk before going on: a rename must not come before what it names."""
    handle = os.open(place, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
