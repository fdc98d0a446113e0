"""A shopper's steps as sessions: steps without a long pause between them."""

from collections.abc import Sequence

from headrace.schemas import HistoryEntry

PAUSE_MS = 30 * 60_000


def is_pause(before: HistoryEntry, after: HistoryEntry) -> bool:
    """Whether a new session begins with `after`: 30 minutes without a step, as web analytics has it."""
    return after.time_ms - before.time_ms >= PAUSE_MS


def last_session(history: Sequence[HistoryEntry]) -> list[str]:
    """Return the items of the history's last session, oldest first."""
    items: list[str] = []
    for place in range(len(history) - 1, -1, -1):
        if items and is_pause(history[place], history[place + 1]):
            break
        items.append(history[place].item_id)
    items.reverse()
    return items


def session_before(history: Sequence[HistoryEntry], step: HistoryEntry) -> list[str]:
    """Return the items of the session that the step goes on with, oldest first; none where it begins a new one."""
    return [] if not history or is_pause(history[-1], step) else last_session(history)
