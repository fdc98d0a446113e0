"""What the watching remembers over restarts: one JSON file, replaced as a whole."""

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

from headrace.online_model.watching.configuration import Configuration

log = logging.getLogger(__name__)

FORMAT = 1


class DriftMemory:
    """Keeps what is saved at `file`, for watches configured as in `configuration`: under others it would mean something else."""

    def __init__(self, file: Path, configuration: Configuration) -> None:
        self._file = file
        self._name = hashlib.sha256(repr(configuration).encode()).hexdigest()

    def save(self, content: dict[str, Any]) -> None:
        """Replace what was saved before. Raises OSError."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        aside = self._file.with_suffix(".new")
        with aside.open("w", encoding="utf-8") as file:
            json.dump({"format": FORMAT, "configuration": self._name, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(self._file)

    def load(self) -> dict[str, Any] | None:
        """Return what was saved; None, and a line in the log, where it cannot be used. Raises OSError where it cannot be read."""
        if not self._file.exists():
            return None
        try:
            content = json.loads(self._file.read_text(encoding="utf-8"))
            usable = content["format"] == FORMAT and content["configuration"] == self._name
        except (ValueError, KeyError, TypeError):
            usable = False
        if not usable:
            log.warning("watching begins anew: what was saved is of other watches, or damaged", extra={"file": str(self._file)})
            return None
        return dict(content)
