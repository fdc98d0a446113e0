"""What `headrace features rebuild`, `headrace replay` and `headrace features switch` do, with progress and a line at the end."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import redis

from headrace.deploy.counting import counting
from headrace.deploy.local import GivenRedis, RedisUnreachable
from headrace.deploy.settings import masked
from headrace.features.online_store import OnlineStore, connect
from headrace.features.shadow import RowCounts, open_database
from headrace.streams.broker import require_broker
from headrace.streams.rebuild import Rebuilt, rebuild
from headrace.streams.replay import Replayed, replay
from headrace.streams.switch import Switched, switch


class NotATime(ValueError):
    """A text names no point in time."""


def parse_time(option: str, text: str | None) -> int | None:
    """Return milliseconds since 1970 of an ISO 8601 time, in UTC where it names no zone, or of such milliseconds themselves.

    `option` names where the text was given. None stays None. Raises NotATime.
    """
    if text is None:
        return None
    # Shorter numbers would lie in 1973 and before: a date without dashes, or seconds, was meant.
    if re.fullmatch(r"\d{12,14}", text):
        return int(text)
    try:
        if re.fullmatch(r"\d+", text) and len(text) != len("20260131"):
            raise ValueError(text)
        when = datetime.fromisoformat(text)
        return round((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise NotATime(
            f"{option}: a time such as 2026-01-31, 2026-01-31T18:30:00Z or 2026-01-31T18:30+01:00, or milliseconds since 1970, "
            f"was expected; the value is {text!r}"
        ) from None


def keys_in(redis_url: str, number: int | None = None) -> int:
    """Return how many keys the database of the URL, or another one of that Redis, holds. Raises NoSuchDatabase, RedisUnreachable."""
    with redis_told(redis_url):
        store = OnlineStore(connect(redis_url)) if number is None else open_database(redis_url, number)
        keys: Any = store.client.dbsize()
        return int(keys)


def rebuild_rows(bootstrap: str, redis_url: str, *, from_events: bool, plain: bool) -> Rebuilt:
    """Empty the database and see it filled. Raises BrokerUnreachable, RedisUnreachable, and what `rebuild` raises."""
    require_broker(bootstrap)
    with redis_told(redis_url), counting("rows", plain) as show:

        def tell(so_far: Rebuilt) -> None:
            show(so_far.keys, max(so_far.before.total, so_far.keys), f"{so_far.to_go} events and item changes to read, by {so_far.by}")

        return rebuild(bootstrap, OnlineStore(connect(redis_url)), from_events=from_events, progress=tell)


def replay_rows(
    bootstrap: str, redis_url: str, number: int, *, from_ms: int | None, to_ms: int | None, empty: bool, plain: bool
) -> Replayed:
    """Replay into database `number`, emptied before where `empty` says so. Raises as `rebuild_rows` and `replay` do, NoSuchDatabase."""
    if from_ms is not None and to_ms is not None and from_ms >= to_ms:
        raise NotATime(f"--to: a time after --from ({from_ms} ms) was expected; the value is {to_ms} ms")
    require_broker(bootstrap)
    with redis_told(redis_url), counting("events", plain) as show:
        store = open_database(redis_url, number)
        if empty:
            store.client.flushdb(asynchronous=True)

        def tell(so_far: Replayed) -> None:
            show(so_far.events, so_far.total, f"{so_far.rate:.0f}/s")

        return replay(bootstrap, store, from_ms=from_ms, to_ms=to_ms, progress=tell)


def switch_rows(bootstrap: str, redis_url: str, number: int, *, max_behind: int, plain: bool) -> Switched:
    """Make database `number` the live one. Raises as `rebuild_rows` and `switch` do, NoSuchDatabase."""
    require_broker(bootstrap)
    with redis_told(redis_url), counting("rows to the changelogs", plain) as show:
        live, shadow = OnlineStore(connect(redis_url)), open_database(redis_url, number)
        return switch(bootstrap, live, shadow, number, max_behind=max_behind, progress=lambda sent, total: show(sent, total, ""))


def told(counts: RowCounts | None) -> str:
    """Return counts in words."""
    return "nothing" if counts is None else f"{counts.users} users, {counts.items} items, {counts.sessions} sessions"


@contextmanager
def redis_told(url: str) -> Iterator[None]:
    """See that Redis answers, and tell what goes wrong with it in one line."""
    GivenRedis(url).wait_until_ready()
    try:
        yield
    except redis.RedisError as error:
        raise RedisUnreachable(f"Redis at {masked(url)} refuses or does not answer any more: {error}") from error
