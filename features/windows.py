"""Sliding windows over event time: a sparse list of panes, fine for what is new and coarse for what is old.

Seen from the newest event of a row, what is younger than an hour lies in panes of 5 minutes, what is younger than a day in
panes of an hour, what is younger than 7 days in panes of 6 hours; older panes are dropped. A window is the sum of its panes,
so its far end moves in steps of the pane's length: "1 h" covers 55 to 60 minutes, "24 h" 23 to 24 hours, "7 d" 6.75 to 7
days. After Li et al., "No Pane, No Gain" (SIGMOD Record 34, 2005). Where a pane begins depends on the event's time and the
newest time alone, so the order of arrival leaves no trace.
"""

from collections.abc import Sequence

from headrace.schemas import Pane

MINUTE_MS = 60 * 1000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS

ALLOWED_LATENESS_MS = HOUR_MS
FIVE_MINUTES_MS = 5 * MINUTE_MS
SIX_HOURS_MS = 6 * HOUR_MS
# Each window with the length of the panes at its far end, and how many of those it spans.
WINDOWS = {"1h": (FIVE_MINUTES_MS, 12), "24h": (HOUR_MS, 24), "7d": (SIX_HOURS_MS, 28)}


def is_late(time_ms: int, newest_ms: int) -> bool:
    """Whether an event is older than the watermark: an hour behind the newest event of its source partition in the same row."""
    return time_ms < newest_ms - ALLOWED_LATENESS_MS


def add_to_panes(
    panes: list[Pane], newest_ms: int, time_ms: int, *, views: int = 0, carts: int = 0, purchases: int = 0, amount: float = 0.0
) -> list[Pane]:
    """Return the panes of a row whose newest event was at `newest_ms`, after one at `time_ms`."""
    now_ms = max(newest_ms, time_ms)
    if now_ms // FIVE_MINUTES_MS != newest_ms // FIVE_MINUTES_MS:
        panes = _aged(panes, now_ms)
    start_ms = pane_start(time_ms, now_ms)
    if start_ms is None:
        return panes
    place = len(panes)
    while place and panes[place - 1].start_ms > start_ms:
        place -= 1
    if place and panes[place - 1].start_ms == start_ms:
        old = panes[place - 1]
        new = Pane(start_ms, old.views + views, old.carts + carts, old.purchases + purchases, old.amount + amount)
        return [*panes[: place - 1], new, *panes[place:]]
    return [*panes[:place], Pane(start_ms, views, carts, purchases, amount), *panes[place:]]


def pane_start(time_ms: int, now_ms: int) -> int | None:
    """Return where the pane of an event begins, seen from `now_ms`; None for one that is older than all windows."""
    for length_ms, count in WINDOWS.values():
        if time_ms // length_ms > now_ms // length_ms - count:
            return time_ms // length_ms * length_ms
    return None


def window(panes: Sequence[Pane], name: str, asked_ms: int) -> Pane:
    """Return the sum of the window `name` ('1h', '24h' or '7d') that ends at `asked_ms`, as a pane that begins with the window."""
    length_ms, count = WINDOWS[name]
    first_ms = (asked_ms // length_ms - count + 1) * length_ms
    views = carts = purchases = 0
    amount = 0.0
    for pane in reversed(panes):
        if pane.start_ms < first_ms:
            break
        views += pane.views
        carts += pane.carts
        purchases += pane.purchases
        amount += pane.amount
    return Pane(max(0, first_ms), views, carts, purchases, amount)


def windows(panes: Sequence[Pane], asked_ms: int) -> list[Pane]:
    """Return the sums of all windows that end at `asked_ms`, in the order of `WINDOWS`; the same as `window` of each, in one pass."""
    sums: list[Pane] = []
    place = len(panes)
    views = carts = purchases = 0
    amount = 0.0
    for length_ms, count in WINDOWS.values():
        # Each window begins before the one before it, so that the sum goes on from there.
        first_ms = (asked_ms // length_ms - count + 1) * length_ms
        while place and (pane := panes[place - 1]).start_ms >= first_ms:
            views += pane.views
            carts += pane.carts
            purchases += pane.purchases
            amount += pane.amount
            place -= 1
        sums.append(Pane(max(0, first_ms), views, carts, purchases, amount))
    return sums


def _aged(panes: list[Pane], now_ms: int) -> list[Pane]:
    """Return the panes as they lie seen from a later time: grown together where they are coarser now, without the outdated."""
    aged: list[Pane] = []
    for pane in panes:
        start_ms = pane_start(pane.start_ms, now_ms)
        if start_ms is None:
            continue
        if aged and aged[-1].start_ms == start_ms:
            last = aged[-1]
            pane = Pane(
                start_ms, last.views + pane.views, last.carts + pane.carts, last.purchases + pane.purchases, last.amount + pane.amount
            )
            aged[-1] = pane
        else:
            aged.append(pane if pane.start_ms == start_ms else Pane(start_ms, pane.views, pane.carts, pane.purchases, pane.amount))
    return aged


def decay(age_ms: int, half_life_ms: int) -> float:
    """Return what is left of a count of 1 after `age_ms`."""
    return float(0.5 ** (age_ms / half_life_ms))
