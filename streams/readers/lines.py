"""Lines of a file that may be gzipped, with their numbers."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from headrace.schemas.wire import InvalidMessage

_GZIP_MAGIC = b"\x1f\x8b"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@contextmanager
def open_lines(path: Path) -> Iterator[Iterator[tuple[int, bytes]]]:
    """Give (line number from 1, line without its end) for each line that is not empty. Raises OSError, InvalidMessage."""
    with path.open("rb") as file:
        gzipped = file.peek(2)[:2] == _GZIP_MAGIC
        source: BinaryIO = io.BufferedReader(gzip.GzipFile(fileobj=file)) if gzipped else file
        yield _lines(path, source)


def _lines(path: Path, source: BinaryIO) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        for raw in source:
            number += 1
            line = raw.rstrip(b"\r\n")
            if number == 1:
                line = line.removeprefix(_BYTE_ORDER_MARK)
            if line:
                yield number, line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InvalidMessage(f"{path.name}:{number + 1}", "", f"the gzipped file breaks off or is damaged here: {error}") from None
