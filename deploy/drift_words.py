"""How the drift report and list put figures and times into words."""

from datetime import UTC, datetime


def stamp(time_ms: int | None, *, with_date: bool = True) -> str:
    """Return a time in UTC, to the minute with its date, to the second without."""
    if time_ms is None:
        return "–"
    when = datetime.fromtimestamp(min(time_ms, 253_402_300_799_000) / 1000, UTC)
    return f"{when:%Y-%m-%d %H:%M}" if with_date else f"{when:%H:%M:%S}"


def share(value: float | None, digits: int = 1) -> str:
    """Return a share in percent."""
    return "–" if value is None else f"{value:.{digits}%}"


def level(value: float | None) -> str:
    """Return a level to four digits."""
    return "–" if value is None else f"{value:.4g}"


def duration(ms: float) -> str:
    """Return a length of time in the unit that suits it."""
    for unit, size in (("days", 86_400_000), ("h", 3_600_000), ("min", 60_000)):
        if ms >= 2 * size:
            return f"{ms / size:.0f} {unit}"
    return f"{ms / 1000:.0f} s"


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun: `1 episode`, `2 episodes`."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def segment(parts: dict[str, str]) -> str:
    """Return a segment as `category tents, surface home`."""
    return ", ".join(f"{key} {value}" for key, value in parts.items())
